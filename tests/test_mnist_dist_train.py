"""mnist_dist_train.py: the arithmetic and the files of mnist_train.py, from several processes."""
import re

import clusters
import numpy as np
import psutil
import pytest
import running
from lenet_in_numpy import VARIABLES

import mnist_train
from support import cluster, replicas
from support.quiet_tensorflow import tf

SCRIPT = 'mnist_dist_train.py'
FLAGS = ('--batch_size=12', '--training_steps=8', '--save_interval_steps=3')


def read_tensors(path):
  reader = tf.train.load_checkpoint(str(path))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def printed_steps(lines):
  return [int(step) for step in re.findall(
      r'After (\d+) training step\(s\), loss on training batch is [\d.]+\.', '\n'.join(lines))]


@pytest.fixture(scope='module')
def single_dir(mnist_dir, tmp_path_factory):
  """The checkpoints of mnist_train.py with FLAGS and no dropout."""
  model_dir = tmp_path_factory.mktemp('single')
  result = running.run_script('mnist_train.py', *FLAGS, '--nodropout', '--data_dir', mnist_dir,
                              '--model_dir', model_dir)
  assert result.returncode == 0
  return model_dir


@pytest.mark.parametrize('mode, ps, workers', [('--sync', 1, 2), ('--sync', 2, 3),
                                               ('--nosync', 2, 1)])
def test_steps_equal_those_of_one_process(mode, ps, workers, single_dir, mnist_dir, tmp_path):
  """Shares of a batch, averaged, are the batch; so is each of one asynchronous worker."""
  with clusters.Cluster(SCRIPT, *FLAGS, f'--data_dir={mnist_dir}', f'--model_dir={tmp_path}',
                        '--nodropout', mode, ps=ps, workers=workers) as started:
    assert started.end() == [0] * (ps + workers)
    assert printed_steps(started.workers[0].lines) == [1, 4, 7, 8]
  for step in (1, 4, 7, 8):
    found, expected = (read_tensors(folder / f'mnist.ckpt-{step}')
                       for folder in (tmp_path, single_dir))
    assert set(found) == set(expected)
    for name, value in expected.items():  # the weights, their moving averages, the step
      np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('mode', ['--sync', '--nosync'])
def test_goes_on_and_is_evaluated_like_one_process(mode, mnist_dir, tmp_path):
  places = f'--data_dir={mnist_dir}', f'--model_dir={tmp_path}'
  for steps, printed in ((5, [1, 4, 5]), (8, [7, 8]), (8, [])):
    with clusters.Cluster(SCRIPT, *FLAGS, *places, mode, f'--training_steps={steps}') as started:
      assert started.end() == [0, 0, 0]
      chief = started.workers[0]
      assert printed_steps(chief.lines) == printed
      assert [process.errors for process in started.processes] == [[], [], []]
  assert chief.lines[-2:] == [
      f'Going on from {tmp_path}/mnist.ckpt-8, after 8 training step(s).',
      'Nothing to do: 8 of 8 training step(s) are done; give more with --training_steps.']
  result = running.run_script('mnist_eval.py', *places, '--run_once')
  assert result.returncode == 0 and 'After 8 training step(s), validation' in result.stdout
  # mnist_train.py itself goes on from there.
  result = running.run_script('mnist_train.py', *places, '--batch_size=12', '--training_steps=9')
  assert (result.returncode, result.stderr) == (0, '')
  assert f'Going on from {tmp_path}/mnist.ckpt-8, after 8 training step(s).' in result.stdout


def test_one_command_starts_a_cluster_and_leaves_no_process(mnist_dir, tmp_path):
  launcher = clusters.Started(SCRIPT, [
      *FLAGS, '--local_workers=2', '--local_ps=2', f'--data_dir={mnist_dir}',
      f'--model_dir={tmp_path}'])
  try:
    assert launcher.end() == 0
    assert launcher.errors == []
    names = {re.match(r'\[(ps|worker) \d\] ', line)[0] for line in launcher.lines}
    assert names == {'[ps 0] ', '[ps 1] ', '[worker 0] ', '[worker 1] '}
    assert printed_steps(launcher.lines) == [1, 4, 7, 8]
    assert not [process for process in psutil.process_iter(['cmdline'])
                if f'--model_dir={tmp_path}' in (process.info['cmdline'] or ())]
  finally:
    launcher.kill()


def test_variables_are_spread_by_size():
  task = cluster.Task('worker', 0, ['127.0.0.1:1', '127.0.0.1:2'], ['127.0.0.1:3'])
  with tf.Graph().as_default(), tf.device(cluster.device_setter(task)):
    mnist_train.build_model(tf.placeholder(tf.float32, [None, 28, 28, 1]),
                            tf.placeholder(tf.float32, [None, 10]), 200, mnist_train.FLAGS.options())
    devices = {variable.op.name: variable.device for variable in tf.global_variables()}
    averaging = [op.device for op in tf.get_default_graph().get_operations()
                 if '/AssignMovingAvg' in op.name and op.type in ('Mul', 'AssignSub')]
  alone = devices.pop('layer5-fc1/weight')  # nineteen of twenty bytes
  assert devices.pop('layer5-fc1/weight/ExponentialMovingAverage') == alone
  others = [device for name, device in devices.items() if name.startswith(('layer5-fc1/bias',
                                                                           'layer6'))]
  assert len(others) == 8 // 2 + 2 and alone not in others
  assert set(averaging) == {'/job:ps/task:0', '/job:ps/task:1'}  # nothing travels for them
  assert {name for name in devices if 'Exponential' not in name} < {*VARIABLES, 'global_step'}


def test_saved_steps_are_the_books():
  steps, saved = 0, []
  while steps < 2500:
    steps = replicas.next_saved_step(steps, 1000, 2500)
    saved.append(steps)
  assert saved == [1, 1001, 2001, 2500]
  assert replicas.next_saved_step(999, 1000, 2500) == 1001
