"""support/pictures.py: what both predictors read alike."""
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from digits import digit
from flowers import photo
from support import pictures

RGB, GREY_AND_ALPHA, RGBA = 2, 4, 6  # PNG's numbers of its colour types


def wide_png(pixels, colour_type):
  """Return a PNG, bytes, with 16 bits for each value of uint16 [height, width, channels]."""
  def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
  header = struct.pack('>IIBBBBB', pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
          + chunk(b'IEND', b''))


def wide_tiff(pixels, order, kind=1):
  """Return a TIFF, bytes, with 16 bits for each value of an array, in two strips.

  Args:
    pixels: uint16 [height, width, channels], 3 channels or 1.
    order: '<' or '>', of the bytes.
    kind: TIFF's number of the compression: 1 for none, 8 for zlib's.
  """
  height, width, channels = pixels.shape
  strips = [half.astype(f'{order}u2').tobytes() for half in np.split(pixels, 2)]
  strips = [zlib.compress(strip) for strip in strips] if kind == 8 else strips
  sizes = [len(strip) for strip in strips]
  end = 10 + 9 * 12 + 4  # of the table; then come the places, the lengths, the bits, the strips
  first = end + 8 + 8 + 6
  bits = end + 16 if channels == 3 else 16 << 16 * (order == '>')  # their place, or themselves
  tags = [(256, 1, width), (257, 1, height), (258, channels, bits), (259, 1, kind),
          (262, 1, 2 if channels == 3 else 1), (273, 2, end), (277, 1, channels),
          (278, 1, height // 2), (279, 2, end + 8)]
  # Numbers of 2 bytes (3) for the bits of a value, of 4 bytes (4) for all else.
  table = b''.join(struct.pack(f'{order}HHII', tag, 3 if tag == 258 else 4, count, value)
                   for tag, count, value in tags)
  return b''.join([{'<': b'II', '>': b'MM'}[order], struct.pack(f'{order}HIH', 42, 8, len(tags)),
                   table, struct.pack(f'{order}I4I3H', 0, first, first + sizes[0], *sizes, 16, 16,
                                      16), *strips])


@pytest.fixture(scope='module')
def decode():
  """Function from the bytes of a file to its photo, float32 [299, 299, 3]."""
  with photo.PhotoDecoder() as decoder:
    yield decoder.decode


@pytest.mark.parametrize(('colour_type', 'channels'), [(RGB, 3), (GREY_AND_ALPHA, 2), (RGBA, 4)])
@pytest.mark.parametrize('full_scale', [255, 65535])
def test_16_bit_colours_are_seen_on_either_scale(
    decode, tmp_path, colour_type, channels, full_scale):
  pixels = np.random.RandomState(0).randint(0, 256, (30, 40, channels)).astype(np.uint16)
  if colour_type != RGB:
    pixels[..., -1] = 255
  plain = io.BytesIO()
  Image.fromarray(np.uint8(pixels)).save(plain, 'PNG')
  wide = wide_png(pixels * (full_scale // 255), colour_type)
  np.testing.assert_array_equal(decode(wide), decode(plain.getvalue()))
  for name, contents in (('plain.png', plain.getvalue()), ('wide.png', wide)):
    (tmp_path / name).write_bytes(contents)
  np.testing.assert_array_equal(*(digit.read_picture(str(tmp_path / name))
                                  for name in ('plain.png', 'wide.png')))


@pytest.mark.parametrize('colour_type', [GREY_AND_ALPHA, RGBA])
def test_black_ink_keeps_its_16_bits_of_alpha(tmp_path, colour_type):
  alpha = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)  # any low byte
  black = [np.zeros_like(alpha)] * (1 if colour_type == GREY_AND_ALPHA else 3)
  path = tmp_path / 'ink.png'
  path.write_bytes(wide_png(np.dstack([*black, alpha]), colour_type))
  found = digit.read_picture(str(path))
  np.testing.assert_array_equal(found[..., :3], 0)
  np.testing.assert_array_equal(np.round(found[..., 3] * 255), alpha >> 8)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('kind', [1, 8])
@pytest.mark.parametrize('full_scale', [255, 65535])
def test_16_bit_colours_of_tiff_files_are_seen_on_either_scale(decode, order, kind, full_scale):
  pixels = np.random.RandomState(0).randint(0, 256, (30, 40, 3)).astype(np.uint16)
  plain = io.BytesIO()
  Image.fromarray(np.uint8(pixels)).save(plain, 'PNG')
  wide = wide_tiff(pixels * (full_scale // 255), order, kind)
  np.testing.assert_array_equal(decode(wide), decode(plain.getvalue()))


def test_big_endian_grey_of_a_tiff_file_is_read(tmp_path):
  values = np.arange(1200, dtype=np.uint16).reshape(30, 40, 1) * 54
  path = tmp_path / 'grey.tiff'
  path.write_bytes(wide_tiff(values, '>'))
  found = digit.read_picture(str(path))
  np.testing.assert_allclose(found[..., :1], values / 65535, atol=1e-6)


def test_floating_point_pixels_are_refused(decode):
  contents = io.BytesIO()
  Image.fromarray(np.zeros([30, 40], np.float32)).save(contents, 'TIFF')
  with pytest.raises(pictures.UnreadablePicture, match='has floating-point pixels'):
    decode(contents.getvalue())


def test_16_bit_colours_that_are_cut_short_are_damaged(decode):
  contents = wide_png(np.zeros([30, 40, 3], np.uint16), RGB)
  with pytest.raises(pictures.UnreadablePicture, match='damaged'):
    decode(contents[:60])
