"""The console: flags, one-line errors, exit statuses and stop signals; no TensorFlow.

A script ends with `console.run(main, FLAGS)`, where FLAGS is a `console.Flags()` of its own: two
scripts in one notebook kernel do not share flags, and a script may be run twice.
"""
import contextlib
import copy
import functools
import gc
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

# Exit statuses.
SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

# What asks a process to end. A closed terminal or a broken ssh sends SIGHUP; Windows has none.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
                     if hasattr(signal, name))

# TensorFlow takes a path with one of these for a pattern: what it writes into `run[1]` it does not
# find again, and what it deletes there it deletes in `run1`.
PATTERN_CHARACTERS = '*?[' if os.name == 'nt' else '*?[\\'


class UserError(Exception):
  """A failure that its user can fix, in one line: what, the value found, what to do."""

  def __init__(self, message: str, status: int = FAILURE):
    super().__init__(message)
    self.status = status  # the script's exit status


# --help shows flags under the module that asked for them, not under this one.
flags.disclaim_key_flags()

# Other exceptions that end in one line, each with the function that describes it. A room that calls
# a library with errors of its own adds to it.
one_line_errors: dict[type[Exception], Callable[[Any], str]] = {}


# -- Messages ----------------------------------------------------------------------------


def printable(text: object) -> str:
  """Return text on one line: control characters and undecodable bytes become escapes."""
  return ''.join(c if c.isprintable() else c.encode('unicode_escape', 'surrogatepass').decode()
                 for c in str(text))


def report(text: object) -> None:
  """Print one line, whatever the names in it hold, on standard output."""
  print(printable(text))


def warn(message: object) -> None:
  """Print one line on standard error, or nowhere if that takes nothing any more."""
  script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else 'python'
  with contextlib.suppress(OSError):
    print(f'{script}: {printable(message)}', file=sys.stderr, flush=True)


def describe(error: Exception) -> str:
  """Return a one-line description of an exception."""
  if isinstance(error, OSError) and error.strerror:
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return ': '.join(places + [error.strerror])
  for kind, describe_kind in one_line_errors.items():
    if isinstance(error, kind):
      return describe_kind(error)
  return str(error) or type(error).__name__


# -- Flags -------------------------------------------------------------------------------


def _define(flag_values: 'Flags', define: Callable, *args: object, **kwargs: object) -> None:
  define(*args, flag_values=flag_values, **kwargs)


class _PathParser(flags.ArgumentParser):
  """Parses the name of a local file or folder."""
  syntactic_help = 'the name of a local file or folder'

  def __init__(self, for_tensorflow: bool):
    self._for_tensorflow = for_tensorflow

  def parse(self, argument: str) -> str:
    path = os.path.expanduser(argument)
    if not path:
      raise ValueError('is not a name')
    # TensorFlow would take it to a file system that is not there, or to one in memory.
    if re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', path):
      raise ValueError('names a remote place')
    if self._for_tensorflow and set(PATTERN_CHARACTERS) & set(path):
      raise ValueError(f'has one of the characters {PATTERN_CHARACTERS}, which TensorFlow takes '
                       'for a pattern: choose a name without')
    if '..' in path.split(os.sep):
      # The system follows a link before it goes up; TensorFlow shortens `link/../name` as text.
      resolved = os.path.realpath(path)
      path = resolved if os.path.isabs(path) else os.path.relpath(resolved)
    return path


class Flags(flags.FlagValues):
  """The flags of a script, and what they are for its functions: options.

  A method DEFINE_integer and the like is absl's function of that name.
  """
  DEFINE_bool = functools.partialmethod(_define, flags.DEFINE_bool)
  DEFINE_enum = functools.partialmethod(_define, flags.DEFINE_enum)
  DEFINE_float = functools.partialmethod(_define, flags.DEFINE_float)
  DEFINE_integer = functools.partialmethod(_define, flags.DEFINE_integer)
  DEFINE_string = functools.partialmethod(_define, flags.DEFINE_string)

  def DEFINE_path(self, name: str, default: str, help: str, *, for_tensorflow: bool = False
                  ) -> None:
    """Define a flag for a local file or folder; `~` is the home folder.

    Args:
      for_tensorflow: whether TensorFlow itself opens it, which takes some names for patterns.
    """
    flags.DEFINE(_PathParser(for_tensorflow), name, default, help, self, flags.ArgumentSerializer())

  def options(self, **changes: object) -> types.SimpleNamespace:
    """Return the flags' defaults, changed by name and checked as on the command line.

    Raises:
      TypeError: if there is no flag of a name.
      UserError: if a value is out of the flag's bounds.
    """
    values = {name: self[name].default for name in self}
    for name, value in changes.items():
      if name not in values:
        raise TypeError(f'there is no option {name!r}: choose from {", ".join(sorted(values))}')
      try:
        values[name] = None if value is None else self[name].parser.parse(
            os.fspath(value) if isinstance(value, os.PathLike) else value)
      except (TypeError, ValueError) as error:
        raise UserError(f'{name}={value!r}: {error}', WRONG_USAGE) from None
    return types.SimpleNamespace(**values)

  def share(self, other: flags.FlagValues, *names: str) -> None:
    """Define the flags of another script here, some by name or all."""
    for name in names or list(other):
      flags.DEFINE_flag(copy.deepcopy(other[name]), self)


Options = Flags | types.SimpleNamespace  # what functions take: flags that were parsed, or options


def _advice(error: Exception, flag_values: Flags) -> str:
  """Return what the flag that an absl message names expects, or where to look it up."""
  named = re.match(r'flag --(?:no)?(\w+)', str(error))
  flag = flag_values[named.group(1)] if named and named.group(1) in flag_values else None
  if flag is None:
    return 'see --help'
  return f'give {flag.parser.syntactic_help or "another value"} ({flag.help.rstrip(".")})'


def parse_flags(flag_values: Flags, argv: list[str]) -> list[str]:
  """Parse the flags of argv strictly, and return argv without them.

  Raises:
    UserError: if a flag is unknown, or its value is not one.
  """
  try:
    return flag_values(argv)
  except (flags.Error, ValueError) as error:  # absl's own, of `--nodropout=true`, is no flags.Error
    raise UserError(f'{error}: {_advice(error, flag_values)}', WRONG_USAGE) from None


def refuse_arguments(argv: list[str]) -> None:
  """Raise UserError if argv holds anything but the script's name."""
  if len(argv) > 1:
    raise UserError(f'argument {argv[1]!r} is not understood: give flags as --name=value, '
                    'see --help', WRONG_USAGE)


# -- Start and end of a script -----------------------------------------------------------


def _prepare_streams() -> None:
  """Let no line wait in a buffer or fail because of its characters.

  Where a standard stream was closed, as by `>&-`, the next file to be opened would take its number,
  and what a library prints would be written into that file: the null device takes it instead.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
  for name, number in (('stdout', 1), ('stderr', 2)):
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, 'w', closefd=False))
    if hasattr(getattr(sys, name), 'reconfigure'):  # else a notebook's, which is left alone
      getattr(sys, name).reconfigure(line_buffering=True, errors='backslashreplace')


def _is_started_as(main: Callable[[list[str]], int | None]) -> bool:
  """Return whether this process was started as the script that main is in.

  Otherwise, as in a notebook or console into which the script was pasted, the arguments are the
  host's.
  """
  try:
    return os.path.samefile(sys.argv[0], main.__code__.co_filename)
  except OSError:
    return False


@contextlib.contextmanager
def _stop_signals_raise() -> Iterator[None]:
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


def _describe_failure(error: Exception) -> str:
  """Return a line about an exception, which may be of a line that could not be printed."""
  try:
    sys.stdout.flush()  # what could not be written is still in its buffer, and fails again
  except OSError as stream_error:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return f'standard output: {describe(stream_error)}'
  return describe(error)


def _main_status(main: Callable[[list[str]], int | None], flag_values: Flags) -> int:
  """Return the exit status of main(argv); print the line that a failure ends in."""
  argv = sys.argv[:1]
  if _is_started_as(main):
    argv = sys.argv
    gc.freeze()  # what was imported stays; a search for garbage in it at the end takes 0.4 s
  try:
    if {'--help', '-h', '-help', '--helpshort', '--helpfull'} & set(argv[1:]):
      print(f'{sys.modules["__main__"].__doc__}\nFlags:\n{flag_values.get_help()}')
      return SUCCESS
    status = main(parse_flags(flag_values, argv))
    sys.stdout.flush()
    return status or SUCCESS
  except KeyboardInterrupt:
    warn('interrupted')
    return INTERRUPTED
  except BrokenPipeError:  # as in `mnist_eval.py | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return FAILURE
  except UserError as error:
    warn(f'error: {error}')
    return error.status
  except (OSError, *one_line_errors) as error:
    warn(f'error: {_describe_failure(error)}')
    return FAILURE


def run(main: Callable[[list[str]], int | None], flag_values: Flags) -> None:
  """Parse the flags of the command line, run main(argv), and exit with its status.

  What a user can fix ends in one line on standard error: status 2 for wrong usage, 1 for a failure
  of a file, 130 after a stop signal. Anything else is a mistake in the program and keeps its
  traceback.

  Args:
    main: function of the arguments left after the flags, argv[0] first; its None is status 0.
  """
  # Not tf.app.run: it lets unknown flags pass, prints several lines for a wrong one, and
  # looks for GPUs before main.
  _prepare_streams()
  with _stop_signals_raise():
    status = _main_status(main, flag_values)
  if status:  # a notebook would show an exit with status 0 as a warning
    sys.exit(status)


class StopSignals:
  """Context in which the first stop signal asks a loop to end; a second ends the process.

  Outside the main thread, where Python handles no signals, nothing is ever received.
  """

  def __init__(self) -> None:
    self.received: str | None = None  # the signal's name
    self._handlers: dict[int, Any] = {}

  def __enter__(self) -> 'StopSignals':
    if threading.current_thread() is threading.main_thread():
      self._handlers = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS
                        if signal.getsignal(number) is not signal.SIG_IGN}
    return self

  def _receive(self, number: int, frame: object) -> None:
    del frame
    self.received = signal.Signals(number).name
    for each in self._handlers:
      signal.signal(each, signal.default_int_handler)

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
