"""The data file of decoded photos: what is written comes back, and damage is refused."""
import json
import os
import shutil

import numpy as np
import pytest

from flowers import data_file, photo
from support.console import UserError

NAMES = {'labels': ['daisy', 'rose'], 'names': ['rose/a.jpg', 'daisy/b.jpg', 'daisy/c.jpg'],
         'classes': [1, 0, 0], 'counts': {'training': 1, 'validation': 0, 'testing': 2}}


def write_data(path, seed=0, **changes):
  """Write a data file of three photos of one value each."""
  with data_file.data_writer(str(path)) as writer:
    for k in range(3):
      image = np.full([299, 299, 3], (k + seed) / 10, np.float32)
      writer.add(photo.DecodedPhoto('', image, None, image[0, 0].tobytes()))
    writer.finish(**{**NAMES, **changes})
  return path


@pytest.fixture(scope='module')
def processed_file(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp('data') / 'photos.npy')


def test_data_file_is_a_plain_array(processed_file):
  images = np.load(processed_file, allow_pickle=False)
  assert images.dtype == np.float32 and images.shape == (3, 299, 299, 3)
  assert np.load(processed_file, mmap_mode='r')[2, 0, 0, 0] == np.float32(0.2)
  names = json.loads(processed_file.with_suffix('.json').read_text())
  assert names['files'] == NAMES['names'] and names['classes'] == NAMES['classes']


def test_data_comes_back_by_split_and_memory_mapped(processed_file):
  data = data_file.load_processed_data(processed_file)
  assert data.labels == NAMES['labels'] and data.files == NAMES['names']
  assert isinstance(data.training_images, np.memmap)
  assert data.training_images[0, 0, 0, 0] == 0 and data.validation_images.shape[0] == 0
  np.testing.assert_array_equal(data.testing_images[:, 7, 7, 1], np.float32([0.1, 0.2]))
  assert data.training_labels.dtype == np.int64
  assert data.training_labels.tolist() == [1] and data.testing_labels.tolist() == [0, 0]


def test_id_tells_pixels_labels_files_and_splits_apart(processed_file, tmp_path):
  def identity(**changes):
    return data_file.load_processed_data(write_data(tmp_path / 'other.npy', **changes)).id

  assert identity() == data_file.load_processed_data(processed_file).id
  changes = [{'seed': 1}, {'labels': ['daisy', 'tulip']}, {'classes': [0, 1, 0]},
             {'names': ['rose/a.jpg', 'daisy/c.jpg', 'daisy/b.jpg']},
             {'counts': {'training': 2, 'validation': 0, 'testing': 1}}]
  assert len({identity(), *(identity(**change) for change in changes)}) == 1 + len(changes)


def test_files_of_two_runs_are_refused_together(processed_file, tmp_path):
  write_data(tmp_path / 'photos.npy', seed=1)
  shutil.copy(processed_file.with_suffix('.json'), tmp_path)
  with pytest.raises(UserError, match='not of the same run'):
    data_file.load_processed_data(tmp_path / 'photos.npy')


def change_names(**changes):
  def change(path):
    names = json.loads(path.with_suffix('.json').read_text())
    path.with_suffix('.json').write_text(json.dumps({**names, **changes}))
  return change


def write_array(array):
  return lambda path: np.save(path, array)


def write_bytes(contents):
  return lambda path: path.write_bytes(contents)


@pytest.mark.parametrize(('change', 'message'), [
    (write_bytes(b''), 'not a whole .npy file'),
    (write_bytes(b'\x93NUMPY\1\0v\0{' + b'(' * 117), 'not a whole .npy file'),
    (write_array(np.array([{}], object)), 'not a whole .npy file'),  # would be a pickle
    (write_array(np.zeros(3, [('image', '<f4', (299, 299, 3)), ('label', '<i8')])), 'earlier'),
    (write_array(np.zeros((3, 299, 299, 3))), 'float64'),
    (write_array(np.zeros((3, 28, 28, 1), np.float32)), r'\(3, 28, 28, 1\)'),
    (write_array(np.zeros((3, 299, 299, 3), np.float32)), 'not of the same run'),
    (lambda path: os.truncate(path, 3_000_000), 'not a whole .npy file'),
    (lambda path: os.truncate(path, path.stat().st_size - 1), 'not of the same run'),
    (lambda path: path.with_suffix('.json').unlink(), 'photos.json is missing'),
    (lambda path: path.with_suffix('.json').write_text('{"labels":'), 'not a JSON file'),
    (change_names(labels=['rose', 'rose']), '"labels"'),
    (change_names(labels=['rose', 'daisy']), 'not of the same run'),
    (change_names(files=['a', 'b', 3]), '"files"'),
    (change_names(classes=[0, 1]), '"classes"'),
    (change_names(classes=[0, 1, 2]), '"classes"'),
    (change_names(counts={'training': 3}), '"counts"'),
    (change_names(counts={'training': 4, 'validation': 0, 'testing': -1}), '"counts"'),
])
def test_a_damaged_data_file_is_refused_in_one_line(processed_file, tmp_path, change, message):
  path = tmp_path / 'photos.npy'
  for source in (processed_file, processed_file.with_suffix('.json')):
    shutil.copy(source, tmp_path)
  change(path)
  with pytest.raises(UserError, match=message) as error:
    data_file.load_processed_data(path)
  assert 'photos.' in str(error.value) and '\n' not in str(error.value)


def test_a_failed_run_leaves_the_files_before(processed_file, tmp_path):
  path = write_data(tmp_path / 'photos.npy', seed=1)
  before = data_file.load_processed_data(path).id
  with pytest.raises(KeyboardInterrupt), data_file.data_writer(str(path)) as writer:
    writer.add(photo.DecodedPhoto('', np.zeros([299, 299, 3], np.float32), None, b''))
    raise KeyboardInterrupt
  assert data_file.load_processed_data(path).id == before
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ['photos.json', 'photos.npy']
