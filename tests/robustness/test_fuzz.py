"""Arbitrary and mutated files meet the readers of IDX, pictures and checkpoints.

They return what they promise or raise what they document, whatever the bytes.
FUZZ_EXAMPLES=10000 in the environment makes a long run of it; the default is the same short one
each time.
"""
import gzip
import io
import os
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
from flowers import photo
from support import checkpoints
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
      assert result.dtype == np.uint8 and result.ndim == 3
    elif result is not None:
      assert result.dtype == np.int64 and result.ndim == 1

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
        assert image.image.shape == (299, 299, 3) and image.image.dtype == np.uint8
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
      outcome_of(lambda path: checkpoints.restore(sess, saver, variables, path), path,
                 outcomes)
      if 'refused' not in outcomes:
        assert sess.run(variables['b']).tolist() == [0, 1, 2, 3, 4]

    check()
  assert outcomes == {'read', 'refused'}
