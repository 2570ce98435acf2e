"""mnist_input.py: the four files, under whatever names, as three sets that give batches."""
import gzip
import hashlib
import re
import shutil

import made_data
import numpy as np
import pytest
import running

import mnist_input
from support.console import UserError
from support.quiet_tensorflow import tf

MNIST_DIR = running.ROOT / mnist_input.DATA_DIR
IMAGES_NAME = 'train-images-idx3-ubyte'


# -- The bundled files -------------------------------------------------------------------


def test_bundled_files_have_the_listed_digests():
  listed = re.findall(r'^\| `(\S+)` \| `([0-9a-f]{64})` \|$', (MNIST_DIR / 'README.md').read_text(),
                      re.M)
  assert len(listed) == 4
  for name, digest in listed:
    content = gzip.decompress((MNIST_DIR / f'{name}.gz').read_bytes())
    assert hashlib.sha256(content).hexdigest() == digest


def test_bundled_files_are_mnist():
  mnist = mnist_input.read_data_sets(MNIST_DIR)
  assert [part.num_examples for part in mnist] == [55000, 5000, 10000]
  assert mnist.train.images.shape == (55000, 784) and mnist.train.images.dtype == np.float32
  assert mnist.train.images.min() == 0 and mnist.train.images.max() == 1
  assert mnist.test.labels.dtype == np.int64
  # From LeCun's page: the first labels of the training and test files.
  assert mnist.validation.labels[:5].tolist() == [5, 0, 4, 1, 9]
  assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_data_beside_the_script_is_found_from_elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert mnist_input.read_data_sets(mnist_input.DATA_DIR).test.num_examples == 10000
  assert list(tmp_path.iterdir()) == []


# -- Files -------------------------------------------------------------------------------


def read_raw(folder):
  """Return (images, labels) of the training files, as they lie in them."""
  images = gzip.decompress((folder / f'{IMAGES_NAME}.gz').read_bytes())
  labels = gzip.decompress((folder / 'train-labels-idx1-ubyte.gz').read_bytes())
  return (np.frombuffer(images[16:], np.uint8).reshape(-1, 784),
          np.frombuffer(labels[8:], np.uint8))


def test_validation_is_the_head_of_the_training_file_in_order(mnist_dir, mnist):
  images, labels = read_raw(mnist_dir)
  np.testing.assert_array_equal(mnist.validation.images, images[:5000] / np.float32(255))
  np.testing.assert_array_equal(mnist.train.images, images[5000:] / np.float32(255))
  np.testing.assert_array_equal(mnist.validation.labels, np.eye(10)[labels[:5000]])
  smaller = mnist_input.read_data_sets(mnist_dir, validation_size=7)
  assert [part.num_examples for part in smaller] == [5193, 7, 60]


def in_a_folder_of_its_name(folder):
  (folder / IMAGES_NAME).rename(folder / 'x')
  (folder / IMAGES_NAME).mkdir()
  (folder / 'x').rename(folder / IMAGES_NAME / IMAGES_NAME)


@pytest.mark.parametrize('change', [
    lambda folder: None,
    lambda folder: (folder / IMAGES_NAME).rename(folder / 'train-images.idx3-ubyte'),
    lambda folder: (folder / IMAGES_NAME).rename(folder / IMAGES_NAME.upper()),
    in_a_folder_of_its_name,
    lambda folder: (folder / f'{IMAGES_NAME}.gz').write_bytes(b'\x1f\x8b, but damaged'),
    lambda folder: (folder / IMAGES_NAME).rename(folder / f'{IMAGES_NAME}.gz'),  # it is not gzipped
], ids=['unpacked', 'dot', 'upper case', 'folder', 'beside a damaged .gz', 'raw .gz'])
def test_files_are_found_under_their_other_names(change, tmp_path, mnist, capsys):
  change(made_data.write_mnist(tmp_path, compress=False))
  found = mnist_input.read_data_sets(tmp_path, one_hot=True)
  for part, same in zip(found, mnist, strict=True):
    np.testing.assert_array_equal(part.images, same.images)
    np.testing.assert_array_equal(part.labels, same.labels)
  damaged = (tmp_path / f'{IMAGES_NAME}.gz').exists() and (tmp_path / IMAGES_NAME).exists()
  assert capsys.readouterr().err.count(f'{IMAGES_NAME} is read instead') == damaged


def test_two_files_of_different_content_are_named(mnist_dir, tmp_path, capsys):
  folder = shutil.copytree(mnist_dir, tmp_path / 'both')
  other = gzip.decompress((folder / 'train-labels-idx1-ubyte.gz').read_bytes())[:-1] + b'\x07'
  (folder / 'train-labels-idx1-ubyte').write_bytes(other)
  mnist_input.read_data_sets(folder)
  assert 'train-labels-idx1-ubyte differ: the first is read' in capsys.readouterr().err


# -- Batches -----------------------------------------------------------------------------


def numbered_set(count, seed=0):
  """A data set whose labels number its examples."""
  return mnist_input.DataSet(np.arange(count, dtype=np.float32)[:, None], np.arange(count), seed)


def test_next_batch_loses_and_repeats_nothing_within_an_epoch():
  data_set = numbered_set(10)
  batches = [data_set.next_batch(4)[1] for _ in range(5)]
  assert [len(batch) for batch in batches] == [4] * 5  # always full, also across epochs
  first, second = np.split(np.concatenate(batches), 2)
  assert sorted(first) == sorted(second) == list(range(10))
  assert list(first) != list(range(10)) and list(first) != list(second)  # another shuffle each time
  assert data_set.epochs_completed == 2


def test_next_batch_may_exceed_the_epoch():
  labels = numbered_set(3).next_batch(8)[1]
  assert sorted(labels[:3]) == sorted(labels[3:6]) == [0, 1, 2] and len(labels) == 8


def test_next_batch_keeps_images_and_labels_together():
  images, labels = numbered_set(50).next_batch(20)
  np.testing.assert_array_equal(images[:, 0], labels)


def test_next_batch_without_shuffling_is_in_the_order_of_the_file():
  data_set = numbered_set(5)
  assert data_set.next_batch(4, shuffle=False)[1].tolist() == [0, 1, 2, 3]
  assert data_set.next_batch(4, shuffle=False)[1].tolist() == [4, 0, 1, 2]


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one():
  whole, resumed = numbered_set(10, seed=3), numbered_set(10, seed=3)
  batches = [whole.next_batch(4)[1].tolist() for _ in range(20)]
  resumed = resumed.starting_at(13 * 4)
  assert [resumed.next_batch(4)[1].tolist() for _ in range(7)] == batches[13:]


def test_batches_follow_from_the_seed_and_nothing_else(mnist_dir):
  np.random.seed(3)
  expected = np.random.RandomState(3).rand()
  mnist_input.read_data_sets(mnist_dir).train.next_batch(7)
  assert np.random.rand() == expected  # the caller's random state is left alone
  first, same, other = (numbered_set(9, seed).next_batch(9)[1].tolist() for seed in (1, 1, 2))
  assert first == same != other


# -- The old reader's arguments ----------------------------------------------------------


def test_arguments_of_the_old_reader(mnist_dir):
  read = mnist_input.read_data_sets
  # As in the book, by place: fake_data=False, then one_hot.
  assert read(mnist_dir, False, one_hot=True).test.labels.shape == (60, 10)
  assert read(mnist_dir).test.labels.shape == (60,)
  pictures = read(mnist_dir, dtype=tf.uint8, reshape=False).test.images
  assert pictures.dtype == np.uint8 and pictures.shape == (60, 28, 28, 1) and pictures.max() == 255
  with pytest.raises(ValueError, match='fake_data is not supported'):
    read(mnist_dir, fake_data=True)
  with pytest.raises(ValueError, match='dtype is float64'):
    read(mnist_dir, dtype=np.float64)
  with pytest.raises(UserError, match='--validation_size=5200'):
    read(mnist_dir, validation_size=5200)


# -- What lies there instead -------------------------------------------------------------


@pytest.mark.parametrize(('names', 'advice'), [
    (['emnist-letters-train-images-idx3-ubyte.gz'],
     "emnist-letters-train-images-idx3-ubyte.gz is there instead: rename it: EMNIST's pictures "),
    (['train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz', 'test-images-idx3-ubyte'],
     'test-images-idx3-ubyte is there instead: rename it'),
    (['mnist.npz'], 'mnist.npz is there instead: write its images and labels as README shows'),
    (['notes.txt'], 'put the four files train-images-idx3-ubyte.gz, ')])
def test_a_missing_file_says_what_is_there_instead(names, advice, mnist_dir, tmp_path):
  for name in names:
    (tmp_path / name).touch()
    if (mnist_dir / name).exists():
      shutil.copy(mnist_dir / name, tmp_path)
  with pytest.raises(UserError, match='ubyte.gz is missing: ') as caught:
    mnist_input.read_data_sets(tmp_path)
  assert advice in str(caught.value)


def test_labels_are_classes_in_their_order(tmp_path):
  made_data.write_mnist(tmp_path, labels=[3, 7])
  data = mnist_input.read_data_sets(tmp_path).train
  one_hot = mnist_input.read_data_sets(tmp_path, one_hot=True).train
  assert one_hot.classes == (3, 7) and one_hot.labels.shape[1] == 2
  np.testing.assert_array_equal(np.array([3, 7])[one_hot.labels.argmax(1)], data.labels)


def test_two_threads_on_one_data_set_train_as_each_alone():
  data_set = numbered_set(10)
  alone = [data_set.starting_at(0).next_batch(4)[1].tolist() for _ in range(2)]
  first, second = data_set.starting_at(0), data_set.starting_at(0)
  taken = [each.next_batch(4)[1].tolist() for _ in range(3) for each in (first, second)]
  assert taken[0] == taken[1] == alone[0] and taken[2] == taken[3] != taken[0]
