"""Clusters of processes on this machine for tests, forked from one that has imported TensorFlow."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psutil
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


class Started:
  """A script in a process of its own, its output in files."""

  def __init__(self, script, args, env=None):
    self._folder = tempfile.TemporaryDirectory()
    self._paths = [pathlib.Path(self._folder.name, name) for name in ('stdout', 'stderr')]
    args = [os.fspath(arg) for arg in args]
    if running._context:
      self._process = running._context.Process(target=running._become_script, args=(
          script, args, str(running.ROOT), [str(path) for path in self._paths], env or {}))
      self._process.start()
    else:
      streams = [path.open('wb') for path in self._paths]
      self._process = subprocess.Popen(
          [sys.executable, running.ROOT / script, *args], cwd=running.ROOT, stdout=streams[0],
          stderr=streams[1], env={**os.environ, **(env or {})})
    self.pid = self._process.pid

  @property
  def status(self):
    """The exit status, None while it runs; that of a signal is negative."""
    return self._process.exitcode if running._context else self._process.poll()

  @property
  def lines(self):
    """The lines on standard output so far."""
    return self._read(0)

  @property
  def errors(self):
    """The lines on standard error so far, but for TensorFlow's of a killed server."""
    return [line for line in self._read(1) if not LOG_LINE.match(line)]

  def _read(self, number):
    path = self._paths[number]
    return path.read_text(errors='replace').splitlines() if path.exists() else []

  def wait_for(self, pattern):
    """Wait until a line on standard output matches pattern; return the last re.Match."""
    deadline = time.monotonic() + TIMEOUT_SECS
    while True:
      is_over = self.status is not None or time.monotonic() > deadline
      found = [match for match in (re.search(pattern, line) for line in self.lines) if match]
      if found:
        return found[-1]
      assert not is_over, (pattern, self.status, self.lines, self.errors)
      time.sleep(0.02)

  def signal(self, number):
    os.kill(self.pid, number)

  def end(self, timeout=TIMEOUT_SECS):
    """Wait for the end and return the exit status."""
    deadline = time.monotonic() + timeout
    while self.status is None:
      assert time.monotonic() < deadline, ('no end', self.lines, self.errors)
      time.sleep(0.02)
    return self.status

  def children(self):
    return psutil.Process(self.pid).children(recursive=True)

  def kill(self):
    """End it and all that it has started."""
    if self.status is None:
      for process in [*self.children(), psutil.Process(self.pid)]:
        if process.is_running():
          process.kill()
      self.end()


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
    process = Started(self._script, [*self.args, f'--job_name={job_name}',
                                     f'--task_index={index}', *args])
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
