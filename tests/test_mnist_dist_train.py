"""mnist_dist_train.py: the arithmetic and the files of mnist_train.py, from several processes."""
import re
from types import SimpleNamespace

import clusters
import numpy as np
import psutil
import pytest
import running
from lenet_in_numpy import VARIABLES

import mnist_train
from support import clusters as support_clusters
from support.console import StopSignals
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
  for steps, expected in ((5, [1, 4, 5]), (8, [7, 8])):
    with clusters.Cluster(SCRIPT, *FLAGS, *places, mode, f'--training_steps={steps}') as started:
      assert started.end() == [0, 0, 0]
      printed = printed_steps(started.workers[0].lines)
      assert printed == expected if mode == '--sync' else printed[-1] in (steps, steps + 1)
      assert [process.errors for process in started.processes] == [[], [], []]
  last = printed[-1]
  result = running.run_script('mnist_eval.py', *places, '--run_once')
  assert result.returncode == 0 and f'After {last} training step(s), validation' in result.stdout
  # mnist_train.py itself goes on from there.
  result = running.run_script('mnist_train.py', *places, '--batch_size=12', '--training_steps=10')
  assert (result.returncode, result.stderr) == (0, '')
  assert f'Going on from {tmp_path}/mnist.ckpt-{last}, after {last} training step(s).' in (
      result.stdout)


def test_one_command_starts_a_cluster_and_leaves_no_process(mnist_dir, tmp_path):
  with clusters.Started(
      SCRIPT, *FLAGS, '--local_workers=2', '--local_ps=2', '--sync', f'--data_dir={mnist_dir}',
      f'--model_dir={tmp_path}', env={'http_proxy': 'http://127.0.0.1:9'}) as launcher:
    assert launcher.end() == 0
    assert launcher.errors == []
    names = {re.match(r'\[(ps|worker) \d\] ', line)[0] for line in launcher.lines}
    assert names == {'[ps 0] ', '[ps 1] ', '[worker 0] ', '[worker 1] '}
    assert printed_steps(launcher.lines) == [1, 4, 7, 8]
    assert not [process for process in psutil.process_iter(['cmdline'])
                if f'--model_dir={tmp_path}' in (process.info['cmdline'] or ())]


def test_moving_averages_are_computed_where_they_lie(mnist):
  options = SimpleNamespace(job_name='worker', task_index=0, sync=False, batch_size=12,
                            ps_hosts='127.0.0.1:1,127.0.0.1:2', worker_hosts='127.0.0.1:3')
  member = support_clusters.Member(options, StopSignals())
  with tf.Graph().as_default() as graph, tf.device(member.device_setter()):
    mnist_train.build_model(*mnist_train.build_placeholders(mnist.train), 200,
                            mnist_train.FLAGS.options())
    averaging = {op.device for op in graph.get_operations()
                 if '/AssignMovingAvg' in op.name and op.type in ('Mul', 'AssignSub')}
    assert averaging == {'/job:ps/task:0', '/job:ps/task:1'}  # nothing travels for them
    assert {variable.op.name for variable in tf.trainable_variables()} == set(VARIABLES)
