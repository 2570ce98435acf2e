"""What evaluations share: the confusion matrix, and pictures of what was classified wrongly."""
from collections.abc import Sequence

import numpy as np

from support.console import report
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

MAX_TABLE_CLASSES = 30  # of more, the table is wider than a screen, and left out
CONFUSED_PAIRS = 5  # named below the table
MATRIX_PIXELS = 200  # side of the picture of the matrix
MOSAIC_SIDE = 5  # the picture of what was wrong has this many images on each side


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
  """Return int64 [num_classes, num_classes]: how often the row was taken for the column."""
  matrix = np.zeros([num_classes, num_classes], np.int64)
  # Not matrix[labels, predicted] += 1, which counts a pair once, however often it comes.
  np.add.at(matrix, (labels, predicted), 1)
  return matrix


def print_confusion(matrix: np.ndarray, names: Sequence[object]) -> None:
  """Print a confusion matrix and the pairs of classes most often confused, in either direction."""
  names = [str(name) for name in names]
  width = max(16, *(len(name) for name in names))
  columns = [max(6, len(name) + 1) for name in names]
  if len(names) <= MAX_TABLE_CLASSES:
    report('true \\ predicted'.ljust(width) + ''.join(map(str.rjust, names, columns)))
    for name, row in zip(names, matrix, strict=True):
      cells = (f'{count:{size}}' for count, size in zip(row, columns, strict=True))
      report(f'{name:>{width}}' + ''.join(cells))
  pairs = [(matrix[a, b] + matrix[b, a], names[a], names[b])
           for a in range(len(names)) for b in range(a + 1, len(names))]
  pairs.sort(key=lambda pair: -pair[0])
  confused = [f'{a} and {b} ({count} times)' for count, a, b in pairs[:CONFUSED_PAIRS] if count]
  report('Most often confused: ' + (', '.join(confused) or 'none'))


def _add_picture(summary_writer: SummaryWriter, step: int, tag: str, picture: np.ndarray) -> None:
  """Write a picture, [height, width, channels] in [0, 1], to TensorBoard."""
  # In a graph of its own: an evaluation's does not grow with each checkpoint.
  with tf.Graph().as_default(), tf.Session() as sess:
    png = sess.run(tf.io.encode_png(np.uint8(np.round(picture * 255))))
  summary_writer.add_image(step, tag, png)


def add_confusion(summary_writer: SummaryWriter, step: int, matrix: np.ndarray) -> None:
  """Write a confusion matrix to TensorBoard: the brighter a cell, the more of its row."""
  shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
  side = max(1, MATRIX_PIXELS // len(matrix))
  picture = np.kron(shares, np.ones([side, side]))[..., np.newaxis]
  _add_picture(summary_writer, step, 'confusion_matrix', picture)


def add_wrong_pictures(summary_writer: SummaryWriter, step: int, tag: str,
                       images: np.ndarray) -> None:
  """Write the first wrongly classified images, as one square picture, to TensorBoard.

  Args:
    images: [n, height, width, channels] in [0, 1]; n may be 0.
  """
  side = MOSAIC_SIDE
  height, width, channels = images.shape[1:]
  shown = np.zeros([side * side, height, width, channels], np.float32)
  shown[:len(images)] = images[:side * side]
  square = shown.reshape(side, side, height, width, channels).transpose(0, 2, 1, 3, 4)
  _add_picture(summary_writer, step, tag, square.reshape(side * height, side * width, channels))
