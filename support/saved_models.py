"""SavedModels, TensorFlow's format for use without the code that trained, in numbered folders.

EXPORT_DIR/1, EXPORT_DIR/2, ...: TensorFlow Serving takes the largest number, also while it runs.
"""
import contextlib
import os

from support import checkpoints, files
from support.console import UserError, describe, warn
from support.quiet_tensorflow import FILE_ERRORS, raised_errors_held_back, tf


@contextlib.contextmanager
def new_graph():
  """Give a session of a new default graph, to build and restore what `export` writes."""
  with tf.Graph().as_default(), tf.Session() as sess:
    # Of the old kind of variables, TensorFlow 2 warns a line each whenever it loads them.
    tf.get_variable_scope().set_use_resource(True)
    yield sess


def newest_version(export_dir):
  """Return the largest number that is the name of an entry of a folder, or 0."""
  numbers = [int(name) for name in os.listdir(export_dir) if name.isascii() and name.isdigit()]
  return max(numbers, default=0)


def _add_assets(folder, assets):
  """Write files into a folder, and name them in the graph, for a Builder to copy."""
  for name, text in assets.items():
    path = os.path.join(folder, name)
    with open(path, 'w', encoding='utf-8') as file:
      file.write(text)
    tf.add_to_collection(tf.GraphKeys.ASSET_FILEPATHS, tf.constant(path))


def _build(sess, path, inputs, outputs):
  """Write a SavedModel into a new folder at path."""
  builder = tf.saved_model.Builder(path)
  builder.add_meta_graph_and_variables(
      sess, [tf.saved_model.tag_constants.SERVING],
      {tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY:
       tf.saved_model.predict_signature_def(inputs, outputs)},
      assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
      clear_devices=True,
      strip_default_attrs=True)  # a TensorFlow older than this one can read it, then
  builder.save()


def publish(path, export_dir):
  """Rename a folder to the next number in export_dir, and return its new path."""
  while True:
    target = os.path.join(export_dir, str(newest_version(export_dir) + 1))
    try:
      os.rename(path, target)
      return target
    except OSError:
      if not os.path.lexists(target):  # else another export has just taken the number
        raise


def export(sess, export_dir, inputs, outputs, assets=None):
  """Write the default graph and the values of its variables as the next SavedModel of a folder.

  Args:
    sess: the session of `new_graph`.
    export_dir: str, made if missing.
    inputs, outputs: {name for clients: tensor}.
    assets: {file name: text}, files to go along.

  Returns:
    The path of the SavedModel, EXPORT_DIR/NUMBER, which appears whole or not at all.

  Raises:
    UserError: if the folder cannot be made or written.
  """
  try:
    with files.made_folder(export_dir), \
        files.temporary_folder(export_dir, 'export') as temporary_dir:
      with checkpoints.literal(temporary_dir) as path, raised_errors_held_back():
        _add_assets(path, assets or {})
        _build(sess, os.path.join(path, 'model'), inputs, outputs)
      target = publish(os.path.join(temporary_dir, 'model'), export_dir)
  except (OSError, *FILE_ERRORS) as error:
    # Without the temporary name, which TensorFlow puts before its reason.
    reason = getattr(error, 'strerror', None) or describe(error).rsplit('; ', 1)[-1]
    raise UserError(f'--export_dir={export_dir} cannot be made or written ({reason}): make room, '
                    'give write permission, or give another folder') from None
  if path != temporary_dir:
    warn(f'{target}: TensorFlow takes this name for a pattern and does not load from there: move '
         'or mount it under another name')
  return target
