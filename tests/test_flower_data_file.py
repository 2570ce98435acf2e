"""The data file of decoded photos: what is written comes back, and two runs are told apart."""
import json
import os
import shutil

import numpy as np
import pytest

from flowers import data_file
from flowers.photo import DecodedPhoto
from support import files
from support.console import UserError

NAMES = {'labels': ['daisy', 'rose'], 'names': ['rose/a.jpg', 'daisy/b.jpg', 'daisy/c.jpg'],
         'classes': [1, 0, 0], 'counts': {'training': 1, 'validation': 0, 'testing': 2}}


def write_data(path, seed=0, **changes):
  """Write a data file of three photos of one value each."""
  with data_file.data_writer(str(path)) as writer:
    for k in range(3):
      image = np.full([299, 299, 3], 10 * k + seed, np.uint8)
      writer.add(DecodedPhoto('', image, None, image[0, 0].tobytes()))
    writer.finish(**{**NAMES, **changes})
  return path


@pytest.fixture(scope='module')
def processed_file(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp('data') / 'photos.npy')


def test_data_file_is_a_plain_array(processed_file):
  images = np.load(processed_file, allow_pickle=False)
  assert images.dtype == np.uint8 and images.shape == (3, 299, 299, 3)
  assert np.load(processed_file, mmap_mode='r')[2, 0, 0, 0] == 20
  assert processed_file.stat().st_size == 128 + images.nbytes  # nothing behind the array
  names = json.loads(processed_file.with_suffix('.json').read_text())
  assert names['files'] == NAMES['names'] and names['classes'] == NAMES['classes']


def test_data_comes_back_by_split_and_memory_mapped(processed_file):
  data = data_file.load_processed_data(processed_file)
  assert data.labels == NAMES['labels'] and data.files == NAMES['names']
  assert isinstance(data.training_images, np.memmap)
  assert data.training_images[0, 0, 0, 0] == 0 and data.validation_images.shape[0] == 0
  np.testing.assert_array_equal(data.testing_images[:, 7, 7, 1], [10, 20])
  assert data.training_labels.dtype == np.int64
  assert data.training_labels.tolist() == [1] and data.testing_labels.tolist() == [0, 0]


def test_other_pixels_labels_files_or_splits_have_another_id(processed_file, tmp_path):
  def identity(**changes):
    return data_file.load_processed_data(write_data(tmp_path / 'other.npy', **changes)).id

  assert identity() == data_file.load_processed_data(processed_file).id
  changes = [{'seed': 1}, {'labels': ['daisy', 'tulip']}, {'classes': [0, 1, 0]},
             {'names': ['rose/a.jpg', 'daisy/c.jpg', 'daisy/b.jpg']},
             {'counts': {'training': 2, 'validation': 0, 'testing': 1}}]
  assert len({identity(), *(identity(**change) for change in changes)}) == 1 + len(changes)


def write_array(array):
  return lambda path: np.save(path, array)


def change_names(path):
  names = json.loads(path.with_suffix('.json').read_text())
  path.with_suffix('.json').write_text(json.dumps({**names, 'labels': ['rose', 'daisy']}))


@pytest.mark.parametrize(('change', 'message'), [
    (lambda path: path.write_bytes(b''), 'does not hold the photos of'),
    (write_array(np.array([{}], object)), 'does not hold the photos of'),  # would be a pickle
    (write_array(np.zeros((3, 299, 299, 3), np.float32)), 'does not hold the photos of'),
    (write_array(np.zeros((3, 299, 299, 3), np.uint8)), 'does not hold the photos of'),
    (lambda path: os.truncate(path, 300_000), 'does not hold the photos of'),
    (lambda path: path.with_suffix('.json').unlink(), 'photos.json is missing'),
    (lambda path: path.with_suffix('.json').write_text('{"labels":'), 'not a JSON file'),
    (change_names, 'not as flower_preprocess.py wrote it'),
], ids=['empty', 'pickle', 'earlier version', 'other photos', 'cut', 'no names', 'no JSON',
        'changed names'])
def test_what_is_not_of_one_run_is_refused_in_one_line(processed_file, tmp_path, change, message):
  path = tmp_path / 'photos.npy'
  for source in (processed_file, processed_file.with_suffix('.json')):
    shutil.copy(source, tmp_path)
  change(path)
  with pytest.raises(UserError, match=message) as error:
    data_file.load_processed_data(path)
  assert 'photos.' in str(error.value) and '\n' not in str(error.value)


# -- No moment without a matching pair ---------------------------------------------------


class Killed(BaseException):
  """In place of a SIGKILL: nothing cleans up after it."""


def test_at_each_moment_one_of_the_pairs_can_be_read(tmp_path, monkeypatch):
  path = write_data(tmp_path / 'photos.npy')
  old = data_file.load_processed_data(path).id
  replace, moments = os.replace, []
  new = data_file.load_processed_data(write_data(tmp_path / 'new.npy', seed=1)).id
  for count in range(4):  # a kill before each rename, and after the last
    write_data(path)

    def killing(source, target, count=count):
      if moments and moments[-1] == count:
        raise Killed
      moments.append(moments[-1] + 1)
      replace(source, target)

    moments[:] = [0]
    with monkeypatch.context() as patches:
      patches.setattr(os, 'replace', killing)
      patches.setattr(files, 'remove', lambda path: None)
      try:
        write_data(path, seed=1)
      except Killed:
        pass
    assert data_file.load_processed_data(path).id == (new if count else old)
    assert data_file.load_processed_data(path).testing_images[0, 0, 0, 0] == (11 if count else 10)


def test_a_failed_run_leaves_the_files_before(tmp_path):
  path = write_data(tmp_path / 'photos.npy', seed=1)
  before = data_file.load_processed_data(path).id
  with pytest.raises(KeyboardInterrupt), data_file.data_writer(str(path)) as writer:
    writer.add(DecodedPhoto('', np.zeros([299, 299, 3], np.uint8), None, b''))
    raise KeyboardInterrupt
  assert data_file.load_processed_data(path).id == before
  assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name[0] != '.') == [
      'photos.json', 'photos.npy']


def test_a_link_stays_a_link(processed_file, tmp_path):
  (tmp_path / 'disk').mkdir()
  for name in ('photos.npy', 'photos.json'):
    (tmp_path / 'disk' / name).touch()
    (tmp_path / name).symlink_to(tmp_path / 'disk' / name)
  write_data(tmp_path / 'photos.npy')
  assert (tmp_path / 'photos.npy').is_symlink() and (tmp_path / 'photos.json').is_symlink()
  assert data_file.load_processed_data(tmp_path / 'disk' / 'photos.npy').labels == NAMES['labels']
