"""Bottlenecks, what the last layer reads of each photo: computed once, and kept in a file.

While only the last layers are trained, all others stay as they are, so that a photo needs to go
through them only once. The file is a plain .npy of float32 [photos, 2048] in the order of the
data file. Behind its array, where numpy does not read, stands a digest.
"""
import io
import itertools
import os
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import flower_inference
from flowers.data_file import SPLITS
from support import console, files
from support.quiet_tensorflow import tf

SUFFIX = '.bottlenecks.npy'
PHOTOS_PER_RUN = 32  # in one run of the network
CHUNK_BYTES = 1 << 20
DIGEST_BYTES = 64  # in hexadecimal digits


class Examples(NamedTuple):
  """The data in the form in which the network is fed."""
  tensor: tf.Tensor  # what the inputs are fed to: images or bottlenecks
  inputs: dict  # {split: array [n, ...]}
  labels: dict  # {split: int64 [n]}


def make_examples(sess, model, data, options, *, on_bottlenecks):
  """Return the photos as the network is fed with them, Examples.

  Args:
    sess: session whose backbone is restored.
    model: flower_finetune.Model.
    data: data_file.ProcessedData.
    options: of flower_finetune.py.
    on_bottlenecks: whether as bottlenecks, which are kept, or as they are.

  Raises:
    UserError, OSError: as for `load_bottlenecks`.
  """
  labels = {split: getattr(data, f'{split}_labels') for split in SPLITS}
  if not on_bottlenecks:
    photos = {split: getattr(data, f'{split}_images') for split in SPLITS}
    return Examples(model.images, photos, labels)
  path = bottlenecks_path(options.input_file, options.model_dir)
  return Examples(model.bottlenecks, load_bottlenecks(path, sess, model.images, model.bottlenecks,
                                                      data), labels)


def bottlenecks_path(input_file, model_dir):
  """Return where the bottlenecks of a data file are kept.

  Beside it, where a training into another model folder finds them too, or else in the model folder.
  """
  folder, name = os.path.split(input_file)
  if not os.access(folder or '.', os.W_OK):
    folder = model_dir
  return os.path.join(folder, os.path.splitext(name)[0] + SUFFIX)


def load_bottlenecks(path, sess, images, bottlenecks, data):
  """Return the bottlenecks of all photos: those kept at path, or computed now and kept there.

  Args:
    sess: session whose backbone is restored.
    images, bottlenecks: tensors of the network, what is fed and what is computed.
    data: data_file.ProcessedData.

  Returns:
    {split: float32 [n, 2048]}, mapped from the file.

  Raises:
    UserError: if they are not finite.
    OSError: if the file cannot be written.
  """
  parts = [getattr(data, f'{split}_images') for split in SPLITS]
  shape = (sum(map(len, parts)), flower_inference.BOTTLENECK_SIZE)
  key = _key(sess, data)
  rows = _read(path, key, shape)
  if rows is not None:
    print(console.printable(f'Bottlenecks of all {len(rows)} photos from {path}.'))
  while rows is None:  # again, where a training from another checkpoint has just replaced them
    _write(path, key, shape, _compute(sess, images, bottlenecks, parts))
    rows = _read(path, key, shape)
  if not rows.any():
    raise console.UserError('--ckpt_file: the network answers all photos with zeros, from which '
                            'nothing can be learned: give another checkpoint')
  ends = np.cumsum([len(part) for part in parts])
  return dict(zip(SPLITS, np.split(rows, ends[:-1]), strict=True))


def _key(sess, data):
  """Return what decides the bottlenecks, as a digest: the photos, and the weights as restored."""
  backbone = [variable for variable in flower_inference.model_variables()
              if not flower_inference.is_in_head(variable.op.name)]
  weights = (value.tobytes() for value in sess.run(backbone))
  return files.digest(itertools.chain([data.id.encode()], weights)).encode()


def _compute(sess, images, bottlenecks, parts):
  """Yield the bottlenecks of the photos, in order, a few at a time."""
  batches = [part[start:start + PHOTOS_PER_RUN] for part in parts
             for start in range(0, len(part), PHOTOS_PER_RUN)]  # not yet read
  with tqdm(total=sum(map(len, parts)), unit='photo', desc='Bottlenecks', disable=None) as bar:
    for batch in batches:
      rows = sess.run(bottlenecks, {images: batch})
      if not np.isfinite(rows).all():
        raise console.UserError('--ckpt_file: the network answers a photo with numbers that are '
                                'not finite: fetch the checkpoint again')
      yield rows
      bar.update(len(rows))


# -- The file ----------------------------------------------------------------------------


def _header(shape):
  """Return the bytes with which a .npy file of a float32 array begins."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
      header, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
  return header.getvalue()


def _digest(file, size, key):
  """Return the digest, as bytes, of a key and the first bytes of a file; it is read so far."""
  file.seek(0)
  chunks = (file.read(min(CHUNK_BYTES, size - start)) for start in range(0, size, CHUNK_BYTES))
  return files.digest(itertools.chain([key], chunks)).encode()


def _write(path, key, shape, batches):
  """Write the rows of batches to a file that appears whole."""
  with files.replace_file(path) as temporary_path, open(temporary_path, 'w+b') as file:
    file.write(_header(shape))
    for rows in batches:
      file.write(rows.tobytes())
    file.write(_digest(file, file.tell(), key))


def _read(path, key, shape):
  """Return the array of a file that was written with this key, mapped; None if there is none."""
  if os.path.isdir(path):
    raise console.UserError(f'{path} is a folder, but the place of kept bottlenecks: move it away')
  header = _header(shape)
  size = len(header) + 4 * shape[0] * shape[1]
  try:
    files.require_regular_file(path, size + DIGEST_BYTES)
    with open(path, 'rb') as file:
      # The header is compared rather than read, and the digest covers all else: whatever the file
      # holds, nothing in it is believed.
      if file.read(len(header)) == header and _digest(file, size, key) == file.read(DIGEST_BYTES):
        return np.memmap(file, '<f4', 'r', len(header), shape)
    problem = 'of other photos or of another checkpoint, or damaged'
  except FileNotFoundError:
    return None
  except (console.UserError, OSError) as error:
    problem = console.describe(error)
  print(console.printable(f'Bottlenecks in {path} are not used ({problem}): computed again.'))
  return None
