"""Train the network of mnist_train.py on parameter servers and workers.

    python mnist_dist_train.py --local_workers=2          # a whole cluster on this machine

    python mnist_dist_train.py --job_name=ps              # the same, each in a shell of its own
    python mnist_dist_train.py --job_name=worker --task_index=0
    python mnist_dist_train.py --job_name=worker --task_index=1

Takes the flags of mnist_train.py; worker 0, the chief, writes the same files into --model_dir and
prints the same lines. By default each worker does steps of its own, asynchronously; with --sync all
share the batch of each step. For several machines, give every process the same --ps_hosts and
--worker_hosts. The others wait for a chief that has ended before the last step: start it again.
TensorFlow's servers have no password and run what they are sent: private networks only.
"""
import os

# Before TensorFlow is imported: each operation that is cancelled when a worker ends would be a
# warning in the log of the others. A notebook that has imported a script of the suite hands down 1.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'

import math
import time
import types

import numpy as np
from absl import flags

import mnist_inference
import mnist_input
import mnist_train
from support import checkpoints, cluster, console, launcher, replicas, summaries, workers
from support.quiet_tensorflow import tf

FLAGS = flags.FlagValues()
cluster.define_flags(FLAGS)
launcher.define_flags(FLAGS)
console.share_flags(FLAGS, mnist_train.FLAGS)


def options(**changes):
  """Return the options of a run: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


class Replica:
  """A worker's copy of the graph, and a step of it."""

  def __init__(self, mnist, member, options):
    """Build the graph of mnist_train.py in the default graph, for the steps of several workers."""
    self._train, self._member, self._batch_size = mnist.train, member, options.batch_size
    self._x = tf.placeholder(tf.float32, [
        None, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
        mnist_inference.NUM_CHANNELS], name='x-input')
    self._y_ = tf.placeholder(tf.float32, [None, mnist_inference.OUTPUT_NODE], name='y-input')
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    self.steps = (replicas.SyncSteps if options.sync else replicas.AsyncSteps)(member)
    # Each worker has a dropout of its own.
    own_options = types.SimpleNamespace(**{
        name: getattr(options, name) for name in mnist_train.FLAGS})
    own_options.seed += member.task.index
    self.model = mnist_train.build_model(
        self._x, self._y_, mnist.train.num_examples, own_options,
        self.steps.wrap(tf.train.GradientDescentOptimizer))
    self.steps.add(self.model.global_step, self.model.train_step, self.model.train_op)
    self._results = [self.steps.train_op, self.model.loss, self.model.cross_entropy,
                     self.model.learning_rate]

  def do_step(self, step, *, is_followed):
    """Do a step on the batch that it has in mnist_train.py, and return this worker's next step.

    Args:
      is_followed: whether there is to be a next step.
    """
    self.steps.wait_for_turn(step)
    self._train.start_at((step - 1) * self._batch_size)
    xs, ys = map(self.steps.share, self._train.next_batch(self._batch_size))
    xs = np.reshape(xs, (-1, mnist_inference.IMAGE_SIZE, mnist_inference.IMAGE_SIZE,
                         mnist_inference.NUM_CHANNELS))
    began = time.monotonic()
    _, self.loss, self.cross_entropy, self.learning_rate, *next_step = self._member.run(
        self._results + ([self.steps.next_step] if is_followed else []),
        {self._x: xs, self._y_: ys})
    self.steps.step_secs = time.monotonic() - began
    return int(next_step[0]) if is_followed else None


def follow(mnist, member, options):
  """Be a worker that is not the chief: do steps until the chief has saved the last one."""
  for run in member.runs():
    with run:
      replica = Replica(mnist, member, options)
      with member.session() as sess:
        replica.steps.start(sess)
        replicas.follow_steps(member, replica.steps, options.training_steps, replica.do_step)
  replicas.print_end(member)


def lead(mnist, member, options):
  """Be the chief: do steps, and keep the checkpoints and curves of all workers' training.

  Returns:
    The path of the last checkpoint.

  Raises:
    UserError: as mnist_train.train, or if a parameter server is lost.
  """
  with (checkpoints.ModelFolder(options.model_dir, mnist_train.MODEL_NAME) as folder,
        summaries.CurveWriter(os.path.join(options.model_dir, 'train')) as curve_writer,
        member.begin_run()):
    replica = Replica(mnist, member, options)
    folder.check_model({'training_data': mnist.train.digest()},
                       {name: getattr(options, name) for name in mnist_train.TOLD_OPTIONS})
    saver = checkpoints.Saver(folder, options.max_to_keep, mnist_train.DIVERGED_ADVICE)
    initializer = tf.global_variables_initializer()
    with member.session() as sess:
      # Random weights, then those of the newest checkpoint, if there is one, in their place.
      member.call(sess.run, initializer)
      path, steps_done = member.call(mnist_train.resume, sess, saver, replica.model, options)
      if steps_done >= options.training_steps:
        return path
      curve_writer.add_graph(sess.graph)
      replica.steps.start(sess)
      path = lead_steps(replica, member, saver, sess, steps_done, curve_writer, options)
  print(f'Stopped by {member.stop.received}; run again to go on. Saved {path}'
        if member.stop.received else f'Saved {path}')
  return path


def lead_steps(replica, member, saver, sess, steps_done, curve_writer, options):
  """Do the chief's steps, save those of all, and return the path of the last checkpoint."""
  path, first_loss = None, None

  def do_step(step, *, is_followed):
    nonlocal first_loss
    next_step = replica.do_step(step, is_followed=is_followed)
    if first_loss is None:
      first_loss = replica.loss
      mnist_train.warn_of_guessing(steps_done, replica.cross_entropy, options)
    if not math.isfinite(replica.loss):
      mnist_train.check_loss(step, replica.loss, first_loss, options)
    if step % mnist_train.SUMMARY_INTERVAL_STEPS == 0:
      add_curves(step)
    return next_step

  def add_curves(step):
    curve_writer.add_scalars(step, loss=replica.loss, cross_entropy=replica.cross_entropy,
                             learning_rate=replica.learning_rate)

  def keep(step):
    nonlocal path
    mnist_train.check_loss(step, replica.loss, first_loss, options)
    add_curves(step)
    path = member.call(saver.save, sess, step)
    print('After %d training step(s), loss on training batch is %g.' % (step, replica.loss))
    if step >= options.training_steps:
      mnist_train.warn_of_guessing(step, replica.cross_entropy, options)

  replicas.lead_steps(member, replica.steps, steps_done, options.save_interval_steps,
                      options.training_steps, do_step, keep)
  return path


def work(task, options):
  """Be a worker of a cluster until the training has finished."""
  mnist = mnist_input.read_data_sets(options.data_dir, one_hot=True,
                                     validation_size=options.validation_size, seed=options.seed)
  if task.is_chief:
    mnist_train.print_beginning(mnist, options)
  mnist_train.check_training_set(mnist.train, options)
  settings = {name: getattr(options, name) for name in (
      *mnist_train.TOLD_OPTIONS, 'training_steps', 'sync')}
  settings['training_data'] = mnist.train.digest()
  with workers.join(task, settings, options) as member:
    (lead if task.is_chief else follow)(mnist, member, options)


def main(argv):
  console.refuse_arguments(argv)
  return workers.take_part(__file__, FLAGS, work)


if __name__ == '__main__':
  workers.run(main, FLAGS)
