"""What several tests need: small data files, and scripts run as a shell would run them."""
import gzip
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared'

# A server that has imported TensorFlow once and forks for each script: what takes seconds
# in a process of its own takes milliseconds here.
_context = multiprocessing.get_context('forkserver') if os.name == 'posix' else None
if _context:
  _context.set_forkserver_preload(['script_support', 'flower_inference', 'PIL.Image', 'tqdm', 'filelock'])


def _become_script(script, args, cwd, streams, env):
  os.chdir(cwd)
  os.environ.update(env)
  for number, path in enumerate(streams, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
  sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)  # noqa: SIM115
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
    return subprocess.run([sys.executable, ROOT / script, *args], cwd=cwd, env={**os.environ, **(env or {})},
                          capture_output=True, text=True, timeout=timeout)
  with tempfile.TemporaryDirectory() as folder:
    streams = [os.path.join(folder, name) for name in ('stdout', 'stderr')]
    process = _context.Process(target=_become_script, args=(script, args, cwd, streams, env or {}))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
      process.kill()
      process.join()
      raise subprocess.TimeoutExpired(script, timeout)
    texts = [pathlib.Path(path).read_text(errors='replace') if os.path.exists(path) else '' for path in streams]
  return subprocess.CompletedProcess([script, *args], process.exitcode, *texts)


def start_script(script, *args, **kwargs):
  """Start a script in a process of its own, with its output in pipes of text; return the Popen."""
  kwargs.setdefault('cwd', ROOT)
  return subprocess.Popen([sys.executable, '-u', ROOT / script, *map(os.fspath, args)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def idx_images(images):
  """Return the IDX file, bytes, of uint8 images [n, 28, 28]."""
  return np.array([2051, *images.shape], '>u4').tobytes() + images.tobytes()


def idx_labels(labels):
  """Return the IDX file, bytes, of uint8 labels [n]."""
  return np.array([2049, len(labels)], '>u4').tobytes() + labels.tobytes()


def write_mnist(folder, train=5200, test=60, seed=0, compress=True):
  """Write four files in the MNIST format: easy digits, a bright block whose place tells the label."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  random = np.random.RandomState(seed)
  for prefix, count in (('train', train), ('t10k', test)):
    labels = random.randint(0, 10, count).astype(np.uint8)
    images = random.randint(0, 60, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
      row, column = divmod(int(label), 5)
      image[4 + row * 12:12 + row * 12, 1 + column * 5:6 + column * 5] = 255
    for name, content in ((f'{prefix}-images-idx3-ubyte', idx_images(images)),
                          (f'{prefix}-labels-idx1-ubyte', idx_labels(labels))):
      if compress:
        (folder / f'{name}.gz').write_bytes(gzip.compress(content, 1, mtime=0))
      else:
        (folder / name).write_bytes(content)
  return folder


def write_photos(folder, classes=('daisy', 'rose', 'tulip'), count=8, seed=0):
  """Write small JPEG files, count in each class folder, coloured by class."""
  from PIL import Image
  folder = pathlib.Path(folder)
  random = np.random.RandomState(seed)
  for label, name in enumerate(classes):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for k in range(count):
      pixels = random.randint(0, 80, (40 + k, 50, 3)).astype(np.uint8)
      pixels[..., label % 3] += 150
      Image.fromarray(pixels).save(folder / name / f'{k:03d}.jpg', quality=90)
  return folder
