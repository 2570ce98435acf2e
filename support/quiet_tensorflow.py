"""TensorFlow's version 1 interface, imported without its chatter: `from ... import tf`.

Its information and warnings are dropped, its errors are not. TF_CPP_MIN_LOG_LEVEL=0 shows all of
them, among them why a GPU is not used.
"""
import contextlib
import gc
import importlib.abc
import importlib.machinery
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from support import console

# What TensorFlow logs before it has read TF_CPP_MIN_LOG_LEVEL. That a machine has no GPU, or the
# driver of one without the device, counts as information, too; any other failure of a GPU does not.
_INFORMATION = (r'[IW]\d{4} |.* [IW] tensorflow/|WARNING: All log messages before absl::Initialize'
                r'|To enable the following instructions: '
                r'|.*failed call to cuInit: .*(CUDA_ERROR_NO_DEVICE|UNKNOWN ERROR \(303\))')

# A program, so that lines are passed on even if TensorFlow ends the process that writes them.
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin.buffer:
  if not re.match(sys.argv[1].encode(), line):
    sys.stdout.buffer.write(line)
"""


@contextlib.contextmanager
def _without_lines(pattern: str) -> Iterator[None]:
  """Drop the lines that begin with a pattern from what this block writes to standard error."""
  if sys.stderr is None:  # it is closed
    yield
    return
  sys.stderr.flush()
  standard_error = os.dup(2)
  with subprocess.Popen([sys.executable, '-S', '-c', _FILTER, pattern],
                        stdin=subprocess.PIPE, stdout=standard_error) as line_filter:
    os.dup2(line_filter.stdin.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(standard_error, 2)
      os.close(standard_error)


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
def _without_keras() -> Iterator[None]:
  """Import no Keras in this block, whose layers are not used here."""
  finder = _KerasLater()
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
  """Search for no garbage in this block: an import makes hardly any, and takes a fifth longer."""
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()


# Kernels of oneDNN, which TensorFlow turns on by itself only on processors with AVX-512: a step of
# MNIST takes 61 ms instead of 99 on two cores with AVX2.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
# Level 2 drops warnings, too: most are about an error that is raised as well, in a line of ours.
_is_quiet = os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2') != '0'
with (_without_keras(), _without_garbage_collection(),
      _without_lines(_INFORMATION) if _is_quiet else contextlib.nullcontext()):
  import tensorflow.compat.v1 as tf
  tf.config.list_physical_devices()  # looks for GPUs, and logs, here rather than later
if _is_quiet:
  tf.get_logger().setLevel('ERROR')  # no deprecation warnings: TF1 style is the point here
tf.disable_v2_behavior()


def describe_error(error: tf.errors.OpError) -> str:
  """Return the first line of a TensorFlow error's message that is not about nodes or tasks."""
  reason = re.split(r"\nNode: '[^']*'\n", error.message)[-1]
  reason = re.sub(r'(Graph execution error:|From /job:\S+:)\s*', '', reason)
  return reason.strip().split('\n')[0] or type(error).__name__


# What reading or writing a file raises in TensorFlow, and what a lack of memory does.
# InvalidArgumentError and the like are mistakes in the program and keep their traceback.
FILE_ERRORS = (tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.DataLossError,
               tf.errors.ResourceExhaustedError, tf.errors.FailedPreconditionError,
               tf.errors.OutOfRangeError, tf.errors.UnknownError, tf.errors.InternalError,
               tf.errors.AlreadyExistsError)
console.one_line_errors.update(dict.fromkeys(FILE_ERRORS, describe_error))
