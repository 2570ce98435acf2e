"""SavedModels, TensorFlow's format for use without the code that trained, in numbered folders.

EXPORT_DIR/1, EXPORT_DIR/2, ...: TensorFlow Serving takes the largest number, also while it runs.
"""
import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from support import files
from support.console import UserError, describe
from support.quiet_tensorflow import FILE_ERRORS, tf

SERVING_DEFAULT = tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY


class Signature(NamedTuple):
  """What clients may call: tensors by the names that they give and get."""
  inputs: dict[str, tf.Tensor]
  outputs: dict[str, tf.Tensor]


@contextlib.contextmanager
def new_graph() -> Iterator[tf.Session]:
  """Give a session of a new default graph, to build and restore what `export` writes."""
  with tf.Graph().as_default(), tf.Session() as sess:
    # Of the old kind of variables, TensorFlow 2 warns a line each whenever it loads them.
    tf.get_variable_scope().set_use_resource(True)
    yield sess


def never_empty(images: tf.Tensor) -> tf.Tensor:
  """Return a batch of images, or of a black one if it is empty, with which convolutions fail."""
  missing = tf.cast(tf.equal(tf.shape(images)[0], 0), tf.int32)
  return tf.concat([images, tf.zeros([missing, *images.shape.as_list()[1:]])], 0)


def _add_assets(folder: str, assets: dict[str, str]) -> None:
  """Write files into a folder, and name them in the graph, for a Builder to copy."""
  for name, text in assets.items():
    path = os.path.join(folder, name)
    with open(path, 'w', encoding='utf-8') as file:
      file.write(text)
    tf.add_to_collection(tf.GraphKeys.ASSET_FILEPATHS, tf.constant(path))


def _build(sess: tf.Session, path: str, signatures: dict[str, Signature]) -> None:
  """Write a SavedModel into a new folder at path."""
  builder = tf.saved_model.Builder(path)
  builder.add_meta_graph_and_variables(
      sess, [tf.saved_model.tag_constants.SERVING],
      {name: tf.saved_model.predict_signature_def(*signature)
       for name, signature in signatures.items()},
      assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
      clear_devices=True,
      strip_default_attrs=True)  # a TensorFlow older than this one can read it, then
  builder.save()


def export(sess: tf.Session, export_dir: str, signatures: dict[str, Signature],
           assets: dict[str, str] | None = None) -> str:
  """Write the default graph and the values of its variables as the next SavedModel of a folder.

  Args:
    sess: that of `new_graph`.
    export_dir: made if missing.
    signatures: by name; clients that name none get SERVING_DEFAULT.
    assets: text files to go along, by name.

  Returns:
    The path of the SavedModel, EXPORT_DIR/NUMBER, which appears whole or not at all.

  Raises:
    UserError: if the folder cannot be made or written.
  """
  try:
    with files.temporary_folder(os.path.join(export_dir, 'export')) as temporary_dir:
      _add_assets(temporary_dir, assets or {})
      _build(sess, os.path.join(temporary_dir, 'model'), signatures)
      # A number more than the largest, which is the version that TensorFlow Serving takes next.
      numbers = [int(name) for name in os.listdir(export_dir) if name.isdecimal()]
      target = os.path.join(export_dir, str(max(numbers, default=0) + 1))
      os.rename(os.path.join(temporary_dir, 'model'), target)
      return target
  except (OSError, *FILE_ERRORS) as error:
    # Without the temporary name, which TensorFlow puts before its reason.
    reason = getattr(error, 'strerror', None) or describe(error).rsplit('; ', 1)[-1]
    raise UserError(f'--export_dir={export_dir} cannot be made or written ({reason}): make room, '
                    'give write permission, or give another folder') from None
