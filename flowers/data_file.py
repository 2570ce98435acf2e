"""The file of decoded photos in three splits.

    data = data_file.load_processed_data('flower_processed_data.npy')
    data.training_images  # uint8 [n, 299, 299, 3], memory-mapped
    data.training_labels  # int64 [n], indices into data.labels

The data file is a plain .npy array, uint8 [n, 299, 299, 3]: training, validation and testing
photos one after another, each split in a random order. The .json file beside it has all
else: class names, file names, the class of each photo, how many photos each split has.
"""
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from flowers.photo import IMAGE_SIZE, DecodedPhoto
from support import files
from support.console import UserError

SPLITS = ('training', 'validation', 'testing')  # in the order of the data file

# The .json file holds a digest of this row of all images, by which it is seen that both files are
# of one run; to read all rows would take a second for each gigabyte.
SAMPLED_ROW = IMAGE_SIZE // 2

AGAIN = 'run flower_preprocess.py again'


class ProcessedData(NamedTuple):
  """Photos in three splits: images uint8 [n, 299, 299, 3], memory-mapped."""
  training_images: np.ndarray
  training_labels: np.ndarray  # int64 [n], indices into labels
  validation_images: np.ndarray
  validation_labels: np.ndarray
  testing_images: np.ndarray
  testing_labels: np.ndarray
  labels: list[str]  # class names, sorted
  files: list[str]  # each photo's path below the input folder: training, validation, testing
  id: str  # another one for other photos, labels, files or splits


def names_path(data_path: str) -> str:
  """Return the path of the .json file beside a .npy file."""
  return os.path.splitext(data_path)[0] + '.json'


def _digest(content: dict) -> str:
  """Return the digest of all that a .json file says, but for this digest."""
  said = {key: value for key, value in content.items() if key != 'digest'}
  return files.digest([json.dumps(said, sort_keys=True).encode()])


# -- Writing -----------------------------------------------------------------------------


class DataWriter:
  """Writes a data file, one photo after another."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self._count = 0
    self._photos, self._rows = (hashlib.blake2b(digest_size=32) for _ in range(2))
    self.content: dict = {}  # of the .json file, when all is written
    self._write_header()

  def _write_header(self) -> None:
    # As long for any count, because numpy leaves room for one.
    self._file.seek(0)
    np.lib.format.write_array_header_1_0(self._file, {
        'descr': '|u1', 'fortran_order': False, 'shape': (self._count, IMAGE_SIZE, IMAGE_SIZE, 3)})

  def add(self, photo: DecodedPhoto) -> None:
    """Write the image of a photo."""
    self._file.write(photo.image)
    self._rows.update(photo.image[SAMPLED_ROW])
    self._photos.update(photo.digest)
    self._count += 1

  def finish(self, labels: list[str], names: list[str], classes: list[int],
             counts: dict[str, int], **others: object) -> None:
    """Say what belongs to the images, when all are written.

    Args:
      labels: class names, sorted.
      names, classes: of each photo, in the order of the images: training, validation, testing.
      counts: how many photos each split has.
      others: what else to keep in the .json file.
    """
    self._write_header()
    self.content = {'labels': labels, 'counts': counts, **others, 'files': names,
                    'classes': classes, 'photos': self._photos.hexdigest(),
                    'rows': self._rows.hexdigest()}
    self.content['digest'] = _digest(self.content)


@contextlib.contextmanager
def data_writer(path: str) -> Iterator[DataWriter]:
  """Give a DataWriter for the block; both files appear, whole, when the block succeeds.

  The .json file is replaced first. If the process ends then, the new images lie whole in their
  temporary file, which `load_processed_data` moves to its place.
  """
  writer = None

  def is_named_already():
    return writer is not None and bool(writer.content) and os.path.exists(names_path(path)) and (
        files.read_json(names_path(path), AGAIN).get('digest') == writer.content['digest'])

  with files.locked(path), files.replace_file(path, is_named_already) as temporary_path:
    with open(temporary_path, 'wb') as file:
      writer = DataWriter(file)
      yield writer
    files.write_json(names_path(path), writer.content)


# -- Reading -----------------------------------------------------------------------------


def _open_images(path: str, content: dict) -> np.ndarray | None:
  """Return the images of a data file, mapped, if they are those of a .json file's content."""
  try:
    images = np.load(path, mmap_mode='r', allow_pickle=False)
  except (ValueError, EOFError):  # it is no .npy file, or is cut short
    return None
  shape = (len(content['files']), IMAGE_SIZE, IMAGE_SIZE, 3)
  if getattr(images, 'shape', None) != shape or images.dtype != np.uint8:
    return None
  # Shape and type fit any run's data of as many photos; the rows are of this one.
  rows = np.ascontiguousarray(images[:, SAMPLED_ROW])
  return images if files.digest([rows]) == content['rows'] else None


def _finish_replacement(path: str, content: dict) -> None:
  """Move the images of a run that was killed between its two files to their place."""
  temporary_path = files.temporary_path(os.path.realpath(path))
  if os.path.exists(temporary_path):
    with files.locked(path):
      if os.path.exists(temporary_path) and _open_images(temporary_path, content) is not None:
        os.replace(temporary_path, os.path.realpath(path))


def load_processed_data(path: str) -> ProcessedData:
  """Open what flower_preprocess.py wrote, without reading the images into memory.

  Args:
    path: of the .npy file; UserError if the .json file beside it is not of the same run.
  """
  os.stat(path)  # of the two, the one that was named is missed first
  content = files.read_json(names_path(path), AGAIN)
  if content.get('digest') != _digest(content):
    raise UserError(f'{names_path(path)} is not as flower_preprocess.py wrote it: {AGAIN}')
  images = _open_images(path, content)
  if images is None:
    _finish_replacement(path, content)
    images = _open_images(path, content)
  if images is None:
    raise UserError(f'{path} does not hold the photos of {names_path(path)}, uint8 [n, '
                    f'{IMAGE_SIZE}, {IMAGE_SIZE}, 3]: {AGAIN}')
  labels = np.array(content['classes'], np.int64)
  ends = itertools.accumulate((content['counts'][split] for split in SPLITS), initial=0)
  parts = [part[start:end] for start, end in itertools.pairwise(ends) for part in (images, labels)]
  return ProcessedData(*parts, labels=content['labels'], files=content['files'],
                       id=content['digest'])


def is_written_here(path: str) -> bool:
  """Return whether a data file and the .json file beside it may be replaced: they are ours."""
  try:
    content = files.read_json(names_path(path), AGAIN)
  except (OSError, UserError):
    content = {}
  return content.keys() >= {'labels', 'files', 'counts'} or not (
      os.path.lexists(path) or os.path.lexists(names_path(path)))
