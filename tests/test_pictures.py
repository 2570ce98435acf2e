"""support/pictures.py: what both predictors read alike."""
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from support import pictures
from support.pictures import UnreadablePicture

RGB, GREY_AND_ALPHA, RGBA = 2, 4, 6  # PNG's numbers of its colour types
RANDOM = np.random.RandomState(0)
SMOOTH = Image.fromarray(RANDOM.randint(0, 256, (6, 8, 3)).astype(np.uint8)).resize((320, 240))


def encoded(image, kind='JPEG', **params):
  """Return the bytes of a file of a Pillow image."""
  buffer = io.BytesIO()
  image.save(buffer, kind, **params)
  return buffer.getvalue()


def decode(contents):
  return np.asarray(pictures.decode(contents, 10**6))


def png(width, height, colour_type, rows, bits=16):
  def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
  header = struct.pack('>IIBBBBB', width, height, bits, colour_type, 0, 0, 0)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
          + chunk(b'IEND', b''))


def wide_png(pixels, colour_type):
  """Return a PNG, bytes, with 16 bits for each value of uint16 [height, width, channels]."""
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  return png(pixels.shape[1], pixels.shape[0], colour_type, rows)


def wide_tiff(pixels, order, kind):
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


# -- Arguments ---------------------------------------------------------------------------


def test_folders_and_patterns_are_expanded(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('b.png', 'a.png', 'sub/c.jpg', '.hidden', 'sub/.x/d.png', 'Thumbs.db',
               'file[1].png'):
    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / 'empty').mkdir()
  found = list(pictures.expand(['b.png', '.', '[ab].png', 'file[1].png', 'no*', 'empty', 'sub/']))
  assert found == ['b.png', './a.png', './b.png', './file[1].png', './sub/c.jpg', 'a.png', 'b.png',
                   'file[1].png', 'no*', 'empty', 'sub/c.jpg']


def test_what_is_not_a_picture_file_is_refused_without_being_opened(tmp_path):
  with pytest.raises(UnreadablePicture, match='is a folder, and no picture was found in it'):
    pictures.read_file(str(tmp_path))
  if hasattr(os, 'mkfifo'):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(UnreadablePicture, match='is not a regular file'):
      pictures.read_file(str(tmp_path / 'pipe'))
  with open(tmp_path / 'a.bmp', 'wb') as file:
    file.truncate(pictures.MAX_BYTES + 1)  # takes no space on the disk
  with pytest.raises(UnreadablePicture, match='bytes'):
    pictures.read_file(str(tmp_path / 'a.bmp'))


# -- 16 bits a value ---------------------------------------------------------------------


@pytest.mark.parametrize(('colour_type', 'channels'), [(RGB, 3), (GREY_AND_ALPHA, 2), (RGBA, 4)])
@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
def test_white_of_16_bit_colours_is_the_least_full_scale_that_fits(colour_type, channels, bits):
  values = RANDOM.randint(0, 2**bits, (30, 40, channels)).astype(np.uint16)
  values[0, 0] = 2**bits - 1  # alpha, too, has a scale of its own
  expected = np.uint8(np.rint(values * (255 / (2**bits - 1))))
  if colour_type == GREY_AND_ALPHA:
    expected = expected[..., [0, 0, 0, 1]]
  np.testing.assert_array_equal(decode(wide_png(values, colour_type)), expected)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('kind', [1, 8])
@pytest.mark.parametrize('channels', [1, 3])
def test_16_bit_tiff_files(order, kind, channels):
  values = RANDOM.randint(0, 4096, (30, 40, channels)).astype(np.uint16)
  values[0, 0] = 4095
  np.testing.assert_array_equal(decode(wide_tiff(values, order, kind)),
                                np.rint(values * (255 / 4095)).repeat(4 - channels if
                                                                      channels == 1 else 1, 2))


def test_black_ink_keeps_its_16_bits_of_alpha():
  pixels = np.zeros([30, 40, 4], np.uint16)
  pixels[..., 3] = np.linspace(0, 65535, 1200).reshape(30, 40)  # any low byte
  found = decode(wide_png(pixels, RGBA))
  np.testing.assert_array_equal(found[..., :3], 0)
  np.testing.assert_array_equal(found[..., 3], np.rint(pixels[..., 3] / 257))


# -- Orientation and size ----------------------------------------------------------------


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
def test_pictures_are_upright(kind):
  for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    params = {'JPEG': {'quality': 95}, 'WEBP': {'lossless': True}}.get(kind, {})
    small = SMOOTH.resize((48, 32))
    contents = encoded(small, kind, exif=exif, **params)
    plain = Image.open(io.BytesIO(encoded(small, kind, **params))).convert('RGB')
    plain.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(decode(contents), np.asarray(ImageOps.exif_transpose(plain)))


@pytest.mark.parametrize('exif', [
    b'Exif\0\0', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0garbage', b'Exif\0\0' + bytes(256),
    b'Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03',
    b'Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0'])  # the last: orientation 99
def test_damaged_exif_leaves_a_picture_as_stored(exif, recwarn):
  np.testing.assert_array_equal(decode(encoded(SMOOTH, exif=exif)), decode(encoded(SMOOTH)))
  assert not recwarn.list  # no line on standard error


@pytest.mark.parametrize(('enough', 'size'), [(76_800, (320, 240)), (19_200, (160, 120)),
                                              (4_800, (80, 60)), (100, (40, 30))])
def test_large_jpeg_files_are_decoded_to_a_part(enough, size):
  assert pictures.decode(encoded(SMOOTH), enough).size == size
  assert pictures.decode(encoded(SMOOTH, 'PNG'), enough).size == (320, 240)


# -- Damage ------------------------------------------------------------------------------


JPEGS = {'baseline': {}, 'progressive': {'progressive': True}, 'grey': {}, 'restarts':
         {'restart_marker_rows': 1}, 'thumbnail': {'exif': b'Exif\0\0' + encoded(SMOOTH)}}
FILES = {name: encoded(SMOOTH.convert('L') if name == 'grey' else SMOOTH, **params)
         for name, params in JPEGS.items()}
FILES |= {kind: encoded(SMOOTH, kind) for kind in ('PNG', 'GIF', 'BMP', 'WEBP')}
FILES |= {f'TIFF {kind}': encoded(SMOOTH, 'TIFF', compression=kind)
          for kind in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'jpeg')}


@pytest.mark.parametrize('name', FILES)
def test_files_that_are_cut_short_are_damaged(name, capfd):
  contents = FILES[name]
  expected = decode(contents)
  begin = 40 if name != 'thumbnail' else len(contents) - len(FILES['baseline']) // 2
  tails = (b'', pictures.JPEG_END) if name in JPEGS else (b'',)
  for cut in np.linspace(begin, len(contents) - 16, 40).astype(int):
    for tail in tails:
      try:
        found = decode(contents[:cut] + tail)
      except UnreadablePicture as error:
        assert str(error) == pictures.DAMAGED
      else:  # what is missing was no pixels
        np.testing.assert_array_equal(found, expected)
        assert name not in JPEGS, cut
  assert capfd.readouterr() == ('', '')


def test_needless_bytes_in_a_jpeg_file_do_no_harm(capfd):
  contents = FILES['baseline']
  expected = decode(contents)
  np.testing.assert_array_equal(decode(contents[:-2] + b'\0\1\2' + contents[-2:]), expected)
  np.testing.assert_array_equal(decode(contents + encoded(SMOOTH.rotate(180))), expected)
  assert capfd.readouterr() == ('', '')  # libjpeg calls the data corrupt, without a name


@pytest.mark.skipif(os.name == 'nt', reason='libtiff is a part of Pillow there')
def test_libtiff_is_silent(capfd):
  contents = bytearray(FILES['TIFF tiff_lzw'])
  contents[300:310] = bytes(10)
  with pytest.raises(UnreadablePicture, match='damaged'):
    decode(bytes(contents))
  assert capfd.readouterr() == ('', '')


# -- Bounds ------------------------------------------------------------------------------


def jpeg_of_many_scans(count):
  """Return a JPEG, bytes, of 6000x6000 pixels that begins count scans and holds none of them."""
  frame = b'\xff\xc2' + struct.pack('>HBHHB', 11, 8, 6000, 6000, 1) + b'\1\x11\0'
  scan = b'\xff\xda' + struct.pack('>HB', 8, 1) + b'\1\0\0\0\0'
  return b'\xff\xd8' + frame + count * scan + b'\xff\xd9'


@pytest.mark.parametrize(('contents', 'problem'), [
    (b'no picture', 'is not a JPEG, PNG, GIF, BMP, TIFF or WebP file: convert it'),
    (b'\xff\xd8\xff\xd9', 'is damaged'), (png(30, 30, RGB, b''), 'is damaged'),
    (png(30000, 10000, RGB, b''), r'has 30000x10000 pixels, which take 1.2 GB of memory, above the '
     r'1 GB that are used: scale it down'),
    (png(1, 90_000_000, RGB, b''), r'which take 1.1 GB'),
    (jpeg_of_many_scans(300), 'is a JPEG file of 300 scans: save it again'),
    (encoded(Image.fromarray(np.zeros([30, 40], np.float32)), 'TIFF'), 'floating-point')])
def test_what_is_not_decoded(contents, problem):
  with pytest.raises(UnreadablePicture, match=problem):
    decode(contents)


def test_photos_above_50_megapixels_are_read():
  contents = encoded(Image.new('L', (9000, 6000), 200))
  image = pictures.decode(contents, 10**6)
  assert image.size == (2250, 1500) and image.getextrema() == ((200, 200),) * 3
