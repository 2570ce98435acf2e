"""What all scripts do alike.

Importing this module imports TensorFlow quietly, so scripts import it before TensorFlow.
It then offers: one-line errors and exit statuses (`run`), stop signals (`StopSignals`),
one trainer a folder (`folder_lock`), checkpoints that are whole or not there at all
(`save_checkpoint`, `restore_newest`, `resume`), files that appear whole
(`replace_file`), and verified downloads (`download`).
"""
import contextlib
import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile

import filelock
from absl import app, flags

# Exit statuses.
SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def _has_gpu_driver():
  try:
    ctypes.CDLL('nvcuda.dll' if os.name == 'nt' else 'libcuda.so.1')
    return True
  except OSError:
    return False


@contextlib.contextmanager
def log_lines_held_back(pattern):
  """Hold back what is written to standard error in this block, and pass on all but some lines.

  Args:
    pattern: bytes, regular expression of the beginning of the lines to drop.

  Gives a text stream of standard error itself, for what cannot wait, like a progress bar.
  """
  sys.stderr.flush()
  standard_error = os.dup(2)
  with tempfile.TemporaryFile() as held, open(standard_error, 'w', closefd=False) as stream:
    os.dup2(held.fileno(), 2)
    try:
      yield stream
    finally:
      sys.stderr.flush()
      os.dup2(standard_error, 2)
      os.close(standard_error)
      held.seek(0)
      for line in held:
        if not re.match(pattern, line):
          os.write(2, line)


# TensorFlow logs errors that it raises, too. Where ours is the one line about them, this is the
# pattern of its lines.
RAISED_TOO = (rb'.*(jpeg_mem|local_rendezvous|op_kernel|tensor_slice_reader|save_restore_v2_ops)\.cc:\d+\] '
              rb'|\t \[\[\{\{node |Hint: If you want to see a list of allocated tensors|\n')

# TF_CPP_MIN_LOG_LEVEL alone is not enough: TensorFlow logs its first lines before reading it.
# That a machine without a GPU driver has none counts as information too.
_INFORMATION = (rb'I\d{4} |.* I tensorflow/|WARNING: All log messages before absl::InitializeLog'
                rb'|To enable the following instructions: ')
if not _has_gpu_driver():
  _INFORMATION += rb'|.*failed call to cuInit'

if os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1') == '0':
  import tensorflow.compat.v1 as tf
else:
  with log_lines_held_back(_INFORMATION):
    import tensorflow.compat.v1 as tf
    tf.config.list_physical_devices()  # looks for GPUs, and logs, here rather than later
  tf.get_logger().setLevel('ERROR')  # no deprecation warnings: TF1 style is the point here

tf.disable_v2_behavior()


class UserError(Exception):
  """A failure that its user can mend: one line that names what, the value seen, and the cure."""


class UsageError(UserError):
  """Flags or arguments that make no sense."""


# What reading or writing a file raises in TensorFlow; InvalidArgumentError and the like
# are mistakes in the program and keep their traceback.
FILE_ERRORS = (tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.DataLossError,
               tf.errors.ResourceExhaustedError, tf.errors.FailedPreconditionError,
               tf.errors.OutOfRangeError, tf.errors.UnknownError, tf.errors.InternalError,
               tf.errors.UnavailableError, tf.errors.AlreadyExistsError)


# -- Start and end of a script -----------------------------------------------------------


def printable(text):
  """Return text on one line: control characters and undecodable bytes become escapes."""
  return ''.join(c if c.isprintable() else c.encode('unicode_escape', 'surrogatepass').decode()
                 for c in str(text))


def warn(message):
  """Print one line on standard error."""
  print(f'{os.path.basename(sys.argv[0])}: {printable(message)}', file=sys.stderr, flush=True)


def describe(error):
  """Return a one-line description of an exception about a file or a flag."""
  if isinstance(error, OSError) and error.strerror:
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return ': '.join(places + [error.strerror])
  if isinstance(error, tf.errors.OpError):
    # The rest of a message are the graph's nodes.
    reason = re.split(r"\nNode: '[^']*'\n", error.message)[-1]
    return reason.strip().split('\n')[0] or type(error).__name__
  return str(error) or type(error).__name__


def _cure(error):
  """Return what the flag that an absl message names expects, or where to look it up."""
  named = re.match(r'flag --(?:no)?(\w+)', str(error))
  flag = flags.FLAGS[named.group(1)] if named and named.group(1) in flags.FLAGS else None
  if flag is None:
    return 'see --help'
  return f'give {flag.parser.syntactic_help or "another value"} ({flag.help.rstrip(".")})'


def _parse_flags(argv):
  """Parse the flags of argv strictly; return argv without them."""
  if {'--help', '-h', '-help', '--helpshort'} & set(argv[1:]):
    app.usage(shorthelp=True, writeto_stdout=True)
    sys.exit(SUCCESS)
  try:
    arguments = flags.FLAGS(argv)
  except flags.Error as error:
    raise UsageError(f'{error}: {_cure(error)}') from None
  for name in flags.FLAGS:  # absl's bounds let nan pass, and TensorFlow computes in float32
    value = flags.FLAGS[name].value
    if isinstance(value, float) and not abs(value) <= 3.4e38:
      raise UsageError(f'--{name}={value:g}: give a finite number')
  return arguments


def run(main, define_flags):
  """Define and parse flags, run main(argv), and exit with its status.

  What a user can mend ends in one line on standard error: status 2 for wrong usage, 1 for
  a failure of a file, 130 after Ctrl-C or SIGTERM. Anything else is a mistake in the
  program and keeps its traceback.

  Args:
    main: function of the arguments left after the flags, argv[0] first; returns an exit
      status, None for 0.
    define_flags: function without arguments that defines the script's absl flags.
  """
  for stream in (sys.stdout, sys.stderr):  # each line is seen at once, whatever it holds
    stream.reconfigure(line_buffering=True, errors='backslashreplace')
  signal.signal(signal.SIGTERM, signal.default_int_handler)

  # Not tf.app.run: it lets unknown flags pass, prints several lines for a wrong one, and
  # looks for GPUs before main.
  define_flags()
  app.define_help_flags()
  try:
    status = main(_parse_flags(sys.argv))
  except BrokenPipeError:  # as in `mnist_eval.py | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = FAILURE
  except (UserError, OSError, *FILE_ERRORS) as error:
    warn(f'error: {describe(error)}')
    status = WRONG_USAGE if isinstance(error, UsageError) else FAILURE
  except KeyboardInterrupt:
    warn('interrupted')
    status = INTERRUPTED
  sys.exit(status)


def refuse_arguments(argv):
  """Raise UsageError if argv holds anything but the script's name."""
  if len(argv) > 1:
    raise UsageError(f'argument {argv[1]!r} is not understood: give flags as --name=value, see --help')


class StopSignals:
  """Context in which the first SIGTERM or Ctrl-C asks a loop to end; a second ends the process.

  Attributes:
    received: str, the signal's name, or None while there was none.
  """

  def __init__(self):
    self.received = None

  def __enter__(self):
    self._handlers = {number: signal.signal(number, self._receive)
                      for number in (signal.SIGINT, signal.SIGTERM)}
    return self

  def _receive(self, number, frame):
    del frame
    self.received = signal.Signals(number).name
    for each in self._handlers:
      signal.signal(each, signal.default_int_handler)

  def __exit__(self, *exception):
    for number, handler in self._handlers.items():
      signal.signal(number, handler)


# -- Files and folders -------------------------------------------------------------------


@contextlib.contextmanager
def replace_file(path):
  """Give the path of a temporary file beside path; rename it to path if the block succeeds."""
  folder, name = os.path.split(path)
  try:
    handle, temporary_path = tempfile.mkstemp(prefix=f'.{name}.', suffix='.tmp', dir=folder or '.')
  except OSError as error:
    raise OSError(error.errno, error.strerror, path) from None  # not the temporary name
  os.close(handle)
  try:
    yield temporary_path
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary_path, 0o666 & ~mask)  # mkstemp gives 0600
    os.replace(temporary_path, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary_path)


@contextlib.contextmanager
def folder_lock(folder):
  """Make folder and hold it alone for the block; the lock of a dead process does not count.

  Raises:
    UserError: if another process holds it; the message names its process id.
  """
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise UserError(f'--model_dir={folder} cannot be made ({error.strerror}): give another folder') from None
  process_id_path = os.path.join(folder, 'train.pid')
  lock = filelock.FileLock(os.path.join(folder, 'train.lock'))
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    try:
      with open(process_id_path) as file:
        holder = f'process {file.read().strip()}'
    except OSError:
      holder = 'another process'
    raise UserError(f'--model_dir={folder}: {holder} is training in this folder; '
                    'wait for its end, or choose another folder') from None
  try:
    with replace_file(process_id_path) as temporary_path, open(temporary_path, 'w') as file:
      file.write(f'{os.getpid()}\n')
    yield
  finally:
    with contextlib.suppress(OSError):
      os.remove(process_id_path)
    lock.release()


@contextlib.contextmanager
def download(url, folder, cure, sha256=None):
  """Download url into a temporary folder inside folder; give its path until the block ends.

  Args:
    url: str.
    folder: str, where the file is wanted; made if missing.
    cure: str, what to put where by hand, for a machine without network.
    sha256: hexadecimal digest that the file must have, or None where none is published.

  Raises:
    UserError: if the file cannot be had or differs from its digest; the message ends in cure.
  """
  is_new = not os.path.isdir(folder)
  os.makedirs(folder, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='.download-', dir=folder) as temporary_dir:
    name = url.rsplit('/', 1)[-1]
    try:
      path = tf.keras.utils.get_file(name, url, cache_dir=temporary_dir, cache_subdir='.',
                                     file_hash=sha256, hash_algorithm='sha256')
    except Exception as error:  # get_file raises plain Exception for every network failure
      if is_new:
        shutil.rmtree(folder)
      raise UserError(f'cannot download {url} ({describe(error)}): {cure}') from None
    yield path


def unpack(archive, folder):
  """Unpack an open tarfile.TarFile into folder; only plain files and folders below it.

  Raises:
    UserError: if a member is a link or a device, or its path leads out of folder.
  """
  for member in archive:
    parts = member.name.replace('\\', '/').split('/')
    if not (member.isfile() or member.isdir()) or '..' in parts or parts[0] == '' or ':' in parts[0]:
      raise UserError(f'{archive.name} holds the member {member.name!r}, which is no plain file below '
                      'its folder: do not use this archive')
    path = os.path.join(folder, *parts)
    if member.isdir():
      os.makedirs(path, exist_ok=True)
      continue
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
      shutil.copyfileobj(archive.extractfile(member), file)


def digest(chunks):
  """Return the hexadecimal digest of an iterable of bytes."""
  blake = hashlib.blake2b(digest_size=32)
  for chunk in chunks:
    blake.update(chunk)
  return blake.hexdigest()


def file_digest(path):
  """Return the hexadecimal digest of a file's content."""
  with open(path, 'rb') as file:
    return digest(iter(lambda: file.read(1 << 20), b''))


def read_json(path):
  """Return the object, a dict, in a JSON file.

  Raises:
    UserError: if the file is missing or no JSON object.
    OSError: if it cannot be read.
  """
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except FileNotFoundError:
    raise UserError(f'{path} is missing: it belongs beside the file it describes') from None
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is no JSON file ({error}): make it anew') from None
  if not isinstance(content, dict):
    raise UserError(f'{path} holds no JSON object: make it anew')
  return content


def is_list_of_names(value):
  """Return whether value is a list of str, none of them empty."""
  return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def all_finite(variables):
  """Return a scalar bool tensor: no value of the variables is infinite or not a number."""
  return tf.reduce_all([tf.reduce_all(tf.is_finite(variable)) for variable in variables])


def open_writer(folder):
  """Return a tf.summary.FileWriter into folder; TensorFlow's own only logs where it cannot write."""
  os.makedirs(folder, exist_ok=True)
  with tempfile.TemporaryFile(dir=folder) as file:
    file.write(bytes(1 << 16))
  return tf.summary.FileWriter(folder)


def write_scalars(writer, step, **values):
  """Write named floats to TensorBoard at a step."""
  writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)
                                       for tag, value in values.items()]), step)


# -- Checkpoints -------------------------------------------------------------------------


def step_of(checkpoint_path):
  """Return the training step, an int, at the end of a checkpoint's name."""
  return int(checkpoint_path.rsplit('-', 1)[-1])


def named_checkpoints(model_dir, model_name):
  """Return the paths of the folder's checkpoints, oldest first.

  They are those that the `checkpoint` state file names; where that file is missing or
  unreadable, those whose index file is there.
  """
  try:
    state = tf.train.get_checkpoint_state(model_dir)
  except (ValueError, *FILE_ERRORS):  # neither text nor UTF-8, or empty
    state = None
  paths = list(state.all_model_checkpoint_paths) if state else []
  if not paths:
    paths = [path[:-len('.index')] for path in
             glob.glob(os.path.join(glob.escape(model_dir), f'{model_name}-*.index'))]
  # By name alone, so that a folder may be moved.
  names = {os.path.basename(path) for path in paths}
  numbered = re.compile(re.escape(model_name) + r'-\d+')
  return sorted((os.path.join(model_dir, name) for name in names if numbered.fullmatch(name)), key=step_of)


def checkpoint_shapes(checkpoint_path):
  """Return {variable name: shape as a list} of a checkpoint.

  Raises:
    DamagedCheckpoint: if its files are missing, cut short or no checkpoint.
  """
  try:
    with log_lines_held_back(RAISED_TOO):
      return tf.train.load_checkpoint(checkpoint_path).get_variable_to_shape_map()
  except (ValueError, tf.errors.OpError) as error:  # a plain OpError where the index is no table
    raise DamagedCheckpoint(f'{checkpoint_path} is no whole checkpoint ({describe(error)})') from None


class DamagedCheckpoint(UserError):
  """A checkpoint whose files are missing or cut short."""


def restore_checkpoint(sess, saver, variables, checkpoint_path):
  """Restore all variables from a checkpoint.

  Args:
    sess: the session to restore into.
    saver: the tf.train.Saver of the variables.
    variables: {name in the checkpoint: variable}.
    checkpoint_path: str.

  Raises:
    DamagedCheckpoint: if its files are missing or cut short; nothing is lost by trying another.
    UserError: if it is whole but of another network.
  """
  shapes = checkpoint_shapes(checkpoint_path)
  for name, variable in sorted(variables.items()):
    expected = variable.shape.as_list()
    if shapes.get(name) != expected:
      found = f'has shape {shapes[name]}' if name in shapes else 'is missing'
      raise UserError(f'{checkpoint_path} is of another network or other flags: {name} {found}, '
                      f'expected {expected}; choose another --model_dir, or the flags it was made with')
  try:
    with log_lines_held_back(RAISED_TOO):
      saver.restore(sess, checkpoint_path)
  except (ValueError, *FILE_ERRORS) as error:
    raise DamagedCheckpoint(f'{checkpoint_path} is damaged ({describe(error)})') from None


def restore_newest(sess, saver, variables, checkpoint_paths):
  """Restore the newest whole checkpoint, and say which damaged ones were passed over.

  Args:
    sess, saver, variables: as for `restore_checkpoint`.
    checkpoint_paths: list of str, oldest first.

  Returns:
    The path restored, or None if there are no checkpoints.

  Raises:
    UserError: if there are checkpoints and none of them is whole, or one is of another network.
  """
  for path in reversed(checkpoint_paths):
    try:
      restore_checkpoint(sess, saver, variables, path)
      return path
    except DamagedCheckpoint as error:
      warn(f'{error}: skipped')
  if checkpoint_paths:
    raise UserError(f'none of the {len(checkpoint_paths)} checkpoints in '
                    f'{os.path.dirname(checkpoint_paths[0])} is whole: move that folder away to start anew')
  return None


def resume(sess, saver, variables, model_dir, model_name):
  """Restore a trainer's newest whole checkpoint; sweep what a killed trainer left half-written.

  The caller holds the folder's lock. Returns the path restored, or None in a new folder.
  """
  remove_temporary_files(model_dir, model_name)
  paths = named_checkpoints(model_dir, model_name)
  path = restore_newest(sess, saver, variables, paths)
  # The saver goes on deleting the oldest of these, and no longer names damaged ones.
  saver.recover_last_checkpoints(paths[:paths.index(path) + 1] if path else [])
  if path:
    remove_half_deleted(model_dir, model_name, paths)
  return path


def remove_half_deleted(model_dir, model_name, named_paths):
  """Remove what a trainer was killed over deleting: unnamed, and older than all named or without index."""
  names = {os.path.basename(path) for path in named_paths}
  oldest = step_of(named_paths[0])
  for path in glob.glob(os.path.join(glob.escape(model_dir), f'{model_name}-*')):
    match = re.fullmatch(rf'({re.escape(model_name)}-(\d+))\.(index|data-\d+-of-\d+)', os.path.basename(path))
    if match and match.group(1) not in names and (
        int(match.group(2)) < oldest or not os.path.exists(os.path.join(model_dir, match.group(1) + '.index'))):
      os.remove(path)


def remove_temporary_files(model_dir, model_name):
  """Remove what an unfinished save leaves: folders and files that no state file names."""
  for pattern in (f'{model_name}-*_temp*', f'{model_name}-*.tempstate*', 'checkpoint.tmp*', '.*.tmp'):
    for path in glob.glob(os.path.join(glob.escape(model_dir), pattern)):
      if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
      else:
        with contextlib.suppress(OSError):
          os.remove(path)


def save_checkpoint(sess, saver, model_dir, model_name, step):
  """Write model_dir/model_name-step and name it in the `checkpoint` state file; return its path.

  Raises:
    UserError: if it cannot be written; the checkpoints before it stay as they are.
  """
  try:
    # No .meta file: the graph is code here, and a large file that nothing reads.
    with log_lines_held_back(RAISED_TOO):
      return saver.save(sess, os.path.join(model_dir, model_name), global_step=step, write_meta_graph=False)
  except (ValueError, OSError, *FILE_ERRORS) as error:
    remove_temporary_files(model_dir, model_name)
    raise UserError(f'cannot save step {step} in --model_dir={model_dir} ({describe(error)}): make room or '
                    'give write permission, then run again to go on from the checkpoint before') from None
