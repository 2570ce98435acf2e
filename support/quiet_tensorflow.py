"""TensorFlow's version 1 interface, imported without its chatter: `from ... import tf`.

Its information lines are dropped, its errors are not. TF_CPP_MIN_LOG_LEVEL=0 shows everything.
"""
import contextlib
import ctypes
import gc
import importlib.abc
import importlib.machinery
import os
import re
import sys
import tempfile
import threading

from support import console

_stderr_lock = threading.RLock()  # standard error is one for all threads
_standard_errors = []  # the descriptor of the real one, while lines are held back


@contextlib.contextmanager
def log_lines_held_back(pattern):
  """Hold back what a single call writes to standard error, and pass on all but some lines.

  Args:
    pattern: bytes, regular expression of the beginning of the lines to drop.
  """
  with contextlib.ExitStack() as stack:
    try:
      held = stack.enter_context(tempfile.TemporaryFile())
    except OSError:  # no temporary folder can be written: better chatter than no work
      yield
      return
    stack.enter_context(_stderr_lock)
    sys.stderr.flush()
    standard_error = os.dup(2)
    os.dup2(held.fileno(), 2)
    _standard_errors.append(standard_error)
    try:
      yield
    finally:
      _standard_errors.pop()
      sys.stderr.flush()
      os.dup2(standard_error, 2)
      held.seek(0)
      passed_on = b''.join(line for line in held if not re.match(pattern, line))
      with contextlib.suppress(OSError):  # standard error takes nothing any more
        os.write(standard_error, passed_on)
      os.close(standard_error)


def give_back_standard_error():
  """Let this thread be heard, though another one holds lines back in a call that may never end."""
  if _standard_errors:
    sys.stderr.flush()
    os.dup2(_standard_errors[0], 2)


def raised_errors_held_back():
  """Hold back the lines that TensorFlow logs about errors that it raises, too, in this block."""
  return log_lines_held_back(
      rb'.*(jpeg_mem|local_rendezvous|op_kernel|tensor_slice_reader|save_restore_v2_ops)\.cc:\d+\] '
      rb'|\t \[\[\{\{node |Hint: If you want to see a list of allocated tensors|\n')


def _has_gpu_driver():
  try:
    ctypes.CDLL('nvcuda.dll' if os.name == 'nt' else 'libcuda.so.1')
    return True
  except OSError:
    return False


@contextlib.contextmanager
def _no_garbage_collection():
  """Collect no garbage in this block: an import makes none, and the search takes a fifth of it.

  Nor is it searched for afterwards in what was imported, which stays anyway.
  """
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
    gc.freeze()
  finally:
    if was_enabled:
      gc.enable()


class _KerasLater(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Lets an import of Keras fail, with which TensorFlow's import ends and takes half as long again.

  TensorFlow looks where Keras is, which succeeds, and passes over a failure to import it. It comes
  when somebody asks for tf.keras, or imports it.
  """

  def find_spec(self, name, path=None, target=None):
    del path, target
    if name != 'keras':
      return None
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is not None:
      spec.loader = self
    return spec

  def create_module(self, spec):
    raise ImportError(f'{spec.name} is not imported along with TensorFlow')

  def exec_module(self, module):
    """Never called."""


@contextlib.contextmanager
def _without_keras():
  """Import no Keras in this block, whose layers are not used here."""
  finder = _KerasLater()
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)


# TF_CPP_MIN_LOG_LEVEL alone is not enough: TensorFlow logs its first lines before reading it.
# That a machine without a GPU driver has none counts as information too.
_INFORMATION = (rb'I\d{4} |.* I tensorflow/|WARNING: All log messages before absl::InitializeLog'
                rb'|To enable the following instructions: ')
if not _has_gpu_driver():
  _INFORMATION += rb'|.*failed call to cuInit'

# Kernels of oneDNN, which TensorFlow turns on by itself only on processors with AVX-512: a step of
# MNIST takes 61 ms instead of 99 on two cores with AVX2.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
try:
  tempfile.gettempdir()
except OSError:  # none can be written, but TensorFlow's import ends without the name of one
  tempfile.tempdir = os.curdir
with _no_garbage_collection(), _without_keras():
  if os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1') == '0':
    import tensorflow.compat.v1 as tf
  else:
    with log_lines_held_back(_INFORMATION):
      import tensorflow.compat.v1 as tf
      tf.config.list_physical_devices()  # looks for GPUs, and logs, here rather than later
    tf.get_logger().setLevel('ERROR')  # no deprecation warnings: TF1 style is the point here

tf.disable_v2_behavior()


def describe_error(error):
  """Return the first line of a TensorFlow error's message that is not about nodes or tasks."""
  reason = re.split(r"\nNode: '[^']*'\n", error.message)[-1]
  reason = re.sub(r'(Graph execution error:|From /job:\S+:)\s*', '', reason)
  return reason.strip().split('\n')[0] or type(error).__name__


# What reading or writing a file raises in TensorFlow, and what a lack of memory does.
# InvalidArgumentError and the like are mistakes in the program and keep their traceback.
FILE_ERRORS = (tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.DataLossError,
               tf.errors.ResourceExhaustedError, tf.errors.FailedPreconditionError,
               tf.errors.OutOfRangeError, tf.errors.UnknownError, tf.errors.InternalError,
               tf.errors.UnavailableError, tf.errors.AlreadyExistsError)
console.one_line_errors.update(dict.fromkeys(FILE_ERRORS, describe_error))
