"""Scripts of the suite, run as a shell would run them."""
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared'  # real data, where there is some; tests that use it skip without

# A server that has imported TensorFlow once and forks for each script: what takes seconds
# in a process of its own takes milliseconds here.
_context = multiprocessing.get_context('forkserver') if os.name == 'posix' else None
if _context:
  _context.set_forkserver_preload(['support.quiet_tensorflow', 'flower_inference', 'PIL.Image',
                                   'tqdm', 'filelock'])


def _become_script(script, args, cwd, streams, env):
  os.chdir(cwd)
  os.environ.update(env)
  for number, path in enumerate(streams, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
  sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
  sys.argv = [str(ROOT / script), *args]
  runpy.run_path(sys.argv[0], run_name='__main__')


def run_script(script, *args, cwd=None, env=None, timeout=120):
  """Run a script of the suite with arguments to its end.

  Returns:
    subprocess.CompletedProcess with returncode, stdout and stderr (str).
  """
  args = [os.fspath(arg) for arg in args]
  cwd = os.fspath(cwd or ROOT)
  if not _context:
    return subprocess.run([sys.executable, ROOT / script, *args], cwd=cwd, text=True,
                          env={**os.environ, **(env or {})}, capture_output=True, timeout=timeout)
  with tempfile.TemporaryDirectory() as folder:
    streams = [os.path.join(folder, name) for name in ('stdout', 'stderr')]
    process = _context.Process(target=_become_script, args=(script, args, cwd, streams, env or {}))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
      process.kill()
      process.join()
      raise subprocess.TimeoutExpired(script, timeout)
    texts = [pathlib.Path(path).read_text(errors='replace') if os.path.exists(path) else ''
             for path in streams]
  return subprocess.CompletedProcess([script, *args], process.exitcode, *texts)


def start_script(script, *args, **kwargs):
  """Start a script in a process of its own, its output in pipes of text; return the Popen."""
  kwargs.setdefault('cwd', ROOT)
  return subprocess.Popen([sys.executable, '-u', ROOT / script, *map(os.fspath, args)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
