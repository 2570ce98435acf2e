"""mnist_export.py: what TensorFlow's own clients make of its SavedModel, without the suite."""
import os
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import running

import mnist_export
import mnist_predict
from support import console
from support.quiet_tensorflow import tf

SAVED_MODEL_CLI = shutil.which('saved_model_cli', path=sysconfig.get_path('scripts'))

# Answers with tf.saved_model.load, and after conversion to TensorFlow Lite.
CLIENT = '''
import importlib.util, sys, warnings
import numpy as np
import tensorflow as tf

assert importlib.util.find_spec('mnist_inference') is None, 'the suite is on the path'
saved_model_dir, images_path, answers_path = sys.argv[1:]
images = np.load(images_path)
model = tf.saved_model.load(saved_model_dir)
serve = model.signatures['serving_default']
lite = tf.lite.TFLiteConverter.from_saved_model(saved_model_dir).convert()
with warnings.catch_warnings():
  warnings.simplefilter('ignore')  # that this interpreter will go into a package of its own
  interpreter = tf.lite.Interpreter(model_content=lite)
runner = interpreter.get_signature_runner('serving_default')
answers = {}
for name, run in ('loaded', lambda x: serve(tf.constant(x))), ('lite', lambda x: runner(images=x)):
  batch, singly = run(images), [run(image[None]) for image in images]
  for key in batch:
    answers[f'{name}_{key}'] = np.array(batch[key])
    answers[f'{name}_{key}_singly'] = np.concatenate([answer[key] for answer in singly])
np.savez(answers_path, **answers)
'''


def call(*command, cwd):
  """Run a program outside the suite; return its standard output."""
  result = subprocess.run([os.fspath(part) for part in command], cwd=cwd, text=True,
                          capture_output=True, timeout=120)
  assert result.returncode == 0, result.stderr
  return result.stdout


@pytest.fixture(scope='module')
def exported(trained_dir, tmp_path_factory):
  """A folder with the SavedModel 1 of trained_dir's newest checkpoint."""
  export_dir = tmp_path_factory.mktemp('clients') / 'exports'
  result = running.run_script('mnist_export.py', '--model_dir', trained_dir,
                              '--export_dir', export_dir)
  assert (result.returncode, result.stderr) == (0, '')
  assert result.stdout.splitlines()[-1] == (
      f'Exported {trained_dir / "mnist.ckpt-61"} to {export_dir / "1"}')
  assert sorted(os.listdir(export_dir)) == ['.export.lock', '1']
  return export_dir


@pytest.fixture(scope='module')
def images(mnist):
  return mnist.test.images[:7].reshape(-1, 28, 28, 1)


@pytest.fixture(scope='module')
def expected(images, trained_dir):
  """The probabilities of the images by prediction: float64 [n, 10]."""
  with mnist_predict.open_model(str(trained_dir)) as (_, predict):
    return predict(images[..., 0])


def load_and_run(saved_model_dir, images):
  """Return the probabilities of images by a SavedModel, loaded in this process."""
  with tf.Graph().as_default(), tf.Session() as sess:
    signature = tf.saved_model.load(
        sess, [tf.saved_model.SERVING], str(saved_model_dir)).signature_def['serving_default']
    return sess.run(signature.outputs['probabilities'].name,
                    {signature.inputs['images'].name: images})


# -- Clients -----------------------------------------------------------------------------


def test_images_of_another_shape_fail_and_none_have_no_answer(exported, tmp_path):
  result = subprocess.run([sys.executable, '-c', f"""
import tensorflow as tf
serve = tf.saved_model.load({str(exported / '1')!r}).signatures['serving_default']
for shape in ([1, 784], [1, 28, 28, 3], [2, 28, 27, 1]):
  try:
    serve(images=tf.zeros(shape))
  except (tf.errors.InvalidArgumentError, TypeError, ValueError):
    print(shape)
print(*(value.shape for _, value in sorted(serve(images=tf.zeros([0, 28, 28, 1])).items())))
"""], capture_output=True, text=True, timeout=120, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  *refused, empty = result.stdout.splitlines()
  assert len(refused) == 3 and empty == '(0,) (0, 10)'


def test_saved_model_cli(exported, images, expected, tmp_path):
  lines = [line.strip() for line in call(
      SAVED_MODEL_CLI, 'show', '--dir', exported / '1', '--tag_set', 'serve',
      '--signature_def', 'serving_default', cwd=tmp_path).splitlines()]
  assert [line for line in lines if line.startswith(('inputs', 'outputs', 'dtype', 'shape'))] == [
      "inputs['images'] tensor_info:", 'dtype: DT_FLOAT', 'shape: (-1, 28, 28, 1)',
      "outputs['classes'] tensor_info:", 'dtype: DT_INT64', 'shape: (-1)',
      "outputs['probabilities'] tensor_info:", 'dtype: DT_FLOAT', 'shape: (-1, 10)']

  np.save(tmp_path / 'images.npy', images)
  call(SAVED_MODEL_CLI, 'run', '--dir', exported / '1', '--tag_set', 'serve', '--signature_def',
       'serving_default', '--inputs', 'images=images.npy', '--outdir', tmp_path, cwd=tmp_path)
  np.testing.assert_array_equal(np.load(tmp_path / 'classes.npy'), expected.argmax(1))
  np.testing.assert_allclose(np.load(tmp_path / 'probabilities.npy'), expected, atol=1e-5)


def test_a_process_without_the_suite_and_tensorflow_lite(exported, images, expected, tmp_path):
  np.save(tmp_path / 'images.npy', images)
  call(sys.executable, '-I', '-c', CLIENT, exported / '1', 'images.npy', 'answers.npz',
       cwd=tmp_path)
  with np.load(tmp_path / 'answers.npz') as answers:
    assert len(answers) == 8
    for name, values in answers.items():
      if 'classes' in name:
        assert values.dtype == np.int64
        np.testing.assert_array_equal(values, expected.argmax(1), name)
      else:
        np.testing.assert_allclose(values, expected, atol=1e-5, err_msg=name)


# -- Folders -----------------------------------------------------------------------------


def export(model_dir, export_dir):
  return mnist_export.export(mnist_export.FLAGS.options(model_dir=model_dir, export_dir=export_dir))


def test_numbers_go_on_after_the_largest_and_what_a_kill_left_is_removed(
    trained_dir, tmp_path, images, expected):
  for name in ('7', '10', '0x20', 'notes', '.export.tmp'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'file').touch()
  checkpoint_path, path = export(trained_dir, tmp_path)
  assert (checkpoint_path, path) == (str(trained_dir / 'mnist.ckpt-61'), str(tmp_path / '11'))
  np.testing.assert_allclose(load_and_run(path, images), expected, atol=1e-5)
  assert sorted(os.listdir(tmp_path)) == ['.export.lock', '0x20', '10', '11', '7', 'notes']


def test_without_a_checkpoint(tmp_path):
  result = running.run_script('mnist_export.py', '--model_dir', tmp_path / 'none',
                              '--export_dir', tmp_path / 'exports')
  assert (result.returncode, result.stdout) == (1, '')
  assert result.stderr == (
      f'mnist_export.py: error: --model_dir={tmp_path / "none"} holds no checkpoint '
      'mnist.ckpt-STEP: train first, or name the folder of the training\n')
  assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_the_folder(trained_dir, tmp_path):
  path = tmp_path / 'file'
  path.write_text('mine')
  with pytest.raises(console.UserError, match=r'cannot be made or written \(File exists\): '):
    export(trained_dir, path)
  assert path.read_text() == 'mine'


def test_a_full_disk_leaves_what_was_there(trained_dir, tmp_path):
  resource = pytest.importorskip('resource')  # not on Windows
  (tmp_path / '1').mkdir()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # bytes a file
  try:
    with pytest.raises(console.UserError, match=r'cannot be made or written \(File too large\): '):
      export(trained_dir, tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert sorted(os.listdir(tmp_path)) == ['.export.lock', '1']
