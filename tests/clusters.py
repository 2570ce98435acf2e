"""Clusters of processes on this machine for tests, forked from one that has imported TensorFlow."""
import re
import signal
import socket

import running

TIMEOUT_SECS = 180

# What TensorFlow logs of a session whose parameter server was killed.
LOG_LINE = re.compile(r'[IWE]\d{4} .*master(_session)?\.cc:|Additional GRPC error|:UNKNOWN:Error')


def free_addresses(count):
  """Return addresses of this machine where nobody listens."""
  sockets = [socket.socket() for _ in range(count)]
  for each in sockets:
    each.bind(('127.0.0.1', 0))
  addresses = [f'127.0.0.1:{each.getsockname()[1]}' for each in sockets]
  for each in sockets:
    each.close()
  return addresses


class Started(running.Started):
  """A script in a process of its own."""

  @property
  def errors(self):
    """The lines on standard error so far, but for TensorFlow's of a killed server."""
    return [line for line in super().errors if not LOG_LINE.match(line)]


class Cluster:
  """The processes of a cluster, killed when the context ends."""

  def __init__(self, script, *args, ps=1, workers=2):
    addresses = free_addresses(ps + workers)
    self._script = script
    self.args = [*args, f'--ps_hosts={",".join(addresses[:ps])}',
                 f'--worker_hosts={",".join(addresses[ps:])}']
    self.processes = []
    self.ps = [self.start('ps', index) for index in range(ps)]
    self.workers = [self.start('worker', index) for index in range(workers)]

  def start(self, job_name, index, *args):
    """Start a process of the cluster, perhaps once more, and return it."""
    process = Started(self._script, *self.args, f'--job_name={job_name}',
                      f'--task_index={index}', *args)
    self.processes.append(process)
    return process

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    for process in self.processes:
      if kind:  # shown by pytest
        print(process.status, *process.lines, *process.errors, sep='\n  ')
      if process.status is None:
        process.signal(signal.SIGCONT)
      process.kill()

  def end(self, timeout=TIMEOUT_SECS):
    """Wait for the end of all and return the exit statuses."""
    return [process.end(timeout) for process in self.processes]

  def sigkill(self, process):
    """Kill a process with SIGKILL, which is no longer waited for by `end`."""
    process.signal(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    self.processes.remove(process)
