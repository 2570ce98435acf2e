"""Arbitrary and mutated files meet the readers of IDX, .npy, JSON, pictures and checkpoints.

They return what they promise or raise what they document, whatever the bytes.
FUZZ_EXAMPLES=10000 in the environment makes a long run of it; the default is the same short one
each time.
"""
import gzip
import io
import json
import os
import struct
import warnings

import made_data
import numpy as np
import pytest
import spoiling
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import mnist_input
from digits import digit
from flowers import data_file as flower_data
from flowers import photo
from support import checkpoints, files
from support.console import UserError, describe
from support.quiet_tensorflow import tf

fuzz = settings(max_examples=int(os.environ.get('FUZZ_EXAMPLES', 100)), deadline=None,
                derandomize='FUZZ_EXAMPLES' not in os.environ, database=None,
                suppress_health_check=list(HealthCheck))

IMAGES = made_data.idx_images(np.random.RandomState(0).randint(0, 256, (3, 28, 28)).astype('u1'))
LABELS = made_data.idx_labels(np.arange(10, dtype=np.uint8))


def mutated(content, head):
  """A strategy of content with bytes changed, mostly among the first head, then cut or longer."""
  places = st.one_of(st.integers(0, head - 1), st.integers(0, len(content) - 1))
  lengths = st.one_of(st.just(len(content)), st.integers(0, head), st.integers(0, len(content)))

  def mutate(changes, length, tail):
    result = bytearray(content)
    for place, byte in changes:
      result[place] = byte
    return bytes(result[:length]) + tail
  return st.builds(mutate, st.lists(st.tuples(places, st.integers(0, 255)), max_size=4), lengths,
                   st.one_of(st.just(b''), st.binary(max_size=20)))


def outcome_of(read, path, outcomes):
  """Return read(path), or None if it refuses the file in one line that names it."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # a warning would be a second line on standard error
      result = read(str(path))
  except (UserError, OSError) as error:
    text = describe(error)
    assert os.path.splitext(path.name)[0] in text and len(text.splitlines()) == 1, text
    outcomes.add('refused')
    return None
  outcomes.add('read')
  return result


# -- IDX ---------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize(('read', 'valid', 'head'), [
    (mnist_input.read_images, IMAGES, 16), (mnist_input.read_labels, LABELS, 8)],
    ids=['images', 'labels'])
def test_idx(suffix, read, valid, head, tmp_path):
  path = tmp_path / f'file{suffix}'
  contents = st.one_of(st.binary(max_size=100), mutated(valid, head),
                       st.binary(max_size=100).map(lambda tail: valid[:4] + tail))
  if suffix:
    packed = contents.map(lambda content: gzip.compress(content, 1, mtime=0))
    contents = st.one_of(contents, packed, mutated(gzip.compress(valid, mtime=0), 10))
  outcomes = set()

  @fuzz
  @given(contents)
  @example(gzip.compress(valid) if suffix else valid)
  def check(content):
    path.write_bytes(content)
    result = outcome_of(read, path, outcomes)
    if result is not None and read is mnist_input.read_images:
      assert result.dtype == np.uint8 and result.shape == (len(result), 28, 28)
    elif result is not None:
      assert result.dtype == np.int64 and result.ndim == 1
      assert not len(result) or 0 <= result.min() <= result.max() <= 9

  check()
  assert outcomes == {'read', 'refused'}


# -- .npy and .json of photos ------------------------------------------------------------


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  """The .npy file of two photos, 2.1 MB."""
  path = tmp_path_factory.mktemp('fuzz') / 'data.npy'
  image = photo.DecodedPhoto('', np.zeros([299, 299, 3], np.float32), None, b'digest')
  with flower_data.data_writer(str(path)) as writer:
    writer.add(image)
    writer.add(image)
    writer.finish(['daisy', 'rose'], ['rose/a.jpg', 'daisy/b.jpg'], [1, 0],
                  {'training': 1, 'validation': 0, 'testing': 1})
  return path


SHAPES = st.one_of(st.just((2, 299, 299, 3)), st.lists(st.integers(-1, 300), max_size=4).map(tuple),
                   st.lists(st.integers(-2**70, 2**70), max_size=4).map(tuple))
KINDS = st.sampled_from(['<f4', '>f4', '<i8', '|O', '<U10', '|V0', 'x', (), [('image', '<f4')]])


def npy_header(text):
  return b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text


def written_header(kind, shape, fortran):
  text = repr({'descr': kind, 'fortran_order': fortran, 'shape': shape})
  return npy_header(text.encode().ljust(117) + b'\n')


def test_npy(data_file):
  content, size = data_file.read_bytes(), data_file.stat().st_size
  header = content[:128]
  headers = st.one_of(
      st.just(header), mutated(header, 12), st.binary(max_size=300),
      st.binary(max_size=200).map(npy_header),
      st.builds(written_header, KINDS, SHAPES, st.booleans()))
  tails = st.one_of(st.just(content[-64:]), mutated(content[-64:], 64))
  lengths = st.one_of(st.just(size), st.integers(0, 300), st.integers(0, size + 100))
  outcomes = set()

  @fuzz
  @given(headers, tails, lengths)
  @example(header, content[-64:], size)
  @example(npy_header(b'-' * 9000 + b'1\n'), b'', size)  # deeper than Python's parser goes
  @example(npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}\n"), b'', size)
  @example(written_header('<f4', (2**62,), False), b'', size)
  @example(written_header('<f4', (2**62, 299, 299, 3), False), b'', size)
  @example(written_header((), (2,), False), b'', size)
  @example(npy_header(b'('), b'', size)
  def check(head, tail, length):
    with open(data_file, 'r+b') as file:
      file.truncate(0)  # the images are a hole
      file.write(head)
      file.seek(size - 64)
      file.write(tail)
      file.truncate(length)
    data = outcome_of(flower_data.load_processed_data, data_file, outcomes)
    if data is not None:
      assert data.labels == ['daisy', 'rose'] and data.files == ['rose/a.jpg', 'daisy/b.jpg']
      assert data.training_images.shape == data.testing_images.shape == (1, 299, 299, 3)
      assert len(data.validation_images) == 0
      assert data.training_labels.tolist() == [1] and data.testing_labels.tolist() == [0]

  check()
  data_file.write_bytes(content)
  assert outcomes == {'read', 'refused'}


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=8)


def test_json(data_file, tmp_path):
  path = tmp_path / 'names.json'
  valid = data_file.with_suffix('.json').read_bytes()
  names = json.loads(valid)
  counts = st.dictionaries(st.sampled_from([*flower_data.SPLITS, 'other']),
                           st.one_of(st.integers(-1, 3), VALUES), max_size=4)
  like = {'labels': st.lists(st.text(max_size=5), max_size=4), 'counts': counts,
          'files': st.lists(st.text(max_size=5), max_size=4), 'photos': st.text(max_size=4),
          'classes': st.lists(st.integers(-1, 2**70), max_size=3)}
  like = st.fixed_dictionaries({}, optional={
      key: st.one_of(st.just(names[key]), value, VALUES) for key, value in like.items()})

  def encoded(value, encoding):
    return json.dumps(value, ensure_ascii=False).encode(encoding, 'ignore')
  contents = st.one_of(
      st.binary(max_size=100), mutated(valid, 40), st.builds(encoded, VALUES, st.just('utf-8')),
      st.builds(encoded, like, st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])))
  outcomes = set()

  @fuzz
  @given(contents)
  @example(valid)
  @example(b'[' * 100_000)
  @example(b'{"a":' * 100_000)
  @example(b'{"labels": %s}' % (b'9' * 5000))
  def check(content):
    path.write_bytes(content)
    value = outcome_of(files.read_json, path, set())
    assert value is None or isinstance(value, dict)
    found = outcome_of(flower_data.read_names, path, outcomes)
    if found is not None:
      assert value is not None and len(set(found['labels'])) == len(found['labels']) >= 2
      assert all(isinstance(name, str) and name for name in found['labels'] + found['files'])
      assert len(found['files']) == len(found['classes']) == sum(found['counts'].values())
      assert all(0 <= label < len(found['labels']) for label in found['classes'])

  check()
  assert outcomes == {'read', 'refused'}


# -- Pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
def test_pictures(kind, tmp_path):
  path = tmp_path / 'picture.jpg'
  buffer = io.BytesIO()
  Image.open(io.BytesIO(spoiling.picture('PNG'))).convert('RGB').save(buffer, kind)
  valid = buffer.getvalue()
  outcomes = set()
  with photo.PhotoDecoder() as decoder:

    @fuzz
    @given(mutated(valid, min(60, len(valid))))
    @example(valid)
    def check(content):
      path.write_bytes(content)
      found = outcome_of(digit.read_digit, path, outcomes)
      if found is not None:
        assert found.image.shape == (28, 28) and 0 <= found.image.min() <= found.image.max() <= 1
      image = decoder.read(str(path))
      if image.problem is None:
        assert image.image.shape == (299, 299, 3) and image.image.dtype == np.float32
        assert 0 <= image.image.min() <= image.image.max() <= 1
      else:
        assert len(image.problem.splitlines()) == 1

    check()
  assert outcomes == {'read', 'refused'}


# -- Checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', checkpoints.SUFFIXES[:2])
def test_checkpoints(suffix, tmp_path):
  path = tmp_path / 'some.ckpt'
  spoiling.write_checkpoint(path, a__weight=np.ones([3, 4], np.float32), b=np.arange(5))
  file = tmp_path / f'some.ckpt{suffix}'
  valid = file.read_bytes()
  outcomes = set()
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = {'a/weight': tf.get_variable('a/weight', [3, 4]),
                 'b': tf.get_variable('b', [5], tf.int64)}
    saver = tf.train.Saver(variables)

    @fuzz
    @given(st.one_of(mutated(valid, min(60, len(valid))), st.binary(max_size=60)))
    @example(valid)
    def check(content):
      file.write_bytes(content)
      outcome_of(lambda path: checkpoints.restore_checkpoint(sess, saver, variables, path), path,
                 outcomes)
      if 'refused' not in outcomes:
        assert sess.run(variables['b']).tolist() == [0, 1, 2, 3, 4]

    check()
  assert outcomes == {'read', 'refused'}
