"""mnist_dist_train.py when processes die, hang or are stopped, and with flags that are wrong."""
import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import time

import clusters
import grpc
import psutil
import pytest
import running

from support import checkpoints, console, workers
from support.quiet_tensorflow import tf

SCRIPT = 'mnist_dist_train.py'
MODES = ('--nosync', '--sync')

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='SIGKILL is the point')


def flags_of(data_dir, model_dir, steps, *more):
  return [f'--data_dir={data_dir}', f'--model_dir={model_dir}', '--batch_size=10',
          '--validation_size=50', f'--training_steps={steps}', '--save_interval_steps=20', *more]


def printed_steps(process):
  return [int(match[1]) for match in (re.match(r'After (\d+) training', line)
                                      for line in process.lines) if match]


def first_line(text):
  lines = text.splitlines()
  assert len(lines) == 1, text
  return lines[0]


# -- Processes that die ------------------------------------------------------------------


def test_a_killed_worker_is_not_missed_in_asynchronous_training(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 201)) as cluster:
    chief, other = cluster.workers
    chief.wait_for('After 21 ')
    cluster.sigkill(other)
    chief.wait_for('After 61 ')
    again = cluster.start('worker', 1)
    assert again.end() == 0 and cluster.end() == [0, 0, 0]
    assert printed_steps(chief)[:3] == [1, 21, 41] and printed_steps(chief)[-1] in (201, 202)
    assert chief.errors == again.errors == []


def test_a_worker_that_does_not_come_back_does_not_keep_the_others(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 61)) as cluster:
    cluster.workers[0].wait_for('After 21 ')
    cluster.sigkill(cluster.workers[1])
    assert cluster.end() == [0, 0]
    assert cluster.ps[0].lines[-1] == 'The training has finished; worker 1 has not signed off.'


def test_synchronous_training_goes_on_when_a_killed_worker_is_back(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 201, '--sync')) as cluster:
    chief, other = cluster.workers
    chief.wait_for('After 21 ')
    cluster.sigkill(other)
    time.sleep(2)
    cluster.start('worker', 1)
    assert cluster.end() == [0, 0, 0]
    assert printed_steps(chief) == [*range(1, 202, 20)]


@pytest.mark.parametrize('mode', MODES)
def test_a_killed_chief_goes_on_from_the_newest_checkpoint(mode, digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 161, mode)) as cluster:
    chief = cluster.workers[0]
    chief.wait_for('After 41 ')
    cluster.sigkill(chief)
    newest = checkpoints.list_checkpoints(str(tmp_path), 'mnist.ckpt')[-1]
    step = checkpoints.step_of(newest)
    chief = cluster.start('worker', 0)
    assert cluster.end() == [0, 0, 0]
    assert f'Going on from {newest}, after {step} training step(s).' in chief.lines
    assert printed_steps(chief) == [*range(step + 20, 162, 20)]
    assert [process.errors for process in cluster.processes] == [[], [], []]


def test_without_a_parameter_server_workers_end_in_one_line(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000), ps=2) as cluster:
    cluster.workers[0].wait_for('After 21 ')
    cluster.sigkill(cluster.ps[1])
    killed_at = time.monotonic()
    for worker in cluster.workers:
      assert worker.end(60) == 1
      assert re.search(r'ps 1 at 127\.0\.0\.1:\d+ is lost: start all', first_line(
          '\n'.join(worker.errors)))
    assert time.monotonic() - killed_at < 60


def test_a_parameter_server_that_hangs_is_lost_within_a_minute(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000)) as cluster:
    cluster.workers[0].wait_for('After 21 ')
    cluster.ps[0].signal(signal.SIGSTOP)
    for worker in cluster.workers:
      assert worker.end(60) == 1
      assert 'start all processes again' in first_line('\n'.join(worker.errors))


def test_without_a_parameter_server_a_chief_that_begins_ends_in_one_line(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 21)) as cluster:
    assert cluster.end() == [0, 0, 0]
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000), workers=1) as cluster:
    chief, = cluster.workers
    while not (tmp_path / 'train.pid').exists():
      assert chief.status is None
      time.sleep(0.01)
    time.sleep(0.2)  # it builds the graph, or gives the variables their values
    cluster.sigkill(cluster.ps[0])
    assert chief.end(90) == 1
    assert 'start all processes again' in first_line('\n'.join(chief.errors))


def test_what_a_lost_parameter_server_does_is_no_damage_of_a_checkpoint(tmp_path):
  lost = tf.errors.UnavailableError(None, None, 'Connection refused')

  class Saver:
    def restore(self, sess, path):
      raise lost

  class Session:
    sess_str = b'grpc://127.0.0.1:2222'

  with pytest.raises(tf.errors.UnavailableError):
    checkpoints.restore_values(Session(), Saver(), str(tmp_path / 'mnist.ckpt-1'))
  Session.sess_str = b''  # a session of this process alone
  with pytest.raises(checkpoints.DamagedCheckpoint, match='Connection refused'):
    checkpoints.restore_values(Session(), Saver(), str(tmp_path / 'mnist.ckpt-1'))


def test_what_is_said_of_a_lost_server_is_heard_while_a_call_to_it_hangs():
  result = subprocess.run([sys.executable, '-c', '''
import os, sys, threading
from support import console, quiet_tensorflow
holding = threading.Event()
def hang():
  with quiet_tensorflow.raised_errors_held_back():
    holding.set()
    threading.Event().wait()
threading.Thread(target=hang, daemon=True).start()
holding.wait()
quiet_tensorflow.give_back_standard_error()
console.warn('error: lost')
os._exit(1)
'''], cwd=running.ROOT, capture_output=True, text=True, timeout=120)
  assert (result.returncode, result.stderr) == (1, '-c: error: lost\n')


def test_the_reason_of_a_clusters_error_is_told():
  error = tf.errors.ResourceExhaustedError(
      None, None, 'From /job:worker/replica:0/task:0:\nNo space left on device\n\t [[{{node x}}]]')
  assert console.describe(error) == 'No space left on device'


# -- The launcher ------------------------------------------------------------------------


def children_of(process, count):
  deadline = time.monotonic() + clusters.TIMEOUT_SECS
  while time.monotonic() < deadline:
    children = psutil.Process(process.pid).children(recursive=True)
    if len(children) >= count:
      return children
    time.sleep(0.05)
  raise AssertionError(children)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_launcher_leaves_no_process(number, digits_dir, tmp_path):
  launcher = clusters.Started(SCRIPT, flags_of(
      digits_dir, tmp_path, 100000, '--local_workers=2', '--local_ps=1'))
  children = []
  try:
    children = children_of(launcher, 3)
    launcher.wait_for(r'\[worker 0\] After 21 ')
    launcher.signal(number)
    status = launcher.end()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    if number != signal.SIGKILL:
      assert status == 0
      assert launcher.errors == []
      match = launcher.wait_for(r'\[worker 0\] Stopped by SIGTERM; run again to go on\. Saved (.*)')
      assert match[1] == checkpoints.list_checkpoints(str(tmp_path), 'mnist.ckpt')[-1]
  finally:
    launcher.kill()
    for child in children:
      if child.is_running():
        child.kill()


def test_a_failure_of_one_ends_all(digits_dir, tmp_path):
  launcher = clusters.Started(SCRIPT, flags_of(
      digits_dir, tmp_path, 100, '--local_workers=2', '--learning_rate_base=1e30'))
  try:
    children = children_of(launcher, 3)
    assert launcher.end() == 1
    assert not any(child.is_running() for child in children)
    assert any('[worker 0] mnist_dist_train.py: error: the loss is' in line
               for line in launcher.errors)
  finally:
    launcher.kill()


def test_a_launcher_whose_output_is_no_longer_read_ends(digits_dir, tmp_path):
  launcher = running.start_script(SCRIPT, *flags_of(digits_dir, tmp_path, 100000,
                                                    '--local_workers=2'))
  try:
    children = children_of(launcher, 3)
    assert launcher.stdout.readline()
    launcher.stdout.close()  # as in `... | head -1`
    assert launcher.wait(clusters.TIMEOUT_SECS) == 1
    assert launcher.stderr.read() == ''
    assert not any(child.is_running() for child in children)
  finally:
    launcher.kill()


def test_what_several_processes_complain_of_is_one_line(digits_dir, tmp_path):
  launcher = clusters.Started(SCRIPT, flags_of(
      tmp_path / 'no such folder', tmp_path, 100, '--local_workers=2'))
  try:
    assert launcher.end() == 1
    assert 'no such folder' in first_line('\n'.join(launcher.errors))
  finally:
    launcher.kill()


# -- Wrong flags -------------------------------------------------------------------------


@pytest.mark.parametrize('flags, expected', [
    ([], '--job_name is missing'),
    (['--job_name=master'], 'job_name'),
    (['--job_name=worker', '--task_index=2'], '--task_index=2: --worker_hosts names 2'),
    (['--job_name=ps', '--task_index=-1'], 'task_index'),
    (['--job_name=ps', '--ps_hosts=localhost'], "--ps_hosts: 'localhost' is not an address"),
    (['--job_name=ps', '--ps_hosts='], "--ps_hosts: '' is not an address"),
    (['--job_name=ps', '--ps_hosts=127.0.0.1:99999'], 'is not an address'),
    (['--job_name=ps', '--ps_hosts=127.0.0.1:2223'], 'name 127.0.0.1:2223 twice'),
    (['--job_name=ps', '--ps_hosts=127.0.0.1:02223'], 'name 127.0.0.1:2223 twice'),
    (['--local_workers=2', '--task_index=1'], '--task_index and --local_workers'),
    (['--local_workers=3', '--sync'], '--batch_size=100 cannot be shared by 3'),
    (['--job_name=worker', '--sync', '--batch_size=5'], '--batch_size=5 cannot be shared by 2'),
])
def test_wrong_flags_end_in_one_line(flags, expected):
  result = running.run_script(SCRIPT, *flags)
  assert result.returncode == console.WRONG_USAGE
  assert expected in first_line(result.stderr)


@pytest.mark.parametrize('job_name', ['ps', 'worker'])
def test_a_port_in_use_ends_in_one_line(job_name, digits_dir, tmp_path):
  with socket.socket() as other:
    other.bind(('127.0.0.1', 0))
    other.listen()
    address = f'127.0.0.1:{other.getsockname()[1]}'
    result = running.run_script(SCRIPT, *flags_of(digits_dir, tmp_path, 1),
                                f'--job_name={job_name}', f'--{job_name}_hosts={address}')
  assert result.returncode == 1
  assert f'{job_name} 0 cannot listen on port {address[10:]}' in first_line(result.stderr)


def test_a_parameter_server_that_is_not_there_ends_in_one_line(digits_dir, tmp_path):
  hosts = clusters.free_addresses(2)
  for wrong in (hosts[0], 'no-such-host.invalid:2222'):
    result = running.run_script(
        SCRIPT, *flags_of(digits_dir, tmp_path, 1), '--job_name=worker', '--start_secs=1',
        f'--ps_hosts={wrong}', f'--worker_hosts={hosts[1]}')
    assert result.returncode == 1
    assert f'ps 0 at {wrong} does not answer after 1 seconds' in first_line(result.stderr)


def test_a_server_of_something_else_ends_in_one_line(digits_dir, tmp_path):
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
  port = server.add_insecure_port('127.0.0.1:0')
  server.start()
  try:
    result = running.run_script(
        SCRIPT, *flags_of(digits_dir, tmp_path, 1), '--job_name=worker', '--start_secs=1',
        f'--ps_hosts=127.0.0.1:{port}', f'--worker_hosts={clusters.free_addresses(1)[0]}')
  finally:
    server.stop(None)
  assert result.returncode == 1
  assert f'--ps_hosts=127.0.0.1:{port} do not answer as parameter servers' in first_line(
      result.stderr)


def test_workers_that_disagree_end_in_one_line(digits_dir, tmp_path):
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000), workers=1) as cluster:
    addresses = clusters.free_addresses(2)
    ps_hosts = next(arg for arg in cluster._args if arg.startswith('--ps_hosts='))
    other = cluster.start('worker', 1, ps_hosts, f'--worker_hosts={",".join(addresses)}')
    assert other.end() == 1
    assert 'give all processes the same' in first_line('\n'.join(other.errors))
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000)) as cluster:
    cluster.workers[0].wait_for('After 1 ')
    cluster.sigkill(cluster.workers[1])
    other = cluster.start('worker', 1, '--sync')
    assert other.end() == 1
    assert 'sync is True for worker 1, but False for worker 0' in first_line(
        '\n'.join(other.errors))


# -- Who may connect ---------------------------------------------------------------------


def test_only_this_machine_can_connect(digits_dir, tmp_path):
  outside = [address.address for addresses in psutil.net_if_addrs().values()
             for address in addresses if address.family == socket.AF_INET
             and not address.address.startswith('127.')]
  if not outside or not os.path.exists('/proc/self/fd'):
    pytest.skip('no other interface than the loopback, or not Linux')
  with clusters.Cluster(SCRIPT, *flags_of(digits_dir, tmp_path, 100000)) as cluster:
    cluster.workers[0].wait_for('After 1 ')
    ports = {connection.laddr.port for process in cluster.processes
             for connection in psutil.Process(process.pid).net_connections('tcp')
             if connection.status == psutil.CONN_LISTEN}
    assert len(ports) == 3
    for port in ports:
      socket.create_connection(('127.0.0.1', port), timeout=5).close()
      for address in outside:
        with pytest.raises(OSError):
          socket.create_connection((address, port), timeout=5)


def test_the_bound_that_is_documented():
  assert workers.LOST_SECS + 2 * 10 < 60
