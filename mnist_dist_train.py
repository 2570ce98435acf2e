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


class ReportHook(tf.train.SessionRunHook, tf.train.CheckpointSaverListener):
  """The chief's lines and curves, and a look whether the training goes well."""

  def __init__(self, model: mnist_train.Model, y_: tf.Tensor, steps: clusters.Steps,
               writer: SummaryWriter, options: console.Options):
    self._model, self._y_, self._steps, self._writer, self._options = (
        model, y_, steps, writer, options)
    self._first_loss, self._last_curve_step = None, 0
    self.saved_step = None

  def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
    return tf.train.SessionRunArgs(
        [self._model.loss, self._model.cross_entropy, self._model.learning_rate])

  def after_run(self, run_context: tf.train.SessionRunContext,
                run_values: tf.train.SessionRunValues) -> None:
    self._loss, self._cross_entropy, self._learning_rate = run_values.results
    step = self._steps.steps_done
    if self._first_loss is None:
      self._first_loss = self._loss
      self.warn_of_guessing(step - 1)
    mnist_train.check_loss(step, self._loss, self._first_loss, self._options)
    if step // mnist_train.SUMMARY_INTERVAL_STEPS > (
        self._last_curve_step // mnist_train.SUMMARY_INTERVAL_STEPS):
      self._add_scalars(step)

  def _add_scalars(self, step: int) -> None:
    self._writer.add_scalars(step, loss=self._loss, cross_entropy=self._cross_entropy,
                             learning_rate=self._learning_rate)
    self._last_curve_step = step

  def after_save(self, session: tf.Session, step: int) -> None:
    self._add_scalars(step)
    self.saved_step = step
    print('After %d training step(s), loss on training batch is %g.' % (step, self._loss))

  def end(self, session: tf.Session, step: int | None = None) -> None:
    """Do nothing; as a listener it is called with the step, too."""

  def warn_of_guessing(self, step: int) -> None:
    mnist_train.warn_of_guessing(step, self._cross_entropy, self._y_, self._options)


def train(mnist: mnist_input.DataSets, member: clusters.Member, options: console.Options) -> None:
  """Do this worker's steps; as the chief, also keep the checkpoints and curves of all.

  Raises:
    UserError: as mnist_train.train.
  """
  task = member.task
  with (checkpoints.ModelFolder(options.model_dir, mnist_train.MODEL_NAME) if task.is_chief
        else contextlib.nullcontext() as folder,
        SummaryWriter(os.path.join(options.model_dir, 'train')) as writer,
        tf.Graph().as_default(), tf.device(clusters.device_setter(task))):
    # The graph of mnist_train.py, its variables on the parameter servers; each worker has a dropout
    # of its own.
    x, y_ = mnist_train.build_placeholders(mnist.train)
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    own_options = types.SimpleNamespace(**{
        name: getattr(options, name) for name in mnist_train.FLAGS})
    own_options.seed += task.index
    steps = clusters.Steps(member, options.training_steps)
    model = mnist_train.build_model(x, y_, mnist.train.num_examples, own_options,
                                    steps.wrap(tf.train.GradientDescentOptimizer))
    # In synchronous steps the averages are the chief's work: once a step, after all gradients.
    train_op = model.train_op if task.is_chief or not options.sync else model.train_step

    hooks, saver = steps.hooks(), None
    if task.is_chief:
      mnist_train.check_folder(folder, mnist.train, options)
      saver = checkpoints.Saver(folder, options.max_to_keep, mnist_train.DIVERGED_ADVICE)
      report = ReportHook(model, y_, steps, writer, options)
      hooks += [report, clusters.SaverHook(saver, options.model_dir, mnist_train.MODEL_NAME,
                                           options.save_interval_steps, writer, report)]

    training_set = mnist.train
    with tf.train.MonitoredTrainingSession(
        member.server.target, task.is_chief, hooks=hooks, stop_grace_period_secs=1,
        scaffold=steps.scaffold(lambda sess: mnist_train.resume(sess, saver, model, options)),
        config=clusters.session_config(task)) as sess:
      while not sess.should_stop():
        # The batch that this step has in mnist_train.py, or this worker's share of it.
        training_set = training_set.starting_at((steps.next_step - 1) * options.batch_size)
        xs, ys = map(steps.share, training_set.next_batch(options.batch_size))
        xs = np.reshape(xs, [-1, *x.shape.as_list()[1:]])
        sess.run(train_op, feed_dict={x: xs, y_: ys})

    if task.is_chief and report.saved_step:
      report.warn_of_guessing(report.saved_step)
      checkpoints.report_saved(saver.last_checkpoints[-1], member.stop.received)


def work(task: clusters.Task, stop: console.StopSignals) -> int:
  """Be a worker until the training has ended; return the exit status."""
  mnist = mnist_input.read_data_sets(FLAGS.data_dir, one_hot=True,
                                     validation_size=FLAGS.validation_size, seed=FLAGS.seed)
  if task.is_chief:
    mnist_train.report_data(mnist, FLAGS)
  mnist_train.check_training_set(mnist.train, FLAGS)
  settings = {name: getattr(FLAGS, name) for name in (
      *mnist_train.TRACKED_OPTIONS, 'training_steps', 'sync')}
  member = clusters.Member(task, FLAGS, stop, training_data=mnist.train.digest(), **settings)
  return member.work(lambda: train(mnist, member, FLAGS))


def main(argv: list[str]) -> int:
  console.refuse_arguments(argv)
  return launcher.take_part(__file__, FLAGS, work)


if __name__ == '__main__':
  launcher.run(main, FLAGS)
