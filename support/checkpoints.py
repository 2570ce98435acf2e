"""Checkpoints: find, restore, resume, save and sweep; one trainer a folder.

The disk decides which checkpoints there are. The `checkpoint` state file, which TensorFlow's own
functions read, only tells which of them this room wrote, and so may delete.
"""
import contextlib
import json
import os
import re
import secrets
import tempfile
import time

import filelock

from support import files
from support.console import UserError, describe, printable, warn
from support.quiet_tensorflow import FILE_ERRORS, raised_errors_held_back, tf

STATE_FILE = 'checkpoint'  # TensorFlow's name for it
MODEL_FILE = 'model.json'  # what the checkpoints of a folder are of
DATA_SUFFIX = '.data-00000-of-00001'
SUFFIXES = ('.index', DATA_SUFFIX, '.meta')  # the index goes last in saving, first in deleting

# A reader beside a trainer that deletes checkpoints as fast as it writes them looks again so long.
SECONDS_TO_LOOK_AGAIN = 60


class DamagedCheckpoint(UserError):
  """A checkpoint whose files are missing or cut short; another one may be whole."""


# -- Paths -------------------------------------------------------------------------------


def _is_plain(path):
  """Return whether TensorFlow takes path for a name: no pattern, and text."""
  try:
    if path.encode() != os.fsencode(path):  # it takes all names for UTF-8
      return False
  except UnicodeEncodeError:  # a name outside the locale's encoding
    return False
  return not set('*?[' if os.name == 'nt' else '*?[\\') & set(path)


@contextlib.contextmanager
def literal(prefix):
  """Give a name for the files and folders that begin with prefix which is not a pattern.

  TensorFlow writes to a path as it stands but looks for it as for a pattern: what it writes
  into `run[1]` it does not find again, and what it deletes there it deletes in `run1`. So it is
  shown such files through symbolic links in a temporary folder.

  Args:
    prefix: str, a folder, or a checkpoint without its endings.
  """
  if _is_plain(prefix):
    yield prefix
    return
  folder, name = os.path.split(os.path.abspath(prefix))
  try:
    with tempfile.TemporaryDirectory() as links:
      if not _is_plain(links):
        raise OSError(0, 'the temporary folder has such a name itself')
      for entry in os.listdir(folder):
        if entry == name or entry.startswith(name + '.'):
          os.symlink(os.path.join(folder, entry), os.path.join(links, 'link' + entry[len(name):]))
      yield os.path.join(links, 'link')
  except OSError as error:
    raise UserError(f'{prefix}: TensorFlow takes this name for a pattern, and it cannot be shown '
                    f'under another one ({describe(error)}): rename it') from None


def step_of(checkpoint_path):
  """Return the training step, an int, at the end of a checkpoint's name."""
  return int(checkpoint_path.rsplit('-', 1)[-1])


def list_checkpoints(model_dir, model_name):
  """Return the paths of the folder's checkpoints, oldest step first: those with an index file."""
  try:
    entries = os.listdir(model_dir)
  except (FileNotFoundError, NotADirectoryError):
    return []
  index = re.compile(rf'({re.escape(model_name)}-\d+)\.index')
  names = [match.group(1) for match in map(index.fullmatch, entries) if match]
  return sorted((os.path.join(model_dir, name) for name in names), key=step_of)


def identity(checkpoint_path):
  """Return what tells a checkpoint from an earlier one of the same path; None if it is gone."""
  try:
    status = os.stat(checkpoint_path + '.index')
  except OSError:
    return None
  return checkpoint_path, status.st_ino, status.st_mtime_ns


# -- Reading -----------------------------------------------------------------------------


def read_shapes(checkpoint_path):
  """Return {variable name: shape as a list} of a checkpoint.

  Raises:
    DamagedCheckpoint: if its files are missing, cut short or not a checkpoint.
  """
  try:
    with literal(checkpoint_path) as path, raised_errors_held_back():
      return tf.train.load_checkpoint(path).get_variable_to_shape_map()
  except (ValueError, IndexError, tf.errors.OpError) as error:  # whatever a damaged index leads to
    raise DamagedCheckpoint(
        f'{checkpoint_path} is not a whole checkpoint ({describe(error)})') from None


def _raise_if_of_a_server(error, sess):
  """Raise an error that comes from the loss of a cluster's server, not from a file."""
  if isinstance(error, tf.errors.UnavailableError) and sess.sess_str:  # the address of a cluster
    raise error


def restore_values(sess, saver, checkpoint_path):
  """Restore what a saver saves, unchecked.

  Raises:
    DamagedCheckpoint: if the checkpoint's files are missing or cut short.
  """
  try:
    with literal(checkpoint_path) as path, raised_errors_held_back():
      saver.restore(sess, path)
  except tf.errors.InvalidArgumentError:  # where shapes have been compared, that leaves the types
    raise UserError(f'{checkpoint_path} is of another network: its variables have other types'
                    ) from None
  except (ValueError, *FILE_ERRORS) as error:
    _raise_if_of_a_server(error, sess)
    raise DamagedCheckpoint(f'{checkpoint_path} is damaged ({describe(error)})') from None


def restore_checkpoint(sess, saver, variables, checkpoint_path):
  """Restore all variables from a checkpoint.

  Args:
    saver: the tf.train.Saver of the variables.
    variables: {name in the checkpoint: variable}.

  Raises:
    DamagedCheckpoint: if its files are missing or cut short.
    UserError: if it is whole but of another network.
  """
  shapes = read_shapes(checkpoint_path)
  for name, variable in sorted(variables.items()):
    expected = variable.shape.as_list()
    if shapes.get(name) != expected:
      found = f'has shape {shapes[name]}' if name in shapes else 'is missing'
      raise UserError(f'{checkpoint_path} is of another network or other flags: {name} {found}, '
                      f'expected {expected}; choose another --model_dir, or the flags it was made '
                      'with')
  restore_values(sess, saver, checkpoint_path)


def restore_or_skip(sess, saver, variables, checkpoint_path):
  """Restore a checkpoint and return True; say that it is damaged and return False.

  Args:
    saver, variables: as for `restore_checkpoint`.
  """
  try:
    restore_checkpoint(sess, saver, variables, checkpoint_path)
    return True
  except DamagedCheckpoint as error:
    warn(f'{error}: skipped')
    return False


def restore_newest(sess, saver, variables, model_dir, model_name):
  """Restore the newest whole checkpoint of a folder, and say which damaged ones were passed over.

  Args:
    saver, variables: as for `restore_checkpoint`.

  Returns:
    The path restored, or None if there are no checkpoints.

  Raises:
    UserError: if there are checkpoints and none of them is whole, or one is of another network.
  """
  damaged, deadline = set(), time.monotonic() + SECONDS_TO_LOOK_AGAIN
  while True:
    paths = list_checkpoints(model_dir, model_name)
    candidates = [path for path in paths if path not in damaged]
    if not candidates:
      break
    path = candidates[-1]
    try:
      restore_checkpoint(sess, saver, variables, path)
      return path
    except DamagedCheckpoint as error:
      # Where the index is gone, a trainer has deleted the checkpoint and written another one.
      if os.path.exists(path + '.index') or time.monotonic() > deadline:
        warn(f'{error}: skipped')
        damaged.add(path)
  if damaged:
    raise UserError(f'none of the {len(damaged)} checkpoints in {model_dir} is whole: '
                    'move that folder away to start from step 1')
  return None


# -- One trainer a folder ----------------------------------------------------------------


class ModelFolder:
  """A model folder that one trainer holds, from entering this context to leaving it.

  The lock of a dead process does not count.
  """

  def __init__(self, model_dir, model_name):
    self.path = model_dir
    self.model_name = model_name
    self._holder_path = os.path.join(model_dir, 'train.pid')
    self._holder = f'{os.getpid()} {secrets.token_hex(8)}\n'

  def __enter__(self):
    """Make the folder and hold it.

    Raises:
      UserError: if it cannot be made or written, another process holds it, or it holds another
        model.
    """
    try:
      os.makedirs(self.path, exist_ok=True)
      self._lock = filelock.FileLock(os.path.join(self.path, 'train.lock'))
      self._lock.acquire(timeout=0)
    except filelock.Timeout:
      raise UserError(f'--model_dir={self.path}: {self._other_holder()} is training in this '
                      'folder; wait for its end, or choose another folder') from None
    except OSError as error:
      raise UserError(f'--model_dir={self.path} cannot be made or written ({error.strerror}): '
                      'give another folder') from None
    try:
      self._refuse_other_models()
      with files.replace_file(self._holder_path) as temporary_path:
        with open(temporary_path, 'w') as file:
          file.write(self._holder)
    except BaseException:
      self._lock.release()
      raise
    return self

  def __exit__(self, *exception):
    if self._is_held():
      files.remove(self._holder_path)
    self._lock.release()

  def _other_holder(self):
    try:
      with open(self._holder_path) as file:
        return f'process {file.read().split()[0]}'
    except (OSError, IndexError):
      return 'another process'

  def _refuse_other_models(self):
    """Two models in one folder would share one state file, and mix their summaries."""
    for entry in sorted(os.listdir(self.path)):
      match = re.fullmatch(r'(.+)-\d+\.index', entry)
      if match and match.group(1) != self.model_name:
        raise UserError(f'--model_dir={self.path} holds checkpoints of another model, '
                        f'{entry[:-len(".index")]}: choose another folder')

  def _is_held(self):
    try:
      with open(self._holder_path) as file:
        return file.read() == self._holder
    except OSError:
      return False

  def require_held(self):
    """Raise UserError if the folder was deleted, or made again by somebody else, meanwhile."""
    if not self._is_held():
      raise UserError(f'--model_dir={self.path} is no longer the folder in which this training '
                      'began: nothing more is saved there; run again')

  def check_model(self, model, options):
    """Compare what is trained with what the folder's checkpoints are of, and keep it beside them.

    Args:
      model: dict for JSON; going on with another value of one of these would spoil the model.
      options: dict for JSON; another value of these is told in a line and taken.

    Raises:
      UserError: if the folder's checkpoints are of another model.
    """
    path = os.path.join(self.path, MODEL_FILE)
    stored = {}  # what this run does not know of the model stays as it is
    if list_checkpoints(self.path, self.model_name) and os.path.exists(path):
      stored = files.read_json(path, 'choose another --model_dir, or delete this file if the '
                               'checkpoints are surely of this data and these flags')
      for name, value in json.loads(json.dumps(model)).items():
        if name in stored and stored[name] != value:
          raise UserError(f'--model_dir={self.path} holds checkpoints with {name} '
                          f'{_shown(stored[name])}, not {_shown(value)}: choose another folder')
      earlier = stored.get('options')
      for name, value in options.items():
        if isinstance(earlier, dict) and name in earlier and earlier[name] != value:
          print(printable(f'Going on with {name} {value}, after {earlier[name]} before.'))
    files.write_json(path, {**stored, **model, 'options': options})


def _shown(value):
  """Return a value of model.json, shortened to be read in a message."""
  text = json.dumps(value, ensure_ascii=False)
  return text if len(text) <= 60 else text[:57] + '...'


# -- Saving ------------------------------------------------------------------------------


class Saver:
  """Saves all variables of the default graph into a held folder, and resumes from it.

  A checkpoint appears whole: it is written in a temporary folder and its index, by which it is
  found, is moved last.
  """

  def __init__(self, folder, max_to_keep, advice):
    """Add what saving needs to the graph.

    Args:
      folder: ModelFolder.
      max_to_keep: int, how many of the newest checkpoints to keep, of those written here.
      advice: str, what to do when the weights are not finite.
    """
    self._folder = folder
    self._max_to_keep = max_to_keep
    self._advice = advice
    self._kept = []  # names of checkpoints of this folder's trainers, oldest first
    variables = tf.global_variables()
    self._variables = {variable.op.name: variable for variable in variables}
    # No max_to_keep: TensorFlow's own deletion takes the names for patterns.
    self._saver = tf.train.Saver(variables, max_to_keep=None)
    self._weights_finite = tf.reduce_all([
        tf.reduce_all(tf.is_finite(variable)) for variable in tf.trainable_variables()])
    self._meta_graph = None

  def resume(self, sess):
    """Restore the newest whole checkpoint; sweep what a killed trainer left half-written.

    Returns:
      The path restored, or None in a folder without checkpoints.

    Raises:
      UserError: as for `restore_newest`.
    """
    folder = self._folder
    files.sweep(folder.path, folder.model_name)
    path = restore_newest(sess, self._saver, self._variables, folder.path, folder.model_name)
    on_disk = {os.path.basename(path) for path in list_checkpoints(folder.path, folder.model_name)}
    for name in self._read_state():
      if name in on_disk:
        self._kept.append(name)
      else:  # its deletion or its saving was cut short
        self._delete(name)
    return path

  def save(self, sess, step):
    """Write the checkpoint of a step, delete what is beyond max_to_keep, and return its path.

    Raises:
      UserError: if a weight is not finite, the checkpoint cannot be written, or the folder is no
        longer held; the checkpoints before it stay as they are.
    """
    self._folder.require_held()
    if not sess.run(self._weights_finite):
      raise UserError(f'not all weights are finite at step {step}, which is not saved: '
                      f'{self._advice}')
    name = f'{self._folder.model_name}-{step}'
    try:
      with files.temporary_folder(self._folder.path, self._folder.model_name) as temporary_dir:
        self._write(sess, temporary_dir, name)
        # Named in the state file before it is there, so that whatever is there and not named
        # in it was put there by somebody else, and is never deleted.
        newest = self._kept[-1:]
        self._kept = [kept for kept in self._kept if kept != name] + [name]
        self._write_state(newest)
        self._delete(name)  # a damaged one of this step, perhaps
        for suffix in reversed(SUFFIXES):
          os.replace(os.path.join(temporary_dir, name + suffix),
                     os.path.join(self._folder.path, name + suffix))
      self._write_state([name])
      self._delete_oldest(name)
    except (ValueError, OSError, *FILE_ERRORS) as error:
      _raise_if_of_a_server(error, sess)
      raise UserError(f'cannot save step {step} in --model_dir={self._folder.path} '
                      f'({describe(error)}): make room or give write permission, then run again '
                      'to go on from the checkpoint before') from None
    return os.path.join(self._folder.path, name)

  def _write(self, sess, temporary_dir, name):
    """Write the three files of a checkpoint."""
    with literal(temporary_dir) as path, raised_errors_held_back():
      self._saver.save(sess, os.path.join(path, name), write_meta_graph=False, write_state=False)
    if self._meta_graph is None:  # the graph stays the same, and takes a second of Inception's
      self._meta_graph = self._saver.export_meta_graph().SerializeToString()
    with open(os.path.join(temporary_dir, name + '.meta'), 'wb') as file:
      file.write(self._meta_graph)

  def _delete_oldest(self, newest):
    for name in self._kept[:-self._max_to_keep]:
      self._delete(name)
    if len(self._kept) > self._max_to_keep:
      self._kept = self._kept[-self._max_to_keep:]
      self._write_state([newest])

  def _delete(self, name):
    for suffix in SUFFIXES:
      files.remove(os.path.join(self._folder.path, name + suffix))

  def _write_state(self, newest):
    """Write the state file in TensorFlow's format, with names relative to the folder."""
    lines = [f'model_checkpoint_path: "{name}"\n' for name in newest]
    lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in self._kept]
    with files.replace_file(os.path.join(self._folder.path, STATE_FILE)) as temporary_path:
      with open(temporary_path, 'w') as file:
        file.writelines(lines)

  def _read_state(self):
    """Return the names in the state file, as far as it is one of ours."""
    try:
      with open(os.path.join(self._folder.path, STATE_FILE), encoding='utf-8') as file:
        state = file.read()
    except (OSError, ValueError):
      return []
    name = re.compile(rf'all_model_checkpoint_paths: "({re.escape(self._folder.model_name)}-\d+)"')
    return sorted(set(name.findall(state)), key=step_of)
