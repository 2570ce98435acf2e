"""All processes of a cluster on this machine: started together, shown together, ended together."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import flags

from support import console

SHOW_SECS = 10  # for the last lines of a process to be shown
POLL_SECS = 0.1
STOP = 'stop\n'  # asks a process to end as a stop signal does


def define_flags(flag_values):
  """Define the flags of the launcher, and that of the processes it starts."""
  flags.DEFINE_integer('local_workers', 0, 'Start a cluster of so many workers on this machine.',
                       lower_bound=0, flag_values=flag_values)
  flags.DEFINE_integer('local_ps', 1, 'Parameter servers of the cluster of --local_workers.',
                       lower_bound=1, flag_values=flag_values)
  flags.DEFINE_bool('end_with_stdin', False, 'End when standard input does, as the processes of '
                    '--local_workers do with the one that started them.', flag_values=flag_values)


def obey_stdin():
  """End this process when its standard input ends, however the one that writes it has ended."""
  def obey():
    while True:
      line = os.read(0, len(STOP))
      if not line:
        os._exit(console.FAILURE)
      signal.raise_signal(signal.SIGTERM)

  threading.Thread(target=obey, daemon=True).start()


def _free_addresses(count):
  """Return addresses of this machine where nobody listens."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(('127.0.0.1', 0))
    return [f'127.0.0.1:{each.getsockname()[1]}' for each in sockets]


def _arguments(flag_values):
  """Return the flags that were given, those of the launcher excepted."""
  own = flags.FlagValues()
  define_flags(own)
  given = [flag_values[name] for name in flag_values if flag_values[name].present]
  return [flag.serialize() for flag in given if flag.name not in own]


_whole_lines = threading.Lock()  # of several processes


class _Process:
  """A process of the cluster, and the threads that show its lines."""

  def __init__(self, name, command, told):
    """Start it.

    Args:
      told: set of the errors that were shown, to which its own are added.
    """
    self.name = name
    self._told = told
    self.unheard = None  # the OSError of standard output, once it takes no more lines
    # In a session of its own, so that Ctrl-C reaches only this process, which then asks the chief.
    own_group = ({'creationflags': subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == 'nt'
                 else {'start_new_session': True})
    environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8'}
    self._popen = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, text=True, encoding='utf-8', errors='replace', **own_group)
    self._threads = [threading.Thread(target=self._show, args=streams, daemon=True)
                     for streams in ((self._popen.stdout, sys.stdout),
                                     (self._popen.stderr, sys.stderr))]
    for thread in self._threads:
      thread.start()

  def _show(self, stream, shown):
    """Print its lines under its name, until it has ended."""
    for line in stream:  # to the end, also where nobody hears them: it would wait for a reader
      try:
        with _whole_lines:
          # What is wrong with the flags or the data, each process finds for itself.
          if ': error: ' not in line or line not in self._told:
            print(f'[{self.name}] {line.rstrip()}', file=shown, flush=True)
          if ': error: ' in line:
            self._told.add(line)
      except OSError as error:
        if shown is sys.stdout:
          self.unheard = error

  @property
  def status(self):
    """The exit status, None while it runs."""
    return self._popen.poll()

  def ask_to_stop(self):
    """Let it end as after a stop signal."""
    with contextlib.suppress(OSError):  # it has ended
      self._popen.stdin.write(STOP)
      self._popen.stdin.flush()

  def kill(self):
    """End it now, if it has not ended."""
    with contextlib.suppress(OSError):
      self._popen.stdin.close()
    if self.status is None:
      self._popen.kill()

  def show_end(self):
    """Wait for its end, and for its last lines to be shown."""
    self._popen.wait()
    for thread in self._threads:
      thread.join(SHOW_SECS)


def _wait(processes, stop):
  """Wait until all processes have ended; return the first that has failed, or None."""
  is_asked = False
  while True:
    statuses = [process.status for process in processes]
    failed = [process for process in processes if process.status]
    for process in processes:
      if process.unheard:
        raise process.unheard
    if failed:
      return failed[0]
    if None not in statuses:
      return None
    if stop.received and not is_asked:
      processes[-1].ask_to_stop()  # the chief, who tells the others
      is_asked = True
    time.sleep(POLL_SECS)


def launch(script, flag_values):
  """Start a cluster on this machine, wait for its end, and return the exit status.

  That is the status of the first process that fails, whose line has told why.

  Args:
    script: str, the path of the script to run.
    flag_values: the script's flags, which its processes get; none of a single process among them.
  """
  servers, workers = flag_values.local_ps, flag_values.local_workers
  try:
    addresses = _free_addresses(servers + workers)
  except OSError as error:
    raise console.UserError(f'--local_workers={workers} needs a port for each process '
                            f'({console.describe(error)}): give fewer') from None
  command = [sys.executable, '-u', os.path.abspath(script), *_arguments(flag_values),
             '--end_with_stdin', f'--ps_hosts={",".join(addresses[:servers])}',
             f'--worker_hosts={",".join(addresses[servers:])}']
  tasks = [('ps', index) for index in range(servers)]
  tasks += [('worker', index) for index in reversed(range(workers))]  # the chief last
  processes, told = [], set()
  with console.StopSignals() as stop:
    try:
      for job_name, index in tasks:
        processes.append(_Process(f'{job_name} {index}', [
            *command, f'--job_name={job_name}', f'--task_index={index}'], told))
      failed = _wait(processes, stop)
      if failed and not stop.received:
        time.sleep(1)  # its reason may be another one's failure, which is about to be told
    finally:
      for process in processes:  # all, before one can complain of the loss of another
        process.kill()
      for process in processes:
        process.show_end()
  if stop.received:
    return console.INTERRUPTED if failed else console.SUCCESS
  if failed and not told:
    raise console.UserError(f'{failed.name} has ended with status {failed.status}: the others were '
                            'ended, too')
  return max(failed.status, console.FAILURE) if failed else console.SUCCESS  # a signal's is below 0
