"""Picture files as people bring them: known by content, bounded before they are decoded.

No TensorFlow: Pillow reads headers, and EXIF's orientation, which tells how the camera was held.
"""
import contextlib
import io
import re

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

# Pillow's modes for PNG colours of 16 bits, of which it keeps the high byte or the low one.
HIGH_BYTE, LOW_BYTE = ';16B', ';16L'


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
    UnreadablePicture: if it is no such file.
    OSError: if it cannot be read, whatever it holds.
  """
  try:
    files.require_regular_file(path, MAX_BYTES)
  except UserError as error:
    raise UnreadablePicture(str(error).removeprefix(path).strip()) from None
  with files.failures_named(path), open(path, 'rb') as file:
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


def _take_low_bytes(contents, image):
  """Let a PNG of 16-bit colours, in which some programs write 8-bit values, show these.

  Pillow keeps the high byte of each colour, which is then 0 throughout.
  """
  codec, extents, offset, mode, *_ = image.tile[0]
  if codec != 'zip' or mode not in ('RGB' + HIGH_BYTE, 'RGBA' + HIGH_BYTE):
    return
  with damage_told(), Image.open(io.BytesIO(contents), formats=('PNG',)) as other:
    if all(high == 0 for _, high in other.getextrema()[:3]):
      image.tile = [(codec, extents, offset, mode.replace(HIGH_BYTE, LOW_BYTE))]


def open_picture(contents, max_pixels):
  """Return a Pillow image whose pixels are not yet decoded.

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
  elif kind == 'PNG' and image.tile:
    _take_low_bytes(contents, image)
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
