"""The decoder of photos, on pictures that the tests write."""
import io

import made_data
import numpy as np
import pytest
import running
from PIL import Image

from flowers import photo
from support.console import UserError
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
def decoder():
  with photo.PhotoDecoder() as decoder:
    yield decoder


@pytest.fixture
def decode(decoder):
  """Function from the bytes of a file to its photo, uint8 [299, 299, 3]."""
  return decoder.decode


def books_image(contents, dct_method):
  """Decode and scale a JPEG file as the book's loop does: floats before scaling; in steps of 1."""
  with tf.Graph().as_default(), tf.Session() as sess:
    pixels = tf.image.decode_jpeg(contents, channels=3, dct_method=dct_method)
    image = tf.image.convert_image_dtype(pixels, tf.float32)
    return 255 * sess.run(tf.image.resize_images(image, [299, 299]))


@pytest.mark.parametrize('kind', ['colour', 'grey', 'cmyk', 'progressive', 'already 299'])
def test_jpeg_pixels_are_those_of_the_book(decode, kind):
  image = picture(299, 299) if kind == 'already 299' else picture()
  image = image.convert({'grey': 'L', 'cmyk': 'CMYK'}.get(kind, 'RGB'))
  contents = encoded(image, progressive=kind == 'progressive')
  found = decode(contents)
  assert found.dtype == np.uint8 and found.shape == (299, 299, 3)
  np.testing.assert_allclose(found, books_image(contents, 'INTEGER_ACCURATE'),
                             atol=1.6 if kind == 'cmyk' else 0.501)


@pytest.mark.parametrize('kind', ['PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
def test_lossless_files_of_one_picture_are_equal(decode, kind):
  params = {'lossless': True} if kind == 'WEBP' else {}
  expected = decode(encoded(picture(), 'PNG'))
  np.testing.assert_array_equal(decode(encoded(picture(), kind, **params)), expected)
  jpeg = decode(encoded(picture(), quality=100, subsampling=0))
  assert np.abs(jpeg - expected.astype(int)).mean() < 2.5  # of another picture it is 80


def test_animation_shows_its_first_picture(decode):
  contents = encoded(picture(), 'GIF', save_all=True, append_images=[picture(seed=1)])
  np.testing.assert_array_equal(decode(contents), decode(encoded(picture(), 'PNG')))


def test_transparent_is_white_unless_all_is(decode):
  image = picture().convert('RGBA')
  image.paste((0, 0, 0, 0), (0, 0, 20, 30))
  found, plain = decode(encoded(image, 'PNG')), decode(encoded(picture(), 'PNG'))
  np.testing.assert_array_equal(found[:, :140], 255)
  np.testing.assert_array_equal(found[:, 160:], plain[:, 160:])
  image = picture()
  image.putalpha(0)
  np.testing.assert_array_equal(decode(encoded(image, 'PNG')), plain)


def test_palettes_and_12_bits_are_read(decode):
  palette = picture().quantize(12)
  np.testing.assert_array_equal(decode(encoded(palette, 'PNG')),
                                decode(encoded(palette.convert('RGB'), 'PNG')))
  grey = np.asarray(picture().convert('L')).copy()
  grey[0, 0] = 255
  wide = Image.fromarray(np.uint16(np.rint(grey * (4095 / 255))))
  np.testing.assert_array_equal(decode(encoded(wide, 'PNG')),
                                decode(encoded(Image.fromarray(grey), 'PNG')))


# -- Files -------------------------------------------------------------------------------


PHOTO = encoded(picture())
UNREADABLE = {'text': (b'not a photo', 'is not a JPEG'), 'empty': (b'', 'is empty'),
              'cut.jpg': (PHOTO[:len(PHOTO) // 2] + PHOTO[-2:], 'is damaged or cut short')}


@pytest.mark.parametrize('name', UNREADABLE)
def test_a_file_that_is_not_a_photo_is_named_with_why(decoder, name, tmp_path):
  path = tmp_path / name
  path.write_bytes(UNREADABLE[name][0])
  decoded, = photo.decoded_photos([str(path)])
  assert decoded.image is None and UNREADABLE[name][1] in decoded.problem
  with pytest.raises(UserError, match=f'{name} {UNREADABLE[name][1]}'):
    decoder.image(str(path))


def test_a_failure_to_read_is_not_taken_for_a_bad_photo(tmp_path):
  with pytest.raises(FileNotFoundError, match='missing'):
    list(photo.decoded_photos([str(tmp_path / 'missing')]))


def test_many_photos_come_in_order(decode, tmp_path):
  made_data.write_photos(tmp_path, ['rose'], count=2 * photo.WAITING_PHOTOS)
  paths = [str(path) for path in sorted((tmp_path / 'rose').iterdir())]
  found = list(photo.decoded_photos(paths))
  assert [photo.path for photo in found] == paths
  np.testing.assert_array_equal(found[-1].image, decode((tmp_path / paths[-1]).read_bytes()))
  assert len({photo.digest for photo in found}) == len(paths)


@pytest.mark.skipif(not SAMPLE_DIR.is_dir(), reason='needs the real photos')
def test_real_photos_are_read_as_the_book_does():
  paths = [str(path) for path in sorted(SAMPLE_DIR.glob('*/*.jpg'))[::100]]
  for path, image, problem, _ in photo.decoded_photos(paths):
    assert problem is None
    with open(path, 'rb') as file:
      contents = file.read()
    np.testing.assert_allclose(image, books_image(contents, 'INTEGER_ACCURATE'), atol=0.501)
    # TensorFlow's own choice of a method is a faster one.
    assert np.abs(image - books_image(contents, '')).mean() < 2
