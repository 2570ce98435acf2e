"""Train the LeNet-style network on MNIST and write checkpoints.

    python mnist_train.py

Reads the MNIST files of --data_dir, writes mnist.ckpt-STEP and TensorBoard scalars into
--model_dir, and prints the loss at steps 1, 1001, 2001, ... Started again, it goes on from
the newest checkpoint there. What to expect, and on which machine, is in README.md.
"""
import math
import os
from typing import NamedTuple

import script_support  # first: it imports TensorFlow quietly

import tensorflow.compat.v1 as tf
from absl import flags
from tqdm import tqdm

import mnist_inference
import mnist_input

FLAGS = flags.FLAGS

# Optimisation. The book's listing has a LEARNING_RATE_BASE of 0.8, with which this network
# dies in its first steps; 0.01 is the book's own value where it prints results.
BATCH_SIZE = 100
LEARNING_RATE_BASE = 0.01
LEARNING_RATE_DECAY = 0.99  # factor an epoch
REGULARAZTION_RATE = 0.0001  # of the L2 penalty; the book's spelling
TRAINING_STEPS = 20000
MOVING_AVERAGE_DECAY = 0.99

# Checkpoints and scalars.
MODEL_SAVE_PATH = os.path.join('model-saves', 'mnist_model')
MODEL_NAME = 'mnist.ckpt'
SAVE_INTERVAL_STEPS = 1000
MAX_TO_KEEP = 10
SUMMARY_INTERVAL_STEPS = 100

SEED = 1  # of initial weights, dropout and shuffling


def define_flags():
  """Define a flag for each constant."""
  flags.DEFINE_string('data_dir', mnist_input.DATA_DIR, 'Folder of the four MNIST files.')
  flags.DEFINE_string('model_dir', MODEL_SAVE_PATH, 'Folder of the checkpoints.')
  flags.DEFINE_integer('batch_size', BATCH_SIZE, 'Images in a training step.', lower_bound=1)
  flags.DEFINE_float('learning_rate_base', LEARNING_RATE_BASE, 'Learning rate of the first epoch.',
                     lower_bound=0)
  flags.DEFINE_float('learning_rate_decay', LEARNING_RATE_DECAY,
                     'Factor on the learning rate after each epoch.', lower_bound=0, upper_bound=1)
  flags.DEFINE_float('regularization_rate', REGULARAZTION_RATE,
                     'Factor of the L2 penalty on the dense weights.', lower_bound=0)
  flags.DEFINE_integer('training_steps', TRAINING_STEPS, 'Steps in all, those of earlier runs included.',
                       lower_bound=1)
  flags.DEFINE_float('moving_average_decay', MOVING_AVERAGE_DECAY,
                     'Decay of the moving averages of the weights.', lower_bound=0, upper_bound=1)
  flags.DEFINE_integer('save_interval_steps', SAVE_INTERVAL_STEPS,
                       'Steps from one checkpoint and printed loss to the next.', lower_bound=1)
  flags.DEFINE_integer('max_to_keep', MAX_TO_KEEP, 'Newest checkpoints to keep.', lower_bound=1)
  flags.DEFINE_integer('seed', SEED, 'Seed of initial weights, dropout and shuffling.',
                       lower_bound=0, upper_bound=2**31 - 1)


class Options(NamedTuple):
  """What steers a run, with the flags' meanings and defaults."""
  model_dir: str = MODEL_SAVE_PATH
  batch_size: int = BATCH_SIZE
  learning_rate_base: float = LEARNING_RATE_BASE
  learning_rate_decay: float = LEARNING_RATE_DECAY
  regularization_rate: float = REGULARAZTION_RATE
  training_steps: int = TRAINING_STEPS
  moving_average_decay: float = MOVING_AVERAGE_DECAY
  save_interval_steps: int = SAVE_INTERVAL_STEPS
  max_to_keep: int = MAX_TO_KEEP
  seed: int = SEED


class TrainingGraph(NamedTuple):
  """The tensors and operations of a training graph."""
  train_op: tf.Operation  # one gradient step, then one step of the moving averages
  loss: tf.Tensor  # scalar: cross entropy plus L2 penalty, of the batch before the step
  cross_entropy: tf.Tensor  # scalar: mean over the batch, in nats
  learning_rate: tf.Tensor  # scalar
  global_step: tf.Variable  # int64, steps done
  weights_finite: tf.Tensor  # bool: no weight is infinite or not a number


def build_input(train_set, batch_size, seed):
  """Build the input pipeline: the batches of `DataSet.next_batch`, made inside the graph.

  The images are gathered by TensorFlow while the step before is running, which saves the
  copying of a feed_dict.

  Args:
    train_set: mnist_input.DataSet with one-hot labels.
    batch_size: int.
    seed: int, of the shuffles.

  Returns:
    (x, y_, start): float32 [batch_size, 28, 28, 1]; float32 [batch_size, 10]; and
    start(sess, steps), which begins with the batch that follows that many.
  """
  # Fed once, because constants of this size do not fit into a graph.
  all_images = tf.placeholder(tf.float32, [None, mnist_inference.INPUT_NODE])
  all_labels = tf.placeholder(tf.float32, [None, mnist_inference.OUTPUT_NODE])
  examples_done = tf.placeholder(tf.int64, [])
  # shuffle before repeat and batch: epochs stay apart, and batches across them are full.
  dataset = (tf.data.Dataset.range(train_set.num_examples)
             .shuffle(train_set.num_examples, seed=seed, reshuffle_each_iteration=True).repeat()
             .skip(examples_done).batch(batch_size, drop_remainder=True)
             .map(lambda examples: (tf.gather(all_images, examples), tf.gather(all_labels, examples)))
             .prefetch(1))
  iterator = tf.data.make_initializable_iterator(dataset)
  x, y_ = iterator.get_next()

  def start(sess, steps):
    sess.run(iterator.initializer, {all_images: train_set.images, all_labels: train_set.labels,
                                    examples_done: steps * batch_size})

  return tf.reshape(x, [batch_size, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
                        mnist_inference.NUM_CHANNELS], name='x-input'), y_, start


def build_training_graph(x, y_, num_examples, options):
  """Build loss, gradient step and moving averages on a batch.

  Args:
    x: float32 [batch, 28, 28, 1] in [0, 1], from `build_input`.
    y_: float32 [batch, 10], one-hot.
    num_examples: int, training examples, which make an epoch of the learning rate.
    options: Options.

  Returns:
    TrainingGraph.
  """
  def regularizer(weights):
    return options.regularization_rate * tf.nn.l2_loss(weights)  # rate * sum(weights^2) / 2

  y = mnist_inference.inference(x, True, regularizer)
  global_step = tf.train.get_or_create_global_step()
  cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=y, labels=tf.argmax(y_, 1))
  cross_entropy_mean = tf.reduce_mean(cross_entropy)
  loss = cross_entropy_mean + tf.add_n(tf.get_collection('losses'))
  # With staircase the rate falls once an epoch, after num_examples / batch_size steps.
  learning_rate = tf.train.exponential_decay(
      options.learning_rate_base, global_step, num_examples / options.batch_size,
      options.learning_rate_decay, staircase=True)
  # Order matters, twice: the loss is that of the weights before the step, and the averages
  # read the weights that the step has written.
  with tf.control_dependencies([loss]):
    train_step = tf.train.GradientDescentOptimizer(learning_rate).minimize(loss, global_step)
  # The step number lets the averages follow faster at first: min(decay, (1 + step) / (10 + step)).
  variable_averages = tf.train.ExponentialMovingAverage(options.moving_average_decay, global_step)
  with tf.control_dependencies([train_step]):
    variables_averages_op = variable_averages.apply(tf.trainable_variables())
  with tf.control_dependencies([variables_averages_op]):
    train_op = tf.no_op(name='train')
  weights_finite = script_support.all_finite(tf.trainable_variables())
  return TrainingGraph(train_op, loss, cross_entropy_mean, learning_rate, global_step, weights_finite)


def run_steps(sess, graph, saver, options, first_step):
  """Run steps first_step to training_steps, and save at 1, 1001, ..., the last, and on a signal.

  Returns:
    (path of the last checkpoint, name of the signal that ended the loop or None).

  Raises:
    script_support.UserError: if the loss or a weight is not finite; that step is not saved.
  """
  run_step = sess.make_callable([graph.train_op, graph.loss, graph.cross_entropy, graph.learning_rate])
  writer = script_support.open_writer(os.path.join(options.model_dir, 'train'))
  # disable=None: no bar where standard error is not a terminal.
  with script_support.StopSignals() as stop, writer, \
      tqdm(total=options.training_steps, initial=first_step - 1, unit='step', disable=None) as bar:
    for step in range(first_step, options.training_steps + 1):
      _, loss, cross_entropy, learning_rate = run_step()
      bar.update()
      last = step == options.training_steps or stop.received
      save = last or (step - 1) % options.save_interval_steps == 0
      if not math.isfinite(loss) or (save and not sess.run(graph.weights_finite)):
        raise script_support.UserError(
            f'the loss is {loss:g} and not all weights are finite at step {step} with learning rate '
            f'{learning_rate:g}: this step is not saved; give a smaller --learning_rate_base')
      if save or step % SUMMARY_INTERVAL_STEPS == 0:
        script_support.write_scalars(writer, step, loss=loss, cross_entropy=cross_entropy,
                                     learning_rate=learning_rate)
      if save:
        bar.write('After %d training step(s), loss on training batch is %g.' % (step, loss))
        path = script_support.save_checkpoint(sess, saver, options.model_dir, MODEL_NAME, step)
      if last:
        return path, stop.received


def train(mnist, options=Options()):
  """Train on mnist.train, from the newest checkpoint of the model folder if there is one.

  Args:
    mnist: mnist_input.DataSets with one-hot labels.
    options: Options.

  Returns:
    str, the path of the last checkpoint.

  Raises:
    script_support.UserError: if another process trains in the folder, its checkpoints are
      damaged or of another network, a checkpoint cannot be written, or the loss is not finite.
  """
  with script_support.folder_lock(options.model_dir), tf.Graph().as_default():
    tf.set_random_seed(options.seed)
    x, y_, start_input = build_input(mnist.train, options.batch_size, options.seed)
    graph = build_training_graph(x, y_, mnist.train.num_examples, options)
    variables = tf.global_variables()
    saver = tf.train.Saver(variables, max_to_keep=options.max_to_keep, save_relative_paths=True)
    with tf.Session() as sess:
      tf.global_variables_initializer().run()
      path = script_support.resume(sess, saver, {variable.op.name: variable for variable in variables},
                                   options.model_dir, MODEL_NAME)
      steps_done = sess.run(graph.global_step)
      if path:
        print(f'Going on from {path}, after {steps_done} training step(s).')
      if steps_done >= options.training_steps:
        print(f'Nothing to do: {steps_done} of {options.training_steps} training step(s) are done; '
              'give more with --training_steps.')
        return path
      start_input(sess, steps_done)
      path, signal_name = run_steps(sess, graph, saver, options, steps_done + 1)
  print(f'Stopped by {signal_name}; run again to go on. Saved {path}' if signal_name else f'Saved {path}')
  return path


def main(argv):
  script_support.refuse_arguments(argv)
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True)
  print(f'{mnist.train.num_examples} training examples from {FLAGS.data_dir}; '
        f'checkpoints go to {FLAGS.model_dir}.')
  if FLAGS.batch_size > mnist.train.num_examples:
    raise script_support.UsageError(f'--batch_size={FLAGS.batch_size} exceeds the {mnist.train.num_examples} '
                                    'training examples: give at most that many')
  train(mnist, Options(**{name: FLAGS[name].value for name in Options._fields}))


if __name__ == '__main__':
  script_support.run(main, define_flags)
