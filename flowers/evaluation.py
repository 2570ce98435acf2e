"""How good a fine-tuned network is: its answers, their accuracy, and what a run says at its end."""
import math
from typing import NamedTuple

import numpy as np

from flowers.data_file import SPLITS, ProcessedData
from support import console, evaluation
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

EVAL_BATCH = 32  # photos in one run of the network
WRONG_PHOTOS = 25  # named at the end, and shown in TensorBoard

# Limits of the cross entropy, as multiples of that of guessing: above UNSTABLE, the learning rate
# is too large; above DIVERGED, the weights are not worth saving.
UNSTABLE = 3
DIVERGED = 100
DIVERGED_ADVICE = 'give a smaller --learning_rate and another --model_dir'


class Examples(NamedTuple):
  """The data in the form in which the network is fed."""
  tensor: tf.Tensor  # what the inputs are fed to: images or bottlenecks
  inputs: dict[str, np.ndarray]  # of each split, [n, ...]
  labels: dict[str, np.ndarray]  # of each split, int64 [n]


def photos_as_examples(images: tf.Tensor, data: ProcessedData) -> Examples:
  """Return the photos as they are, to be fed as images."""
  return Examples(images, {split: getattr(data, f'{split}_images') for split in SPLITS},
                  {split: getattr(data, f'{split}_labels') for split in SPLITS})


# -- While training ----------------------------------------------------------------------


def predict_logits(sess: tf.Session, logits: tf.Tensor, examples: Examples, split: str, seed: int
                   ) -> np.ndarray:
  """Return the logits of a split, float32 [n, n_classes].

  With --batch_norm=batch the answer for a photo depends on the others of its batch: if all are of
  one class, normalization subtracts what they have in common, and with it the class. So each
  batch is a random mix of the split, the same each time.

  Args:
    logits: the tensor to compute.
    seed: of the mix.
  """
  inputs = examples.inputs[split]
  answers = np.zeros([len(inputs), logits.shape[1]], np.float32)
  order = np.random.RandomState(seed).permutation(len(inputs))
  for batch in np.array_split(order, math.ceil(len(inputs) / EVAL_BATCH)):
    batch.sort()  # reads the file from its beginning to its end
    answers[batch] = sess.run(logits, {examples.tensor: inputs[batch]})
  return answers


def score(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Return the accuracy, in [0, 1], and the mean cross entropy, in nats, of [n, n_classes]."""
  # The largest becomes 0, so that no exponential overflows.
  logits = logits - logits.max(1, keepdims=True)
  cross_entropies = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
  return float(np.mean(logits.argmax(1) == labels)), float(np.mean(cross_entropies))


def check_cross_entropy(i: int, cross_entropy: float, n_classes: int, learning_rate: float,
                        options: console.Options) -> None:
  """Raise UserError if the cross entropy at step i is of weights that are not worth saving."""
  if not cross_entropy <= DIVERGED * math.log(n_classes):  # nan compares false
    raise console.UserError(
        f'the cross entropy is {cross_entropy:g} at step {i}, which is not saved: '
        f'{DIVERGED_ADVICE}, because what went wrong at {learning_rate:g} may be in the '
        f'checkpoints of {options.model_dir} already')


# -- At the end --------------------------------------------------------------------------


def print_test_report(predicted: np.ndarray, data: ProcessedData) -> None:
  """Print the test accuracy, how it comes about by class, and the photos that were wrong."""
  labels = data.testing_labels
  right = predicted == labels
  print('Final test accuracy = %.1f%%' % (np.mean(right) * 100))
  print(f'{right.sum()} of {len(right)} test photos are right:')
  for label, name in enumerate(data.labels):
    of_class = labels == label
    console.report(f'  {name}: {right[of_class].sum()} of {of_class.sum()}' if of_class.any()
                   else f'  {name}: no test photo')
  evaluation.print_confusion(
      evaluation.confusion_matrix(labels, predicted, len(data.labels)), data.labels)
  test_files = data.files[len(data.files) - len(labels):]
  wrong = np.flatnonzero(~right)
  for place in wrong[:WRONG_PHOTOS]:
    console.report(f'  wrong: {test_files[place]} taken for {data.labels[predicted[place]]}')
  if len(wrong) > WRONG_PHOTOS:
    print(f'  and {len(wrong) - WRONG_PHOTOS} more')


def print_advice(logits: np.ndarray, data: ProcessedData, learning_rate: float,
                 options: console.Options) -> None:
  """Say so if the network is no better than one that gives all test photos one answer."""
  counts = np.bincount(data.testing_labels, minlength=len(data.labels))
  accuracy, cross_entropy = score(logits, data.testing_labels)
  if accuracy * counts.sum() > counts.max():
    return
  if cross_entropy > UNSTABLE * math.log(len(data.labels)):
    advice = f'{DIVERGED_ADVICE} than {learning_rate:g} and {options.model_dir}'
  else:
    advice = f'give more --steps, or a larger --learning_rate than {learning_rate:g}'
  console.report(f'This is no better than to answer {data.labels[counts.argmax()]} for every photo '
                 f'({counts.max()} of {counts.sum()}): {advice}.')


def add_pictures(summary_writer: SummaryWriter, step: int, predicted: np.ndarray,
                 data: ProcessedData) -> None:
  """Write what was confused, and the first wrong test photos at a third, to TensorBoard."""
  evaluation.add_confusion(summary_writer, step, evaluation.confusion_matrix(
      data.testing_labels, predicted, len(data.labels)))
  wrong = np.flatnonzero(predicted != data.testing_labels)[:WRONG_PHOTOS]
  side = data.testing_images.shape[1] // 3
  photos = data.testing_images[wrong][:, :3 * side, :3 * side] / 255
  photos = photos.reshape(-1, side, 3, side, 3, 3).mean((2, 4))  # [wrong, side, side, 3]
  evaluation.add_wrong_pictures(summary_writer, step, 'wrong_photos', photos)
