"""A photo, as people bring it, turned into the 299x299 pixels that Inception-v3 takes.

    with photo.PhotoDecoder() as decoder:
      image = decoder.read('photo.jpg').image  # float32 [299, 299, 3] in [0, 1]

JPEG files are decoded by TensorFlow, as in the book; PNG, GIF, BMP, TIFF and WebP by Pillow.
"""
import collections
import concurrent.futures
import contextlib
import hashlib
import os
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from support import pictures
from support.console import describe
from support.pictures import UnreadablePicture
from support.quiet_tensorflow import tf

IMAGE_SIZE = 299  # pixels on a side
MAX_PIXELS = 50_000_000  # of a photo that is read; decoded, one takes 3 bytes a pixel

PARALLEL_PHOTOS = min(os.cpu_count() or 1, 8)  # decoded at a time
WAITING_PHOTOS = 16  # decoded or being decoded, and not yet taken: 1.07 MB each


class DecodedPhoto(NamedTuple):
  """What became of the file at path: an image, or the problem that it has."""
  path: str
  image: np.ndarray | None  # float32 [299, 299, 3], RGB in [0, 1]
  problem: str | None  # goes on after the file's name
  digest: bytes | None  # of the file, and of some of the pixels


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

  image = tf.cond(tf.equal(orientation, pictures.UPRIGHT), lambda: scaled(pixels), turned)
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


def _rgb_pixels(image):
  """Decode a Pillow image that is not a JPEG; return uint8 [height, width, 3], on white."""
  with pictures.damage_told():
    image.load()
    if image.mode.startswith('I'):  # 16 bits a pixel, in which some programs write 8-bit values
      grey = np.asarray(image).astype(np.int64)
      image = Image.fromarray(np.uint8(np.clip(grey >> 8 if grey.max() > 255 else grey, 0, 255)))
    if image.has_transparency_data:
      image = image.convert('RGBA')
      if image.getchannel('A').getextrema() != (0, 0):  # all transparent: nobody would see it
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.asarray(image.convert('RGB'))


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
      UnreadablePicture: if it is not one that can be decoded.
    """
    image = pictures.open_picture(contents, MAX_PIXELS)
    if image.format not in ('JPEG', 'MPO'):
      pixels = _rgb_pixels(image)  # before the orientation, which may stand after the pixels
      return self._scale(pixels, pictures.orientation_of(image))
    try:
      return self._decode_jpeg(contents, pictures.orientation_of(image))
    except tf.errors.InvalidArgumentError:
      raise UnreadablePicture(pictures.DAMAGED) from None

  def read(self, path):
    """Return the DecodedPhoto of a file; OSError goes to the caller."""
    try:
      contents = pictures.read_file(path)
      image = self.decode(contents)
    except UnreadablePicture as error:
      return DecodedPhoto(path, None, str(error), None)
    # Rows of the image too, because another decoder may make other pixels of the same file.
    image = np.uint8(np.round(image * 255))
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
        answers.append(decoder.read(path)[:3])
      except OSError as error:
        answers.append((path, None, f'cannot be read: {error.strerror or describe(error)}'))
  return answers
