"""The decoder of photos and the data file, on pictures that the tests write."""
import io
import json
import os
import shutil

import made_data
import numpy as np
import pytest
import running
from PIL import Image

import flower_input
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
def decode():
  """Function from the bytes of a file to its photo, float32 [299, 299, 3]."""
  with flower_input.PhotoDecoder() as decoder:
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
  exif[flower_input.EXIF_ORIENTATION] = orientation
  upright = picture(400, 320)  # whole blocks, so that JPEG's error is small
  stored = upright.transpose(STORED[orientation])
  np.testing.assert_allclose(decode(encoded(stored, 'PNG', exif=exif)),
                             decode(encoded(upright, 'PNG')), atol=1e-6)
  np.testing.assert_allclose(decode(encoded(stored, quality=100, exif=exif)),
                             decode(encoded(upright, quality=100)), atol=0.02)


@pytest.mark.parametrize('exif', [
    b'Exif\0\0', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff', b'Exif\0\0' + bytes(range(256)),
    b'Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0'])  # the last: orientation 99
def test_damaged_exif_leaves_a_photo_as_stored(exif, recwarn):
  with flower_input.PhotoDecoder() as decoder:
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
    'scans.jpg': (declaring(PHOTO[:-2], 7000, 7000) + SCAN * 40 + b'\xff\xd9', 'too many scans'),
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
  found = flower_input.read_photos([str(folder / name) for name in names])
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
    list(flower_input.decoded_photos([str(tmp_path / 'missing')]))


def test_many_photos_come_in_order(decode, tmp_path):
  made_data.write_photos(tmp_path, ['rose'], count=40)
  paths = [str(path) for path in sorted((tmp_path / 'rose').iterdir())]
  found = list(flower_input.decoded_photos(paths))
  assert [photo.path for photo in found] == paths
  last = (tmp_path / 'rose' / '039.jpg').read_bytes()
  np.testing.assert_array_equal(found[-1].image, decode(last))


# -- The data file -----------------------------------------------------------------------

NAMES = {'labels': ['daisy', 'rose'], 'names': ['rose/a.jpg', 'daisy/b.jpg', 'daisy/c.jpg'],
         'classes': [1, 0, 0], 'counts': {'training': 1, 'validation': 0, 'testing': 2}}


def write_data(path, seed=0, **changes):
  """Write a data file of three photos of one value each."""
  with flower_input.data_writer(str(path)) as writer:
    for k in range(3):
      image = np.full([299, 299, 3], (k + seed) / 10, np.float32)
      writer.add(flower_input.DecodedPhoto('', image, None, image[0, 0].tobytes()))
    writer.finish(**{**NAMES, **changes})
  return path


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp('data') / 'photos.npy')


def test_data_file_is_a_plain_array(data_file):
  images = np.load(data_file, allow_pickle=False)
  assert images.dtype == np.float32 and images.shape == (3, 299, 299, 3)
  assert np.load(data_file, mmap_mode='r')[2, 0, 0, 0] == np.float32(0.2)
  names = json.loads(data_file.with_suffix('.json').read_text())
  assert names['files'] == NAMES['names'] and names['classes'] == NAMES['classes']


def test_data_comes_back_by_split_and_memory_mapped(data_file):
  data = flower_input.load_processed_data(data_file)
  assert data.labels == NAMES['labels'] and data.files == NAMES['names']
  assert isinstance(data.training_images, np.memmap)
  assert data.training_images[0, 0, 0, 0] == 0 and data.validation_images.shape[0] == 0
  np.testing.assert_array_equal(data.testing_images[:, 7, 7, 1], np.float32([0.1, 0.2]))
  assert data.training_labels.dtype == np.int64
  assert data.training_labels.tolist() == [1] and data.testing_labels.tolist() == [0, 0]


def test_id_tells_pixels_labels_files_and_splits_apart(data_file, tmp_path):
  def identity(**changes):
    return flower_input.load_processed_data(write_data(tmp_path / 'other.npy', **changes)).id

  assert identity() == flower_input.load_processed_data(data_file).id
  changes = [{'seed': 1}, {'labels': ['daisy', 'tulip']}, {'classes': [0, 1, 0]},
             {'names': ['rose/a.jpg', 'daisy/c.jpg', 'daisy/b.jpg']},
             {'counts': {'training': 2, 'validation': 0, 'testing': 1}}]
  assert len({identity(), *(identity(**change) for change in changes)}) == 1 + len(changes)


def test_files_of_two_runs_are_refused_together(data_file, tmp_path):
  write_data(tmp_path / 'photos.npy', seed=1)
  shutil.copy(data_file.with_suffix('.json'), tmp_path)
  with pytest.raises(UserError, match='not of the same run'):
    flower_input.load_processed_data(tmp_path / 'photos.npy')


def change_names(**changes):
  def change(path):
    names = json.loads(path.with_suffix('.json').read_text())
    path.with_suffix('.json').write_text(json.dumps({**names, **changes}))
  return change


def write_array(array):
  return lambda path: np.save(path, array)


def write_bytes(contents):
  return lambda path: path.write_bytes(contents)


@pytest.mark.parametrize(('change', 'message'), [
    (write_bytes(b''), 'not a whole .npy file'),
    (write_bytes(b'\x93NUMPY\1\0v\0{' + b'(' * 117), 'not a whole .npy file'),
    (write_array(np.array([{}], object)), 'not a whole .npy file'),  # would be a pickle
    (write_array(np.zeros(3, [('image', '<f4', (299, 299, 3)), ('label', '<i8')])), 'earlier'),
    (write_array(np.zeros((3, 299, 299, 3))), 'float64'),
    (write_array(np.zeros((3, 28, 28, 1), np.float32)), r'\(3, 28, 28, 1\)'),
    (write_array(np.zeros((3, 299, 299, 3), np.float32)), 'not of the same run'),
    (lambda path: os.truncate(path, 3_000_000), 'not a whole .npy file'),
    (lambda path: os.truncate(path, path.stat().st_size - 1), 'not of the same run'),
    (lambda path: path.with_suffix('.json').unlink(), 'photos.json is missing'),
    (lambda path: path.with_suffix('.json').write_text('{"labels":'), 'not a JSON file'),
    (change_names(labels=['rose', 'rose']), '"labels"'),
    (change_names(labels=['rose', 'daisy']), 'not of the same run'),
    (change_names(files=['a', 'b', 3]), '"files"'),
    (change_names(classes=[0, 1]), '"classes"'),
    (change_names(classes=[0, 1, 2]), '"classes"'),
    (change_names(counts={'training': 3}), '"counts"'),
    (change_names(counts={'training': 4, 'validation': 0, 'testing': -1}), '"counts"'),
])
def test_a_damaged_data_file_is_refused_in_one_line(data_file, tmp_path, change, message):
  path = tmp_path / 'photos.npy'
  for source in (data_file, data_file.with_suffix('.json')):
    shutil.copy(source, tmp_path)
  change(path)
  with pytest.raises(UserError, match=message) as error:
    flower_input.load_processed_data(path)
  assert 'photos.' in str(error.value) and '\n' not in str(error.value)


def test_a_failed_run_leaves_the_files_before(data_file, tmp_path):
  path = write_data(tmp_path / 'photos.npy', seed=1)
  before = flower_input.load_processed_data(path).id
  with pytest.raises(KeyboardInterrupt), flower_input.data_writer(str(path)) as writer:
    writer.add(flower_input.DecodedPhoto('', np.zeros([299, 299, 3], np.float32), None, b''))
    raise KeyboardInterrupt
  assert flower_input.load_processed_data(path).id == before
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ['photos.json', 'photos.npy']


# -- Real data ---------------------------------------------------------------------------


@pytest.mark.skipif(not SAMPLE_DIR.is_dir(), reason='needs the real photos')
def test_real_photos_are_read_as_the_book_does():
  paths = [str(path) for path in sorted(SAMPLE_DIR.glob('*/*.jpg'))[::100]]
  for path, image, problem in flower_input.read_photos(paths):
    assert problem is None
    with open(path, 'rb') as file:
      np.testing.assert_allclose(image, books_image(file.read()), atol=1e-6, err_msg=path)
