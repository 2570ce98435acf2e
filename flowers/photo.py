"""A photo, as people bring it, turned into the 299x299 pixels that Inception-v3 takes.

    with photo.PhotoDecoder() as decoder:
      decoder.image('photo.jpg')  # uint8 [299, 299, 3]

Pillow decodes, and TensorFlow scales as the book does: bilinear, without averaging.
"""
import collections
import concurrent.futures
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from support import pictures
from support.console import UserError
from support.quiet_tensorflow import tf

IMAGE_SIZE = 299  # pixels on a side
ENOUGH_PIXELS = 1_000_000  # 866 on the shorter side of a photo: nearly three for each of the image

PARALLEL_PHOTOS = min(os.cpu_count() or 1, 8)  # decoded at a time
WAITING_PHOTOS = 64  # decoded or being decoded, and not yet taken: 0.27 MB each


class DecodedPhoto(NamedTuple):
  """What became of the file at path: an image, or the problem that it has."""
  path: str
  image: np.ndarray | None  # uint8 [299, 299, 3], RGB
  problem: str | None  # goes on after the file's name
  digest: bytes | None  # of the file, and of some of the pixels


def scale_photo(pixels: tf.Tensor) -> tf.Tensor:
  """Scale uint8 [height, width, 3] to uint8 [299, 299, 3], inside the graph."""
  return tf.cast(tf.round(tf.image.resize_images(pixels, [IMAGE_SIZE, IMAGE_SIZE])), tf.uint8)


class PhotoDecoder:
  """Decodes photos in this context; threads may share it."""

  def __enter__(self) -> 'PhotoDecoder':
    with tf.Graph().as_default():
      pixels = tf.placeholder(tf.uint8, [None, None, 3])
      scaled = scale_photo(pixels)
      # One photo, one thread: the one that asks for it.
      self._sess = tf.Session(config=tf.ConfigProto(inter_op_parallelism_threads=-1,
                                                    intra_op_parallelism_threads=1))
    self._scale = self._sess.make_callable(scaled, [pixels])
    return self

  def __exit__(self, *exception: object) -> None:
    self._sess.close()

  def decode(self, contents: bytes) -> np.ndarray:
    """Return the photo in a file's contents, transparent parts on white: uint8 [299, 299, 3].

    Raises:
      UnreadablePicture: if it is not one that can be decoded.
    """
    image = pictures.decode(contents, ENOUGH_PIXELS)
    # All of it transparent, nobody would see it: then alpha says nothing.
    if image.mode == 'RGBA' and image.getchannel('A').getextrema() != (0, 0):
      image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return self._scale(np.asarray(image)[..., :3])

  def read(self, path: str) -> DecodedPhoto:
    """Read and decode a file; OSError goes to the caller."""
    try:
      contents = pictures.read_file(path)
      image = self.decode(contents)
    except pictures.UnreadablePicture as error:
      return DecodedPhoto(path, None, str(error), None)
    # Rows of the image too, because another decoder may make other pixels of the same file.
    digest = hashlib.blake2b(contents)
    digest.update(np.ascontiguousarray(image[::100]))
    return DecodedPhoto(path, image, None, digest.digest())

  def image(self, path: str) -> np.ndarray:
    """Return the photo in a file: uint8 [299, 299, 3]; UserError or OSError if there is none."""
    decoded = self.read(path)
    if decoded.image is None:
      raise UserError(f'{path} {decoded.problem}')
    return decoded.image


def decoded_photos(paths: Iterable[str]) -> Iterator[DecodedPhoto]:
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
