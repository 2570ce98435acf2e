"""Read the four MNIST files into train, validation and test sets.

The files are IDX, gzipped or unpacked, under their usual names; Fashion-MNIST and every
other set in the same format and names drops in. An empty folder is filled from the public
mirror first. The interface is that of the `input_data` module of TensorFlow 1's tutorials.
"""
import gzip
import os
import zlib
from typing import NamedTuple

import numpy as np

DATA_DIR = os.path.join('data', 'mnist')
IMAGE_SIZE = 28  # pixels on a side
NUM_LABELS = 10
VALIDATION_SIZE = 5000  # examples at the head of the training file
MAX_EXAMPLES = 1_000_000  # a file that claims more is refused before it is read

MIRROR = 'https://storage.googleapis.com/cvdf-datasets/mnist/'
# sha256 of the mirror's files.
SHA256 = {
    'train-images-idx3-ubyte.gz': '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
    'train-labels-idx1-ubyte.gz': '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
    't10k-images-idx3-ubyte.gz': '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
    't10k-labels-idx1-ubyte.gz': 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
}

# The first four bytes of an IDX file: unsigned bytes in 3 or 1 dimensions.
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049


class DataError(OSError):
  """A data file that is missing or is not what its name says; the message names the file."""


class DataSet:
  """Images and labels, and an endless supply of shuffled batches of them.

  Attributes:
    images: float32 [num_examples, 784] in [0, 1], in the order of the file.
    labels: float32 [num_examples, 10] one-hot, or int64 [num_examples] in 0..9.
    num_examples: int.
  """

  def __init__(self, images, labels, seed=0):
    self.images = images
    self.labels = labels
    self.num_examples = len(images)
    self._random = np.random.RandomState(seed)  # its own: numpy's global state stays untouched
    self._order = self._random.permutation(self.num_examples)
    self._position = 0

  def next_batch(self, batch_size):
    """Return the next batch_size images and labels.

    Each epoch is a new shuffle of all examples. A batch that crosses the end of an epoch is
    the tail of the old shuffle and the head of the new: always full, and nothing is lost.

    Args:
      batch_size: int, 1 or more; may exceed num_examples.

    Returns:
      (images, labels) of that many examples, as described for the class.

    Raises:
      ValueError: if batch_size is below 1.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}: give 1 or more')
    parts = []
    while batch_size > 0:
      if self._position == self.num_examples:
        self._order = self._random.permutation(self.num_examples)
        self._position = 0
      part = self._order[self._position:self._position + batch_size]
      parts.append(part)
      self._position += len(part)
      batch_size -= len(part)
    examples = np.concatenate(parts)
    return self.images[examples], self.labels[examples]


class DataSets(NamedTuple):
  """The three parts of a data set in the MNIST format."""
  train: DataSet
  validation: DataSet
  test: DataSet


def _find(data_dir, name):
  """Return the path of the file called name or name.gz in data_dir."""
  for path in (os.path.join(data_dir, name + '.gz'), os.path.join(data_dir, name)):
    if os.path.exists(path):
      return path
  raise DataError(f'{os.path.join(data_dir, name)}.gz is missing: put the four files '
                  f'{", ".join(SHA256)} into one folder and name it with --data_dir')


def _read_idx(path, magic, header_size):
  """Return (dimensions, unsigned bytes) of an IDX file.

  Raises:
    DataError: if it is not gzip though its name ends in .gz, has another magic number, or
      holds fewer or more bytes than its header says.
  """
  opener = gzip.open if path.endswith('.gz') else open
  try:
    with opener(path, 'rb') as file:
      header = file.read(header_size)
      if len(header) < header_size:
        raise DataError(f'{path} is cut short: {len(header)} bytes, but its header alone has {header_size}')
      found, *dimensions = np.frombuffer(header, '>u4').tolist()
      if found != magic:
        raise DataError(f'{path} has the magic number {found}, expected {magic}: it is no IDX file of '
                        f'{"images" if magic == IMAGES_MAGIC else "labels"}')
      if dimensions[0] > MAX_EXAMPLES:
        raise DataError(f'{path} claims {dimensions[0]} examples: at most {MAX_EXAMPLES} are read')
      if dimensions[1:] not in ([], [IMAGE_SIZE, IMAGE_SIZE]):
        raise DataError(f'{path} holds images of {dimensions[1]}x{dimensions[2]} pixels, '
                        f'expected {IMAGE_SIZE}x{IMAGE_SIZE}')
      size = int(np.prod(dimensions))
      content = file.read(size + 1)
  except gzip.BadGzipFile as error:
    raise DataError(f'{path} is not gzip or is damaged ({error}): fetch it again, or unpack it '
                    'and drop the .gz') from None
  except (EOFError, zlib.error) as error:
    raise DataError(f'{path} is cut short or damaged ({error}): fetch it again') from None
  if len(content) != size:
    found = f'only {len(content)}' if len(content) < size else 'more'
    raise DataError(f'{path} is {"cut short" if len(content) < size else "too long"}: its header '
                    f'promises {size} bytes of data, and {found} follow')
  return dimensions, np.frombuffer(content, np.uint8)


def read_images(path):
  """Return the images of an IDX file: float32 [n, 784] in [0, 1].

  Raises:
    DataError: see `read_data_sets`.
  """
  (count, *_), content = _read_idx(path, IMAGES_MAGIC, 16)
  images = content.reshape(count, IMAGE_SIZE * IMAGE_SIZE).astype(np.float32)
  images /= 255
  return images


def read_labels(path):
  """Return the labels of an IDX file: int64 [n] in 0..9.

  Raises:
    DataError: see `read_data_sets`.
  """
  _, content = _read_idx(path, LABELS_MAGIC, 8)
  if content.size and content.max() >= NUM_LABELS:
    raise DataError(f'{path} holds the label {content.max()} at position {content.argmax()}: '
                    f'labels are 0 to {NUM_LABELS - 1}')
  return content.astype(np.int64)


def _read_pair(data_dir, prefix):
  """Return (images, labels) of the two files that begin with prefix."""
  images_path = _find(data_dir, f'{prefix}-images-idx3-ubyte')
  labels_path = _find(data_dir, f'{prefix}-labels-idx1-ubyte')
  images, labels = read_images(images_path), read_labels(labels_path)
  if len(images) != len(labels):
    raise DataError(f'{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels: '
                    'they are not of the same set')
  if not len(images):
    raise DataError(f'{images_path} holds 0 images: fetch it again')
  return images, labels


def _fetch(data_dir):
  """Fill data_dir from the public mirror, all four files or none."""
  import script_support  # here, because only a download needs TensorFlow

  cure = f'fetch {", ".join(SHA256)} from {MIRROR} elsewhere and put them into --data_dir={data_dir}'
  fetched = []
  try:
    for name, sha256 in SHA256.items():
      with script_support.download(MIRROR + name, data_dir, cure, sha256) as path:
        os.replace(path, os.path.join(data_dir, name))
        fetched.append(name)
  except BaseException:
    for name in fetched:  # a folder with some of the files would not be filled again
      os.remove(os.path.join(data_dir, name))
    raise


def read_data_sets(data_dir, one_hot=True, validation_size=VALIDATION_SIZE, seed=0):
  """Read the MNIST files of a folder; fetch them first if the folder is empty or missing.

  Args:
    data_dir: folder of the four files, each gzipped (.gz) or unpacked.
    one_hot: whether labels are float32 [n, 10] one-hot rather than int64 [n].
    validation_size: how many examples at the head of the training file become the
      validation set, in order.
    seed: int, of the shuffles of `next_batch`.

  Returns:
    DataSets(train, validation, test): with MNIST 55,000, 5,000 and 10,000 examples.

  Raises:
    DataError: if a file is missing, not gzip, cut short or too long, of another magic
      number, not 28x28, with a label above 9, if images and labels differ in number, or if
      validation_size leaves no training example.
    script_support.UserError: if the files cannot be fetched.
  """
  if not data_dir or os.path.exists(data_dir) and not os.path.isdir(data_dir):
    raise DataError(f'--data_dir={data_dir} is no folder: give the folder of the four MNIST files')
  if not os.path.isdir(data_dir) or not os.listdir(data_dir):
    _fetch(data_dir)
  images, labels = _read_pair(data_dir, 'train')
  test_images, test_labels = _read_pair(data_dir, 't10k')
  if not 0 <= validation_size < len(images):
    raise DataError(f'{data_dir} has {len(images)} training examples, and the validation set takes '
                    f'{validation_size}: at least one must be left')
  if one_hot:
    labels, test_labels = (np.eye(NUM_LABELS, dtype=np.float32)[each] for each in (labels, test_labels))
  head, tail = slice(validation_size), slice(validation_size, None)
  return DataSets(train=DataSet(images[tail], labels[tail], seed),
                  validation=DataSet(images[head], labels[head], seed),
                  test=DataSet(test_images, test_labels, seed))
