"""Classify pictures of handwritten digits with a checkpoint of mnist_train.py.

    python mnist_predict.py digit.png another.jpg
    python mnist_predict.py folder_of_digits

Reads PNG, JPEG, BMP, GIF, TIFF and WebP files of one digit each, drawn, scanned, photographed or
cut out: see digits/digit.py. Of a folder, all its files are read but hidden ones. Prints for each,
in the order given, the digit, its probability, and the runner-up; and says so where the answer is
doubtful, or the picture shows several digits.
"""
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

import mnist_eval
import mnist_train
from digits.digit import read_digit
from support import console, pictures
from support.quiet_tensorflow import tf

# Chosen with `benchmarks/digits.py --split=validation --drawn=40`: of 640 answers to drawn digits,
# with the weights of two training runs, 29 lie below, and 13 of the 16 wrong ones among them.
DOUBTFUL_PROBABILITY = 0.95
PICTURES_PER_RUN = 100  # read and classified at a time, which bounds the memory

FLAGS = console.Flags()
FLAGS.share(mnist_train.FLAGS, 'model_dir')


@contextlib.contextmanager
def open_model(model_dir: str) -> Iterator[tuple[list, Callable[[np.ndarray], np.ndarray]]]:
  """Restore the moving averages of the newest whole checkpoint for the block.

  Gives the labels and predict, which takes digits, float32 [n, 28, 28] in [0, 1], and returns the
  probabilities of the labels, float64 [n, labels], each row adding up to 1.

  Raises:
    UserError: if there is no whole checkpoint.
  """
  with tf.Graph().as_default(), tf.Session() as sess:
    # The averages of the weights, as in evaluation; without dropout.
    graph, labels, _ = mnist_eval.restore_model(sess, model_dir)

    def predict(digits: np.ndarray) -> np.ndarray:
      logits = mnist_eval.predict_logits(sess, graph, digits).astype(np.float64)
      odds = np.exp(logits - logits.max(1, keepdims=True))  # of the largest 1: none overflows
      return odds / odds.sum(1, keepdims=True)

    yield labels, predict


def answer(count: int, row: np.ndarray, labels: Sequence) -> str:
  """Return what is printed about a picture.

  Args:
    count: how many digits the picture shows.
    row: float64 [labels], their probabilities.
  """
  runner_up, best = np.argsort(row, kind='stable')[-2:]
  line = (f'{labels[best]} with probability {row[best]:.4f} '
          f'(runner-up {labels[runner_up]} with {row[runner_up]:.4f})')
  if row[best] < DOUBTFUL_PROBABILITY:
    line += f' - doubtful: below {DOUBTFUL_PROBABILITY:g}'
  if count > 1:
    line += f' - several digits: {count} seen, this answers for one; give one in a picture'
  return line


def classify(paths: Iterable[str], options: console.Options | None = None) -> int:
  """Print the answer for each picture of a digit; return how many could not be read.

  Args:
    paths: files, folders of them, or patterns.

  Raises:
    UserError: if there is no whole checkpoint.
  """
  options = options or FLAGS.options()
  with open_model(options.model_dir) as (labels, predict):
    return pictures.print_answers(
        paths, read_digit, lambda digits: [
            answer(digit.count, row, labels) for digit, row in zip(
                digits, predict(np.stack([digit.image for digit in digits])), strict=True)],
        PICTURES_PER_RUN)


def main(argv: list[str]) -> int:
  if len(argv) < 2:
    raise console.UserError('no picture given: python mnist_predict.py IMAGE_OR_FOLDER...',
                            console.WRONG_USAGE)
  return console.FAILURE if classify(argv[1:], FLAGS) else console.SUCCESS


if __name__ == '__main__':
  console.run(main, FLAGS)
