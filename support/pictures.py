"""Picture files as people bring them: found, known by content, and decoded by Pillow.

No TensorFlow: its decoder of JPEG files prints lines that do not name the file.
"""
import contextlib
import ctypes
import glob
import io
import itertools
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from support import console
from support.console import UserError

MAX_BYTES = 450_000_000  # of a file; a BMP of 100 million pixels with alpha has 400 million
# Pillow takes 4 bytes a pixel and 8 a row, and a step of decoding may copy them twice: 250 million
# pixels, more than a phone makes, need up to 3 GB.
MAX_DECODED_BYTES = 1_000_000_000
# A progressive JPEG goes over its pixels in some ten scans; a few kilobytes can hold hundreds.
MAX_SCANNED_PIXELS = 1_500_000_000

# How files begin that hold a picture, under Pillow's name of their format. Names do not matter.
SIGNATURE = re.compile(
    rb'(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8)|(?P<BMP>BM)|'
    rb'(?P<TIFF>II\*\0|MM\0\*)|(?P<WEBP>RIFF....WEBP)', re.DOTALL)
SIGNATURE_BYTES = 12
SYSTEM_FILES = ('thumbs.db', 'desktop.ini')  # of Windows, hidden there

DAMAGED = 'is damaged or cut short: save or fetch it again'

# A mark in a JPEG file: of a segment with a length, of a scan, or of the end.
JPEG_MARK = re.compile(rb'\xff[^\0\xff\xd0-\xd7]')
JPEG_SCAN, JPEG_END = b'\xff\xda', b'\xff\xd9'
# Data behind a scan: ones, which are no Huffman code, as many as libjpeg reads ahead; and bytes
# that changed the pixels of each of 1,275 progressive files that were cut short.
ONES, OTHER_DATA = b'\xff\0' * 8, b'\xb5' * 64

# Pillow keeps the high byte of 16-bit colours. Its mode of reading them, and the one that takes the
# low byte in place of that; of grey with alpha, both bytes of both, as if they were four colours.
NOT_NATIVE = 'B' if sys.byteorder == 'little' else 'L'
LOW_BYTES = {f'{colours};16{order}': f'{colours};16{other}' for colours in ('RGB', 'RGBA')
             for order, other in (('B', 'L'), ('L', 'B'), ('N', NOT_NATIVE))} | {'LA;16B': 'RGBA'}


class UnreadablePicture(Exception):
  """A file that is not a picture that can be decoded; its text goes on after the file's name."""


# -- Files -------------------------------------------------------------------------------


def expand(arguments: Iterable[str]) -> Iterator[str]:
  """Yield the files that arguments name: each one, all below a folder, those of a pattern.

  A folder without files comes as it is, and so does a pattern that nothing matches.
  """
  for argument in map(os.fspath, arguments):
    # The shell of Windows leaves patterns to programs.
    paths = [argument] if os.path.exists(argument) else sorted(glob.glob(argument))
    for path in paths or [argument]:
      # Two stars match no file whose name begins with a dot.
      below = glob.glob(os.path.join(glob.escape(path), '**'), recursive=True)
      yield from sorted(file for file in below if os.path.isfile(file) and
                        os.path.basename(file).lower() not in SYSTEM_FILES) or [path]


def print_answers(arguments: Iterable[str], read: Callable[[str], Any],
                  answer: Callable[[list], Iterable[str]], batch_size: int) -> int:
  """Print an answer for each picture, or on standard error why it cannot be read.

  Args:
    arguments: files, folders of them, or patterns.
    read: returns what a file shows; raises UserError or OSError if it cannot be read.
    answer: returns the lines about what several pictures show.
    batch_size: pictures to answer at a time, which bounds the memory.

  Returns:
    How many pictures could not be read.
  """
  failures, paths = 0, expand(arguments)
  while batch := list(itertools.islice(paths, batch_size)):
    shown = []
    for path in batch:
      try:
        shown.append((path, read(path)))
      except (UserError, OSError) as error:
        console.warn(f'error: {console.describe(error)}')
        failures += 1
    if shown:
      lines = answer([picture for _, picture in shown])
      for (path, _), line in zip(shown, lines, strict=True):
        console.report(f'{path}: {line}')
  return failures


def sniff(head: bytes) -> str | None:
  """Return Pillow's name of the format of a picture that begins with head, or None."""
  signature = SIGNATURE.match(head)
  return signature and signature.lastgroup


def read_file(path: str) -> bytes:
  """Return what a file holds, at least one byte.

  Raises:
    UnreadablePicture: if it is empty, not a regular file, or too large for a picture.
    OSError: if it cannot be read, whatever it holds.
  """
  status = os.stat(path)  # nothing is opened that might never end
  if stat.S_ISDIR(status.st_mode):
    raise UnreadablePicture('is a folder, and no picture was found in it')
  if not stat.S_ISREG(status.st_mode):
    raise UnreadablePicture('is not a regular file: give a file')
  if not 0 < status.st_size <= MAX_BYTES:
    raise UnreadablePicture(f'has {status.st_size} bytes: at most {MAX_BYTES} are read'
                            if status.st_size else 'is empty')
  with open(path, 'rb') as file:
    return file.read()


# -- Decoding ----------------------------------------------------------------------------


def _load_jpeg(contents: bytes, enough_pixels: int) -> Image.Image:
  """Decode a JPEG file, of which libjpeg makes up what is missing before a mark.

  Without the mark of the end, Pillow raises if data is missing in the only scan. More scans are
  not shown without it; but where the last one is whole, other data behind it changes nothing.
  """
  scans, place = 0, 2
  while (mark := JPEG_MARK.search(contents, place)) and mark[0] != JPEG_END:
    scans += mark[0] == JPEG_SCAN
    # A segment may hold a small picture of the photo, with an end of its own.
    place = mark.end() + int.from_bytes(contents[mark.end():mark.end() + 2], 'big')
  if mark is None:
    raise UnreadablePicture(DAMAGED)

  def load(tail: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(contents[:mark.start()] + tail), formats=('JPEG',))
    pixels = image.width * image.height
    if scans * pixels > MAX_SCANNED_PIXELS:
      raise UnreadablePicture(f'is a JPEG file of {scans} scans: save it again without '
                              'progressive compression')
    factor = max(1, math.isqrt(pixels // enough_pixels))
    image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    return image

  image = load(ONES if scans == 1 else JPEG_END)
  if scans > 1 and load(OTHER_DATA + JPEG_END) != image:
    raise UnreadablePicture(DAMAGED)
  return image


def _eight_bits(values: np.ndarray) -> np.ndarray:
  """Scale values so that white, the least of 8, 10, 12, 14 and 16 bits that holds all, is 255."""
  bits = int(values.max()).bit_length()
  white = 2 ** max(8, bits + bits % 2) - 1
  return np.uint8(np.rint(np.maximum(values, 0) * np.float32(255 / white)))


def _load_16_bits(contents: bytes, image: Image.Image) -> Image.Image:
  """Decode an open image; return one of 8 bits a value, scaled if it has 16."""
  modes = [tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in image.tile]
  if image.mode.startswith('I'):
    pixels = _eight_bits(np.asarray(image))
  elif modes and LOW_BYTES.keys() >= set(modes):
    low = Image.open(io.BytesIO(contents), formats=(image.format,))
    for k, (tile, mode) in enumerate(zip(low.tile, map(LOW_BYTES.get, modes), strict=True)):
      parameters = (mode, *tile[3][1:]) if isinstance(tile[3], tuple) else mode
      low.tile[k] = getattr(tile, '_make', tuple)((*tile[:3], parameters))  # named in new Pillows
    values = (np.asarray(low).view('>u2') if modes == ['LA;16B']
              else np.asarray(image).astype(np.uint16) << 8 | np.asarray(low))
    colours = values.shape[2] - 1 + values.shape[2] % 2  # alpha, if there is one, has its own scale
    pixels = np.concatenate([_eight_bits(part) for part in np.split(values, [colours], 2)
                             if part.size], 2)
  else:
    return image
  scaled = Image.fromarray(pixels)
  scaled.info = {'exif': image.info.get('exif')}
  return scaled


def decode(contents: bytes, enough_pixels: int) -> Image.Image:
  """Return a picture, the first of an animation, upright by its EXIF orientation, as RGB or RGBA.

  A JPEG file of four times enough_pixels is decoded to half its sides, and so on to an eighth.

  Raises:
    UnreadablePicture: if it is of no format that is read, damaged, or too costly to decode.
  """
  kind = sniff(contents[:SIGNATURE_BYTES])
  if kind is None:
    raise UnreadablePicture('is not a JPEG, PNG, GIF, BMP, TIFF or WebP file: convert it')
  # Pillow's warnings and its bound do not name the file, nor do libtiff's errors; on Windows, where
  # libtiff is a part of Pillow, they stay.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  Image.MAX_IMAGE_PIXELS = None
  if kind == 'TIFF':
    with contextlib.suppress(AttributeError, OSError):
      ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
  try:
    image = Image.open(io.BytesIO(contents), formats=(kind,))
    needed = (4 * image.width + 8) * image.height
    if needed > MAX_DECODED_BYTES:
      raise UnreadablePicture(
          f'has {image.width}x{image.height} pixels, which take {needed / 1e9:.1f} GB of memory, '
          f'above the {MAX_DECODED_BYTES / 1e9:g} GB that are used: scale it down')
    if image.mode == 'F':
      raise UnreadablePicture('has floating-point pixels: convert it')
    image = (_load_jpeg(contents, enough_pixels) if kind == 'JPEG' else
             _load_16_bits(contents, image))
    image.load()  # before the orientation, which may stand behind the pixels
    with contextlib.suppress(Exception):  # a picture with damaged EXIF is shown as it is stored
      ImageOps.exif_transpose(image, in_place=True)
    mode = 'RGBA' if image.has_transparency_data else 'RGB'
    return image if image.mode == mode else image.convert(mode)
  except (UnreadablePicture, MemoryError):
    raise
  except Exception:  # a damaged file makes Pillow's readers raise whatever it leads them to
    raise UnreadablePicture(DAMAGED) from None
