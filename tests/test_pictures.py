"""support/pictures.py: what both predictors read alike."""
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import flower_photo
import mnist_digit
from support import pictures

RGB, RGBA = 2, 6  # PNG's numbers of its colour types


def wide_png(pixels, colour_type):
  """Return a PNG, bytes, with 16 bits for each value of uint16 [height, width, channels]."""
  def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
  header = struct.pack('>IIBBBBB', pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
          + chunk(b'IEND', b''))


@pytest.fixture(scope='module')
def decode():
  """Function from the bytes of a file to its photo, float32 [299, 299, 3]."""
  with flower_photo.PhotoDecoder() as decoder:
    yield decoder.decode


@pytest.mark.parametrize(('colour_type', 'channels'), [(RGB, 3), (RGBA, 4)])
@pytest.mark.parametrize('full_scale', [255, 65535])
def test_16_bit_colours_are_seen_on_either_scale(
    decode, tmp_path, colour_type, channels, full_scale):
  pixels = np.random.RandomState(0).randint(0, 256, (30, 40, channels)).astype(np.uint16)
  pixels[..., 3:] = 255
  plain = io.BytesIO()
  Image.fromarray(np.uint8(pixels)).save(plain, 'PNG')
  wide = wide_png(pixels * (full_scale // 255), colour_type)
  np.testing.assert_array_equal(decode(wide), decode(plain.getvalue()))
  for name, contents in (('plain.png', plain.getvalue()), ('wide.png', wide)):
    (tmp_path / name).write_bytes(contents)
  np.testing.assert_array_equal(*(mnist_digit.read_picture(str(tmp_path / name))
                                  for name in ('plain.png', 'wide.png')))


def test_16_bit_colours_that_are_cut_short_are_damaged(decode):
  contents = wide_png(np.zeros([30, 40, 3], np.uint16), RGB)
  with pytest.raises(pictures.UnreadablePicture, match='damaged'):
    decode(contents[:60])
