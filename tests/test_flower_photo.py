"""The decoder of photos, on pictures that the tests write."""
import io
import os

import made_data
import numpy as np
import pytest
import running
from PIL import Image

from flowers import photo
from support import pictures
from support.quiet_tensorflow import tf

SAMPLE_DIR = running.SHARED / 'flower_photos_sample'


def picture(width=40, height=30, seed=0):
  """Return a Pillow image of coloured squares, none of which equals its mirror image."""
  squares = np.random.RandomState(seed).randint(0, 256, (height // 10, width // 10, 3))
  return Image.fromarray(np.uint8(squares.repeat(10, 0).repeat(10, 1)))


def encoded(image, kind='JPEG', **params):
  """Return the bytes of a file of a Pillow image."""
  buffer = io.BytesIO()
  image.save(buffer, kind, **params)
  return buffer.getvalue()


@pytest.fixture(scope='module')
def decode():
  """Function from the bytes of a file to its photo, float32 [299, 299, 3]."""
  with photo.PhotoDecoder() as decoder:
    yield decoder.decode


def books_image(contents):
  """Decode and scale a JPEG file as the book's loop does: floats before scaling."""
  with tf.Graph().as_default(), tf.Session() as sess:
    image = tf.image.convert_image_dtype(tf.image.decode_jpeg(contents, channels=3), tf.float32)
    return sess.run(tf.image.resize_images(image, [299, 299]))


# -- Photos of all kinds -----------------------------------------------------------------


@pytest.mark.parametrize('kind', ['colour', 'grey', 'cmyk', 'progressive', 'already 299'])
def test_jpeg_pixels_are_those_of_the_book(decode, kind):
  image = picture(299, 299) if kind == 'already 299' else picture()
  image = image.convert({'grey': 'L', 'cmyk': 'CMYK'}.get(kind, 'RGB'))
  contents = encoded(image, progressive=kind == 'progressive')
  found = decode(contents)
  assert found.dtype == np.float32 and found.shape == (299, 299, 3)
  assert 0 <= found.min() and found.max() <= 1
  np.testing.assert_allclose(found, books_image(contents), atol=1e-6)


@pytest.mark.parametrize('kind', ['PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
def test_lossless_files_of_one_picture_are_equal(decode, kind):
  params = {'lossless': True} if kind == 'WEBP' else {}
  expected = decode(encoded(picture(), 'PNG'))
  np.testing.assert_array_equal(decode(encoded(picture(), kind, **params)), expected)
  jpeg = decode(encoded(picture(), quality=100, subsampling=0))
  assert np.abs(jpeg - expected).mean() < 0.01  # of another picture it is 0.3


def test_animation_shows_its_first_picture(decode):
  contents = encoded(picture(), 'GIF', save_all=True, append_images=[picture(seed=1)])
  np.testing.assert_array_equal(decode(contents), decode(encoded(picture(), 'PNG')))


def test_transparent_is_white(decode):
  image = picture().convert('RGBA')
  image.paste((0, 0, 0, 0), (0, 0, 20, 30))
  found = decode(encoded(image, 'PNG'))
  np.testing.assert_array_equal(found[:, :140], 1)
  np.testing.assert_array_equal(found[:, 160:], decode(encoded(picture(), 'PNG'))[:, 160:])


def test_palettes_and_16_bits_are_read(decode):
  grey = picture().convert('L')
  expected = decode(encoded(grey, 'PNG'))
  for depth in (256, 1):  # values of 16 bits, and of 8 in a file of 16
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * depth)
    np.testing.assert_array_equal(decode(encoded(wide, 'PNG')), expected)
  palette = picture().quantize(12)
  np.testing.assert_array_equal(decode(encoded(palette, 'PNG')),
                                decode(encoded(palette.convert('RGB'), 'PNG')))


# -- Orientation -------------------------------------------------------------------------

# How a picture is stored that EXIF's orientation turns upright.
STORED = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
          4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
          6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize('orientation', STORED)
def test_orientation_shows_a_photo_upright(decode, orientation):
  exif = Image.Exif()
  exif[pictures.EXIF_ORIENTATION] = orientation
  upright = picture(400, 320)  # whole blocks, so that JPEG's error is small
  stored = upright.transpose(STORED[orientation])
  for kind in ('PNG', 'TIFF'):
    np.testing.assert_allclose(decode(encoded(stored, kind, exif=exif)),
                               decode(encoded(upright, 'PNG')), atol=1e-6)
  np.testing.assert_allclose(decode(encoded(stored, quality=100, exif=exif)),
                             decode(encoded(upright, quality=100)), atol=0.02)


@pytest.mark.parametrize('exif', [
    b'Exif\0\0', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff', b'Exif\0\0' + bytes(range(256)),
    b'Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0'])  # the last: orientation 99
def test_damaged_exif_leaves_a_photo_as_stored(exif, recwarn):
  with photo.PhotoDecoder() as decoder:
    np.testing.assert_array_equal(decoder.decode(encoded(picture(), exif=exif)),
                                  decoder.decode(encoded(picture())))
  assert not recwarn.list  # no line on standard error


# -- What is not a photo -----------------------------------------------------------------


def declaring(contents, width, height):
  """Return a JPEG file with another size in its header."""
  place = contents.index(b'\xff\xc0') + 5
  size = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
  return contents[:place] + size + contents[place + 4:]


PHOTO = encoded(picture())
SCAN = PHOTO[PHOTO.index(b'\xff\xda'):-2]
UNREADABLE = {
    'text': (b'not a photo', 'is not a JPEG'),
    'empty': (b'', 'is empty'),
    'cut.jpg': (PHOTO[:len(PHOTO) // 2], 'cut short'),
    'last byte.jpg': (PHOTO[:-1], 'cut short'),
    # A small picture in its EXIF is whole.
    'cut with a small picture.jpg': (
        encoded(picture(), exif=b'Exif\0\0' + PHOTO)[:-200], 'cut short'),
    'head.jpg': (PHOTO[:20], 'damaged'),
    'noise.png': (encoded(picture(), 'PNG')[:60] + bytes(100), 'damaged'),
    'huge.jpg': (declaring(PHOTO, 20000, 20000), '20000x20000'),
    'huge.png': (encoded(Image.new('1', (8000, 7000)), 'PNG'), '8000x7000'),
    'scans.jpg': (declaring(PHOTO[:-2], 7000, 7000) + SCAN * 40 + b'\xff\xd9', 'of 41 scans'),
}


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """What `read_photos` answers for UNREADABLE and a good photo: {name: (image, problem)}."""
  folder = tmp_path_factory.mktemp('unreadable')
  for name, (contents, _) in UNREADABLE.items():
    (folder / name).write_bytes(contents)
  (folder / 'good').write_bytes(PHOTO)
  (folder / 'folder').mkdir()
  if hasattr(os, 'mkfifo'):
    os.mkfifo(folder / 'fifo')
  names = [*UNREADABLE, 'good', 'folder', 'missing', 'fifo', 'good']
  found = photo.read_photos([str(folder / name) for name in names])
  assert [os.path.basename(path) for path, *_ in found] == names  # each, also when given twice
  return {os.path.basename(path): answer for path, *answer in found}


@pytest.mark.parametrize('name', UNREADABLE)
def test_a_file_that_is_not_a_photo_is_answered_with_why(answers, name):
  image, problem = answers[name]
  assert image is None and UNREADABLE[name][1] in problem


def test_what_cannot_be_opened_is_answered_too(answers):
  assert answers['good'][0] is not None and answers['good'][1] is None
  assert 'is a folder' in answers['folder'][1]
  assert 'No such file' in answers['missing'][1]
  if hasattr(os, 'mkfifo'):
    assert 'not a regular file' in answers['fifo'][1]


def test_a_failure_to_read_is_not_taken_for_a_bad_photo(tmp_path):
  with pytest.raises(FileNotFoundError, match='missing'):
    list(photo.decoded_photos([str(tmp_path / 'missing')]))


def test_many_photos_come_in_order(decode, tmp_path):
  made_data.write_photos(tmp_path, ['rose'], count=40)
  paths = [str(path) for path in sorted((tmp_path / 'rose').iterdir())]
  found = list(photo.decoded_photos(paths))
  assert [photo.path for photo in found] == paths
  last = (tmp_path / 'rose' / '039.jpg').read_bytes()
  np.testing.assert_array_equal(found[-1].image, decode(last))


# -- Real data ---------------------------------------------------------------------------


@pytest.mark.skipif(not SAMPLE_DIR.is_dir(), reason='needs the real photos')
def test_real_photos_are_read_as_the_book_does():
  paths = [str(path) for path in sorted(SAMPLE_DIR.glob('*/*.jpg'))[::100]]
  for path, image, problem in photo.read_photos(paths):
    assert problem is None
    with open(path, 'rb') as file:
      np.testing.assert_allclose(image, books_image(file.read()), atol=1e-6, err_msg=path)
