"""The pre-trained Inception-v3, or the model of an earlier run: found, fetched and restored."""
import os
from collections.abc import Sequence

from support import checkpoints, console, files
from support.quiet_tensorflow import tf

CKPT_NAME = 'inception_v3.ckpt'  # Google's, in the archive below
CKPT_URL = 'http://download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz'


def fetch_checkpoint(ckpt_file: str, variables: Sequence[tf.Variable]) -> None:
  """Download Google's checkpoint, which has no published digest, and check its variables."""
  advice = ('fetch it elsewhere and unpack it, so that inception_v3.ckpt is at '
            f'--ckpt_file={ckpt_file}')
  with files.temporary_folder(ckpt_file) as folder:
    files.unpack(files.download(CKPT_URL, folder, advice), folder)
    unpacked = os.path.join(folder, CKPT_NAME)
    shapes = checkpoints.read_shapes(unpacked)
    for variable in variables:
      if shapes.get(variable.op.name) != variable.shape.as_list():
        raise console.UserError(f'{CKPT_URL} does not hold {variable.op.name} of shape '
                                f'{variable.shape.as_list()}: it is not the checkpoint it was')
    os.replace(unpacked, ckpt_file)


def _in_folder(folder: str, model_name: str) -> str:
  """Return the one checkpoint in a folder, or the newest one of an earlier fine-tuning."""
  tuned = checkpoints.list_checkpoints(folder, model_name)
  if tuned:
    return tuned[-1]
  names = [name[:-len('.index')] for name in sorted(os.listdir(folder)) if name.endswith('.index')]
  names += [name for name in os.listdir(folder) if name == CKPT_NAME]
  if len(names) != 1:
    raise console.UserError(f'--ckpt_file={folder} is a folder with {len(names)} checkpoints: give '
                            'the path of one, like inception_v3.ckpt or flower.ckpt-299 in it')
  return os.path.join(folder, names[0])


def find_checkpoint(ckpt_file: str, model_name: str) -> str | None:
  """Return the path that names a checkpoint for TensorFlow, or None if there is none.

  Args:
    ckpt_file: the checkpoint, one of its files, or a folder with one; with several, UserError.
    model_name: what checkpoints of earlier fine-tuning are called, before their step.
  """
  for suffix in checkpoints.SUFFIXES:
    ckpt_file = ckpt_file.removesuffix(suffix)
  if os.path.isdir(ckpt_file):
    ckpt_file = _in_folder(ckpt_file, model_name)
  # Google's is one file in TensorFlow's first format; later ones have an index.
  return ckpt_file if os.path.exists(ckpt_file + '.index') or os.path.exists(ckpt_file) else None


def get_checkpoint(ckpt_file: str, variables: Sequence[tf.Variable], model_name: str) -> str:
  """Return the path of the pre-trained checkpoint; download Google's if that is what is missing.

  Args:
    ckpt_file, model_name: as for `find_checkpoint`; UserError if it is not a checkpoint.
    variables: those that Google's must hold.
  """
  path = find_checkpoint(ckpt_file, model_name)
  needed = (f'give inception_v3.ckpt, unpacked from {CKPT_URL}, or the flower.ckpt-STEP of an '
            'earlier run')
  if path is None:
    path = ckpt_file
    if os.path.basename(path) != CKPT_NAME:
      raise console.UserError(f'--ckpt_file={path} does not exist: {needed}')
    fetch_checkpoint(path, variables)
  try:
    checkpoints.read_shapes(path)
  except checkpoints.DamagedCheckpoint:
    raise console.UserError(f'--ckpt_file={path} is not a whole checkpoint of TensorFlow: '
                            f'{needed}') from None
  return path


def checkpoint_digest(path: str) -> str:
  """Return a digest that differs for another checkpoint."""
  # An index holds a checksum of each variable, and so stands for all of them.
  with open(path + '.index' if os.path.exists(path + '.index') else path, 'rb') as file:
    return files.digest(iter(lambda: file.read(files.CHUNK_BYTES), b''))


def load_tuned_variables(sess: tf.Session, ckpt_path: str, variables: Sequence[tf.Variable]
                         ) -> None:
  """Restore variables from the pre-trained checkpoint, and say which it does not have.

  All others of the graph get their initial values.

  Raises:
    UserError: if the checkpoint is damaged, has none of the variables, or has one of another
      shape.
  """
  console.report('Loading tuned variables from %s' % ckpt_path)
  shapes = checkpoints.read_shapes(ckpt_path)
  found = [variable for variable in variables if variable.op.name in shapes]
  for variable in found:
    shape, expected = shapes[variable.op.name], variable.shape.as_list()
    if shape != expected:
      raise console.UserError(f'--ckpt_file={ckpt_path}: {variable.op.name} has shape {shape}, '
                              f'expected {expected}: add its prefix to '
                              '--checkpoint_exclude_scopes')
  if variables and not found:
    raise console.UserError(f'--ckpt_file={ckpt_path} has none of the {len(variables)} variables '
                            'to restore: give a checkpoint of Inception-v3 in slim\'s names')
  # Nothing is added to the graph, which is finalized in a cluster.
  sess.run([variable.initializer for variable in tf.global_variables() if variable not in found])
  checkpoints.restore(sess, None, {variable.op.name: variable for variable in found}, ckpt_path)
  print(f'{len(found)} of {len(variables)} variables restored.')
  for variable in variables:
    if variable.op.name not in shapes:
      print(f'Not in the checkpoint, starts from its initial value: {variable.op.name}')
