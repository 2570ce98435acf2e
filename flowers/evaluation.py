"""How good a fine-tuned network is: its answers, their accuracy, and what a run says at its end."""
import math

import numpy as np

from flowers import data_file
from support import console, evaluation

EVAL_BATCH = 32  # photos in one run of the network
WRONG_PHOTOS = 25  # named at the end, and shown in TensorBoard

# Limits of the cross entropy, as multiples of that of guessing: above UNSTABLE, the learning rate
# is too large; above DIVERGED, the weights are not worth saving.
UNSTABLE = 3
DIVERGED = 100
DIVERGED_ADVICE = 'give a smaller --learning_rate and another --model_dir'


def predict_logits(sess, model, examples, split, seed):
  """Return the logits of a split, float32 [n, n_classes].

  With --batch_norm=batch the answer for a photo depends on the others of its batch: if all are of
  one class, normalization subtracts what they have in common, and with it the class. So each
  batch is a random mix of the split, the same each time.

  Args:
    model: flower_finetune.Model.
    examples: bottlenecks.Examples.
    seed: int, of the mix.
  """
  inputs = examples.inputs[split]
  logits = np.zeros([len(inputs), model.logits.shape[1]], np.float32)
  order = np.random.RandomState(seed).permutation(len(inputs))
  for batch in np.array_split(order, math.ceil(len(inputs) / EVAL_BATCH)):
    batch.sort()  # reads the file from its beginning to its end
    logits[batch] = sess.run(model.logits, {examples.tensor: inputs[batch]})
  return logits


def score(logits, labels):
  """Return (accuracy in [0, 1], mean cross entropy in nats) of logits [n, n_classes]."""
  logits = logits - logits.max(1, keepdims=True)
  cross_entropies = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
  return np.mean(logits.argmax(1) == labels), np.mean(cross_entropies)


def check_cross_entropy(i, cross_entropy, n_classes, recipe, options):
  """Raise UserError if the cross entropy at step i is of weights that are not worth saving."""
  if not cross_entropy <= DIVERGED * math.log(n_classes):  # nan compares false
    raise console.UserError(
        f'the cross entropy is {cross_entropy:g} at step {i}, which is not saved: '
        f'{DIVERGED_ADVICE}, because what went wrong at {recipe.learning_rate:g} may be in the '
        f'checkpoints of {options.model_dir} already')


def validate(sess, model, examples, i, recipe, options):
  """Return the (accuracy in [0, 1], mean cross entropy in nats) of the validation photos.

  Args:
    examples: bottlenecks.Examples.
    i: int, the step that was done last.
    recipe: flower_finetune.Recipe.
    options: of flower_finetune.py.

  Raises:
    UserError: if the weights are not worth saving.
  """
  accuracy, cross_entropy = score(
      predict_logits(sess, model, examples, 'validation', options.seed),
      examples.labels['validation'])
  check_cross_entropy(i, cross_entropy, int(model.logits.shape[1]), recipe, options)
  return accuracy, cross_entropy


def print_test_report(predicted, data):
  """Print the test accuracy, how it comes about by class, and the photos that were wrong."""
  labels, names = data.testing_labels, [console.printable(name) for name in data.labels]
  right = predicted == labels
  print('Final test accuracy = %.1f%%' % (np.mean(right) * 100))
  print(f'{right.sum()} of {len(right)} test photos are right:')
  for label, name in enumerate(names):
    of_class = labels == label
    print(f'  {name}: {right[of_class].sum()} of {of_class.sum()}' if of_class.any()
          else f'  {name}: no test photo')
  evaluation.print_confusion(evaluation.confusion_matrix(labels, predicted, len(names)), names)
  test_files = data.files[len(data.files) - len(labels):]
  wrong = np.flatnonzero(~right)
  for photo in wrong[:WRONG_PHOTOS]:
    print(f'  wrong: {console.printable(test_files[photo])} taken for {names[predicted[photo]]}')
  if len(wrong) > WRONG_PHOTOS:
    print(f'  and {len(wrong) - WRONG_PHOTOS} more')


def print_advice(predicted, data, worst_cross_entropy, recipe, options):
  """Say so if the network is no better than one that gives all photos one answer."""
  counts = np.bincount(data.testing_labels, minlength=len(data.labels))
  if (predicted == data.testing_labels).sum() > counts.max():
    return
  if worst_cross_entropy > UNSTABLE * math.log(len(data.labels)):
    advice = f'{DIVERGED_ADVICE} than {recipe.learning_rate:g} and {options.model_dir}'
  else:
    advice = f'give more --steps, or a larger --learning_rate than {recipe.learning_rate:g}'
  print(f'This is no better than to answer {console.printable(data.labels[counts.argmax()])} for '
        f'every photo ({counts.max()} of {counts.sum()}): {advice}.')


def add_pictures(curve_writer, step, predicted, data):
  """Write what was confused, and the first wrong test photos at a third, to TensorBoard."""
  evaluation.add_confusion(curve_writer, step, evaluation.confusion_matrix(
      data.testing_labels, predicted, len(data.labels)))
  wrong = np.flatnonzero(predicted != data.testing_labels)[:WRONG_PHOTOS]
  side = data_file.IMAGE_SIZE // 3
  photos = data.testing_images[wrong][:, :3 * side, :3 * side]
  photos = photos.reshape(-1, side, 3, side, 3, 3).mean((2, 4))  # [wrong, side, side, 3]
  evaluation.add_wrong_pictures(curve_writer, step, 'wrong_photos', photos)
