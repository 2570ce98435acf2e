"""Train the LeNet-style network on MNIST and write checkpoints.

    python mnist_train.py

Reads the MNIST files of --data_dir, writes mnist.ckpt-STEP and TensorBoard summaries into
--model_dir, and prints the loss at steps 1, 1001, 2001, ... Started again, it goes on from the
newest checkpoint there, and ends in the same weights as a run that was never stopped. What to
expect, and on which machine, is in RESULTS.md.
"""
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import mnist_inference
import mnist_input
from support import checkpoints, console
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

# Optimization. The book's listing has a LEARNING_RATE_BASE of 0.8, with which this network
# dies in its first steps; 0.01 is the book's own value where it prints results.
BATCH_SIZE = 100
LEARNING_RATE_BASE = 0.01
LEARNING_RATE_DECAY = 0.99  # factor an epoch
REGULARAZTION_RATE = 0.0001  # of the L2 penalty; the book's spelling
TRAINING_STEPS = 20000
MOVING_AVERAGE_DECAY = 0.99

# Checkpoints and summaries.
MODEL_SAVE_PATH = os.path.join('model-saves', 'mnist_model')
MODEL_NAME = 'mnist.ckpt'
SAVE_INTERVAL_STEPS = 1000
MAX_TO_KEEP = 10
SUMMARY_INTERVAL_STEPS = 100

# With --augment: the most that a training image is shifted (in pixels, across and down), turned (in
# radians), and scaled and sheared (as shares of its size, across and down).
AUGMENTATION = (2, 2, math.pi / 18, 0.1, 0.1, 0.1, 0.1)

SEED = 1  # of initial weights, dropout and shuffling

# A run has gone wrong if its loss is so many times that of its first step; or if its cross entropy
# is so many times that of guessing, or still no better after some steps. The first steps are always
# worse than guessing, because the initial weights make the network sure of wrong answers.
DIVERGED = 100
STEPS_TO_LEARN = 100
DIVERGED_ADVICE = 'give a smaller --learning_rate_base and another --model_dir'

FLAGS = console.Flags()
FLAGS.DEFINE_path('data_dir', mnist_input.DATA_DIR, 'Folder of the four MNIST files.')
FLAGS.DEFINE_path('model_dir', MODEL_SAVE_PATH, 'Folder of the checkpoints.', for_tensorflow=True)
FLAGS.DEFINE_integer('validation_size', mnist_input.VALIDATION_SIZE,
                     'Images at the head of the training file that are for validation.', 0)
FLAGS.DEFINE_integer('batch_size', BATCH_SIZE, 'Images in a training step.', 1)
FLAGS.DEFINE_float('learning_rate_base', LEARNING_RATE_BASE, 'Learning rate of the first epoch.', 0)
FLAGS.DEFINE_float('learning_rate_decay', LEARNING_RATE_DECAY,
                   'Factor on the learning rate after each epoch.', 0, 1)
FLAGS.DEFINE_float('regularization_rate', REGULARAZTION_RATE,
                   'Factor of the L2 penalty on the dense weights.', 0)
FLAGS.DEFINE_bool('dropout', True,
                  'Dropout in the dense layer; the run that the book prints had none.')
FLAGS.DEFINE_bool('augment', False,
                  'Shift, turn, scale and shear each training image a little, at random.')
FLAGS.DEFINE_integer('training_steps', TRAINING_STEPS,
                     'Steps in all, those of earlier runs included.', 1)
FLAGS.DEFINE_float('moving_average_decay', MOVING_AVERAGE_DECAY,
                   'Decay of the moving averages of the weights.', 0, 1)
FLAGS.DEFINE_integer('save_interval_steps', SAVE_INTERVAL_STEPS,
                     'Steps from one checkpoint and printed loss to the next.', 1)
FLAGS.DEFINE_integer('max_to_keep', MAX_TO_KEEP, 'Newest checkpoints to keep.', 1)
FLAGS.DEFINE_integer('seed', SEED, 'Seed of initial weights, dropout and shuffling.', 0, 2**31 - 1)

# Options that change what later steps do: a resumed run prints a line for each that was changed.
TRACKED_OPTIONS = ('seed', 'batch_size', 'learning_rate_base', 'learning_rate_decay',
                   'regularization_rate', 'dropout', 'augment', 'moving_average_decay')


# -- The graph ---------------------------------------------------------------------------


class Model(NamedTuple):
  """The tensors and operations of a training graph."""
  train_op: tf.Operation  # one gradient step, then one step of the moving averages
  train_step: tf.Operation  # the gradient step alone
  loss: tf.Tensor  # scalar: cross entropy plus L2 penalty, of the weights before the step
  cross_entropy: tf.Tensor  # scalar: mean over the batch, in nats
  learning_rate: tf.Tensor  # scalar
  global_step: tf.Variable  # int64, steps done


def build_placeholders(data_set: mnist_input.DataSet) -> tuple[tf.Tensor, tf.Tensor]:
  """Return where images and labels are fed in, under the book's names, in batches of any size.

  Returns:
    float32 [batch, 28, 28, 1] and [batch, labels], as `build_model` takes them.
  """
  x = tf.placeholder(tf.float32, [None, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
                                  mnist_inference.NUM_CHANNELS], name='x-input')
  y_ = tf.placeholder(tf.float32, [None, data_set.labels.shape[1]], name='y-input')
  return x, y_


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Change each image a little, as another hand would: more kinds of writing than the data holds.

  Args:
    images: float32 [batch, 28, 28, 1], 0 for paper.
    seed: int64 [2]; the same seed, the same changes.
  """
  draws = tf.random.stateless_uniform([tf.shape(images)[0], len(AUGMENTATION)], seed, -1, 1)
  right, down, angle, wide, high, slant, rise = tf.unstack(draws * AUGMENTATION, axis=1)  # [batch]
  # A pixel (x, y) of the result comes from (a x + b y + c, d x + e y + f) in the given image; the
  # centre stays at its place but for the shift.
  cosine, sine = tf.cos(angle), tf.sin(angle)
  a, b = cosine * (1 + wide) - sine * rise, cosine * slant - sine * (1 + high)
  d, e = sine * (1 + wide) + cosine * rise, sine * slant + cosine * (1 + high)
  centre = (mnist_inference.IMAGE_SIZE - 1) / 2
  c, f = (1 - a - b) * centre + right, (1 - d - e) * centre + down
  zero = tf.zeros_like(a)
  return tf.raw_ops.ImageProjectiveTransformV3(
      images=images, transforms=tf.stack([a, b, c, d, e, f, zero, zero], 1),
      output_shape=[mnist_inference.IMAGE_SIZE] * 2, fill_value=0.,
      interpolation='BILINEAR', fill_mode='CONSTANT')


def build_model(x: tf.Tensor, y_: tf.Tensor, num_examples: int, options: console.Options,
                make_optimizer: Callable[[tf.Tensor], tf.train.Optimizer]
                = tf.train.GradientDescentOptimizer) -> Model:
  """Build network, loss, gradient step and moving averages.

  Args:
    x: float32 [batch, 28, 28, 1] in [0, 1].
    y_: float32 [batch, labels], one-hot; as many labels as there are columns are told apart.
    num_examples: training examples, which make an epoch of the learning rate.
    make_optimizer: function of the learning rate.
  """
  def regularizer(weights):
    return options.regularization_rate * tf.nn.l2_loss(weights)  # rate * sum(weights^2) / 2

  global_step = tf.train.get_or_create_global_step()
  # Dropout differs from step to step, and is the same whenever that step is run.
  dropout_seed = tf.stack([tf.constant(options.seed, tf.int64), tf.cast(global_step, tf.int64)])
  if options.augment:
    x = augment(x, dropout_seed + [0, 1 << 32])  # of the step, too, but not the numbers of dropout
  y = mnist_inference.inference(x, options.dropout, regularizer, dropout_seed,
                                y_.shape.as_list()[1])  # [batch, labels]

  # The loss: mean cross entropy, and the L2 penalties that inference has put into `losses`.
  cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
      logits=y, labels=tf.argmax(y_, 1))  # [batch]
  cross_entropy_mean = tf.reduce_mean(cross_entropy)
  loss = cross_entropy_mean + tf.add_n(tf.get_collection('losses'))

  # With staircase the rate falls once an epoch, after num_examples / batch_size steps.
  learning_rate = tf.train.exponential_decay(
      options.learning_rate_base, global_step, num_examples / options.batch_size,
      options.learning_rate_decay, staircase=True)

  # Order matters, twice: the loss is that of the weights before the step, and the averages
  # read the weights that the step has written.
  with tf.control_dependencies([loss]):
    train_step = make_optimizer(learning_rate).minimize(loss, global_step)
  # The step number lets the averages follow faster at first: min(decay, (1 + step) / (10 + step)).
  variable_averages = tf.train.ExponentialMovingAverage(options.moving_average_decay, global_step)
  with tf.control_dependencies([train_step]):
    variables_averages_op = variable_averages.apply(tf.trainable_variables())
  with tf.control_dependencies([variables_averages_op]):
    train_op = tf.no_op(name='train')
  return Model(train_op, train_step, loss, cross_entropy_mean, learning_rate, global_step)


# -- Whether a run goes well -------------------------------------------------------------


def check_loss(step: int, loss: float, first_loss: float, options: console.Options) -> None:
  """Raise UserError if the loss shows weights that are not worth saving."""
  if not math.isfinite(loss) or loss > DIVERGED * float(first_loss):
    raise console.UserError(
        f'the loss is {loss:g} at step {step}, which is not saved: {DIVERGED_ADVICE}, because what '
        f'went wrong at {options.learning_rate_base:g} may be in the checkpoints of '
        f'{options.model_dir} already')


def warn_of_guessing(step: int, cross_entropy: float, y_: tf.Tensor,
                     options: console.Options) -> None:
  """Warn if the network answers no better than by guessing, or far worse: it is ruined.

  Args:
    y_: as for `build_model`.
  """
  guessing = math.log(y_.shape.as_list()[1])  # cross entropy of equal probabilities, in nats
  if cross_entropy > (0.98 if step > STEPS_TO_LEARN else DIVERGED) * guessing:
    console.warn(f'the cross entropy is {cross_entropy:.3g} after {step} steps, no better than '
                 f'guessing ({guessing:.3g}), and will hardly get better: {DIVERGED_ADVICE} '
                 f'than {options.learning_rate_base:g} and {options.model_dir}')


def check_data(data_set: mnist_input.DataSet) -> None:
  """Raise UserError unless images and labels are as the network and its loss take them."""
  if data_set.labels.ndim != 2:
    raise console.UserError(f'labels have the shape {data_set.labels.shape}: read the data with '
                            'read_data_sets(..., one_hot=True)')
  if data_set.images[0].size != mnist_inference.INPUT_NODE:
    raise console.UserError(f'images have {data_set.images[0].size} pixels: scale them to '
                            f'{mnist_inference.IMAGE_SIZE}x{mnist_inference.IMAGE_SIZE}')


def check_training_set(data_set: mnist_input.DataSet, options: console.Options) -> None:
  """Raise UserError if the training set cannot be trained on as the options say."""
  check_data(data_set)
  if options.batch_size > data_set.num_examples:
    raise console.UserError(
        f'--batch_size={options.batch_size} exceeds the {data_set.num_examples} training '
        'examples: give at most that many', console.WRONG_USAGE)


# -- Training ----------------------------------------------------------------------------


def report_data(mnist: mnist_input.DataSets, options: console.Options) -> None:
  """Print what is trained on, and where checkpoints go."""
  console.report(f'{mnist.train.num_examples} training examples from {options.data_dir}; '
                 f'checkpoints go to {options.model_dir}.')


def check_folder(folder: checkpoints.ModelFolder, data_set: mnist_input.DataSet,
                 options: console.Options) -> None:
  """Compare what is trained with what the folder's checkpoints are of, and keep it beside them."""
  folder.check_model({'training_data': data_set.digest(), 'labels': data_set.classes},
                     {name: getattr(options, name) for name in TRACKED_OPTIONS})


def resume(sess: tf.Session, saver: checkpoints.Saver, model: Model, options: console.Options
           ) -> tuple[str | None, int]:
  """Restore the newest checkpoint, if there is one, and say so.

  Args:
    model: its variables have their initial values.

  Returns:
    The path of the checkpoint, and the steps done.
  """
  path = saver.resume(sess)
  steps_done = int(sess.run(model.global_step))
  if path:
    console.report(f'Going on from {path}, after {steps_done} training step(s).')
  if steps_done >= options.training_steps:
    print(f'Nothing to do: {steps_done} of {options.training_steps} training step(s) are done; '
          'give more with --training_steps.')
  return path, steps_done


def train(mnist: mnist_input.DataSets, options: console.Options | None = None) -> str | None:
  """Train on mnist.train, from the newest checkpoint of the model folder if there is one.

  Returns the path of the last checkpoint. Raises UserError if the data, the folder or its
  checkpoints do not fit the options, or the loss shows that training has failed.
  """
  options = options or FLAGS.options()
  check_training_set(mnist.train, options)
  with (checkpoints.ModelFolder(options.model_dir, MODEL_NAME) as folder,
        tf.Graph().as_default(), tf.Session() as sess, console.StopSignals() as stop,
        SummaryWriter(os.path.join(options.model_dir, 'train')) as summary_writer):
    # Where images and labels are fed in, then the network, its loss and the step that trains it.
    x, y_ = build_placeholders(mnist.train)
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    model = build_model(x, y_, mnist.train.num_examples, options)

    # Random weights, then those of the newest checkpoint, if there is one, in their place.
    check_folder(folder, mnist.train, options)
    saver = checkpoints.Saver(folder, options.max_to_keep, DIVERGED_ADVICE)
    tf.global_variables_initializer().run()
    path, steps_done = resume(sess, saver, model, options)
    if steps_done >= options.training_steps:
      return path
    summary_writer.start(sess.graph, steps_done)
    training_set = mnist.train.starting_at(steps_done * options.batch_size)

    # disable=None: no progress bar where standard error is not a terminal.
    for step in tqdm(range(steps_done + 1, options.training_steps + 1), initial=steps_done,
                     total=options.training_steps, unit='step', disable=None):
      # A batch of images and labels; the network takes images of 28x28 pixels, not rows.
      xs, ys = training_set.next_batch(options.batch_size)
      xs = np.reshape(xs, [-1, *x.shape.as_list()[1:]])
      # One step of gradient descent and of the moving averages.
      _, loss, cross_entropy, learning_rate = sess.run(
          [model.train_op, model.loss, model.cross_entropy, model.learning_rate],
          feed_dict={x: xs, y_: ys})
      if step == steps_done + 1:
        first_loss = loss
        warn_of_guessing(steps_done, cross_entropy, y_, options)  # if it went on from a ruined one
      check_loss(step, loss, first_loss, options)
      is_last = step == options.training_steps or stop.received
      # As in the book at steps 1, 1001, 2001, ..., and at the last. How good the network is on the
      # validation images is the work of mnist_eval.py, another program.
      is_saved = is_last or (step - 1) % options.save_interval_steps == 0
      if is_saved or step % SUMMARY_INTERVAL_STEPS == 0:
        summary_writer.add_scalars(step, loss=loss, cross_entropy=cross_entropy,
                                   learning_rate=learning_rate)
      if is_saved:
        path = saver.save(sess, os.path.join(options.model_dir, MODEL_NAME), global_step=step)
        tqdm.write('After %d training step(s), loss on training batch is %g.' % (step, loss))
      if is_last:
        break
  warn_of_guessing(step, cross_entropy, y_, options)
  checkpoints.report_saved(path, stop.received)
  return path


def main(argv: list[str]) -> None:
  console.refuse_arguments(argv)
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True,
                                     validation_size=FLAGS.validation_size, seed=FLAGS.seed)
  report_data(mnist, FLAGS)
  train(mnist, FLAGS)


if __name__ == '__main__':
  console.run(main, FLAGS)
