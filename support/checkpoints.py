"""Checkpoints: found, restored, saved and resumed from; one trainer a folder.

What lies on the disk decides which checkpoints there are. The `checkpoint` state file is written,
because TensorFlow's own functions read it, but not read here: it may be of another machine.
"""
import json
import os
import re

import filelock
import numpy as np

from support import files
from support.console import UserError, describe, report, warn
from support.quiet_tensorflow import FILE_ERRORS, tf

MODEL_FILE = 'model.json'  # what the checkpoints of a folder are of
SUFFIXES = ('.index', '.data-00000-of-00001', '.meta')  # of the files of a checkpoint

# What TensorFlow's reader raises of a damaged file.
_READ_ERRORS = (ValueError, IndexError, tf.errors.OpError)


class DamagedCheckpoint(UserError):
  """A checkpoint that cannot be used; another one may be intact."""


# -- Finding -----------------------------------------------------------------------------


def step_of(checkpoint_path: str) -> int:
  """Return the training steps done: those that a checkpoint holds, or else those in its name."""
  try:
    return int(tf.train.load_checkpoint(checkpoint_path).get_tensor('global_step'))
  except _READ_ERRORS:
    return int(checkpoint_path.rsplit('-', 1)[-1])


def list_checkpoints(model_dir: str, model_name: str) -> list[str]:
  """Return the paths of a folder's checkpoints, oldest step first: those with an index file."""
  try:
    entries = os.listdir(model_dir)
  except (FileNotFoundError, NotADirectoryError):
    return []
  index = re.compile(rf'({re.escape(model_name)}-\d+)\.index')
  names = [match.group(1) for match in map(index.fullmatch, entries) if match]
  return sorted((os.path.join(model_dir, name) for name in names), key=step_of)


def identity(checkpoint_path: str) -> object:
  """Return what differs for a later checkpoint of the same path; None if it is gone."""
  try:
    status = os.stat(checkpoint_path + '.index')
  except OSError:
    return None
  return checkpoint_path, status.st_ino, status.st_mtime_ns


# -- Restoring ---------------------------------------------------------------------------


def read_shapes(checkpoint_path: str) -> dict[str, list[int]]:
  """Return the shapes of a checkpoint's variables, by name; raise DamagedCheckpoint."""
  try:
    return tf.train.load_checkpoint(checkpoint_path).get_variable_to_shape_map()
  except _READ_ERRORS as error:
    raise DamagedCheckpoint(
        f'{checkpoint_path} is not a whole checkpoint ({describe(error)})') from None


def restore(sess: tf.Session, saver: tf.train.Saver | None, variables: dict[str, tf.Variable],
            checkpoint_path: str) -> None:
  """Restore variables, given by their names in the checkpoint, with the saver of them.

  Without a saver, the values are fed; nothing is added to the graph, which may be finalized.

  Raises:
    DamagedCheckpoint: if its files are missing or cut short, or a number in it is not finite.
    UserError: if it is whole but of another network.
  """
  # TensorFlow's own message about another network is a page long and names an operation.
  shapes = read_shapes(checkpoint_path)
  for name, variable in sorted(variables.items()):
    expected = variable.shape.as_list()
    if shapes.get(name) != expected:
      found = f'has shape {shapes[name]}' if name in shapes else 'is missing'
      raise UserError(f'{checkpoint_path} is of another network or other flags: {name} {found}, '
                      f'expected {expected}; choose another --model_dir, or the flags it was made '
                      'with')
  try:
    reader = tf.train.load_checkpoint(checkpoint_path)
    spoiled = [name for name in variables if not np.isfinite(reader.get_tensor(name)).all()]
  except _READ_ERRORS as error:
    raise DamagedCheckpoint(f'{checkpoint_path} is damaged or not yet whole ({describe(error)})'
                            ) from None
  if spoiled:
    raise DamagedCheckpoint(f'{checkpoint_path} holds numbers that are not finite, in {spoiled[0]}')
  try:
    if saver:
      saver.restore(sess, checkpoint_path)
      return
    sess.run([variable.initializer for variable in variables.values()], {
        variable.initializer.inputs[1]: reader.get_tensor(name)
        for name, variable in variables.items()})
  except (ValueError, *FILE_ERRORS) as error:  # a trainer has deleted it meanwhile
    raise DamagedCheckpoint(f'{checkpoint_path} has gone ({describe(error)})') from None


def restore_newest(sess: tf.Session, saver: tf.train.Saver, variables: dict[str, tf.Variable],
                   model_dir: str, model_name: str) -> str | None:
  """Restore the newest checkpoint that can be used, as `restore` does; return its path.

  Returns:
    None if there are no checkpoints.

  Raises:
    UserError: if there are checkpoints and none can be used, or one is of another network.
  """
  damaged: set[str] = set()
  # Listed again each time: a trainer beside may delete one and write the next while it is read.
  while paths := [path for path in list_checkpoints(model_dir, model_name) if path not in damaged]:
    try:
      restore(sess, saver, variables, paths[-1])
      return paths[-1]
    except DamagedCheckpoint as error:
      damaged.add(paths[-1])
      if os.path.exists(paths[-1] + '.index'):
        warn(f'{error}: skipped')
  if damaged:
    raise UserError(f'none of the {len(damaged)} checkpoints in --model_dir={model_dir} can be '
                    'used: fetch the missing or damaged files again, or give another --model_dir')
  return None


def restore_model(sess: tf.Session, saver: tf.train.Saver, variables: dict[str, tf.Variable],
                  model_dir: str, model_name: str) -> str:
  """Restore as `restore_newest`; raise UserError if there is no checkpoint."""
  path = restore_newest(sess, saver, variables, model_dir, model_name)
  if path is None:
    raise UserError(f'--model_dir={model_dir} holds no checkpoint {model_name}-STEP: train first, '
                    'or name the folder of the training')
  return path


# -- One trainer a folder ----------------------------------------------------------------


class ModelFolder:
  """A model folder that one trainer holds, from entering this context to leaving it."""

  def __init__(self, model_dir: str, model_name: str):
    self.path = model_dir
    self.model_name = model_name
    self._lock_path = os.path.join(model_dir, 'train.lock')

  def __enter__(self) -> 'ModelFolder':
    """Make the folder, hold it, and remove what a killed trainer was writing.

    Raises:
      UserError: if it cannot be written, another process holds it, or it holds another model.
    """
    try:
      os.makedirs(self.path, exist_ok=True)
      self._lock = filelock.FileLock(self._lock_path)
      self._lock.acquire(timeout=0)
      self._lock_status = os.stat(self._lock_path)
    except filelock.Timeout:
      raise UserError(f'--model_dir={self.path}: another process is training in this folder; wait '
                      'for its end, or choose another folder') from None
    except OSError as error:
      raise UserError(f'--model_dir={self.path} cannot be made or written ({error.strerror}): '
                      'give another folder') from None
    try:
      self._sweep()
    except BaseException:
      self._lock.release()
      raise
    return self

  def __exit__(self, *exception: object) -> None:
    self._lock.release()

  def _sweep(self) -> None:
    # TensorFlow gives a file that it is writing another ending, and deletes the index of its
    # oldest checkpoint first. Two models in one folder would share one state file.
    found = [match for match in map(re.compile(
        r'(.+)-(\d+)\.(index|meta|data-\d+-of-\d+)(\.tempstate\d+)?').fullmatch,
        sorted(os.listdir(self.path))) if match]
    steps = []
    for name, step, kind, is_unfinished in (match.groups() for match in found):
      if kind == 'index' and not is_unfinished:
        steps.append(int(step))
        if name != self.model_name:
          raise UserError(f'--model_dir={self.path} holds checkpoints of another model, '
                          f'{name}-{step}: choose another folder')
    for match in found:
      if match[1] == self.model_name and (match[4] or steps and int(match[2]) < min(steps)):
        files.remove(os.path.join(self.path, match[0]))

  def require_held(self) -> None:
    """Raise UserError if the folder was deleted, or made again by somebody else, meanwhile."""
    try:
      is_held = os.path.samestat(os.stat(self._lock_path), self._lock_status)
    except OSError:
      is_held = False
    if not is_held:
      raise UserError(f'--model_dir={self.path} is no longer the folder in which this training '
                      'began: nothing more is saved there; run again')

  def check_model(self, model: dict, options: dict) -> None:
    """Compare what is trained with what the folder's checkpoints are of, and keep it beside them.

    Args:
      model: for JSON; another value of one of these would spoil the model: UserError.
      options: for JSON; another value of one of these is printed and taken.
    """
    path = os.path.join(self.path, MODEL_FILE)
    stored = {}  # what this run does not know of the model stays as it is
    if list_checkpoints(self.path, self.model_name) and os.path.exists(path):
      stored = files.read_json(path, 'choose another --model_dir, or delete this file if the '
                               'checkpoints are surely of this data and these flags')
      for name, value in json.loads(json.dumps(model)).items():
        if name in stored and stored[name] != value:
          raise UserError(f'--model_dir={self.path} holds checkpoints with {name} '
                          f'{_shorten(stored[name])}, not {_shorten(value)}: choose another folder')
      for name, value in options.items():
        earlier = stored.get('options', {}).get(name, value)
        if earlier != value:
          report(f'Going on with {name} {value}, after {earlier} before.')
    files.write_json(path, {**stored, **model, 'options': options})


def _shorten(value: object) -> str:
  """Return a value of model.json as text that fits into a message."""
  text = json.dumps(value, ensure_ascii=False)
  return text if len(text) <= 60 else text[:57] + '...'


def read_model(model_dir: str) -> dict:
  """Return what `ModelFolder.check_model` kept of a folder's model; empty if there is nothing."""
  path = os.path.join(model_dir, MODEL_FILE)
  if not os.path.exists(path):
    return {}
  return files.read_json(path, 'fetch it again, or train into a new --model_dir')


# -- Saving ------------------------------------------------------------------------------


class Saver(tf.train.Saver):
  """Saves all variables of the default graph into a held folder, and resumes from it.

  TensorFlow moves the index of a checkpoint, by which it is found, last into its place.
  """

  def __init__(self, folder: ModelFolder, max_to_keep: int, advice: str):
    """Add what saving needs to the graph; advice is for weights that are not finite."""
    super().__init__(max_to_keep=max_to_keep, save_relative_paths=True)
    self._folder = folder
    self._advice = advice
    self._weights_finite = tf.reduce_all([
        tf.reduce_all(tf.is_finite(variable)) for variable in tf.trainable_variables()])

  def resume(self, sess: tf.Session) -> str | None:
    """Restore as `restore_newest`, and count the folder's checkpoints for max_to_keep."""
    folder = self._folder
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    path = restore_newest(sess, self, variables, folder.path, folder.model_name)
    # Those on the disk, also where the state file is of another machine and names others.
    self.recover_last_checkpoints(list_checkpoints(folder.path, folder.model_name))
    return path

  def save(self, sess: tf.Session, save_path: str, global_step: int, **kwargs) -> str:
    """Write the checkpoint of a step, delete the oldest beyond max_to_keep, and return its path.

    Raises:
      UserError: if a weight is not finite, the checkpoint cannot be written, or the folder is no
        longer held; the checkpoints before it stay as they are.
    """
    self._folder.require_held()
    # Nan and infinity stay in the weights; what is saved before is better than such a checkpoint.
    if not sess.run(self._weights_finite):
      raise UserError(f'not all weights are finite at step {global_step}, which is not saved: '
                      f'{self._advice}')
    try:
      return super().save(sess, save_path, global_step, **kwargs)
    except (ValueError, OSError, *FILE_ERRORS) as error:
      raise UserError(f'cannot save step {global_step} in --model_dir={self._folder.path} '
                      f'({describe(error)}): make room or give write permission, then run again '
                      'to go on from the checkpoint before') from None


def report_saved(path: str, signal_name: str | None = None) -> None:
  """Print where a training has left its last checkpoint, and the signal that stopped it."""
  stopped = f'Stopped by {signal_name}; run again to go on. ' if signal_name else ''
  report(f'{stopped}Saved {path}')
