"""Evaluate checkpoints of mnist_train.py, with the moving averages of the variables.

    python mnist_eval.py                          # polls for new checkpoints until stopped
    python mnist_eval.py --run_once --split=test  # scores the newest and ends, for cron

Reads the MNIST files of --data_dir and the checkpoints of --model_dir, prints the accuracy
of each, and writes it to TensorBoard in a folder of its own inside --model_dir.
"""
import math
import os
import time
from typing import NamedTuple

import numpy as np
from absl import flags

import mnist_inference
import mnist_input
import mnist_train
from support import checkpoints, console, evaluation, files, summaries
from support.quiet_tensorflow import tf

# Polling.
EVAL_INTERVAL_SECS = 10

# Images in one run of the graph: its feature maps take about 0.3 MB an image.
EVAL_BATCH_SIZE = 200

FLAGS = flags.FlagValues()
console.share_flags(FLAGS, mnist_train.FLAGS, 'data_dir', 'model_dir', 'validation_size')
flags.DEFINE_enum('split', 'validation', ['validation', 'test'], 'Images to evaluate on.',
                  flag_values=FLAGS)
flags.DEFINE_float('eval_interval_secs', EVAL_INTERVAL_SECS,
                   'Least seconds between two looks for checkpoints.',
                   lower_bound=0, flag_values=FLAGS)
flags.DEFINE_bool('run_once', False,
                  'Score the newest checkpoint and end; status 1 if there is none.',
                  flag_values=FLAGS)
flags.DEFINE_float('timeout_secs', None, 'Seconds without a new checkpoint after which polling '
                   'ends; default: never.', lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float('min_accuracy', None, 'End with status 1 if the last accuracy is below this.',
                   lower_bound=0, upper_bound=1, flag_values=FLAGS)
flags.DEFINE_bool('confusion_matrix', False, 'Also show which digits were taken for which, and '
                  'the first wrong ones in TensorBoard.', flag_values=FLAGS)


def options(**changes):
  """Return the options of an evaluation: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


class EvaluationGraph(NamedTuple):
  """The tensors of an evaluation graph, and what restores it."""
  x: tf.Tensor  # float32 [batch, 28, 28, 1] in [0, 1], fed
  y: tf.Tensor  # float32 [batch, 10], logits
  saver: tf.train.Saver
  variables: dict  # {name of the moving average in the checkpoint: variable}


def build_evaluation_graph():
  """Build the network without dropout, whose variables are restored from their moving averages."""
  shape = [None, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
           mnist_inference.NUM_CHANNELS]
  x = tf.placeholder(tf.float32, shape, name='x-input')
  # A client of the export may give images of another shape, with which a convolution could end the
  # process: no placeholder refuses them there.
  y = mnist_inference.inference(tf.ensure_shape(x, shape), False, None)
  # The averages are restored under the variables' own names, so that the network needs no change.
  variable_averages = tf.train.ExponentialMovingAverage(mnist_train.MOVING_AVERAGE_DECAY)
  variables = variable_averages.variables_to_restore()
  return EvaluationGraph(x, y, tf.train.Saver(variables), variables)


def restore_model(sess, graph, model_dir):
  """Restore the averages of the newest whole checkpoint into an EvaluationGraph; return its path.

  Raises:
    UserError: if there is no whole checkpoint.
  """
  path = checkpoints.restore_newest(sess, graph.saver, graph.variables, model_dir,
                                    mnist_train.MODEL_NAME)
  if path is None:
    raise console.UserError(f'--model_dir={model_dir} holds no checkpoint: run mnist_train.py '
                            'first, or name its folder')
  return path


def predict_logits(sess, graph, images):
  """Return the logits of images, in batches that take each image once.

  Args:
    sess: session into which a checkpoint was restored.
    images: float32 [n, 784] or [n, 28, 28] in [0, 1].

  Returns:
    float32 [n, 10].
  """
  images = images.reshape(-1, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
                          mnist_inference.NUM_CHANNELS)
  return evaluation.run_batches(sess, graph.y, graph.x, images, EVAL_BATCH_SIZE)


def evaluate_once(sess, graph, data_set, step, options, curve_writer):
  """Print, write to TensorBoard and return the accuracy of the restored weights, in [0, 1].

  Args:
    sess: session into which the checkpoint of a step was restored.
    data_set: mnist_input.DataSet with one-hot labels.
  """
  labels = data_set.labels.argmax(1)
  predicted = predict_logits(sess, graph, data_set.images).argmax(1)
  accuracy = float(np.mean(predicted == labels))
  print('After %s training step(s), %s accuracy = %g' % (step, options.split, accuracy))
  curve_writer.add_scalars(step, accuracy=accuracy)
  if options.confusion_matrix:
    matrix = evaluation.confusion_matrix(labels, predicted, mnist_inference.NUM_LABELS)
    evaluation.print_confusion(matrix, range(mnist_inference.NUM_LABELS))
    evaluation.add_confusion(curve_writer, step, matrix)
    wrong = data_set.images[predicted != labels].reshape(
        -1, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE, mnist_inference.NUM_CHANNELS)
    evaluation.add_wrong_pictures(curve_writer, step, 'wrong_digits', wrong)
  return accuracy


def new_checkpoints(options):
  """Yield the path of each checkpoint once, in the order of their steps, as they come."""
  # Not tf.train.checkpoints_iterator: it tells only of the newest, though several may have come
  # since the last look, and it believes the state file.
  seen, last_news, is_told = set(), time.monotonic(), False
  timeout_secs = math.inf if options.timeout_secs is None else options.timeout_secs
  while True:
    look = time.monotonic()
    paths = checkpoints.list_checkpoints(options.model_dir, mnist_train.MODEL_NAME)
    if not paths and not is_told:
      print(f'No checkpoint file found in {options.model_dir} yet: waiting for one.')
      is_told = True
    for path in paths:
      # A step may come again, in a folder that was deleted and trained in from the start.
      identity = checkpoints.identity(path)
      if identity and identity not in seen:
        seen.add(identity)
        yield path
        last_news = time.monotonic()
    if time.monotonic() - last_news > timeout_secs:
      return
    pause = min(options.eval_interval_secs, timeout_secs) - (time.monotonic() - look)
    time.sleep(max(0.1, pause))


def evaluate_each(sess, graph, data_set, options, curve_writer):
  """Score each new checkpoint once, until the timeout or a stop signal; return the last accuracy.

  A checkpoint that is damaged, or that the trainer deletes while it is read, is skipped.
  """
  accuracy = None
  try:
    for path in new_checkpoints(options):
      if checkpoints.restore_or_skip(sess, graph.saver, graph.variables, path):
        accuracy = evaluate_once(sess, graph, data_set, checkpoints.step_of(path), options,
                                 curve_writer)
  except KeyboardInterrupt:  # the usual end of polling
    print('Stopped by a signal.')
  return accuracy


def evaluate(mnist, options=None):
  """Score the newest whole checkpoint, or each new one in the order of their steps.

  Args:
    mnist: mnist_input.DataSets with one-hot labels.
    options: what `options` returns; None for the defaults, with which it polls until stopped.

  Returns:
    The last accuracy, a float in [0, 1], or None if no checkpoint was scored.
  """
  options = options or console.options(FLAGS)
  data_set = getattr(mnist, options.split)
  if not data_set.num_examples:
    raise console.UserError('--validation_size=0 leaves no image to evaluate: give 1 or more, or '
                            '--split=test')
  mnist_train.check_labels(data_set)
  curve_dir = os.path.join(options.model_dir, f'eval_{options.split}')
  with (tf.Graph().as_default(), tf.Session() as sess,
        summaries.CurveWriter(curve_dir) as curve_writer):
    graph = build_evaluation_graph()
    if not options.run_once:
      return evaluate_each(sess, graph, data_set, options, curve_writer)
    path = checkpoints.restore_newest(sess, graph.saver, graph.variables, options.model_dir,
                                      mnist_train.MODEL_NAME)
    return path and evaluate_once(sess, graph, data_set, checkpoints.step_of(path), options,
                                  curve_writer)


def warn_of_other_data(mnist, model_dir):
  """Say so if the model was trained on other images, the evaluated ones perhaps among them."""
  path = os.path.join(model_dir, checkpoints.MODEL_FILE)
  if os.path.exists(path) and files.read_json(path).get('training_data') != mnist.train.digest():
    console.warn(f'{model_dir} was trained on other images than the training images here, perhaps '
                 'on some that are evaluated now: give the --data_dir and --validation_size of its '
                 'training')


def main(argv):
  console.refuse_arguments(argv)
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True,
                                     validation_size=FLAGS.validation_size)
  print(f'{getattr(mnist, FLAGS.split).num_examples} {FLAGS.split} images from {FLAGS.data_dir}; '
        f'checkpoints from {FLAGS.model_dir}.')
  warn_of_other_data(mnist, FLAGS.model_dir)
  accuracy = evaluate(mnist, FLAGS)
  if accuracy is None:
    print('No checkpoint file found')  # the book's line; cron mails the other one
    raise console.UserError(f'--model_dir={FLAGS.model_dir} holds no checkpoint: run '
                            'mnist_train.py first, or name its folder')
  if FLAGS.min_accuracy is not None and accuracy < FLAGS.min_accuracy:
    raise console.UserError(f'the accuracy {accuracy:g} is below '
                            f'--min_accuracy={FLAGS.min_accuracy:g}')


if __name__ == '__main__':
  console.run(main, FLAGS)
