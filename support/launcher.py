"""The processes of a cluster: one as flags say, or all on this machine, with one command."""
import contextlib
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from absl import flags

from support import clusters, console
from support.console import StopSignals

POLL_SECS = 0.1
REASON_SECS = 1  # for the reason of a failure to be printed, perhaps by another process
LEAVE_SECS = 5  # for the others to end after the chief
SHOW_SECS = 10  # for the last lines of a process to be printed


def define_flags(flag_values: console.Flags) -> None:
  """Define the flags of a cluster, of the launcher, and of the processes that it starts."""
  clusters.define_flags(flag_values)
  flags.DEFINE_integer('local_workers', 0, 'Start a cluster of so many workers on this machine.',
                       lower_bound=0, flag_values=flag_values)
  flags.DEFINE_integer('local_ps', 1, 'Parameter servers of the cluster of --local_workers.',
                       lower_bound=1, flag_values=flag_values)
  flags.DEFINE_bool('end_with_stdin', False, 'End when standard input does, as the processes of '
                    '--local_workers do with the one that started them.', flag_values=flag_values)


def _obey_stdin(stop: StopSignals) -> None:
  """Stop as after a signal whose name comes from standard input, or when that ends."""
  name = sys.stdin.readline().strip() or 'SIGHUP'
  stop.received = stop.received or name  # not a second signal, which would not let it save


def take_part(script: str, flag_values: console.Flags,
              work: Callable[[clusters.Task, StopSignals], int]) -> int:
  """Be what the flags say: a parameter server, a worker, or a whole cluster on this machine.

  Args:
    script: its path, of which the processes of a whole cluster are made.
    work: does a worker's part and returns the exit status.
  """
  with StopSignals() as stop:
    if flag_values.local_workers:
      return _launch(script, flag_values, stop)
    if flag_values.end_with_stdin:
      threading.Thread(target=_obey_stdin, args=(stop,), daemon=True).start()
    task = clusters.Task(flag_values)
    if task.job_name == 'worker':
      return work(task, stop)
    clusters.Member(task, flag_values, stop).serve()
    return console.SUCCESS


def run(main: Callable[[list[str]], int | None], flag_values: console.Flags) -> None:
  """As console.run, but end a process that has a server at once: its threads may wait for others.
  """
  status = console.SUCCESS
  try:
    console.run(main, flag_values)
  except SystemExit as end:
    status = end.code
  if clusters.servers and 'ipykernel' not in sys.modules:
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError):
        stream.flush()
    os._exit(status)
  sys.exit(status)


# -- A whole cluster ---------------------------------------------------------------------


class _Process:
  """A process of the cluster, whose lines are printed under its name."""

  _lock = threading.Lock()  # for whole lines
  errors: set[str] = set()  # lines that were printed
  is_unread = False  # whether nobody reads what is printed

  def __init__(self, name: str, command: list[str]):
    self.name = name
    # In a session of its own, so that Ctrl-C reaches the launcher only, which asks the chief.
    group = ({'creationflags': subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == 'nt'
             else {'start_new_session': True})
    self.popen = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding='utf-8', errors='replace', env={**os.environ, 'PYTHONIOENCODING': 'utf-8'}, **group)
    self._threads = [threading.Thread(target=self._show, args=streams, daemon=True) for streams in (
        (self.popen.stdout, sys.stdout), (self.popen.stderr, sys.stderr))]
    for thread in self._threads:
      thread.start()

  def _show(self, stream: TextIO, shown: TextIO) -> None:
    for line in stream:
      with self._lock:
        try:
          # What is wrong with the flags or the data, each process finds for itself.
          if line not in self.errors:
            print(f'[{self.name}] {line.rstrip()}', file=shown, flush=True)
          if ': error: ' in line:
            self.errors.add(line)
        except OSError:
          _Process.is_unread = True

  def ask_to_stop(self, signal_name: str) -> None:
    with contextlib.suppress(OSError):  # it has ended
      self.popen.stdin.write(f'{signal_name}\n')
      self.popen.stdin.flush()

  def end(self) -> None:
    """End it if it has not ended, and wait until its last lines are printed."""
    self.popen.kill()
    self.popen.wait()
    for thread in self._threads:
      thread.join(SHOW_SECS)


def _free_addresses(count: int) -> list[str]:
  """Return addresses of this machine where nobody listens."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(('127.0.0.1', 0))
    return [f'127.0.0.1:{each.getsockname()[1]}' for each in sockets]


def _launch(script: str, flag_values: console.Flags, stop: StopSignals) -> int:
  """Start a cluster on this machine, wait for its end, and return the exit status.

  That is the status of the first process that fails, whose line has said why.
  """
  for name in ('job_name', 'task_index', 'ps_hosts', 'worker_hosts'):
    if flag_values[name].present:
      raise console.UserError(f'--{name} and --local_workers: give --{name} to start one process, '
                              'or --local_workers to start all of them here', console.WRONG_USAGE)
  servers, workers = flag_values.local_ps, flag_values.local_workers
  clusters.check_shares(flag_values, workers)
  arguments = [flag_values[name].serialize() for name in flag_values
               if flag_values[name].present and name not in ('local_workers', 'local_ps')]
  addresses = _free_addresses(servers + workers)
  command = [sys.executable, '-u', os.path.abspath(script), *arguments, '--end_with_stdin',
             f'--ps_hosts={",".join(addresses[:servers])}',
             f'--worker_hosts={",".join(addresses[servers:])}']
  tasks = [('ps', index) for index in range(servers)]
  tasks += [('worker', index) for index in reversed(range(workers))]  # the chief last
  processes = []
  try:
    for job_name, index in tasks:
      processes.append(_Process(f'{job_name} {index}', [
          *command, f'--job_name={job_name}', f'--task_index={index}']))
    ended = _wait(processes, stop)
  finally:
    for process in processes:
      process.end()
  status = ended.popen.returncode
  if status < 0 or status and not _Process.errors and not stop.received:
    raise console.UserError(f'{ended.name} has ended with status {status}: so were the others')
  return status


def _wait(processes: list[_Process], stop: StopSignals) -> _Process:
  """Return the process whose exit status counts: the first that fails, or else the chief."""
  chief, is_asked, deadline = processes[-1], False, math.inf
  while True:
    if _Process.is_unread:
      raise BrokenPipeError
    if stop.received and not is_asked:
      chief.ask_to_stop(stop.received)
      is_asked = True
    failed = next((process for process in processes if process.popen.poll()), None)
    if failed and not stop.received:
      time.sleep(REASON_SECS)
      return failed
    if chief.popen.poll() is not None:
      deadline = min(deadline, time.monotonic() + LEAVE_SECS)
      if time.monotonic() > deadline or None not in [each.popen.poll() for each in processes]:
        return chief
    time.sleep(POLL_SECS)
