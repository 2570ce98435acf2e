"""Photos of flowers: the decoder, and the file of decoded photos in three splits.

    data = flower_input.load_processed_data('flower_processed_data.npy')
    data.training_images  # float32 [n, 299, 299, 3] in [0, 1], memory-mapped
    data.training_labels  # int64 [n], indices into data.labels

The data file is a plain .npy array, float32 [n, 299, 299, 3]: training, validation and testing
photos one after another, each split in an order of chance. The .json file beside it has all
else: class names, file names, the class of each photo, how many photos each split has.
"""
import collections
import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import sys
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from support import files
from support.console import UserError, describe
from support.quiet_tensorflow import raised_errors_held_back, tf

IMAGE_SIZE = 299  # pixels on a side, as Inception-v3 takes them
IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3 * 4  # of a photo in the data file
SPLITS = ('training', 'validation', 'testing')  # in the order of the data file

# Bounds of a photo that is read: memory and time, whatever its header says.
MAX_BYTES = 200_000_000
MAX_PIXELS = 50_000_000  # decoded, one takes 3 bytes a pixel
MAX_SCANNED_PIXELS = 1_000_000_000  # a progressive JPEG goes over its pixels in some ten scans

PARALLEL_PHOTOS = min(os.cpu_count() or 1, 8)  # decoded at a time
WAITING_PHOTOS = 16  # decoded or being decoded, and not yet taken: 1.07 MB each

# How files begin that hold a photo, and Pillow's name of their format. Names do not matter.
SIGNATURES = ((b'\xff\xd8\xff', 'JPEG'), (b'\x89PNG\r\n\x1a\n', 'PNG'), (b'GIF8', 'GIF'),
              (b'BM', 'BMP'), (b'II*\0', 'TIFF'), (b'MM\0*', 'TIFF'))
SIGNATURE_BYTES = 12

DAMAGED = 'is damaged or cut short'

EXIF_ORIENTATION = 0x0112  # EXIF's number of the tag
UPRIGHT = 1  # the first of the eight values of that tag

# Marks in a JPEG file: the start of a scan, the end of the image, and any that has a length.
JPEG_SCAN, JPEG_END = b'\xff\xda', b'\xff\xd9'
JPEG_SEGMENT = re.compile(rb'\xff[\x02-\xcf\xda-\xfe]')


class UnreadablePhoto(Exception):
  """A file that is not a photo that can be decoded; its text goes on after the file's name."""


class DecodedPhoto(NamedTuple):
  """What became of the file at path: an image, or the problem that it has."""
  path: str
  image: np.ndarray | None  # float32 [299, 299, 3], RGB in [0, 1]
  problem: str | None  # goes on after the file's name
  digest: bytes | None  # of the file, and of some of the pixels


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


# -- What a file holds -------------------------------------------------------------------


def sniff(head):
  """Return Pillow's name of the format of a photo that begins with the bytes head, or None."""
  for signature, kind in SIGNATURES:
    if head.startswith(signature):
      return kind
  return 'WEBP' if head[:4] == b'RIFF' and head[8:12] == b'WEBP' else None


def read_photo(path):
  """Return the bytes of a regular file that is not too large for a photo.

  Raises:
    UnreadablePhoto: if it is no such file.
    OSError: if it cannot be read, whatever it holds.
  """
  try:
    files.require_regular_file(path, MAX_BYTES)
  except UserError as error:
    raise UnreadablePhoto(str(error).removeprefix(path).strip()) from None
  with files.failures_named(path), open(path, 'rb') as file:
    contents = file.read()
  if not contents:
    raise UnreadablePhoto('is empty')
  return contents


def _open_header(contents):
  """Return a Pillow image whose pixels are not yet decoded, and which is not too large."""
  kind = sniff(contents[:SIGNATURE_BYTES])
  if kind is None:
    raise UnreadablePhoto('is not a JPEG, PNG, GIF, BMP, TIFF or WebP file: convert it')
  Image.MAX_IMAGE_PIXELS = None  # the bound below is ours
  try:
    image = Image.open(io.BytesIO(contents), formats=(kind,))
  except Exception:  # a damaged header makes Pillow's readers raise whatever it leads them to
    raise UnreadablePhoto(DAMAGED) from None
  if image.width * image.height > MAX_PIXELS:
    raise UnreadablePhoto(f'has {image.width}x{image.height} pixels, above the '
                          f'{MAX_PIXELS // 1_000_000} million that are read: scale it down')
  return image


def _orientation(image):
  """Return EXIF's orientation of a Pillow image, 1 to 8; 1 where there is none, or a wrong one."""
  try:
    value = image.getexif().get(EXIF_ORIENTATION)
  except Exception:  # as above: a photo with damaged EXIF is shown as it is stored
    return UPRIGHT
  return value if value in range(1, 9) else UPRIGHT


def _first_scan(contents):
  """Return where the first scan of a JPEG file begins, or its length if there is none.

  The segments before it have lengths; a small picture of the photo may be inside of one.
  """
  place = 2
  while segment := JPEG_SEGMENT.search(contents, place):
    if segment[0] == JPEG_SCAN:
      return segment.start()
    place = segment.end() + int.from_bytes(contents[segment.end():segment.end() + 2], 'big')
  return len(contents)


def _check_jpeg(contents, pixels):
  """Raise UnreadablePhoto if a JPEG file is cut short, or would take too long to decode."""
  start, end = _first_scan(contents), contents.rfind(JPEG_END)
  if end < start:  # TensorFlow would find out, too, and log it without the file's name
    raise UnreadablePhoto(DAMAGED)
  # Most files are too small to hold so many scans, which have 8 bytes at least.
  if (end - start) // 8 * pixels > MAX_SCANNED_PIXELS:
    if contents.count(JPEG_SCAN, start, end) * pixels > MAX_SCANNED_PIXELS:
      raise UnreadablePhoto('is a JPEG file of too many scans: convert it')


def _rgb_pixels(image):
  """Decode a Pillow image that is not a JPEG; return uint8 [height, width, 3], on white."""
  if image.mode == 'F':
    raise UnreadablePhoto('has floating-point pixels: convert it')
  try:
    image.load()
    if image.mode.startswith('I'):  # 16 bits a pixel, in which some programs write 8-bit values
      grey = np.asarray(image).astype(np.int64)
      image = Image.fromarray(np.uint8(np.clip(grey >> 8 if grey.max() > 255 else grey, 0, 255)))
    if image.has_transparency_data:
      image = image.convert('RGBA')
      if image.getchannel('A').getextrema() != (0, 0):  # all transparent: nobody would see it
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.asarray(image.convert('RGB'))
  except Exception:  # as above
    raise UnreadablePhoto(DAMAGED) from None


# -- Decoding ----------------------------------------------------------------------------


def scale_photo(pixels, orientation):
  """Turn a photo upright and scale it, inside the graph.

  Args:
    pixels: uint8 tensor [height, width, 3], as stored in the file.
    orientation: scalar int32 tensor, EXIF's: 1 is upright.

  Returns:
    float32 [299, 299, 3], RGB in [0, 1].
  """
  def scaled(pixels):
    # Scaled as bytes, a quarter of the memory of floats; the kernel computes in floats.
    return tf.image.resize_images(pixels, [IMAGE_SIZE, IMAGE_SIZE])

  def turned():
    # Orientations 2 to 4 are mirrored in one or both directions, 5 to 8 have rows for columns
    # besides. Mirrored before scaling, because TensorFlow scales from the upper left corner.
    mirrored = tf.stack([tf.reduce_any(tf.equal(orientation, [3, 4, 6, 7])),
                         tf.reduce_any(tf.equal(orientation, [2, 3, 7, 8])), False])
    image = scaled(tf.raw_ops.Reverse(tensor=pixels, dims=mirrored))
    return tf.cond(orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)

  image = tf.cond(tf.equal(orientation, UPRIGHT), lambda: scaled(pixels), turned)
  return image * (1 / 255)


def decode_photo(contents, orientation):
  """Decode, turn upright and scale a photo inside the graph.

  Args:
    contents: scalar string tensor, a JPEG file: colour, grey or CMYK, progressive or not.
    orientation: scalar int32 tensor, EXIF's: 1 is upright.

  Returns:
    float32 [299, 299, 3], RGB in [0, 1].
  """
  return scale_photo(tf.image.decode_jpeg(contents, channels=3), orientation)


class PhotoDecoder:
  """Decodes photos, for any number of threads at a time, in this context."""

  def __enter__(self):
    with contextlib.ExitStack() as stack:
      stack.enter_context(warnings.catch_warnings())
      warnings.filterwarnings('ignore', module=r'PIL\.')  # they do not name the file
      with tf.Graph().as_default() as graph:
        contents, orientation = tf.placeholder(tf.string, []), tf.placeholder(tf.int32, [])
        pixels = tf.placeholder(tf.uint8, [None, None, 3])
        decoded = decode_photo(contents, orientation)
        scaled = scale_photo(pixels, orientation)
      # One photo, one thread: the one that asks for it.
      config = tf.ConfigProto(inter_op_parallelism_threads=-1, intra_op_parallelism_threads=1)
      sess = stack.enter_context(tf.Session(graph=graph, config=config))
      self._decode_jpeg = sess.make_callable(decoded, [contents, orientation])
      self._scale = sess.make_callable(scaled, [pixels, orientation])
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *exception):
    self._stack.close()

  def decode(self, contents):
    """Return the photo in a file's contents, bytes: float32 [299, 299, 3], RGB in [0, 1].

    Raises:
      UnreadablePhoto: if it is not one that can be decoded.
    """
    image = _open_header(contents)
    if image.format not in ('JPEG', 'MPO'):
      pixels = _rgb_pixels(image)  # before the orientation, which may stand after the pixels
      return self._scale(pixels, _orientation(image))
    _check_jpeg(contents, image.width * image.height)
    try:
      return self._decode_jpeg(contents, _orientation(image))
    except tf.errors.InvalidArgumentError:
      raise UnreadablePhoto(DAMAGED) from None

  def read(self, path):
    """Return the DecodedPhoto of a file; OSError goes to the caller."""
    try:
      contents = read_photo(path)
      image = self.decode(contents)
    except UnreadablePhoto as error:
      return DecodedPhoto(path, None, str(error), None)
    # Rows of the image too, because another decoder may make other pixels of the same file.
    digest = hashlib.blake2b(contents)
    digest.update(np.ascontiguousarray(image[::100]))
    return DecodedPhoto(path, image, None, digest.digest())


def decoded_photos(paths):
  """Yield the DecodedPhoto of each path, in order, decoded on all cores.

  Raises:
    OSError: if a file cannot be read.
  """
  with PhotoDecoder() as decoder, \
      concurrent.futures.ThreadPoolExecutor(PARALLEL_PHOTOS) as executor:
    waiting = collections.deque()
    try:
      for path in paths:
        waiting.append(executor.submit(decoder.read, path))
        if len(waiting) >= WAITING_PHOTOS:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      executor.shutdown(cancel_futures=True)


def read_photos(paths):
  """Decode photos as preprocessing does.

  Returns:
    [(path, image, problem)], one for each path, in order: image is float32 [299, 299, 3] in
    [0, 1], or None with the problem, which goes on after the file's name.
  """
  answers = []
  with PhotoDecoder() as decoder:
    for path in paths:
      try:
        with raised_errors_held_back():
          answers.append(decoder.read(path)[:3])
      except OSError as error:
        answers.append((path, None, f'cannot be read: {error.strerror or describe(error)}'))
  return answers


# -- The data file -----------------------------------------------------------------------

# Behind the images stands the digest of the names' file, which readers of .npy files pass over.
# It tells that both are of one run, and that the images before it are all there.
DIGEST_SIZE = 64  # hexadecimal digits


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
    """Write the image of a DecodedPhoto."""
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


def read_names(path):
  """Return the checked content, a dict, of the .json file beside a data file.

  Raises:
    UserError: if it is missing, not a JSON file, or does not hold what it should.
    OSError: if it cannot be read.
  """
  if os.path.exists(path):
    files.require_regular_file(path, MAX_BYTES)
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
