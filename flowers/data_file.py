"""The file of decoded photos in three splits.

    data = data_file.load_processed_data('flower_processed_data.npy')
    data.training_images  # float32 [n, 299, 299, 3] in [0, 1], memory-mapped
    data.training_labels  # int64 [n], indices into data.labels

The data file is a plain .npy array, float32 [n, 299, 299, 3]: training, validation and testing
photos one after another, each split in a random order. The .json file beside it has all
else: class names, file names, the class of each photo, how many photos each split has.
"""
import contextlib
import hashlib
import itertools
import json
import os
import sys
import warnings
from typing import NamedTuple

import numpy as np

from flowers.photo import IMAGE_SIZE
from support import files
from support.console import UserError

IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3 * 4  # of a photo in the data file
SPLITS = ('training', 'validation', 'testing')  # in the order of the data file
MAX_NAMES_BYTES = 200_000_000  # of the .json file

# The data file ends in a digest of the .json file, after the array, where readers of .npy files do
# not look. It shows that both files are of one run, and that the images before it are complete.
DIGEST_SIZE = 64  # hexadecimal digits


class ProcessedData(NamedTuple):
  """Photos in three splits: images float32 [n, 299, 299, 3] in [0, 1], memory-mapped."""
  training_images: np.ndarray
  training_labels: np.ndarray  # int64 [n], indices into labels
  validation_images: np.ndarray
  validation_labels: np.ndarray
  testing_images: np.ndarray
  testing_labels: np.ndarray
  labels: list  # class names, sorted
  files: list  # each photo's path below the input folder: training, validation, testing
  id: str  # another one for other pixels, labels, files or splits


# -- Writing -----------------------------------------------------------------------------


def names_path(data_path):
  """Return the path of the .json file beside a .npy file."""
  return os.path.splitext(data_path)[0] + '.json'


def _names_digest(content):
  """Return the digest, bytes, of all that a .json file says about the photos."""
  said = [content[key] for key in ('labels', 'files', 'classes', 'photos')]
  said += [content['counts'][split] for split in SPLITS]
  return files.digest([json.dumps(said).encode()]).encode()


class DataWriter:
  """Writes a data file, one photo after another."""

  def __init__(self, file, names_file):
    """Begin a data file.

    Args:
      file: binary file, empty.
      names_file: text file, empty.
    """
    self._file, self._names_file = file, names_file
    self._count = 0
    self._photos = hashlib.blake2b(digest_size=DIGEST_SIZE // 2)
    self._write_header()

  def _write_header(self):
    # As long for any count, because numpy leaves room for one.
    self._file.seek(0)
    np.lib.format.write_array_header_1_0(self._file, {
        'descr': '<f4', 'fortran_order': False, 'shape': (self._count, IMAGE_SIZE, IMAGE_SIZE, 3)})

  def add(self, photo):
    """Write the image of a photo.DecodedPhoto."""
    self._file.write(np.ascontiguousarray(photo.image, '<f4'))
    self._photos.update(photo.digest)
    self._count += 1

  def finish(self, labels, names, classes, counts, **others):
    """Write what belongs to the images, when all are written.

    Args:
      labels: list of class names, sorted.
      names: list of the photos' names, in the order of the images: training, validation, testing.
      classes: list of int, the index of each photo's class.
      counts: {split: number of photos}.
      others: what else to keep in the .json file.
    """
    content = {'labels': labels, 'counts': counts, 'photos': self._photos.hexdigest(), **others,
               'files': names, 'classes': classes}
    self._file.write(_names_digest(content))
    self._write_header()
    json.dump(content, self._names_file, indent=1)


@contextlib.contextmanager
def data_writer(path):
  """Give a DataWriter for the block; both files appear, whole, when the block succeeds."""
  with files.replace_file(names_path(path)) as temporary_names_path, \
      files.replace_file(path) as temporary_path:
    with open(temporary_path, 'wb') as file, \
        open(temporary_names_path, 'w', encoding='utf-8') as names_file:
      yield DataWriter(file, names_file)


# -- Reading -----------------------------------------------------------------------------


def read_names(path):
  """Return the checked content, a dict, of the .json file beside a data file.

  Raises:
    UserError: if it is missing, not a JSON file, or does not hold what it should.
    OSError: if it cannot be read.
  """
  if os.path.exists(path):
    files.require_regular_file(path, MAX_NAMES_BYTES)
  content = files.read_json(path)
  labels, names, classes, counts = (content.get(key) for key in (
      'labels', 'files', 'classes', 'counts'))

  def require(condition, what):
    if not condition:
      raise UserError(f'{path}: {what}: run flower_preprocess.py again')

  require(files.is_list_of_names(labels) and len(set(labels)) == len(labels) >= 2,
          '"labels" is not a list of two or more class names')
  require(files.is_list_of_names(names), '"files" is not a list of file names')
  require(isinstance(classes, list) and len(classes) == len(names)
          and all(type(label) is int and 0 <= label < len(labels) for label in classes),
          f'"classes" does not hold the class of each of its {len(names)} files')
  require(isinstance(counts, dict) and sorted(counts) == sorted(SPLITS)
          and all(type(count) is int and count >= 0 for count in counts.values())
          and sum(counts.values()) == len(names),
          f'"counts" does not match its {len(names)} files')
  require(isinstance(content.get('photos'), str), '"photos" is not a digest')
  return content


def _open_images(path):
  """Return the memory-mapped images of a data file, and the digest behind them.

  Raises:
    UserError, OSError: as for `load_processed_data`.
  """
  files.require_regular_file(path, sys.maxsize)
  try:
    # Unlike np.load, this never takes a file for a pickle or an archive.
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of headers of Python 2, and of sizes that overflow
      images = np.lib.format.open_memmap(path, mode='r')
  except OSError:
    raise
  except Exception as error:  # numpy's parser raises IndexError, TokenError, RecursionError, more
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f'{path} is not a whole .npy file of flower_preprocess.py ({reason}): '
                    'run that again') from None
  if images.dtype.names:
    raise UserError(f'{path} is of an earlier version of flower_preprocess.py: run it again')
  if (images.dtype != '<f4' or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3)
      or not images.flags.c_contiguous):
    raise UserError(f'{path} holds an array {images.shape} of {images.dtype}, not the photos of '
                    'flower_preprocess.py: run that first')
  with open(path, 'rb') as file:
    file.seek(images.offset + images.nbytes)
    digest = file.read(DIGEST_SIZE + 1)
  return images, digest


def load_processed_data(path):
  """Open what flower_preprocess.py wrote, without reading the images into memory.

  Args:
    path: the .npy file; the .json file is expected beside it.

  Returns:
    ProcessedData.

  Raises:
    UserError: if the file is not a .npy file of photos, is cut short, or was not written
      together with the file beside it.
    OSError: if a file cannot be read.
  """
  images, digest = _open_images(path)
  content = read_names(names_path(path))
  if len(images) != len(content['files']) or digest != _names_digest(content):
    raise UserError(f'{path} and {names_path(path)} are not of the same run: '
                    'run flower_preprocess.py again')
  labels = np.array(content['classes'], np.int64)
  ends = itertools.accumulate((content['counts'][split] for split in SPLITS), initial=0)
  parts = [part[start:end] for start, end in itertools.pairwise(ends) for part in (images, labels)]
  return ProcessedData(*parts, labels=content['labels'], files=content['files'],
                       id=digest.decode())
