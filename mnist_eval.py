"""Evaluate checkpoints of mnist_train.py, with the moving averages of the variables.

    python mnist_eval.py                          # polls for new checkpoints until stopped
    python mnist_eval.py --run_once --split=test  # scores the newest and ends, for cron

Reads the MNIST files of --data_dir and the checkpoints of --model_dir, prints the accuracy
of each, and writes it to TensorBoard in a folder of its own inside --model_dir.
"""
import os
import time
from typing import NamedTuple

import script_support  # first: it imports TensorFlow quietly

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags

import mnist_inference
import mnist_input
from mnist_train import MODEL_NAME, MODEL_SAVE_PATH, MOVING_AVERAGE_DECAY

FLAGS = flags.FLAGS

# Polling.
EVAL_INTERVAL_SECS = 10

# Images in one run of the graph: its feature maps take about 0.3 MB an image.
EVAL_BATCH_SIZE = 200

# What --confusion_matrix shows.
CONFUSED_PAIRS = 5
WRONG_DIGITS_SIDE = 5  # the picture has this many digits on each side


def define_flags():
  """Define the flags of evaluation."""
  flags.DEFINE_string('data_dir', mnist_input.DATA_DIR, 'Folder of the four MNIST files.')
  flags.DEFINE_string('model_dir', MODEL_SAVE_PATH, 'Folder of the checkpoints.')
  flags.DEFINE_enum('split', 'validation', ['validation', 'test'], 'Images to evaluate on.')
  flags.DEFINE_float('eval_interval_secs', EVAL_INTERVAL_SECS,
                     'Least seconds between two looks for checkpoints.', lower_bound=0)
  flags.DEFINE_bool('run_once', False, 'Score the newest checkpoint and end; status 1 if there is none.')
  flags.DEFINE_float('timeout_secs', None, 'Seconds without a new checkpoint after which polling ends; '
                     'default: never.', lower_bound=0)
  flags.DEFINE_float('min_accuracy', None, 'End with status 1 if the last accuracy is below.',
                     lower_bound=0, upper_bound=1)
  flags.DEFINE_bool('confusion_matrix', False, 'Also show which digits were taken for which, '
                    'and the first wrong ones in TensorBoard.')


class EvaluationGraph(NamedTuple):
  """The tensors of an evaluation graph, and what restores it."""
  x: tf.Tensor  # float32 [batch, 28, 28, 1] in [0, 1], fed
  y: tf.Tensor  # float32 [batch, 10], logits
  saver: tf.train.Saver
  variables: dict  # {name of the moving average in the checkpoint: variable}


def build_evaluation_graph():
  """Build the network without dropout, whose variables are restored from their moving averages."""
  x = tf.placeholder(tf.float32, [None, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
                                  mnist_inference.NUM_CHANNELS], name='x-input')
  y = mnist_inference.inference(x, False, None)
  variable_averages = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY)
  variables = variable_averages.variables_to_restore()
  return EvaluationGraph(x, y, tf.train.Saver(variables), variables)


def predict_logits(sess, graph, images):
  """Return the logits of images, in batches that take each image once.

  Args:
    sess: session into which a checkpoint was restored.
    graph: EvaluationGraph.
    images: float32 [n, 784] in [0, 1].

  Returns:
    float32 [n, 10].
  """
  images = images.reshape(-1, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
                          mnist_inference.NUM_CHANNELS)
  return np.concatenate([sess.run(graph.y, {graph.x: images[start:start + EVAL_BATCH_SIZE]})
                         for start in range(0, len(images), EVAL_BATCH_SIZE)])


def confusion_matrix(labels, predicted):
  """Return int64 [10, 10]: how often the digit of the row was taken for that of the column."""
  matrix = np.zeros([mnist_inference.NUM_LABELS] * 2, np.int64)
  np.add.at(matrix, (labels, predicted), 1)
  return matrix


def print_confusion(matrix):
  """Print a confusion matrix and the pairs of digits most often confused, in either direction."""
  digits = range(len(matrix))
  print('true \\ predicted' + ''.join(f'{digit:6d}' for digit in digits))
  for digit in digits:
    print(f'{digit:16d}' + ''.join(f'{count:6d}' for count in matrix[digit]))
  pairs = sorted(((matrix[a, b] + matrix[b, a], a, b) for a in digits for b in digits if a < b),
                 key=lambda pair: (-pair[0], pair[1:]))
  print('Most often confused: ' + ', '.join(f'{a} and {b} ({count} times)'
                                            for count, a, b in pairs[:CONFUSED_PAIRS] if count))


def wrong_digits_png(images, wrong):
  """Return a PNG, bytes, of a square of the first wrong images.

  Args:
    images: float32 [n, 784] in [0, 1].
    wrong: int [m], their positions.
  """
  side, size = WRONG_DIGITS_SIDE, mnist_inference.IMAGE_SIZE
  digits = np.zeros([side * side, size, size], np.float32)
  shown = images[wrong[:side * side]]
  digits[:len(shown)] = shown.reshape(-1, size, size)
  square = digits.reshape(side, side, size, size).transpose(0, 2, 1, 3).reshape(side * size, side * size, 1)
  with tf.Graph().as_default(), tf.Session() as sess:
    return sess.run(tf.io.encode_png(np.uint8(np.round(square * 255))))


def score(sess, graph, data_set, writer, step, split, show_confusion):
  """Print, write to TensorBoard and return the accuracy of the restored weights.

  Args:
    sess: session into which the checkpoint was restored.
    graph: EvaluationGraph.
    data_set: mnist_input.DataSet with one-hot labels.
    writer: tf.summary.FileWriter.
    step: int, the checkpoint's training steps.
    split: str, the data set's name.
    show_confusion: bool, whether to show what was confused, too.

  Returns:
    float in [0, 1].
  """
  labels = data_set.labels.argmax(1)
  predicted = predict_logits(sess, graph, data_set.images).argmax(1)
  accuracy = float(np.mean(predicted == labels))
  print('After %s training step(s), %s accuracy = %g' % (step, split, accuracy))
  script_support.write_scalars(writer, step, accuracy=accuracy)
  if show_confusion:
    print_confusion(confusion_matrix(labels, predicted))
    picture = tf.Summary.Image(height=WRONG_DIGITS_SIDE * mnist_inference.IMAGE_SIZE,
                               width=WRONG_DIGITS_SIDE * mnist_inference.IMAGE_SIZE, colorspace=1,
                               encoded_image_string=wrong_digits_png(data_set.images,
                                                                     np.flatnonzero(predicted != labels)))
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag='wrong_digits', image=picture)]), step)
  writer.flush()
  return accuracy


def new_checkpoints(model_dir, run_once, eval_interval_secs, timeout_secs):
  """Yield lists of checkpoint paths, oldest first: all there are, or each as it arrives."""
  if run_once:
    paths = script_support.named_checkpoints(model_dir, MODEL_NAME)
    yield paths
    # Still here: the trainer may have deleted all of them while they were read.
    yield [path for path in script_support.named_checkpoints(model_dir, MODEL_NAME) if path not in paths]
    return
  # Not tf.train.checkpoints_iterator: it tells only of the newest, though several may have come
  # since the last look, and a spoiled state file ends it with a traceback.
  seen, last_news = set(), time.monotonic()
  while True:
    look = time.monotonic()
    paths = [path for path in script_support.named_checkpoints(model_dir, MODEL_NAME) if path not in seen]
    if paths:
      seen.update(paths)
      yield paths
      last_news = time.monotonic()
    elif timeout_secs is not None and look - last_news >= timeout_secs:
      return
    pause = eval_interval_secs if timeout_secs is None else min(eval_interval_secs, timeout_secs)
    time.sleep(max(0.1, pause - (time.monotonic() - look)))


def evaluate(mnist, model_dir=MODEL_SAVE_PATH, split='validation', run_once=False,
             eval_interval_secs=EVAL_INTERVAL_SECS, timeout_secs=None, show_confusion=False):
  """Score checkpoints: the newest one, or each new one once, in the order of their arrival.

  A checkpoint that is damaged, or that the trainer deletes while it is read, is skipped.

  Args:
    mnist: mnist_input.DataSets with one-hot labels.
    model_dir: str, the folder of the checkpoints.
    split: 'validation' or 'test'.
    run_once: bool, whether to score the newest whole checkpoint only and return.
    eval_interval_secs: float, least seconds between two looks for checkpoints.
    timeout_secs: float, seconds without a new checkpoint after which to return; None: never.
    show_confusion: bool, whether to show what was confused, too.

  Returns:
    The last accuracy, a float in [0, 1], or None if no checkpoint was scored.
  """
  data_set = getattr(mnist, split)
  accuracy = None
  with tf.Graph().as_default(), tf.Session() as sess:
    graph = build_evaluation_graph()
    writer = None
    try:
      for paths in new_checkpoints(model_dir, run_once, eval_interval_secs, timeout_secs):
        for path in reversed(paths) if run_once else paths:
          try:
            script_support.restore_checkpoint(sess, graph.saver, graph.variables, path)
          except script_support.DamagedCheckpoint as error:
            script_support.warn(f'{error}: skipped')
            continue
          # Only now: an evaluation that finds nothing leaves nothing.
          writer = writer or script_support.open_writer(os.path.join(model_dir, f'eval_{split}'))
          accuracy = score(sess, graph, data_set, writer, script_support.step_of(path), split, show_confusion)
          if run_once:
            return accuracy
    except KeyboardInterrupt:  # SIGTERM too, see script_support.run
      print('Stopped by a signal.')
    finally:
      if writer:
        writer.close()
  return accuracy


def main(argv):
  script_support.refuse_arguments(argv)
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True)
  print(f'{getattr(mnist, FLAGS.split).num_examples} {FLAGS.split} images from {FLAGS.data_dir}; '
        f'checkpoints from {FLAGS.model_dir}.')
  accuracy = evaluate(mnist, FLAGS.model_dir, FLAGS.split, FLAGS.run_once, FLAGS.eval_interval_secs,
                      FLAGS.timeout_secs, FLAGS.confusion_matrix)
  if accuracy is None:
    print('No checkpoint file found')
    return script_support.FAILURE
  if FLAGS.min_accuracy is not None and accuracy < FLAGS.min_accuracy:
    script_support.warn(f'error: the accuracy {accuracy:g} is below --min_accuracy={FLAGS.min_accuracy:g}')
    return script_support.FAILURE
  return script_support.SUCCESS


if __name__ == '__main__':
  script_support.run(main, define_flags)
