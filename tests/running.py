"""Scripts of the suite, run as a shell would run them."""
import contextlib
import multiprocessing
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time

import psutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared'  # real data, where there is some; tests that use it skip without

# A server that has imported TensorFlow once and forks for each script: what takes seconds
# in a process of its own takes milliseconds here.
_context = multiprocessing.get_context('forkserver') if os.name == 'posix' else None
if _context:
  _context.set_forkserver_preload(['support.quiet_tensorflow', 'flower_inference', 'PIL.Image',
                                   'tqdm', 'filelock'])


def _become_script(script, args, cwd, streams, env, ignored):
  if ignored is not None:
    signal.signal(ignored, signal.SIG_IGN)
  os.chdir(cwd)
  os.environ.update(env)
  for number, path in enumerate(streams, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
  sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
  sys.argv = [str(ROOT / script), *args]
  runpy.run_path(sys.argv[0], run_name='__main__')


class Started:
  """A script in a process of its own; it is killed when the context ends."""

  def __init__(self, script, *args, cwd=ROOT, env=None, stdout=None, stderr=None, ignored=None):
    """Start a script.

    Args:
      env: dict, changes of the environment.
      stdout, stderr: paths of what it prints into, if that is not to be read here.
      ignored: number of a signal that is ignored from the start, or None.
    """
    self._folder = tempfile.TemporaryDirectory()
    self._paths = [pathlib.Path(self._folder.name, name) for name in ('stdout', 'stderr')]
    streams = [os.fspath(stdout or self._paths[0]), os.fspath(stderr or self._paths[1])]
    self.args = [script, *map(os.fspath, args)]
    if _context:
      self._process = _context.Process(target=_become_script, args=(
          script, self.args[1:], os.fspath(cwd), streams, env or {}, ignored))
      self._process.start()
    else:
      with open(streams[0], 'wb') as out, open(streams[1], 'wb') as err:
        self._process = subprocess.Popen(
            [sys.executable, ROOT / script, *self.args[1:]], cwd=cwd, stdout=out, stderr=err,
            env={**os.environ, **(env or {})})
    self.pid = self._process.pid

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.kill()
    self._folder.cleanup()

  @property
  def status(self):
    """The exit status, None while it runs; that of a signal is negative."""
    return self._process.exitcode if _context else self._process.poll()

  @property
  def texts(self):
    """What is on standard output and standard error so far."""
    return [path.read_text(errors='replace') if path.exists() else '' for path in self._paths]

  @property
  def lines(self):
    return self.texts[0].splitlines()

  @property
  def errors(self):
    return self.texts[1].splitlines()

  def find(self, pattern):
    """Return the re.Match of each line of standard output that matches pattern."""
    return [match for match in (re.search(pattern, line) for line in self.lines) if match]

  def wait_for(self, pattern, count=1, timeout=180):
    """Wait until count lines on standard output match pattern; return the last re.Match."""
    deadline = time.monotonic() + timeout
    while True:
      is_over, found = self.status is not None or time.monotonic() > deadline, self.find(pattern)
      if len(found) >= count:
        return found[-1]
      assert not is_over, (pattern, self.args, self.status, *self.texts)
      time.sleep(0.005)

  def signal(self, number):
    os.kill(self.pid, number)

  def end(self, timeout=180):
    """Wait for the end and return the exit status."""
    deadline = time.monotonic() + timeout
    while self.status is None:
      if time.monotonic() > deadline:
        raise subprocess.TimeoutExpired(self.args, timeout, *self.texts)
      time.sleep(0.005)
    return self.status

  def children(self):
    return psutil.Process(self.pid).children(recursive=True)

  def kill(self):
    """End it and all that it has started."""
    if self.status is None:
      for process in [*self.children(), psutil.Process(self.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
          process.kill()
      self.end()


def run_script(script, *args, cwd=None, env=None, timeout=120):
  """Run a script of the suite with arguments to its end.

  Returns:
    subprocess.CompletedProcess with returncode, stdout and stderr (str).
  """
  with Started(script, *args, cwd=cwd or ROOT, env=env) as started:
    started.end(timeout)
    return subprocess.CompletedProcess(started.args, started.status, *started.texts)


def start_script(script, *args, **kwargs):
  """Start a script in a process of its own, its output in pipes of text; return the Popen."""
  kwargs.setdefault('cwd', ROOT)
  return subprocess.Popen([sys.executable, '-u', ROOT / script, *map(os.fspath, args)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
