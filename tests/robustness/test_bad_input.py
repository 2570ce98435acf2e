"""Wrong flags and bad files, one of each kind: one line that names them, and nothing is left.

Status 2 is wrong usage, 1 a failure of a file. The last tests are about files made to do harm.
"""
import gzip
import io
import json
import os
import pickle

import made_data
import numpy as np
import pytest
import running
import spoiling
from spoiling import flip_a_byte, write_checkpoint

import flower_finetune
import mnist_eval
import mnist_input
from flowers import backbone, data_file
from support import console
from support.console import UserError
from support.quiet_tensorflow import tf

POSIX = pytest.mark.skipif(os.name != 'posix', reason='files as POSIX has them')


def one_line(caught):
  """Return the text of a caught UserError or OSError, which must be one line without escapes."""
  text = console.describe(caught.value)
  assert len(text.splitlines()) == 1, text
  return text


# -- Flags -------------------------------------------------------------------------------


@pytest.mark.parametrize(('script', 'args', 'texts'), [
    ('mnist_train', ['--batch_size=0'], ['--batch_size', '0', 'Images in a training step']),
    ('mnist_train', ['--batch_size=many'], ['--batch_size', 'many', 'give a positive integer']),
    ('mnist_train', ['--batch_size'], ['batch_size']),
    ('mnist_train', ['--batch_size=10', '20'], ["'20'", '--name=value']),
    ('mnist_train', ['--nodropout=true'], ['--nodropout=true']),
    ('mnist_train', ['--learning_rate=0.1'], ['learning_rate', '--help']),
    ('mnist_train', ['--data_dir='], ['--data_dir']),
    ('mnist_train', ['--flagfile=missing'], ['missing']),
    ('mnist_eval', ['--split=train'], ['--split', 'train', 'validation']),
    ('mnist_eval', ['--run_once=perhaps'], ['--run_once', 'perhaps']),
    ('mnist_predict', [], ['IMAGE']),
    ('mnist_predict', ['--model_dir=gs://bucket', 'a'], ['--model_dir=gs://bucket', 'local']),
    ('flower_preprocess', ['--validation_percentage=60', '--testing_percentage=50'],
     ['--validation_percentage=60', '--testing_percentage=50']),
    ('flower_preprocess', ['--output_file=out.npz'], ['--output_file=out.npz', '.npy']),
    ('flower_finetune', ['--ckpt_file=ram://x'], ['--ckpt_file=ram://x', 'local']),
    ('flower_predict', ['--top_k=1'], ['PHOTO'])], ids=str)
def test_wrong_flags(script, args, texts, tmp_path):
  result = running.run_script(script + '.py', *args, cwd=tmp_path, env=spoiling.NO_NETWORK)
  line = spoiling.one_line(result, status=2)
  assert all(text in line for text in texts), line
  assert os.listdir(tmp_path) == []


def test_flags_that_fit_no_data(digits_dir, photos_file, tmp_path):
  result = running.run_script('mnist_train.py', f'--data_dir={digits_dir}', '--batch_size=201',
                              '--validation_size=50', f'--model_dir={tmp_path / "m"}')
  assert '--batch_size=201 exceeds the 200 training' in spoiling.one_line(result, status=2)
  with tf.Graph().as_default():
    tf.get_variable('InceptionV3/Logits/weights', [2])
    for get, flag in ((flower_finetune.get_trainable_variables, '--trainable_scopes'),
                      (flower_finetune.get_tuned_variables, '--checkpoint_exclude_scopes')):
      with pytest.raises(UserError, match=f"{flag}: 'Incept_7'") as caught:
        get('Incept_7')
      assert caught.value.status == 2
    with pytest.raises(UserError, match='--trainable_scopes is empty'):
      flower_finetune.get_trainable_variables(' , ')


def test_nothing_to_evaluate_on(digits_dir, tmp_path):
  digits = mnist_input.read_data_sets(digits_dir, one_hot=True, validation_size=0)
  with pytest.raises(UserError, match='--validation_size=0'):
    mnist_eval.evaluate(digits, mnist_eval.FLAGS.options(model_dir=tmp_path, run_once=True))


# -- MNIST files -------------------------------------------------------------------------

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist_input.SHA256


def inside(change):
  """A change of what a gzip file holds."""
  return lambda packed: gzip.compress(change(gzip.decompress(packed)), 1, mtime=0)


def replaced(content):
  return lambda packed: gzip.compress(content, 1, mtime=0)


IDX_CASES = {
    'missing': (TEST_LABELS, None, ['missing', '--data_dir']),
    'empty': (TRAIN_LABELS, lambda old: b'', ['not an IDX file']),
    'text': (TRAIN_IMAGES, lambda old: b'<html>404</html>\n', ['3c 68 74 6d', 'not an IDX file']),
    'cut gzip': (TRAIN_IMAGES, lambda old: old[:1000], ['cut short']),
    'wrong byte': (TEST_IMAGES, lambda old: old[:-900] + bytes([old[-900] ^ 255]) + old[-899:],
                   ['damaged']),
    'gzipped twice': (TEST_LABELS, lambda old: gzip.compress(old), ['gzipped twice: unpack it']),
    'cut content': (TEST_IMAGES, inside(lambda old: old[:-10]), ['3920', '3910', 'cut short']),
    'cut in its header': (TEST_IMAGES, inside(lambda old: old[:7]), ['7', '16', 'cut short']),
    'too long': (TRAIN_LABELS, lambda old: old + old, ['too long', '40']),
    'labels for images': (TRAIN_IMAGES, replaced(made_data.idx_labels(np.zeros(40, 'u1'))),
                          ['[40]', 'not an IDX file of images']),
    'other test labels': (TEST_LABELS, inside(lambda old: old[:-1] + b'\n'), ['test label 10']),
    'one label': (TRAIN_LABELS, replaced(made_data.idx_labels(np.zeros(40, 'u1'))),
                  ['1 different training labels', '2 to 1000']),
    'fewer labels': (TEST_LABELS, replaced(made_data.idx_labels(np.zeros(4, 'u1'))),
                     [TEST_IMAGES, '5 images', '4 labels']),
    'few for validation': (TRAIN_IMAGES, bytes, ['40 training examples', '--validation_size=5000']),
}


@pytest.mark.parametrize(('name', 'change', 'texts'), IDX_CASES.values(), ids=IDX_CASES)
def test_bad_mnist_files(name, change, texts, tmp_path):
  path = made_data.write_mnist(tmp_path / 'data', train=40, test=5) / name
  content = change and change(path.read_bytes())
  path.unlink()
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError) as caught:
    mnist_input.read_data_sets(str(tmp_path / 'data'))
  line = one_line(caught)
  assert str(tmp_path / 'data') in line
  assert all(text in line for text in texts), line


def test_folders_that_are_not_it(digits_dir, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='--data_dir=.*file is not a folder'):
    mnist_input.read_data_sets(str(tmp_path / 'file'))
  result = running.run_script('mnist_train.py', f'--data_dir={digits_dir}', '--validation_size=50',
                              f'--model_dir={tmp_path / "file" / "model"}')
  assert 'Not a directory' in spoiling.one_line(result)
  made_data.write_mnist(tmp_path / 'data', train=40, test=5)
  (tmp_path / 'data' / TRAIN_IMAGES).write_bytes(gzip.compress(
      made_data.idx_images(np.zeros([40, 32, 30], 'u1'))))
  result = running.run_script('mnist_train.py', f'--data_dir={tmp_path / "data"}',
                              '--validation_size=5', f'--model_dir={tmp_path / "model"}')
  assert 'images have 960 pixels: scale them to 28x28' in spoiling.one_line(result)


# -- Photos and their data file ----------------------------------------------------------


@POSIX
def test_odd_class_names_work(tmp_path):
  classes = ['new\nline', 'two words', "quote's", '玫瑰', '[a]*', os.fsdecode(b'caf\xe9')]
  made_data.write_photos(tmp_path / 'photos', classes, count=2)
  result = running.run_script('flower_preprocess.py', '--input_dir=photos', '--output_file=o*.npy',
                              cwd=tmp_path)
  assert (result.returncode, result.stderr) == (0, '')
  assert {'new\\nline: 2 photos', '玫瑰: 2 photos'} <= set(result.stdout.splitlines())
  data = data_file.load_processed_data(str(tmp_path / 'o*.npy'))
  assert data.labels == sorted(classes) and len(data.files) == 12


# -- Checkpoints to fine-tune ------------------------------------------------------------


def other_network(path):
  write_checkpoint(path, other__weight=np.zeros([3, 4], np.float32))


GARBAGE = np.random.RandomState(0).bytes(500)

BAD_CHECKPOINTS = {
    'missing': lambda path: None,
    'empty': lambda path: path.touch(),
    'text': lambda path: path.write_text('not a checkpoint\n'),
    'empty folder': lambda path: path.mkdir(),
    'index empty': lambda path: path.with_name('some.ckpt.index').touch(),
    'index of bytes': lambda path: path.with_name('some.ckpt.index').write_bytes(GARBAGE),
}


@pytest.mark.parametrize('write', BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_bad_pre_trained_checkpoints(write, tmp_path):
  write(tmp_path / 'some.ckpt')
  with pytest.raises(UserError, match=r'--ckpt_file=.*some\.ckpt.*[:,] give') as caught:
    backbone.get_checkpoint(str(tmp_path / 'some.ckpt'), [], 'flower.ckpt')
  one_line(caught)


@pytest.mark.parametrize(('shape', 'name', 'text'), [
    ([4, 4], 'other/weight', r'has shape \[3, 4\], expected \[4, 4\]'),
    ([3, 4], 'another/weight', 'none of the 1 variables')])
def test_pre_trained_checkpoints_of_other_networks(shape, name, text, tmp_path):
  other_network(tmp_path / 'some.ckpt')
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = [tf.get_variable(name, shape)]
    with pytest.raises(UserError, match=f"some.ckpt.* {text}") as caught:
      backbone.load_tuned_variables(sess, str(tmp_path / 'some.ckpt'), variables)
  one_line(caught)


@pytest.mark.parametrize(('value', 'text'), [(0, 'is damaged'), (np.nan, 'not finite')])
def test_a_pre_trained_checkpoint_with_a_wrong_byte_or_number(value, text, tmp_path):
  write_checkpoint(tmp_path / 'some.ckpt', other__weight=np.full([3, 4], value, np.float32))
  if not value:
    flip_a_byte(tmp_path / 'some.ckpt.data-00000-of-00001')
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = [tf.get_variable('other/weight', [3, 4])]
    with pytest.raises(UserError, match=f'some.ckpt .*{text}'):
      backbone.load_tuned_variables(sess, str(tmp_path / 'some.ckpt'), variables)


# -- Files made to do harm ---------------------------------------------------------------


class Harm:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return open, (str(self._path), 'w')


def saved(save, array):
  buffer = io.BytesIO()
  save(buffer, array)
  return buffer.getvalue()


NAMES = {'labels': ['a', 'b'], 'files': ['a/1', 'b/2'], 'classes': [0, 1], 'rows': '',
         'counts': {'training': 2, 'validation': 0, 'testing': 0}}
NAMES['digest'] = data_file._digest(NAMES)


@pytest.mark.parametrize('pack', [
    pickle.dumps, lambda harm: saved(np.save, np.array([harm], object)),
    lambda harm: saved(np.savez, np.array([harm], object))], ids=['pickle', 'npy', 'npz'])
def test_data_files_are_never_unpickled(pack, tmp_path):
  path, harm = tmp_path / 'data.npy', tmp_path / 'harm'
  path.write_bytes(pack(Harm(harm)))
  path.with_suffix('.json').write_text(json.dumps(NAMES))
  with pytest.raises(UserError, match=r'data\.npy does not hold'):
    data_file.load_processed_data(str(path))
  assert not harm.exists()
  loaded = np.load(path, allow_pickle=True)  # what a careless reader would do
  if isinstance(loaded, np.lib.npyio.NpzFile):
    loaded['arr_0']
  assert harm.exists()
