"""The processes of a cluster: one as flags say, or all on this machine."""
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

from support import clusters, console
from support.console import StopSignals, UserError

POLL_SECS = 0.1
END_SECS = 2  # for the others to end after the chief
FAIL_SECS = 1  # for the chief to end after another, perhaps for the same reason


def define_flags(flag_values: console.Flags) -> None:
  """Define the flags of a cluster, of the launcher, and of the processes that it starts."""
  clusters.define_flags(flag_values)
  flag_values.DEFINE_integer(
      'local_workers', 0, 'Start a cluster of so many workers on this machine.', 0)
  flag_values.DEFINE_integer(
      'local_ps', 1, 'Parameter servers of the cluster of --local_workers.', 1)
  flag_values.DEFINE_bool(
      'end_with_stdin', False, 'End when standard input does, as the processes of --local_workers '
      'do with the one that started them.')


def take_part(script: str, flag_values: console.Flags,
              work: Callable[[clusters.Member], int]) -> int:
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
    member = clusters.Member(flag_values, stop)
    return work(member) if member.job_name == 'worker' else member.serve()


def _obey_stdin(stop: StopSignals) -> None:
  """Stop as after the signal that standard input names, or SIGHUP when it ends."""
  # The launcher writes the signal's name, because on Windows it has no signal to send; if it is
  # killed, standard input ends.
  name = sys.stdin.readline().strip() or 'SIGHUP'
  stop.received = stop.received or name  # no second signal, which would not let it save


def run(main: Callable[[list[str]], int | None], flag_values: console.Flags) -> None:
  """Do as console.run, but end a process at once whose threads may wait for others."""
  status = console.SUCCESS
  try:
    console.run(main, flag_values)
  except SystemExit as end:
    status = end.code
  if clusters.background and 'ipykernel' not in sys.modules:
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError):
        stream.flush()
    os._exit(status)
  if status:  # a notebook would show an exit with status 0 as a warning
    sys.exit(status)


# -- A whole cluster ---------------------------------------------------------------------


def _launch(script: str, flag_values: console.Flags, stop: StopSignals) -> int:
  """Start a cluster on this machine, wait for its end, and return the exit status."""
  for name in ('job_name', 'task_index', 'ps_hosts', 'worker_hosts'):
    if flag_values[name].present:
      raise UserError(f'--{name} and --local_workers: give --{name} to start one process, or '
                      '--local_workers to start all of them here', console.WRONG_USAGE)
  servers, workers = flag_values.local_ps, flag_values.local_workers
  clusters.check_shares(flag_values, workers)
  # Free now; if another program takes one before its process does, that process says so.
  addresses = _free_addresses(servers + workers)
  command = [sys.executable, os.path.abspath(script), '--end_with_stdin',
             f'--ps_hosts={",".join(addresses[:servers])}',
             f'--worker_hosts={",".join(addresses[servers:])}',
             *(flag_values[name].serialize() for name in flag_values
               if flag_values[name].present and not name.startswith('local_'))]
  # In a session of their own, so that Ctrl-C reaches the launcher only, which asks the chief.
  group = ({'creationflags': subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == 'nt'
           else {'start_new_session': True})
  names = [f'worker {index}' for index in range(workers)] + [f'ps {i}' for i in range(servers)]
  processes, threads, errors = [], [], []
  try:
    for name in names:
      job_name, index = name.split()
      processes.append(subprocess.Popen(
          [*command, f'--job_name={job_name}', f'--task_index={index}'], stdin=subprocess.PIPE,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding='utf-8', errors='replace',
          env={**os.environ, 'PYTHONIOENCODING': 'utf-8'}, **group))
      for stream, shown in ((processes[-1].stdout, sys.stdout), (processes[-1].stderr, sys.stderr)):
        threads.append(threading.Thread(target=_show, args=(stream, shown, name, errors, stop)))
        threads[-1].start()
    decisive = _wait(processes, stop)
  finally:
    # However this ends, no process is left, and all that they have printed is shown.
    for process in processes:
      process.kill()
    for each in processes + threads:
      each.wait() if each in processes else each.join()
  status = processes[decisive].returncode
  if status and not stop.received:
    raise UserError(errors[0] if errors else f'{names[decisive]} has ended with status {status}',
                    max(status, console.FAILURE))
  return status


def _show(stream: TextIO, shown: TextIO, name: str, errors: list[str], stop: StopSignals) -> None:
  """Print the lines of a process under its name; keep those in which it fails as errors."""
  for line in stream:
    try:
      if ': error: ' in line:  # what is wrong with the flags or the data, others find, too
        errors.append(f'{name}: {line.partition(": error: ")[2].rstrip()}')
      else:
        shown.write(f'[{name}] {line.rstrip()}\n')  # at once, because others write, too
        shown.flush()
    except OSError:
      stop.received = 'SIGPIPE'  # nobody reads it any more


def _free_addresses(count: int) -> list[str]:
  """Return addresses of this machine where nobody listens."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(('127.0.0.1', 0))
    return [f'127.0.0.1:{each.getsockname()[1]}' for each in sockets]


def _wait(processes: list[subprocess.Popen], stop: StopSignals) -> int:
  """Return the index of the process whose status counts: the first that fails, or the chief."""
  decisive, is_asked, deadline = None, False, math.inf
  while True:
    statuses = [process.poll() for process in processes]
    # Only the chief is asked: it saves, and by its notice the others end.
    if stop.received and not is_asked:
      is_asked = True
      with contextlib.suppress(OSError):  # it has ended
        processes[0].stdin.write(f'{stop.received}\n')
        processes[0].stdin.flush()
    # Of several that fail, the others mostly do because of the first, or for the same reason.
    if decisive is None and any(statuses) and not is_asked:
      decisive = next(index for index, status in enumerate(statuses) if status)
      deadline = time.monotonic() + FAIL_SECS
    elif decisive is None and statuses[0] is not None:
      decisive, deadline = 0, time.monotonic() + END_SECS
    if None not in statuses or time.monotonic() > deadline:
      return decisive or 0
    time.sleep(POLL_SECS)
