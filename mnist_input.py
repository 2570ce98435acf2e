"""Read the four MNIST files into train, validation and test sets.

The files are IDX, gzipped or unpacked, under the names that they are known by; Fashion-MNIST and
every other set in the same format drops in. An empty folder is filled from the public mirror
first. The interface is that of the `input_data` module of TensorFlow 1's tutorials.
"""
import gzip
import os
import re
import zlib
from typing import NamedTuple

import numpy as np

from support import files
from support.console import UserError, printable, warn

DATA_DIR = os.path.join('data', 'mnist')
IMAGE_SIZE = 28  # pixels on a side
NUM_LABELS = 10
VALIDATION_SIZE = 5000  # examples at the head of the training file
MAX_EXAMPLES = 1_000_000  # a file that claims more is refused before it is read

MIRROR = 'https://storage.googleapis.com/cvdf-datasets/mnist/'
# sha256 of the mirror's files.
SHA256 = {
    'train-images-idx3-ubyte.gz':
        '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
    'train-labels-idx1-ubyte.gz':
        '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
    't10k-images-idx3-ubyte.gz':
        '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
    't10k-labels-idx1-ubyte.gz':
        'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
}

# The first four bytes of an IDX file: unsigned bytes in 3 or 1 dimensions.
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
GZIP_MAGIC = b'\x1f\x8b'


# -- Batches -----------------------------------------------------------------------------


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
    self._seed = seed
    self._given = 0  # examples
    self._order = self._order_of = None  # of the examples, in which epoch and shuffled or not

  @property
  def epochs_completed(self):
    """How often all examples were given, int."""
    return self._given // self.num_examples

  def next_batch(self, batch_size, fake_data=False, shuffle=True):
    """Return the next batch_size images and labels.

    Each epoch is a shuffle of its own of all examples, which follows from the seed and the
    epoch's number. A batch that crosses the end of an epoch is the tail of the old shuffle and
    the head of the new: always full, and nothing is lost.

    Args:
      batch_size: int, 1 or more; may exceed num_examples.
      fake_data: must be false; the old reader's made-up images are not there.
      shuffle: bool; without, the examples come in the order of the file.

    Returns:
      (images, labels) of that many examples, as described for the class.

    Raises:
      ValueError: if batch_size is below 1 or fake_data is true.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}: give 1 or more')
    _refuse_fake_data(fake_data)
    parts = []
    while batch_size > 0:
      epoch, start = divmod(self._given, self.num_examples)
      part = self._epoch_order(epoch, shuffle)[start:start + batch_size]
      parts.append(part)
      self._given += len(part)
      batch_size -= len(part)
    examples = np.concatenate(parts)
    return self.images[examples], self.labels[examples]

  def start_at(self, examples):
    """Go on as if so many examples had been given: a resumed run gets the batches that are next."""
    self._given = examples

  def digest(self):
    """Return a hexadecimal digest of the images and labels in their order."""
    arrays = (np.ascontiguousarray(array) for array in (self.images, self.labels))
    return files.digest(array.data for array in arrays)

  def _epoch_order(self, epoch, shuffle):
    if self._order_of != (epoch, shuffle):
      # A generator of its own: numpy's global state stays untouched.
      self._order = (np.random.RandomState([self._seed, epoch]).permutation(self.num_examples)
                     if shuffle else np.arange(self.num_examples))
      self._order_of = (epoch, shuffle)
    return self._order


class DataSets(NamedTuple):
  """The three parts of a data set in the MNIST format."""
  train: DataSet
  validation: DataSet
  test: DataSet


def _refuse_fake_data(fake_data):
  if fake_data:
    raise ValueError('fake_data is not supported: give small files in the MNIST format instead')


# -- Files -------------------------------------------------------------------------------


def _find(data_dir, name):
  """Return the paths under which a file is there, the gzipped one first.

  Args:
    name: str, like train-images-idx3-ubyte, which is also known as train-images.idx3-ubyte, in
      whatever case, with .gz or without, or inside a folder of its name.
  """
  known_as = re.compile(name.replace('-idx', '[-.]idx') + r'(\.gz)?', re.IGNORECASE)
  paths = []
  for folder in (data_dir, *sorted(entry.path for entry in os.scandir(data_dir)
                                   if entry.is_dir() and known_as.fullmatch(entry.name))):
    paths += [os.path.join(folder, entry) for entry in os.listdir(folder)
              if known_as.fullmatch(entry)]
  paths = [path for path in paths if not os.path.isdir(path)]
  if not paths:
    raise UserError(f'{os.path.join(data_dir, name)}.gz is missing: put the four files '
                    f'{", ".join(SHA256)} into one folder and name it with --data_dir')
  return sorted(paths, key=lambda path: (not path.lower().endswith('.gz'), path))


def _read_idx(path, magic, header_size):
  """Return (dimensions, unsigned bytes) of an IDX file, gzipped or not.

  Raises:
    UserError: if it is damaged, has another magic number, or holds fewer or more bytes than
      its header says.
  """
  files.require_regular_file(path, 1000 * MAX_EXAMPLES)
  with open(path, 'rb') as file:
    is_gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC  # whatever its name says
  try:
    with files.failures_named(path), (gzip.open if is_gzipped else open)(path, 'rb') as file:
      header = file.read(header_size)
      if len(header) < header_size:
        raise UserError(f'{path} is cut short: {len(header)} bytes, but its header alone has '
                        f'{header_size}')
      found, *dimensions = np.frombuffer(header, '>u4').tolist()
      if found != magic:
        raise UserError(f'{path} has the magic number {found}, expected {magic}: it is not an IDX '
                        f'file of {"images" if magic == IMAGES_MAGIC else "labels"}')
      if dimensions[0] > MAX_EXAMPLES:
        raise UserError(f'{path} claims {dimensions[0]} examples: at most {MAX_EXAMPLES} are read')
      if dimensions[1:] not in ([], [IMAGE_SIZE, IMAGE_SIZE]):
        raise UserError(f'{path} holds images of {dimensions[1]}x{dimensions[2]} pixels, '
                        f'expected {IMAGE_SIZE}x{IMAGE_SIZE}')
      size = int(np.prod(dimensions))
      content = file.read(size + 1)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{path} is cut short or damaged ({error}): fetch it again') from None
  if len(content) != size:
    found = f'only {len(content)}' if len(content) < size else 'more'
    raise UserError(f'{path} is {"cut short" if len(content) < size else "too long"}: its header '
                    f'promises {size} bytes of data, and {found} follow')
  return dimensions, np.frombuffer(content, np.uint8)


def read_images(path):
  """Return the images of an IDX file: uint8 [n, 28, 28].

  Raises:
    UserError: see `read_data_sets`.
  """
  (count, *_), content = _read_idx(path, IMAGES_MAGIC, 16)
  return content.reshape(count, IMAGE_SIZE, IMAGE_SIZE)


def read_labels(path):
  """Return the labels of an IDX file: int64 [n] in 0..9.

  Raises:
    UserError: see `read_data_sets`.
  """
  _, content = _read_idx(path, LABELS_MAGIC, 8)
  if content.size and content.max() >= NUM_LABELS:
    raise UserError(f'{path} holds the label {content.max()} at position {content.argmax()}: '
                    f'labels are 0 to {NUM_LABELS - 1}')
  return content.astype(np.int64)


def _read_first_whole(paths, read):
  """Return (path, read(path)) of the first whole file, and say what is wrong with others."""
  path, content, failure = None, None, None
  for each in paths:
    try:
      found = read(each)
    except UserError as error:
      failure = failure or error
      continue
    if content is None:
      path, content = each, found
    elif not np.array_equal(found, content):
      warn(f'{path} and {each} differ: the first is read')
  if content is None:
    raise failure
  if failure:
    warn(f'{failure}; {path} is read instead')
  return path, content


def _read_pair(data_dir, prefix):
  """Return (images, labels) of the two files that begin with prefix."""
  images_path, images = _read_first_whole(_find(data_dir, f'{prefix}-images-idx3-ubyte'),
                                          read_images)
  labels_path, labels = _read_first_whole(_find(data_dir, f'{prefix}-labels-idx1-ubyte'),
                                          read_labels)
  if len(images) != len(labels):
    raise UserError(f'{images_path} holds {len(images)} images but {labels_path} {len(labels)} '
                    'labels: they are not of the same set')
  if not len(images):
    raise UserError(f'{images_path} holds 0 images: fetch it again')
  return images, labels


def _fetch(data_dir):
  """Fill data_dir from the public mirror, all four files or none."""
  advice = (f'fetch {", ".join(SHA256)} from {MIRROR} elsewhere and put them into '
            f'--data_dir={data_dir}')
  with files.made_folder(data_dir), files.temporary_folder(data_dir, 'mnist') as temporary_dir:
    for name, sha256 in SHA256.items():
      with files.download(MIRROR + name, temporary_dir, advice, sha256) as path:
        os.replace(path, os.path.join(temporary_dir, name))
    if _is_empty(data_dir):  # still: what a user has put there meanwhile stays
      for name in SHA256:
        os.replace(os.path.join(temporary_dir, name), os.path.join(data_dir, name))


def _is_empty(folder):
  """Return whether a folder has only hidden entries: of a killed download, or the desktop's."""
  return all(name.startswith('.') for name in os.listdir(folder))


def _find_folder(data_dir):
  """Return data_dir, or the folder of that name beside this file; fill it if it is empty."""
  beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), data_dir)
  if not os.path.exists(data_dir) and os.path.isdir(beside):
    return beside  # the script was started from another folder
  if not data_dir or os.path.exists(data_dir) and not os.path.isdir(data_dir):
    raise UserError(f'--data_dir={data_dir} is not a folder: give the folder of the four MNIST '
                    'files')
  if not os.path.isdir(data_dir) or _is_empty(data_dir):
    _fetch(data_dir)
  return data_dir


# -- The data sets -----------------------------------------------------------------------


def _to_numpy(images, labels, one_hot, dtype, reshape):
  """Return images and labels in the forms that `read_data_sets` describes."""
  shape = [len(images), IMAGE_SIZE * IMAGE_SIZE] if reshape else [*images.shape, 1]
  images = images.reshape(shape)
  if dtype == np.float32:
    images = images.astype(np.float32)
    images /= 255
  if one_hot:
    labels = np.eye(NUM_LABELS, dtype=np.float32)[labels]
  return images, labels


def read_data_sets(data_dir, fake_data=False, one_hot=False, dtype=np.float32, reshape=True,
                   validation_size=VALIDATION_SIZE, seed=0):
  """Read the MNIST files of a folder; fetch them first if the folder is empty or missing.

  Args:
    data_dir: folder of the four files, each gzipped (.gz) or unpacked; a relative name that is
      not there is looked for beside this file, too.
    fake_data: must be false; the old reader's made-up images are not there.
    one_hot: whether labels are float32 [n, 10] one-hot rather than int64 [n].
    dtype: float32, images in [0, 1], or uint8, in 0..255; numpy's or TensorFlow's.
    reshape: whether images are [n, 784] rather than [n, 28, 28, 1].
    validation_size: how many examples at the head of the training file become the
      validation set, in order.
    seed: int, of the shuffles of `next_batch`; None for one that differs each time.

  Returns:
    DataSets(train, validation, test): with MNIST 55,000, 5,000 and 10,000 examples.

  Raises:
    UserError: if a file is missing, damaged, cut short or too long, of another magic number,
      not 28x28, with a label above 9, if images and labels differ in number, if
      validation_size leaves no training example, or if the files cannot be fetched.
    ValueError: if fake_data is true, or dtype is another one.
  """
  _refuse_fake_data(fake_data)
  dtype = np.dtype(getattr(dtype, 'as_numpy_dtype', dtype))
  if dtype not in (np.float32, np.uint8):
    raise ValueError(f'dtype is {dtype}: give float32 or uint8')
  folder = _find_folder(os.fspath(data_dir))
  images, labels = _read_pair(folder, 'train')
  test = _read_pair(folder, 't10k')
  if not 0 <= validation_size < len(images):
    raise UserError(printable(
        f'{folder} has {len(images)} training examples, and --validation_size={validation_size} '
        'of them are for validation: at least one must be left'))
  if seed is None:
    seed = np.random.SeedSequence().entropy % 2**32
  head, tail = slice(validation_size), slice(validation_size, None)
  return DataSets(*(DataSet(*_to_numpy(*part, one_hot, dtype, reshape), seed) for part in (
      (images[tail], labels[tail]), (images[head], labels[head]), test)))
