"""What evaluations share: running in batches, the confusion table, and pictures of the errors."""
import numpy as np

from support.console import printable
from support.quiet_tensorflow import tf

MAX_TABLE_CLASSES = 30  # of more, the confusion table is wider than a screen, and left out
CONFUSED_PAIRS = 5  # told below the table
CONFUSION_PIXELS = 200  # side of the picture of the table
WRONG_PICTURES_SIDE = 5  # the picture of what was wrong has this many images on each side


def run_batches(sess, tensor, fed_tensor, inputs, batch_size, bar=None):
  """Return the rows of tensor for all inputs, in batches that take each once.

  Args:
    inputs: array [n, ...], n of 1 or more.
    bar: tqdm progress bar that counts inputs, or None.
  """
  rows = []
  for start in range(0, len(inputs), batch_size):
    batch = inputs[start:start + batch_size]
    rows.append(sess.run(tensor, {fed_tensor: batch}))
    if bar is not None:
      bar.update(len(batch))
  return np.concatenate(rows)


def confusion_matrix(labels, predicted, num_classes):
  """Return int64 [num_classes, num_classes]: how often the row was taken for the column."""
  matrix = np.zeros([num_classes, num_classes], np.int64)
  np.add.at(matrix, (labels, predicted), 1)
  return matrix


def print_confusion(matrix, names):
  """Print a confusion matrix and the pairs of classes most often confused, in either direction."""
  names = [printable(name) for name in names]
  width = max(16, *(len(name) for name in names))
  columns = [max(6, len(name) + 1) for name in names]
  if len(names) <= MAX_TABLE_CLASSES:
    print('true \\ predicted'.ljust(width) + ''.join(map(str.rjust, names, columns)))
    for name, row in zip(names, matrix, strict=True):
      cells = (f'{count:{size}}' for count, size in zip(row, columns, strict=True))
      print(f'{name:>{width}}' + ''.join(cells))
  classes = range(len(names))
  pairs = sorted(((matrix[a, b] + matrix[b, a], a, b) for a in classes for b in classes if a < b),
                 key=lambda pair: (-pair[0], pair[1:]))
  confused = [f'{names[a]} and {names[b]} ({count} times)'
              for count, a, b in pairs[:CONFUSED_PAIRS] if count]
  print('Most often confused: ' + (', '.join(confused) or 'none'))


def add_picture(curve_writer, step, tag, picture):
  """Write a picture, float32 [height, width, channels] in [0, 1], to TensorBoard."""
  with tf.Graph().as_default(), tf.Session() as sess:
    png = sess.run(tf.io.encode_png(np.uint8(np.round(picture * 255))))
  curve_writer.add_image(step, tag, png, *picture.shape)


def add_confusion(curve_writer, step, matrix):
  """Write a confusion matrix to TensorBoard: a square a cell, white where all of its row are."""
  shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
  side = max(1, CONFUSION_PIXELS // len(matrix))
  picture = np.kron(shares, np.ones([side, side]))[..., np.newaxis]
  add_picture(curve_writer, step, 'confusion_matrix', np.float32(picture))


def add_wrong_pictures(curve_writer, step, tag, images):
  """Write the first wrongly classified images, as one square picture, to TensorBoard.

  Args:
    curve_writer: summaries.CurveWriter.
    images: float32 [n, height, width, channels] in [0, 1], n of any size.
  """
  side = WRONG_PICTURES_SIDE
  shown = np.zeros([side * side, *images.shape[1:]], np.float32)
  shown[:len(images)] = images[:side * side]
  height, width, channels = images.shape[1:]
  square = shown.reshape(side, side, height, width, channels).transpose(0, 2, 1, 3, 4)
  add_picture(curve_writer, step, tag, square.reshape(side * height, side * width, channels))
