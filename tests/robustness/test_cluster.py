"""mnist_dist_train.py when processes die, hang or are stopped, and with flags that are wrong."""
import os
import re
import signal
import socket
import time

import clusters
import psutil
import pytest
import running

from support import checkpoints, console

SCRIPT = 'mnist_dist_train.py'
MODES = ('--nosync', '--sync')

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='SIGKILL is the point')


def flags_of(data_dir, model_dir, steps, *more):
  return [f'--data_dir={data_dir}', f'--model_dir={model_dir}', '--batch_size=10',
          '--validation_size=50', f'--training_steps={steps}', '--save_interval_steps=20', *more]


def newest(model_dir):
  return checkpoints.list_checkpoints(str(model_dir), 'mnist.ckpt')[-1]


def only(lines):
  assert len(lines) == 1, lines
  return lines[0]


# -- Processes that die, or are stopped --------------------------------------------------


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('killed', ['worker', 'chief', 'ps'])
def test_training_goes_on_when_a_killed_process_is_back(killed, mode, digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 121, mode)) as cluster:
    job_name, index = {'worker': ('worker', 1), 'chief': ('worker', 0), 'ps': ('ps', 0)}[killed]
    chief = cluster.workers[0]
    chief.wait_for(r'After 2\d ')
    cluster.sigkill(cluster.ps[0] if killed == 'ps' else cluster.workers[index])
    again = cluster.start(job_name, index)
    assert cluster.end() == [0, 0, 0]
    assert [process.errors for process in cluster.processes] == [[], [], []]
    resumed = [line for line in (again if killed == 'chief' else chief).lines
               if line.startswith('Going on from ')]
    assert len(resumed) == (killed != 'worker')
  assert checkpoints.step_of(newest(tmp_path)) in ((121,) if mode == '--sync' else (121, 122))


def test_who_is_waited_for_is_said_and_ctrl_c_ends_it(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000, '--sync')) as cluster:
    chief, other = cluster.workers
    chief.wait_for('After 1 ')
    cluster.sigkill(other)
    chief.wait_for(r'Waiting for worker 1 at 127\.0\.0\.1:\d+\.')
    chief.signal(signal.SIGINT)
    assert cluster.end(10) == [0, 0]
    assert chief.lines[-1] == f'Stopped by SIGINT; run again to go on. Saved {newest(tmp_path)}'


@pytest.mark.parametrize('mode', MODES)
def test_sigterm_to_all_saves_the_last_step(mode, digits_dir, tmp_path):
  flags = flags_of(digits_dir, tmp_path, 100000, mode, '--save_interval_steps=100000')
  with clusters.Cluster(SCRIPT, *flags) as cluster:
    cluster.workers[0].wait_for('After 1 ')
    time.sleep(1)
    for process in cluster.processes:
      process.signal(signal.SIGTERM)
    assert cluster.end(10) == [0, 0, 0]
    assert [process.errors for process in cluster.processes] == [[], [], []]
  assert checkpoints.step_of(newest(tmp_path)) > 1


# -- The launcher ------------------------------------------------------------------------


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_launcher_leaves_no_process(number, digits_dir, tmp_path):
  with clusters.Started(SCRIPT, *flags_of(
      digits_dir, tmp_path, 100000, '--sync', '--local_workers=2')) as launcher:
    launcher.wait_for(r'\[worker 0\] After 21 ')
    children = launcher.children()
    worker = only([child for child in children if {'--job_name=worker', '--task_index=1'} <= set(
        child.cmdline())])
    if number == signal.SIGINT:
      worker.suspend()
    launcher.signal(number)
    status = launcher.end(10)
    assert not psutil.wait_procs(children, timeout=10)[1]
    if number == signal.SIGINT:
      assert (status, launcher.errors) == (0, [])
      match = launcher.wait_for(r'\[worker 0\] Stopped by SIGINT; run again to go on\. Saved (.*)')
      assert match[1] == newest(tmp_path)


@pytest.mark.parametrize('flag, expected', [
    ('--learning_rate_base=1e30', 'worker 0: the loss is'),  # of the chief
    ('--data_dir=no such folder.py', 'no such folder.py')])  # of all workers
def test_a_failure_ends_all_in_one_line(flag, expected, digits_dir, tmp_path):
  (tmp_path / 'no such folder.py').touch()
  result = running.run_script(SCRIPT, *flags_of(digits_dir, 'model', 100, '--local_workers=2'),
                              flag, cwd=tmp_path)
  assert result.returncode == 1
  assert expected in only(result.stderr.splitlines())


def test_a_launcher_whose_output_is_no_longer_read_ends(digits_dir, tmp_path):
  launcher = running.start_script(SCRIPT, *flags_of(digits_dir, tmp_path, 100000,
                                                    '--local_workers=2'))
  try:
    assert launcher.stdout.readline()
    launcher.stdout.close()  # as in `... | head -1`
    launcher.wait(clusters.TIMEOUT_SECS)
    assert launcher.stderr.read() == ''
  finally:
    launcher.kill()


# -- Wrong use ---------------------------------------------------------------------------


@pytest.mark.parametrize('flags, expected', [
    ([], '--job_name is missing'),
    (['--job_name=worker', '--task_index=2'], '--task_index=2: --worker_hosts names 2'),
    (['--job_name=ps', '--ps_hosts=localhost'], "'localhost' in --ps_hosts"),
    (['--job_name=ps', '--ps_hosts=127.0.0.1:2223'], 'name 127.0.0.1:2223 twice'),
    (['--local_workers=2', '--task_index=1'], '--task_index and --local_workers'),
    (['--local_workers=3', '--sync'], '--batch_size=100 cannot be shared by 3')])
def test_wrong_flags_end_in_one_line(flags, expected):
  result = running.run_script(SCRIPT, *flags)
  assert result.returncode == console.WRONG_USAGE
  assert expected in only(result.stderr.splitlines())


def test_a_parameter_server_that_is_not_there_ends_in_one_line(digits_dir, tmp_path):
  hosts = clusters.free_addresses(1)
  result = running.run_script(
      SCRIPT, *flags_of(digits_dir, tmp_path, 1), '--job_name=worker', '--start_secs=1',
      '--ps_hosts=no-such-host.invalid:2222', f'--worker_hosts={hosts[0]}',
      env={'http_proxy': 'http://127.0.0.1:9'})
  assert result.returncode == 1
  assert re.search('ps 0 at no-such-host.invalid:2222 does not answer after 1 seconds, through the '
                   'proxy of http_proxy', only(result.stderr.splitlines()))


def test_a_stray_process_is_named_and_the_others_go_on(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000)) as cluster:
    chief, other = cluster.workers
    chief.wait_for(r'After 2\d ')  # the other worker may be a step ahead
    hosts = cluster.args[-1].split(',')
    address = clusters.free_addresses(1)[0]
    cluster.sigkill(other)
    for index, flags, expected in (
        (0, [], 'worker 0 cannot listen on port'),
        (0, [f'--worker_hosts={address},{hosts[1]}'], 'worker_hosts is '),
        (1, ['--batch_size=20'], 'batch_size is 20 for worker 1, but 10 in the cluster of ps 0')):
      stray = cluster.start('worker', index, *flags)
      assert stray.end() == 1
      assert expected in only(stray.errors)
      cluster.processes.remove(stray)
    cluster.start('worker', 1)
    for path in (newest(tmp_path), newest(tmp_path)):
      while newest(tmp_path) == path:
        assert chief.status is None
        time.sleep(0.02)
    chief.signal(signal.SIGINT)
    assert cluster.end(10) == [0, 0, 0]


def test_only_this_machine_can_connect(digits_dir, tmp_path):
  outside = [address.address for addresses in psutil.net_if_addrs().values()
             for address in addresses if address.family == socket.AF_INET
             and not address.address.startswith('127.')]
  if not outside or not os.path.exists('/proc/self/fd'):
    pytest.skip('no other interface than the loopback, or not Linux')
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 1), workers=1) as cluster:
    cluster.ps[0].wait_for('ready')
    port = int(re.search(r'--ps_hosts=127\.0\.0\.1:(\d+)', ' '.join(cluster.args))[1])
    socket.create_connection(('127.0.0.1', port), timeout=5).close()
    for address in outside:
      with pytest.raises(OSError):
        socket.create_connection((address, port), timeout=5)
