"""What robustness tests share: a look at folders, and disks, pictures and files to fail on."""
import contextlib
import ctypes
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import running
from PIL import Image

from support.quiet_tensorflow import tf

# Nothing listens on this port, so that a download fails at once, with or without a network.
NO_NETWORK = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'),
                           'http://127.0.0.1:9') | {'no_proxy': '', 'NO_PROXY': ''}


def snapshot(folder):
  """Return {path: (size, time of the last change)} of all files below folder, links as links."""
  paths = [pathlib.Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
  return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


def contents(folder):
  """Return {name: bytes} of the files in a folder."""
  return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.is_file()}


def one_line(result, status=1):
  """Assert that a script failed with one line on standard error; return the line."""
  lines = result.stderr.splitlines()
  assert result.returncode == status and len(lines) == 1, result
  assert lines[0].startswith(f'{result.args[0]}: '), result
  return lines[0]


# -- Disks and permissions ---------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path, megabytes):
  """A file system of that size, mounted at path; skips the test where none can be mounted."""
  path.mkdir()
  if not sys.platform.startswith('linux') or os.geteuid() != 0:
    pytest.skip('only root on Linux can mount a small file system')
  mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m,mode=755', 'tmpfs',
                            path], capture_output=True, text=True)
  if mounted.returncode:
    pytest.skip(f'no file system can be mounted: {mounted.stderr.strip()}')
  try:
    yield path
  finally:
    subprocess.run(['umount', '-l', path], check=True)


def remount(folder, options):
  subprocess.run(['mount', '-o', f'remount,{options}', folder], check=True)


def fill(folder):
  """Leave no byte free on the file system of a folder."""
  with open(folder / 'filler', 'wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(b'x' * 4096)


_become_script = running._become_script


def become_script_under_permissions(*args):
  header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, itself
  libc = ctypes.CDLL(None)
  libc.capget(header, sets)
  sets[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
  libc.capset(header, sets)
  _become_script(*args)


# -- Files -------------------------------------------------------------------------------


def flip_a_byte(path, place=0.5):
  """Change a byte in the middle of a file, or at another place, as a share of its length."""
  content = bytearray(path.read_bytes())
  content[int(len(content) * place)] ^= 255
  path.write_bytes(content)


def write_checkpoint(path, **values):
  """Write arrays as a checkpoint; / in their names is spelt __ here."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = {name.replace('__', '/'): tf.Variable(value) for name, value in values.items()}
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(variables).save(sess, str(path), write_meta_graph=False, write_state=False)


def picture(kind, size=(40, 30)):
  """Return an image file, bytes, of a dark stroke on white paper."""
  pixels = np.full(size[::-1], 255, np.uint8)
  pixels[size[1] // 4:-size[1] // 4, size[0] // 3:size[0] // 2] = 0
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind)
  return buffer.getvalue()
