"""Evaluate checkpoints of mnist_train.py, with the moving averages of the variables.

    python mnist_eval.py                          # polls for new checkpoints until stopped
    python mnist_eval.py --run_once --split=test  # scores the newest and ends, for cron

Reads the MNIST files of --data_dir and the checkpoints of --model_dir, prints the accuracy
of each, and writes it to TensorBoard in a folder of its own inside --model_dir.
"""
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import mnist_inference
import mnist_input
import mnist_train
from support import checkpoints, console, evaluation, saved_models
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

# Polling.
EVAL_INTERVAL_SECS = 10

# Images in one run of the graph: its feature maps take about 0.3 MB an image.
EVAL_BATCH_SIZE = 200

FLAGS = console.Flags()
FLAGS.share(mnist_train.FLAGS, 'data_dir', 'model_dir', 'validation_size')
FLAGS.DEFINE_enum('split', 'validation', ['validation', 'test'], 'Images to evaluate on.')
FLAGS.DEFINE_float('eval_interval_secs', EVAL_INTERVAL_SECS,
                   'Least seconds between two looks for checkpoints.', 0)
FLAGS.DEFINE_bool('run_once', False,
                  'Score the newest checkpoint and end; status 1 if there is none.')
FLAGS.DEFINE_float('timeout_secs', None, 'Seconds without a new checkpoint after which polling '
                   'ends; default: never.', 0)
FLAGS.DEFINE_float('min_accuracy', None, 'End with status 1 if the last accuracy is below this.',
                   0, 1)
FLAGS.DEFINE_bool('confusion_matrix', False, 'Also show which digits were taken for which, and '
                  'the first wrong ones in TensorBoard.')


# -- The graph ---------------------------------------------------------------------------


class EvaluationGraph(NamedTuple):
  """The tensors of an evaluation graph, and what restores it."""
  x: tf.Tensor  # float32 [batch, 28, 28, 1] in [0, 1], fed
  y: tf.Tensor  # float32 [batch, labels], logits
  saver: tf.train.Saver
  variables: dict[str, tf.Variable]  # by the names of their moving averages in the checkpoint


def build_evaluation_graph(num_labels: int = mnist_inference.NUM_LABELS) -> EvaluationGraph:
  """Build the network without dropout, whose variables are restored from their moving averages."""
  shape = [None, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
           mnist_inference.NUM_CHANNELS]
  x = tf.placeholder(tf.float32, shape, name='x-input')
  # A client of the export may give images of another shape, with which a convolution could end the
  # process: no placeholder refuses them there. Or none at all.
  images = saved_models.never_empty(tf.ensure_shape(x, shape))
  y = mnist_inference.inference(images, False, None, num_labels=num_labels)[:tf.shape(x)[0]]
  # The averages are restored under the variables' own names, so that the network needs no change.
  variable_averages = tf.train.ExponentialMovingAverage(mnist_train.MOVING_AVERAGE_DECAY)
  variables = variable_averages.variables_to_restore()
  return EvaluationGraph(x, y, tf.train.Saver(variables), variables)


def read_labels(model_dir: str) -> list[int]:
  """Return the label that each logit of a model stands for; those of the book are 0 to 9."""
  return checkpoints.read_model(model_dir).get('labels', list(range(mnist_inference.NUM_LABELS)))


def restore_model(sess: tf.Session, model_dir: str) -> tuple[EvaluationGraph, list[int], str]:
  """Build the network of a model in the default graph, and restore its newest checkpoint.

  Returns:
    The graph, what `read_labels` returns, and the path of the checkpoint.

  Raises:
    UserError: if there is no checkpoint that can be used.
  """
  labels = read_labels(model_dir)
  graph = build_evaluation_graph(len(labels))
  path = checkpoints.restore_model(sess, graph.saver, graph.variables, model_dir,
                                   mnist_train.MODEL_NAME)
  return graph, labels, path


def predict_logits(sess: tf.Session, graph: EvaluationGraph, images: np.ndarray) -> np.ndarray:
  """Return the logits of images, float32 [n, labels], in batches that take each image once.

  Args:
    sess: a checkpoint was restored into it.
    images: float32 [n, 784] or [n, 28, 28] in [0, 1].
  """
  images = images.reshape(-1, *graph.x.shape.as_list()[1:])
  batches = (images[start:start + EVAL_BATCH_SIZE]
             for start in range(0, len(images), EVAL_BATCH_SIZE))
  return np.concatenate([sess.run(graph.y, {graph.x: batch}) for batch in batches])


# -- Evaluation --------------------------------------------------------------------------


def evaluate_once(sess: tf.Session, graph: EvaluationGraph, data_set: mnist_input.DataSet,
                  step: int, options: console.Options, summary_writer: SummaryWriter) -> float:
  """Print, write to TensorBoard and return the accuracy of the restored weights, in [0, 1].

  Args:
    sess: the checkpoint of a step was restored into it.
    data_set: with one-hot labels.
  """
  # In NumPy over all batches; the book computes it in the graph, which takes all images at once.
  labels = data_set.labels.argmax(1)
  predicted = predict_logits(sess, graph, data_set.images).argmax(1)
  accuracy = float(np.mean(predicted == labels))
  print('After %s training step(s), %s accuracy = %g' % (step, options.split, accuracy))
  summary_writer.add_scalars(step, accuracy=accuracy)
  if options.confusion_matrix:
    matrix = evaluation.confusion_matrix(labels, predicted, len(data_set.classes))
    evaluation.print_confusion(matrix, data_set.classes)
    evaluation.add_confusion(summary_writer, step, matrix)
    wrong = data_set.images[predicted != labels].reshape(-1, *graph.x.shape.as_list()[1:])
    evaluation.add_wrong_pictures(summary_writer, step, 'wrong_digits', wrong)
  return accuracy


def restore_each(sess: tf.Session, graph: EvaluationGraph, options: console.Options
                 ) -> Iterator[str]:
  """Restore each new checkpoint once, in the order of their steps, until the timeout.

  Yields:
    The path, when the checkpoint is restored.
  """
  # Not tf.train.checkpoints_iterator: it yields only the newest, though several may have come
  # since the last look, and it believes the state file.
  scored, reported, last_news = set(), set(), time.monotonic()
  while True:
    paths = checkpoints.list_checkpoints(options.model_dir, mnist_train.MODEL_NAME)
    if not paths and not scored | reported:
      console.report(f'No checkpoint file found in {options.model_dir} yet: waiting for one.')
      reported.add(None)
    for path in paths:
      # A step may come again, in a folder that was deleted and trained in from the start.
      identity = checkpoints.identity(path)
      if identity is None or identity in scored:
        continue
      try:
        checkpoints.restore(sess, graph.saver, graph.variables, path)
        scored.add(identity)
        yield path
        last_news = time.monotonic()
      except checkpoints.DamagedCheckpoint as error:  # perhaps on its way, file by file
        if identity not in reported:
          console.warn(f'{error}: skipped until it can be read')
          reported.add(identity)
    if options.timeout_secs is not None and time.monotonic() - last_news > options.timeout_secs:
      return
    time.sleep(max(0.1, min(options.eval_interval_secs, options.timeout_secs or 3600)))


def restore_once(sess: tf.Session, graph: EvaluationGraph, options: console.Options
                 ) -> Iterator[str]:
  """Restore the newest checkpoint, if there is one, and yield its path."""
  path = checkpoints.restore_newest(sess, graph.saver, graph.variables, options.model_dir,
                                    mnist_train.MODEL_NAME)
  if path:
    yield path
  else:
    console.report(f'Looked for {mnist_train.MODEL_NAME}-STEP in {options.model_dir}.')
    print('No checkpoint file found')


def evaluate(mnist: mnist_input.DataSets, options: console.Options | None = None) -> float | None:
  """Score the newest checkpoint, or each new one as it comes.

  Args:
    mnist: with one-hot labels.
    options: with the defaults, it polls until it is stopped.

  Returns:
    The last accuracy, in [0, 1], or None if no checkpoint was scored.

  Raises:
    UserError: if there is no image to evaluate, or the checkpoints are of another network.
  """
  options = options or FLAGS.options()
  data_set = getattr(mnist, options.split)
  check_data(data_set, options.model_dir)
  summary_dir = os.path.join(options.model_dir, f'eval_{options.split}')
  with tf.Graph().as_default(), tf.Session() as sess, SummaryWriter(summary_dir) as summary_writer:
    graph = build_evaluation_graph(data_set.labels.shape[1])
    restored = (restore_once if options.run_once else restore_each)(sess, graph, options)
    accuracy = None
    try:
      for path in restored:
        accuracy = evaluate_once(sess, graph, data_set, checkpoints.step_of(path), options,
                                 summary_writer)
    except KeyboardInterrupt:  # the usual end of polling
      if options.run_once:
        raise
      print('Stopped by a signal.')
    return accuracy


def check_data(data_set: mnist_input.DataSet, model_dir: str) -> None:
  """Raise UserError if a model cannot be evaluated on these images and labels."""
  if not data_set.num_examples:
    raise console.UserError('--validation_size=0 leaves no image to evaluate: give 1 or more, or '
                            '--split=test')
  mnist_train.check_data(data_set)
  labels = checkpoints.read_model(model_dir).get('labels')  # None: there is no model yet
  if labels not in (None, list(data_set.classes)):
    raise console.UserError(f'--data_dir has the labels {list(data_set.classes)}, but the model in '
                            f'--model_dir={model_dir} has {labels}: give the data of its training')


def warn_of_other_data(mnist: mnist_input.DataSets, model_dir: str) -> None:
  """Say so if the model was trained on other images, the evaluated ones perhaps among them."""
  digest = mnist.train.digest()
  if checkpoints.read_model(model_dir).get('training_data', digest) != digest:
    console.warn(f'{model_dir} was trained on other images than the training images here, perhaps '
                 'on some that are evaluated now: give the --data_dir and --validation_size of its '
                 'training')


def main(argv: list[str]) -> None:
  console.refuse_arguments(argv)
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True,
                                     validation_size=FLAGS.validation_size)
  console.report(f'{getattr(mnist, FLAGS.split).num_examples} {FLAGS.split} images from '
                 f'{FLAGS.data_dir}; checkpoints from {FLAGS.model_dir}.')
  warn_of_other_data(mnist, FLAGS.model_dir)
  accuracy = evaluate(mnist, FLAGS)
  if accuracy is None:  # cron mails this line
    raise console.UserError(f'--model_dir={FLAGS.model_dir} holds no checkpoint: run '
                            'mnist_train.py first, or name its folder')
  if FLAGS.min_accuracy is not None and accuracy < FLAGS.min_accuracy:
    raise console.UserError(f'the accuracy {accuracy:g} is below '
                            f'--min_accuracy={FLAGS.min_accuracy:g}')


if __name__ == '__main__':
  console.run(main, FLAGS)
