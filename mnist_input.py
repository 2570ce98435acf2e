"""Read the four MNIST files into train, validation and test sets.

The files are IDX, gzipped or unpacked, under the names that they are known by; Fashion-MNIST and
every other set in the same format drops in. An empty folder is filled from the public mirror
first. The interface is that of the `input_data` module of TensorFlow 1's tutorials.
"""
import copy
import gzip
import math
import os
import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from support import files
from support.console import UserError, warn

DATA_DIR = os.path.join('data', 'mnist')
VALIDATION_SIZE = 5000  # examples at the head of the training file
MAX_CLASSES = 1000

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

# An IDX file begins with two zeros, the type of its numbers and how many dimensions it has; then
# come the dimensions, 4 bytes each.
IDX_TYPES = {0x08: '>u1', 0x0B: '>i2', 0x0C: '>i4'}
GZIP_MAGIC = b'\x1f\x8b'


# -- Batches -----------------------------------------------------------------------------


class DataSet:
  """Images and labels, and an endless supply of shuffled batches of them.

  Attributes:
    images: float32 [num_examples, 784] in [0, 1], in the order of the file.
    labels: float32 [num_examples, classes] one-hot, or int64 [num_examples], as in the file.
    classes: the label that each column of one-hot labels stands for; MNIST's are 0 to 9.
  """

  def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int = 0,
               classes: Sequence[int] = range(10), given: int = 0):
    """Keep the arrays; so many examples count as given by `next_batch` already."""
    self.images = images
    self.labels = labels
    self.classes = tuple(classes)
    self.num_examples = len(images)
    self._seed = seed
    self._given = given
    self._order = self._order_of = None  # of the examples, in which epoch and shuffled or not

  @property
  def epochs_completed(self) -> int:
    """How often all examples were given."""
    return self._given // self.num_examples

  def next_batch(self, batch_size: int, fake_data: bool = False,
                 shuffle: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the next batch_size images and labels.

    Each epoch is a shuffle of its own of all examples, which follows from the seed and the
    epoch's number. A batch that crosses the end of an epoch is the tail of the old shuffle and
    the head of the new: always full, and nothing is lost.

    Args:
      batch_size: 1 or more; may exceed num_examples.
      fake_data: must be false; the old reader's made-up images are not there.
      shuffle: without, the examples come in the order of the file.

    Raises:
      ValueError: if batch_size is below 1 or fake_data is true.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}: give 1 or more')
    _refuse_fake_data(fake_data)
    # What is left of this epoch, and then of the next ones, until the batch is full.
    parts = []
    while batch_size > 0:
      epoch, start = divmod(self._given, self.num_examples)
      part = self._epoch_order(epoch, shuffle)[start:start + batch_size]
      parts.append(part)
      self._given += len(part)
      batch_size -= len(part)
    examples = np.concatenate(parts)
    return self.images[examples], self.labels[examples]

  def starting_at(self, given: int) -> 'DataSet':
    """Return the same examples, of which so many count as given: a resumed run gets the next."""
    data_set = copy.copy(self)  # with the shuffle of its epoch
    data_set._given = given
    return data_set

  def digest(self) -> str:
    """Return a hexadecimal digest of the images and labels in their order."""
    arrays = (np.ascontiguousarray(array) for array in (self.images, self.labels))
    return files.digest(array.data for array in arrays)

  def _epoch_order(self, epoch: int, shuffle: bool) -> np.ndarray:
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


def _refuse_fake_data(fake_data: bool) -> None:
  if fake_data:
    raise ValueError('fake_data is not supported: give small files in the MNIST format instead')


# -- Files -------------------------------------------------------------------------------


def _advice(data_dir: str, part: str, kind: str) -> str:
  """Return what to do where a file is missing, by what lies in the folder instead of it."""
  entries = sorted(os.listdir(data_dir))
  named_otherwise = re.compile(rf'.*({"test|t10k" if part == "t10k" else part}).*{kind}.*idx', re.I)
  for entry in filter(named_otherwise.match, entries):
    side = (": EMNIST's pictures lie on their side, README shows how to turn them"
            if 'emnist' in entry.lower() else '')
    return f'{entry} is there instead: rename it{side}'
  for entry in entries:
    if entry.lower().endswith(('.npz', '.npy', '.csv', '.mat', '.pkl', '.pt', '.parquet')):
      return f'{entry} is there instead: write its images and labels as README shows'
  return f'put the four files {", ".join(SHA256)} into one folder and name it with --data_dir'


def _find(data_dir: str, part: str, kind: str) -> list[str]:
  """Return the paths under which a file is there, the gzipped one first.

  Args:
    part: 'train' or 't10k'.
    kind: 'images' or 'labels'. The file's name is train-images-idx3-ubyte or
      train-images.idx3-ubyte, in whatever case, with .gz or without, or inside a folder of its
      name.
  """
  known_as = re.compile(rf'{part}-{kind}[-.]idx[13]-\w+(\.gz)?', re.IGNORECASE)
  paths = []
  for folder in (data_dir, *sorted(entry.path for entry in os.scandir(data_dir)
                                   if entry.is_dir() and known_as.fullmatch(entry.name))):
    paths += [os.path.join(folder, entry) for entry in os.listdir(folder)
              if known_as.fullmatch(entry)]
  paths = [path for path in paths if not os.path.isdir(path)]
  if not paths:
    name = f'{part}-{kind}-idx{3 if kind == "images" else 1}-ubyte.gz'
    raise UserError(f'{os.path.join(data_dir, name)} is missing: {_advice(data_dir, part, kind)}')
  return sorted(paths, key=lambda path: (not path.lower().endswith('.gz'), path))


def _read_idx(path: str) -> np.ndarray:
  """Return the array in an IDX file, gzipped or not; raise UserError if it is not a whole one."""
  with open(path, 'rb') as file:
    is_gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC  # whatever its name says
  try:
    with (gzip.open if is_gzipped else open)(path, 'rb') as file:
      content = file.read()
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{path} is cut short or damaged ({error}): fetch it again') from None
  if content.startswith(GZIP_MAGIC):
    raise UserError(f'{path} is gzipped twice: unpack it once')
  if len(content) < 4 or content[:2] != b'\0\0' or content[2] not in IDX_TYPES:
    raise UserError(f'{path} begins with the bytes {content[:4].hex(" ")}: it is not an IDX file '
                    'of images or labels; fetch it again')
  dtype, header_size = np.dtype(IDX_TYPES[content[2]]), 4 + 4 * content[3]
  if len(content) < header_size:
    raise UserError(f'{path} is cut short: {len(content)} bytes, but its header alone has '
                    f'{header_size}')
  dimensions = np.frombuffer(content[4:header_size], '>u4').tolist()
  promised, found = math.prod(dimensions) * dtype.itemsize, len(content) - header_size
  if found != promised:
    raise UserError(f'{path} is {"cut short" if found < promised else "too long"}: its header '
                    f'promises {promised} bytes of data, and {found} follow')
  return np.frombuffer(content, dtype, offset=header_size).reshape(dimensions)


def read_images(path: str) -> np.ndarray:
  """Return the images of an IDX file, uint8 [n, height, width]."""
  images = _read_idx(path)
  if images.ndim != 3 or images.dtype != np.uint8:
    raise UserError(f'{path} holds {images.dtype} of shape {list(images.shape)}: it is not an IDX '
                    'file of images')
  return images


def read_labels(path: str) -> np.ndarray:
  """Return the labels of an IDX file, int64 [n]."""
  labels = _read_idx(path)
  if labels.ndim != 1:
    raise UserError(f'{path} holds numbers of shape {list(labels.shape)}: it is not an IDX file of '
                    'labels')
  return labels.astype(np.int64)


def _read_first_whole(paths: list[str], read: Callable[[str], np.ndarray]
                      ) -> tuple[str, np.ndarray]:
  """Return (path, read(path)) of the first whole file, and say what is wrong with others."""
  # Many people have a file both gzipped and unpacked; one of them may be cut short.
  contents, failures = {}, []
  for path in paths:
    try:
      contents[path] = read(path)
    except UserError as error:
      failures.append(error)
  if not contents:
    raise failures[0]
  path, *others = contents
  for failure in failures:
    warn(f'{failure}; {path} is read instead')
  for other in others:
    if not np.array_equal(contents[path], contents[other]):
      warn(f'{path} and {other} differ: the first is read')
  return path, contents[path]


def _read_pair(data_dir: str, part: str) -> tuple[np.ndarray, np.ndarray]:
  """Return (images, labels) of the two files of a part."""
  images_path, images = _read_first_whole(_find(data_dir, part, 'images'), read_images)
  labels_path, labels = _read_first_whole(_find(data_dir, part, 'labels'), read_labels)
  if len(images) != len(labels):
    raise UserError(f'{images_path} holds {len(images)} images but {labels_path} {len(labels)} '
                    'labels: they are not of the same set')
  if not len(images):
    raise UserError(f'{images_path} holds 0 images: fetch it again')
  return images, labels


def _fetch(data_dir: str) -> None:
  """Fill data_dir from the public mirror, all four files or none."""
  advice = (f'fetch {", ".join(SHA256)} from {MIRROR} elsewhere and put them into '
            f'--data_dir={data_dir}')
  with files.temporary_folder(os.path.join(data_dir, 'download')) as temporary_dir:
    if _is_empty(data_dir):  # still: another process may have filled it meanwhile
      for name, sha256 in SHA256.items():
        files.download(MIRROR + name, temporary_dir, advice, sha256)
      for name in SHA256:
        os.replace(os.path.join(temporary_dir, name), os.path.join(data_dir, name))


def _is_empty(folder: str) -> bool:
  """Return whether a folder has only hidden entries: of a killed download, or the desktop's."""
  return all(name.startswith('.') for name in os.listdir(folder))


def _find_folder(data_dir: str) -> str:
  """Return data_dir, or the folder of that name beside this file; fill it if it is empty."""
  beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), data_dir)
  if not os.path.exists(data_dir) and os.path.isdir(beside):
    return beside  # the script was started from another folder
  if os.path.exists(data_dir) and not os.path.isdir(data_dir):
    raise UserError(f'--data_dir={data_dir} is not a folder: give the folder of the four MNIST '
                    'files')
  if not os.path.isdir(data_dir) or _is_empty(data_dir):
    _fetch(data_dir)
  return data_dir


# -- The data sets -----------------------------------------------------------------------


def _find_classes(folder: str, labels: np.ndarray, test_labels: np.ndarray) -> np.ndarray:
  """Return the distinct labels, sorted, int64 [classes]."""
  classes = np.unique(labels)
  if not 2 <= len(classes) <= MAX_CLASSES:
    raise UserError(f'{folder} has {len(classes)} different training labels: 2 to {MAX_CLASSES} '
                    'can be told apart')
  # The network has no output for a label that only test images have.
  unknown = np.setdiff1d(test_labels, classes)
  if len(unknown):
    raise UserError(f'{folder} has the test label {unknown[0]}, which no training image has: the '
                    'four files are not of the same set')
  return classes


def read_data_sets(data_dir: str | os.PathLike, fake_data: bool = False, one_hot: bool = False,
                   dtype: object = np.float32, reshape: bool = True,
                   validation_size: int = VALIDATION_SIZE, seed: int | None = 0) -> DataSets:
  """Read the MNIST files of a folder; fetch them first if the folder is empty or missing.

  Args:
    data_dir: folder of the four files, each gzipped (.gz) or unpacked; a relative name that is
      not there is looked for beside this file, too.
    fake_data: must be false; the old reader's made-up images are not there.
    one_hot: whether labels are float32 [n, classes] one-hot rather than int64 [n].
    dtype: float32, images in [0, 1], or uint8, in 0..255; numpy's or TensorFlow's.
    reshape: whether images are [n, 784] rather than [n, 28, 28, 1].
    validation_size: how many examples at the head of the training file become the
      validation set, in order.
    seed: of the shuffles of `next_batch`; None for one that differs each time.

  Returns:
    The sets, of MNIST with 55,000, 5,000 and 10,000 examples.

  Raises:
    UserError: if the files cannot be fetched, or are not four whole ones of one set.
    ValueError: if fake_data is true, or dtype is another one.
  """
  _refuse_fake_data(fake_data)
  dtype = np.dtype(getattr(dtype, 'as_numpy_dtype', dtype))
  if dtype not in (np.float32, np.uint8):
    raise ValueError(f'dtype is {dtype}: give float32 or uint8')
  folder = _find_folder(os.fspath(data_dir))
  images, labels = _read_pair(folder, 'train')
  test_images, test_labels = _read_pair(folder, 't10k')
  classes = _find_classes(folder, labels, test_labels)
  if not 0 <= validation_size < len(images):
    raise UserError(
        f'{folder} has {len(images)} training examples, and --validation_size={validation_size} '
        'of them are for validation: at least one must be left')
  if seed is None:
    seed = np.random.SeedSequence().entropy % 2**32

  def data_set(images, labels):
    images = images.reshape([len(images), math.prod(images.shape[1:])] if reshape
                            else [*images.shape, 1])
    if dtype == np.float32:
      images = images.astype(np.float32)
      images /= 255
    if one_hot:
      labels = np.eye(len(classes), dtype=np.float32)[np.searchsorted(classes, labels)]
    return DataSet(images, labels, seed, classes.tolist())

  head, tail = slice(validation_size), slice(validation_size, None)
  return DataSets(data_set(images[tail], labels[tail]), data_set(images[head], labels[head]),
                  data_set(test_images, test_labels))
