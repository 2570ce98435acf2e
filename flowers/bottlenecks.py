"""Bottlenecks, what the last layer reads of each photo: computed once, and kept in a file.

While only the last layers are trained, all others stay as they are, so that a photo needs to go
through them only once. The file is numpy's .npz of `bottlenecks`, float32 [photos, 2048] in the
order of the data file, and of `key`, which is another one for other photos or weights.
"""
import itertools
import os
import zipfile
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from flowers.data_file import SPLITS, ProcessedData
from support import console, files
from support.quiet_tensorflow import tf

SUFFIX = '.bottlenecks.npz'
PHOTOS_PER_RUN = 32  # in one run of the network


def bottlenecks_path(input_file: str, model_dir: str) -> str:
  """Return where the bottlenecks of a data file are kept.

  Beside it, where a training into another model folder finds them too, or else in the model folder.
  """
  folder, name = os.path.split(input_file)
  if not os.access(folder or '.', os.W_OK):
    folder = model_dir
  return os.path.join(folder, os.path.splitext(name)[0] + SUFFIX)


def load_bottlenecks(path: str, sess: tf.Session, images: tf.Tensor, bottlenecks: tf.Tensor,
                     backbone: Iterable[tf.Variable], data: ProcessedData) -> dict[str, np.ndarray]:
  """Return the bottlenecks of all photos: those kept at path, or computed now and kept there.

  Args:
    sess: the backbone is restored into it.
    images, bottlenecks: tensors of the network, what is fed and what is computed.
    backbone: the variables that decide them.

  Returns:
    float32 [n, 2048] for each split.

  Raises:
    UserError: if they are not finite, or path is a file of something else.
  """
  # The key stands for all that decides them: the photos, by the data's id, and the weights.
  weights = (value.tobytes() for value in sess.run(list(backbone)))
  key = files.digest(itertools.chain([data.id.encode()], weights))
  with files.locked(path):
    rows = _read(path, key)
    if rows is None:
      rows = _compute(sess, images, bottlenecks, data)
      # Through an open file, because numpy adds its ending to the name of any other.
      with files.replace_file(path) as temporary_path, open(temporary_path, 'wb') as file:
        np.savez(file, key=key, bottlenecks=rows)
    else:
      console.report(f'Bottlenecks of all {len(rows)} photos from {path}.')
  if not rows.any():
    raise console.UserError('--ckpt_file: the network answers all photos with zeros, from which '
                            'nothing can be learned: give another checkpoint')
  ends = np.cumsum([len(getattr(data, f'{split}_labels')) for split in SPLITS])
  return dict(zip(SPLITS, np.split(rows, ends[:-1]), strict=True))


def _read(path: str, key: str) -> np.ndarray | None:
  """Return the bottlenecks in a file; None if it is missing or they have another key."""
  if not os.path.exists(path):
    return None
  try:
    with np.load(path, allow_pickle=False) as kept:  # a zip file, which has a checksum of each part
      if kept['key'] == key:
        return kept['bottlenecks']
  except (ValueError, KeyError, IndexError, AttributeError, EOFError, IsADirectoryError,
          zipfile.BadZipFile) as error:
    raise console.UserError(f'{path} does not hold kept bottlenecks ({console.describe(error)}): '
                            'move it away, or delete it') from None
  console.report(f'Bottlenecks in {path} are of other photos or weights: computed again.')
  return None


def _compute(sess: tf.Session, images: tf.Tensor, bottlenecks: tf.Tensor, data: ProcessedData
             ) -> np.ndarray:
  """Return the bottlenecks of all photos, in the order of the data file."""
  parts = [getattr(data, f'{split}_images') for split in SPLITS]
  batches = [part[start:start + PHOTOS_PER_RUN] for part in parts
             for start in range(0, len(part), PHOTOS_PER_RUN)]  # mapped, and not yet read
  rows = []
  with tqdm(total=sum(map(len, parts)), unit='photo', desc='Bottlenecks', disable=None) as bar:
    for batch in batches:
      rows.append(sess.run(bottlenecks, {images: batch}))
      if not np.isfinite(rows[-1]).all():
        raise console.UserError('--ckpt_file: the network answers a photo with numbers that are '
                                'not finite: fetch the checkpoint again')
      bar.update(len(batch))
  return np.concatenate(rows)
