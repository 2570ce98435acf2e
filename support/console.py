"""The console: one-line errors, flags, exit statuses and stop signals; no TensorFlow.

A script ends with `console.run(main, FLAGS)`, where FLAGS is a `flags.FlagValues()` of its own:
two scripts in one notebook kernel do not share flags, and a script may be run twice.
"""
import contextlib
import copy
import os
import re
import signal
import sys
import threading
import traceback
import types

from absl import flags

# Exit statuses.
SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

# What asks a process to end. A closed terminal or a broken ssh sends SIGHUP; Windows has none.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
                     if hasattr(signal, name))


class UserError(Exception):
  """A failure that its user can fix, in one line: what, the value found, what to do."""

  def __init__(self, message, status=FAILURE):
    super().__init__(message)
    self.status = status  # the script's exit status


# --help shows flags under the module that asked for them, not under this one.
flags.disclaim_key_flags()

# Other exceptions that end in one line: {class: function that describes one}. A room that calls
# a library with errors of its own adds to it.
one_line_errors = {}


# -- Messages ----------------------------------------------------------------------------


def printable(text):
  """Return text on one line: control characters and undecodable bytes become escapes."""
  return ''.join(c if c.isprintable() else c.encode('unicode_escape', 'surrogatepass').decode()
                 for c in str(text))


def warn(message):
  """Print one line on standard error, or nowhere if that takes nothing any more."""
  script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else 'python'
  with contextlib.suppress(OSError):
    print(f'{script}: {printable(message)}', file=sys.stderr, flush=True)


def describe(error):
  """Return a one-line description of an exception."""
  if isinstance(error, OSError) and error.strerror:
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return ': '.join(places + [error.strerror])
  for kind, describe_kind in one_line_errors.items():
    if isinstance(error, kind):
      return describe_kind(error)
  return str(error) or type(error).__name__


# -- Flags -------------------------------------------------------------------------------


class _PathParser(flags.ArgumentParser):
  """Parses the name of a local file or folder."""
  syntactic_help = 'the name of a local file or folder'

  def parse(self, argument):
    path = os.path.expanduser(argument)
    if not path or '\0' in path:
      raise ValueError('is not a name')
    # TensorFlow would take it to a file system that is not there, or to one in memory.
    if re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', path):
      raise ValueError('names a remote place')
    return path


def DEFINE_path(name, default, help, flag_values):
  """Define a flag for a local file or folder; `~` is the home folder."""
  flags.DEFINE(_PathParser(), name, default, help, flag_values, flags.ArgumentSerializer())


def share_flags(flag_values, other, *names):
  """Define in flag_values the flags of another script, some by name or all."""
  for name in names or list(other):
    flags.DEFINE_flag(copy.deepcopy(other[name]), flag_values)


def options(flag_values, **changes):
  """Return the flags' defaults, changed by name, as the attributes of one object.

  Values are checked as on the command line.

  Raises:
    TypeError: if there is no flag of a name.
    UserError: if a value is out of the flag's bounds.
  """
  values = {name: flag_values[name].default for name in flag_values}
  for name, value in changes.items():
    if name not in values:
      raise TypeError(f'there is no option {name!r}: choose from {", ".join(sorted(values))}')
    flag = flag_values[name]
    try:
      values[name] = None if value is None else flag.parser.parse(
          os.fspath(value) if isinstance(value, os.PathLike) else value)
    except (TypeError, ValueError) as error:
      raise UserError(f'{name}={value!r}: {error}', WRONG_USAGE) from None
    _require_finite(name, values[name])
  return types.SimpleNamespace(**values)


def _require_finite(name, value):
  # absl's bounds let nan pass, and TensorFlow computes in float32.
  if isinstance(value, float) and not abs(value) <= 3.4e38:
    raise UserError(f'--{name}={value:g}: give a finite number', WRONG_USAGE)


def _advice(error, flag_values):
  """Return what the flag that an absl message names expects, or where to look it up."""
  named = re.match(r'flag --(?:no)?(\w+)', str(error))
  flag = flag_values[named.group(1)] if named and named.group(1) in flag_values else None
  if flag is None:
    return 'see --help'
  return f'give {flag.parser.syntactic_help or "another value"} ({flag.help.rstrip(".")})'


def parse_flags(flag_values, argv):
  """Parse the flags of argv strictly, and return argv without them.

  Raises:
    UserError: if a flag is unknown, or its value is not one.
  """
  try:
    arguments = flag_values(argv)
  except flags.Error as error:
    raise UserError(f'{error}: {_advice(error, flag_values)}', WRONG_USAGE) from None
  for name in flag_values:
    _require_finite(name, flag_values[name].value)
  return arguments


def refuse_arguments(argv):
  """Raise UserError if argv holds anything but the script's name."""
  if len(argv) > 1:
    raise UserError(f'argument {argv[1]!r} is not understood: give flags as --name=value, '
                    'see --help', WRONG_USAGE)


# -- Start and end of a script -----------------------------------------------------------


def _open_closed_streams():
  """Open the null device where a standard stream was closed, as by `>&-` or in some cron jobs.

  Otherwise the next file to be opened would take its number, and what a library prints would
  be written into that file.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
  for name, number in (('stdout', 1), ('stderr', 2)):
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, 'w', closefd=False))


def _is_script():
  """Return whether this process runs a script of this folder, not a notebook or another program."""
  path = os.path.abspath(getattr(sys.modules['__main__'], '__file__', None) or '')
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  return (os.path.dirname(path) == root and 'IPython' not in sys.modules
          and re.fullmatch(r'(mnist|flower)_\w+\.py', os.path.basename(path)) is not None)


def _let_interrupts_end_in_one_line():
  """Let Ctrl-C end a script in one line, where an import has pages of traceback, until `run`."""
  if (not _is_script() or threading.current_thread() is not threading.main_thread()
      or signal.getsignal(signal.SIGINT) is not signal.default_int_handler):
    return
  standard_error = os.dup(2)  # what TensorFlow's import writes there is held back

  def end(number, frame):
    del number, frame
    os.write(standard_error, b'%s: interrupted\n' % os.fsencode(os.path.basename(sys.argv[0])))
    os._exit(INTERRUPTED)

  signal.signal(signal.SIGINT, end)


_open_closed_streams()
_let_interrupts_end_in_one_line()


def _print_each_line_at_once():
  """Let no line wait in a buffer or fail by what it holds; a notebook's streams are left alone."""
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(line_buffering=True, errors='backslashreplace')


def _arguments():
  """Return sys.argv, but none of a notebook kernel's own, as in a cell with a script pasted in."""
  if 'ipykernel' in sys.modules and os.path.basename(sys.argv[0]).startswith('ipykernel_launcher'):
    return ['notebook']
  return sys.argv


@contextlib.contextmanager
def _stop_signals_raise():
  """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, in this block."""
  handlers = {}
  if threading.current_thread() is threading.main_thread():
    for number in STOP_SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup: it stays ignored
        handlers[number] = signal.signal(number, signal.default_int_handler)
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _forget_quietly(interrupt):
  """Let go of what was being made at an interrupt: half a tf.Session complains as it is deleted."""
  hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
  try:
    traceback.clear_frames(interrupt.__traceback__)
  finally:
    sys.unraisablehook = hook


def _main_status(main, flag_values):
  """Return the exit status of main(argv); print the line that a failure ends in."""
  argv = _arguments()
  try:
    if {'--help', '-h', '-help', '--helpshort', '--helpfull'} & set(argv[1:]):
      print(f'{sys.modules["__main__"].__doc__}\nFlags:\n{flag_values.get_help()}')
      return SUCCESS
    status = main(parse_flags(flag_values, argv))
    sys.stdout.flush()
    return status or SUCCESS
  except KeyboardInterrupt as interrupt:
    _forget_quietly(interrupt)
    warn('interrupted')
    return INTERRUPTED
  except RuntimeError as error:  # Ctrl-C while TensorFlow made an error of its own
    if 'KeyboardInterrupt' not in str(error):
      raise
    warn('interrupted')
    return INTERRUPTED
  except BrokenPipeError:  # as in `mnist_eval.py | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return FAILURE
  except UserError as error:
    warn(f'error: {error}')
    return error.status
  except (OSError, *one_line_errors) as error:
    if isinstance(error, OSError) and error.filename is None:  # support.files names its own
      warn(f'error: standard output: {describe(error)}')
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in its buffer has nowhere to go
    else:
      warn(f'error: {describe(error)}')
    return FAILURE


def run(main, flag_values):
  """Parse the flags of the command line, run main(argv), and exit with its status.

  What a user can fix ends in one line on standard error: status 2 for wrong usage, 1 for
  a failure of a file, 130 after a stop signal. Anything else is a mistake in the program and
  keeps its traceback.

  Args:
    main: function of the arguments left after the flags, argv[0] first; returns an exit
      status, None for 0.
    flag_values: the script's absl `FlagValues`.
  """
  # Not tf.app.run: it lets unknown flags pass, prints several lines for a wrong one, and
  # looks for GPUs before main.
  _print_each_line_at_once()
  with _stop_signals_raise():
    status = _main_status(main, flag_values)
  if status:  # a notebook would show an exit with status 0 as a warning
    sys.exit(status)


class StopSignals:
  """Context in which the first stop signal asks a loop to end; a second ends the process.

  Outside the main thread, where Python handles no signals, nothing is ever received.

  Attributes:
    received: str, the signal's name, or None while there was none.
  """

  def __init__(self):
    self.received = None
    self._handlers = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      self._handlers = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS
                        if signal.getsignal(number) is not signal.SIG_IGN}
    return self

  def _receive(self, number, frame):
    del frame
    self.received = signal.Signals(number).name
    for each in self._handlers:
      signal.signal(each, signal.default_int_handler)

  def __exit__(self, *exception):
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
