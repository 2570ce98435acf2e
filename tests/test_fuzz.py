"""Arbitrary and mutated files meet the three readers: IDX, .npy and JSON.

They return what they promise or raise what they document, whatever the bytes.
FUZZ_EXAMPLES=10000 in the environment makes a long run of it; the default is the same
short one each time.
"""
import gzip
import json
import os
import struct
import warnings

import script_support

import numpy as np
import pytest
import support
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import flower_preprocess
import mnist_input

fuzz = settings(max_examples=int(os.environ.get('FUZZ_EXAMPLES', 100)), deadline=None, database=None,
                derandomize='FUZZ_EXAMPLES' not in os.environ, suppress_health_check=list(HealthCheck))

RANDOM = np.random.RandomState(0)
IMAGES = support.idx_images(RANDOM.randint(0, 256, (3, 28, 28)).astype(np.uint8))
LABELS = support.idx_labels(np.arange(10, dtype=np.uint8))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fuzz')


def mutated(content, head):
  """A strategy of the content with some bytes changed, mostly among the first head, then cut, or more added."""
  places = st.one_of(st.integers(0, head - 1), st.integers(0, len(content) - 1))

  def mutate(changes, length, tail):
    result = bytearray(content)
    for place, byte in changes:
      result[place] = byte
    return bytes(result[:length]) + tail
  return st.builds(mutate, st.lists(st.tuples(places, st.integers(0, 255)), max_size=4),
                   st.one_of(st.just(len(content)), st.integers(0, head), st.integers(0, len(content))),
                   st.one_of(st.just(b''), st.binary(max_size=20)))


# -- IDX ---------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize(('read', 'valid', 'head'), [
    (mnist_input.read_images, IMAGES, 16), (mnist_input.read_labels, LABELS, 8)], ids=['images', 'labels'])
def test_idx(folder, suffix, read, valid, head):
  path = folder / f'file{suffix}'
  files = st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(lambda tail: valid[:4] + tail),
                    mutated(valid, head))
  if suffix:
    packed = gzip.compress(valid, mtime=0)
    files = st.one_of(files, files.map(lambda content: gzip.compress(content, 1, mtime=0)), mutated(packed, 10))
  outcomes = set()

  @fuzz
  @given(files)
  @example(gzip.compress(valid) if suffix else valid)
  def check(content):
    path.write_bytes(content)
    try:
      result = read(str(path))
    except OSError as error:  # DataError is one; nothing else may come
      outcomes.add('refused')
      assert path.name in str(error)
      return
    outcomes.add('read')
    if read is mnist_input.read_images:
      assert result.dtype == np.float32 and result.shape == (len(result), 784)
    else:
      assert result.dtype == np.int64 and result.ndim == 1
    if len(result):
      assert 0 <= result.min() <= result.max() <= (1 if read is mnist_input.read_images else 9)

  check()
  assert outcomes == {'read', 'refused'}


# -- .npy --------------------------------------------------------------------------------


RECORDS = np.zeros(2, flower_preprocess.RECORD)
RECORDS['label'] = [1, 0]
RECORDS['split'] = ['training', 'testing']
NAMES = {'labels': ['daisy', 'rose'], 'files': ['rose/a.jpg', 'daisy/b.jpg'],
         'counts': {'training': 1, 'validation': 0, 'testing': 1}}

# Header values: anything that a Python literal may be, and what numpy expects there.
LITERALS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
                            st.dictionaries(st.text(max_size=3), inner, max_size=2)), max_leaves=6)
KINDS = st.one_of(st.sampled_from(['<f4', '<i8', '|O', '|b1', '<U10', '|V3', '<M8[s]', '<U0', '|V0']),
                  st.builds('{}{}{}'.format, st.sampled_from('<>|='), st.sampled_from('biufcmMOSUV'),
                            st.integers(0, 2**70)))
DESCRIPTIONS = st.one_of(
    st.just(RECORDS.dtype.descr), KINDS, LITERALS,
    st.lists(st.tuples(st.one_of(st.sampled_from(['image', 'label', 'split', '']), st.text(max_size=5)), KINDS),
             max_size=4),
    st.lists(st.tuples(st.sampled_from(['image', 'label', 'split']), KINDS,
                       st.lists(st.integers(-1, 2**64), max_size=3).map(tuple)), max_size=4))
SHAPES = st.one_of(st.lists(st.integers(-1, 3), max_size=4).map(tuple),
                   st.lists(st.integers(-2**70, 2**70), max_size=3).map(tuple), LITERALS)


def npy_header(text, version=b'\1\0'):
  length = struct.pack('<H' if version == b'\1\0' else '<I', len(text) & 0xffff)
  return b'\x93NUMPY' + version + length + text


def written_header(description, shape, fortran, version):
  text = repr({'descr': description, 'fortran_order': fortran, 'shape': shape}).encode('utf-8', 'replace')
  return npy_header(text.ljust(117) + b'\n', version)


def test_npy(folder):
  """Only headers, labels, splits and lengths vary; the images are holes in a sparse file."""
  (folder / 'names').mkdir()
  path = folder / 'names' / 'data.npy'
  path.with_suffix('.json').write_text(json.dumps(NAMES))
  with open(path, 'wb') as file:
    np.save(file, RECORDS)
  content, size = path.read_bytes(), path.stat().st_size
  header = content[:size - RECORDS.nbytes]
  tails = st.one_of(st.just(content[-48:]), mutated(content[-48:], 12))  # the last record's label and split
  headers = st.one_of(
      st.just(header), mutated(header, 12), st.binary(max_size=300), st.binary(max_size=200).map(npy_header),
      st.builds(written_header, DESCRIPTIONS, SHAPES, st.one_of(st.booleans(), LITERALS),
                st.sampled_from([b'\1\0', b'\2\0', b'\3\0', b'\4\0'])))
  lengths = st.one_of(st.just(size), st.integers(0, 300), st.integers(0, size + 100))
  outcomes = set()

  @fuzz
  @given(headers, tails, lengths)
  @example(header, content[-48:], size)
  @example(npy_header(b'-' * 9000 + b'1\n'), b'', size)  # deeper than Python's parser goes
  @example(npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}\n"), b'', size)  # Python 2
  @example(written_header(RECORDS.dtype.descr, (2**62,), False, b'\1\0'), b'', size)
  @example(written_header((), (2,), False, b'\1\0'), b'', size)
  @example(npy_header(b'('), b'', size)
  def check(head, tail, length):
    with open(path, 'wb') as file:
      file.write(head)
      if head == header:
        # The first record's label and split, then the mutated ones of the second.
        file.seek(size - RECORDS.itemsize - 48)
        file.write(content[size - RECORDS.itemsize - 48:size - RECORDS.itemsize])
        file.seek(size - 48)
        file.write(tail)
      file.truncate(length)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('error')  # a warning would be a second line on standard error
        data = flower_preprocess.load_processed_data(str(path))
    except (script_support.UserError, OSError) as error:
      outcomes.add('refused')
      assert path.name in str(error)
      return
    outcomes.add('read')
    assert data.labels == NAMES['labels'] and data.files == NAMES['files']
    assert data.training_images.shape == data.testing_images.shape == (1, 299, 299, 3)
    assert len(data.validation_images) == 0
    assert set(data.training_labels) | set(data.testing_labels) <= {0, 1}

  check()
  assert outcomes == {'read', 'refused'}


# -- JSON --------------------------------------------------------------------------------


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8)
NAME_LISTS = st.lists(st.text(max_size=5), max_size=4)
COUNTS = st.dictionaries(st.sampled_from([*flower_preprocess.SPLITS, 'other']),
                         st.one_of(st.integers(-1, 3), VALUES), max_size=4)
NAMES_LIKE = st.fixed_dictionaries({}, optional={
    'labels': st.one_of(st.just(NAMES['labels']), NAME_LISTS, VALUES),
    'files': st.one_of(st.just(NAMES['files']), NAME_LISTS, VALUES),
    'counts': st.one_of(st.just(NAMES['counts']), COUNTS, VALUES), 'seed': VALUES})
VALID = json.dumps(NAMES).encode()


def test_json(folder):
  path = folder / 'names.json'

  def encoded(value, encoding):
    return json.dumps(value, ensure_ascii=False).encode(encoding, 'ignore')
  files = st.one_of(
      st.binary(max_size=100), st.text(max_size=100).map(lambda text: text.encode('utf-8', 'ignore')),
      mutated(VALID, 40), VALUES.map(lambda value: json.dumps(value).encode()),
      st.builds(encoded, NAMES_LIKE, st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])))
  outcomes = set()

  def outcome(read):
    try:
      return read(str(path))
    except (script_support.UserError, OSError) as error:
      outcomes.add('refused')
      assert path.name in str(error)
      return None

  @fuzz
  @given(files)
  @example(VALID)
  @example(b'[' * 100_000)
  @example(b'{"a":' * 100_000)
  @example(b'{"labels": %s}' % (b'9' * 5000))
  @example(b'{"labels": ["\\ud800", "b"], "files": [], "counts": {"training": 0, "validation": 0, "testing": -0}}')
  def check(content):
    path.write_bytes(content)
    value = outcome(script_support.read_json)
    assert value is None or isinstance(value, dict)
    names = outcome(flower_preprocess.read_names)
    if names is not None:
      outcomes.add('read')
      labels, files, counts = names
      assert value is not None and len(labels) == len(set(labels)) >= 2
      assert all(isinstance(name, str) and name for name in [*labels, *files])
      assert sorted(counts) == sorted(flower_preprocess.SPLITS) and sum(counts.values()) == len(files)
      assert min(counts.values()) >= 0

  check()
  assert outcomes == {'read', 'refused'}
