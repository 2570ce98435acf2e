"""Nothing slower is imported than is needed, and what is left out of an import comes when asked."""
import subprocess
import sys

import pytest
import running

ALL = ('PIL', 'keras', 'scipy.ndimage', 'tf_slim', 'tensorboard')


def run_python(program):
  """Run a program in a new process; return what it prints."""
  result = subprocess.run([sys.executable, '-c', program], cwd=running.ROOT, text=True,
                          capture_output=True, timeout=120)
  assert (result.returncode, result.stderr) == (0, '')
  return result.stdout.split()


@pytest.mark.parametrize(('scripts', 'needed'), [
    ('mnist_train, mnist_eval, mnist_export, mnist_dist_train', []),
    ('mnist_predict', ['PIL', 'scipy.ndimage']),
    ('flower_preprocess', ['PIL']),
])
def test_a_script_imports_only_what_it_uses(scripts, needed):
  assert run_python(f'import sys, {scripts}; print(*(n for n in {ALL} if n in sys.modules))'
                    ) == needed


def test_networks_of_slim_import_no_keras():
  assert run_python("import sys, flower_inference; print('keras' in sys.modules)") == ['False']


def test_keras_comes_when_it_is_asked_for():
  """As in a notebook that goes on with tf.keras after a script of the suite."""
  assert run_python(
      'import mnist_inference, tensorflow as tf\n'
      'from tensorflow.keras import layers\n'
      'print(layers.Dense is tf.keras.layers.Dense, tf.keras.optimizers.SGD.__name__)'
  ) == ['True', 'SGD']
