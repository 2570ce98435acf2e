"""Train the network of mnist_train.py on parameter servers and workers.

    python mnist_dist_train.py --local_workers=2          # a whole cluster on this machine

    python mnist_dist_train.py --job_name=ps              # the same, each in a shell of its own
    python mnist_dist_train.py --job_name=worker --task_index=0
    python mnist_dist_train.py --job_name=worker --task_index=1

Takes the flags of mnist_train.py; worker 0, the chief, writes the same files into --model_dir and
prints the same lines. By default each worker does steps of its own, asynchronously; with --sync all
share the batch of each step. For several machines, give every process the same --ps_hosts and
--worker_hosts. A process that was killed is started again with the same command: training goes on
from the newest checkpoint.
TensorFlow's servers have no password and run what they are sent: private networks only.
"""
import contextlib
import os
import types

import numpy as np

import mnist_input
import mnist_train
from support import checkpoints, clusters, console, launcher
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

FLAGS = console.Flags()
launcher.define_flags(FLAGS)
FLAGS.share(mnist_train.FLAGS)


class SaverHook(clusters.SaverHook):
  """Checks, prints and saves at the chief what mnist_train.py does."""

  def __init__(self, options: console.Options, y_: tf.Tensor, *args: object):
    super().__init__(*args)
    self._options, self._y_, self._first_loss, self._curve = options, y_, None, 0

  def check(self, step: int) -> None:
    if self._first_loss is None:
      self._first_loss = self.values['loss']
      self._warn_of_guessing(step - 1)
    mnist_train.check_loss(step, self.values['loss'], self._first_loss, self._options)
    if step // mnist_train.SUMMARY_INTERVAL_STEPS > self._curve:
      self._curve = step // mnist_train.SUMMARY_INTERVAL_STEPS
      self._summary_writer.add_scalars(step, **self.values)

  def report(self, session: tf.Session, step: int) -> tuple[str, dict[str, float]]:
    return 'After %d training step(s), loss on training batch is %g.' % (
        step, self.values['loss']), {}

  def conclude(self, session: tf.Session) -> None:
    if self.values:
      self._warn_of_guessing(self._steps.steps_done)

  def _warn_of_guessing(self, step: int) -> None:
    mnist_train.warn_of_guessing(step, self.values['cross_entropy'], self._y_, self._options)


def train(mnist: mnist_input.DataSets, member: clusters.Member, options: console.Options) -> None:
  """Do this worker's steps; as the chief, also keep the checkpoints and summaries of all.

  Raises:
    UserError: as mnist_train.train.
  """
  with (checkpoints.ModelFolder(options.model_dir, mnist_train.MODEL_NAME) if member.is_chief
        else contextlib.nullcontext() as folder,
        SummaryWriter(os.path.join(options.model_dir, 'train')) as summary_writer,
        tf.Graph().as_default(), tf.device(member.device_setter())):
    # The graph of mnist_train.py, its variables on the parameter servers.
    x, y_ = mnist_train.build_placeholders(mnist.train)
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    steps = clusters.Steps(member, options.training_steps)
    own_options = types.SimpleNamespace(**FLAGS.flag_values_dict())
    own_options.seed += member.index  # each worker has a dropout of its own
    model = mnist_train.build_model(
        x, y_, mnist.train.num_examples, own_options,
        lambda learning_rate: steps.optimizer(tf.train.GradientDescentOptimizer(learning_rate)))
    # In synchronous steps the averages are the chief's work: once a step, after all gradients.
    train_op = model.train_op if member.is_chief or not options.sync else model.train_step

    # Only the chief reads and writes checkpoints; the others get its values from the servers.
    hooks, saver = steps.hooks(), None
    if member.is_chief:
      mnist_train.check_folder(folder, mnist.train, options)
      saver = checkpoints.Saver(folder, options.max_to_keep, mnist_train.DIVERGED_ADVICE)
      hooks.append(SaverHook(
          options, y_, steps, saver, os.path.join(options.model_dir, mnist_train.MODEL_NAME),
          options.save_interval_steps, summary_writer,
          {'loss': model.loss, 'cross_entropy': model.cross_entropy,
           'learning_rate': model.learning_rate}))

    training_set, share = mnist.train, steps.share()
    with tf.train.MonitoredTrainingSession(
        member.target, member.is_chief, hooks=hooks, config=member.config,
        scaffold=steps.scaffold(lambda sess: mnist_train.resume(sess, saver, model, options)),
        stop_grace_period_secs=1) as sess:
      while not sess.should_stop():
        # The batch that this step has in mnist_train.py, or this worker's share of it.
        training_set = training_set.starting_at((steps.next_step - 1) * options.batch_size)
        xs, ys = training_set.next_batch(options.batch_size)
        xs = np.reshape(xs[share], [-1, *x.shape.as_list()[1:]])
        sess.run(train_op, feed_dict={x: xs, y_: ys[share]})


def work(member: clusters.Member) -> int:
  """Be a worker until the training has ended; return the exit status."""
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True,
                                     validation_size=FLAGS.validation_size, seed=FLAGS.seed)
  if member.is_chief:
    mnist_train.report_data(mnist, FLAGS)
  mnist_train.check_training_set(mnist.train, FLAGS)
  settings = {name: getattr(FLAGS, name) for name in (
      *mnist_train.TRACKED_OPTIONS, 'training_steps')}
  return member.work(lambda: train(mnist, member, FLAGS), training_data=mnist.train.digest(),
                     **settings)


def main(argv: list[str]) -> int:
  console.refuse_arguments(argv)
  return launcher.take_part(__file__, FLAGS, work)


if __name__ == '__main__':
  launcher.run(main, FLAGS)
