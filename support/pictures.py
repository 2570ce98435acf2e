"""Picture files as people bring them: known by content, bounded before they are decoded.

No TensorFlow: Pillow reads headers, and EXIF's orientation, which tells how the camera was held.
"""
import contextlib
import io
import re
import sys

from PIL import Image

from support import files
from support.console import UserError

MAX_BYTES = 450_000_000  # a BMP of 100 million pixels with alpha has 400 million

# A progressive JPEG goes over its pixels in some ten scans; a few kilobytes can hold hundreds.
MAX_SCANNED_PIXELS = 1_500_000_000

# How files begin that hold a picture, and Pillow's name of their format. Names do not matter.
SIGNATURES = ((b'\xff\xd8\xff', 'JPEG'), (b'\x89PNG\r\n\x1a\n', 'PNG'), (b'GIF8', 'GIF'),
              (b'BM', 'BMP'), (b'II*\0', 'TIFF'), (b'MM\0*', 'TIFF'))
SIGNATURE_BYTES = 12

DAMAGED = 'is damaged or cut short: save or fetch it again'

EXIF_ORIENTATION = 0x0112  # EXIF's number of the tag
UPRIGHT = 1  # the first of the eight values of that tag

# Marks in a JPEG file: the start of a scan, the end of the image, and any that has a length.
JPEG_SCAN, JPEG_END = b'\xff\xda', b'\xff\xd9'
JPEG_SEGMENT = re.compile(rb'\xff[\x02-\xcf\xda-\xfe]')
SCAN_BYTES = 8  # of the shortest scan

# Pillow keeps the high byte of 16-bit colours. Its mode of reading them, and the one that takes the
# low byte in place of that; of grey with alpha, both bytes of both, as if they were four colours.
NOT_NATIVE = 'B' if sys.byteorder == 'little' else 'L'
LOW_BYTES = {f'{colours};16{order}': f'{colours};16{other}' for colours in ('RGB', 'RGBA')
             for order, other in (('B', 'L'), ('L', 'B'), ('N', NOT_NATIVE))} | {'LA;16B': 'RGBA'}


class UnreadablePicture(Exception):
  """A file that is not a picture that can be decoded; its text goes on after the file's name."""


# -- What a file holds -------------------------------------------------------------------


def sniff(head):
  """Return Pillow's name of the format of a picture that begins with the bytes head, or None."""
  for signature, kind in SIGNATURES:
    if head.startswith(signature):
      return kind
  return 'WEBP' if head[:4] == b'RIFF' and head[8:12] == b'WEBP' else None


def read_file(path):
  """Return the bytes of a regular file that is not too large for a picture.

  Raises:
    UnreadablePicture: if it is not such a file.
    OSError: if it cannot be read, whatever it holds.
  """
  try:
    files.require_regular_file(path, MAX_BYTES)
  except UserError as error:
    raise UnreadablePicture(str(error).removeprefix(path).strip()) from None
  with open(path, 'rb') as file:
    contents = file.read()
  if not contents:
    raise UnreadablePicture('is empty')
  return contents


@contextlib.contextmanager
def damage_told():
  """Let all that Pillow raises in this block for a damaged file be an UnreadablePicture."""
  try:
    yield
  except UnreadablePicture:
    raise
  except Exception:  # a damaged file makes Pillow's readers raise whatever it leads them to
    raise UnreadablePicture(DAMAGED) from None


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
  """Raise UnreadablePicture if a JPEG file is cut short, or would take too long to decode."""
  start, end = _first_scan(contents), contents.rfind(JPEG_END)
  if end < start:  # TensorFlow would find out, too, and log it without the file's name
    raise UnreadablePicture(DAMAGED)
  # Most files are too small to hold so many scans, which need not be counted then.
  if (end - start) // SCAN_BYTES * pixels > MAX_SCANNED_PIXELS:
    scans = contents.count(JPEG_SCAN, start, end)
    if scans * pixels > MAX_SCANNED_PIXELS:
      raise UnreadablePicture(f'is a JPEG file of {scans} scans: save it again without '
                              'progressive compression')


def _raw_mode(tile):
  """Return the mode in which Pillow reads a part of an image that is open."""
  parameters = tile[3]
  return parameters[0] if isinstance(parameters, tuple) else parameters


def _reading_low_bytes(tile):
  """Return a part of an image with the mode that reads the low bytes of its 16-bit colours."""
  parameters, mode = tile[3], LOW_BYTES[_raw_mode(tile)]
  parameters = (mode, *parameters[1:]) if isinstance(parameters, tuple) else mode
  return getattr(tile, '_make', tuple)((*tile[:3], parameters))  # a named tuple in new Pillows


def _of_low_bytes(contents, kind):
  """Return a Pillow image of the low bytes of a file of 16-bit colours."""
  image = Image.open(io.BytesIO(contents), formats=(kind,))
  is_grey = _raw_mode(image.tile[0]) == 'LA;16B'
  image.tile = [_reading_low_bytes(tile) for tile in image.tile]
  image.load()
  if is_grey:
    grey, alpha = image.getchannel(1), image.getchannel(3)
    image.paste(Image.merge('RGBA', (grey, grey, grey, alpha)))
  return image


def _load_wide(image, contents, kind):
  """Decode a Pillow image of 16-bit colours; return it, or one of the 8-bit values in it.

  Some programs write such values, and the high byte that Pillow keeps is then 0 throughout.
  """
  with damage_told():
    extrema = image.getextrema()  # of red, green, blue, and perhaps alpha
  if any(high for _, high in extrema[:3]):
    return image
  try:
    low = _of_low_bytes(contents, kind)
    if image.mode == 'RGBA' and extrema[3][1]:  # alpha has 16 bits, beside black ink for example
      low.putalpha(image.getchannel('A'))
    return low
  except Exception:  # a Pillow that reads them in another way: black, as it shows them
    return image


def open_picture(contents, max_pixels):
  """Return a Pillow image, whose pixels are not yet decoded unless they are 16-bit colours.

  EXIF's orientation is read after them, because it may stand behind them in a file, and because
  Pillow turns a TIFF file itself while it decodes it.

  Args:
    contents: bytes of a file.
    max_pixels: int, the most that are decoded.

  Raises:
    UnreadablePicture: if it is of no format that is read, damaged, or too costly to decode.
  """
  kind = sniff(contents[:SIGNATURE_BYTES])
  if kind is None:
    raise UnreadablePicture('is not a JPEG, PNG, GIF, BMP, TIFF or WebP file: convert it')
  Image.MAX_IMAGE_PIXELS = None  # the bound below is ours
  with damage_told():
    image = Image.open(io.BytesIO(contents), formats=(kind,))
  pixels = image.width * image.height
  if pixels > max_pixels:
    raise UnreadablePicture(f'has {image.width}x{image.height} pixels, above the '
                            f'{max_pixels // 1_000_000} million that are read: scale it down')
  if kind == 'JPEG':
    _check_jpeg(contents, pixels)
  if image.mode == 'F':
    raise UnreadablePicture('has floating-point pixels: convert it')
  if kind in ('PNG', 'TIFF') and image.tile and _raw_mode(image.tile[0]) in LOW_BYTES:
    return _load_wide(image, contents, kind)
  return image


# -- How the camera was held -------------------------------------------------------------


def orientation_of(image):
  """Return EXIF's orientation of a Pillow image, 1 to 8; 1 where there is none, or a wrong one."""
  try:
    value = image.getexif().get(EXIF_ORIENTATION)
  except Exception:  # as above: a picture with damaged EXIF is shown as it is stored
    return UPRIGHT
  return value if value in range(1, 9) else UPRIGHT


def turn(pixels, orientation):
  """Return an array of pixels [height, width, ...] the way up that an EXIF orientation asks for."""
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return pixels
