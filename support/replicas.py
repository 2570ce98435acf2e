"""The steps of a training that several workers share: one by one, or together.

One by one, the asynchronous way: each step is of one worker, who takes its number and trains on
that batch, while the others do so on theirs. Together, the synchronous way: each step is of all
workers, each has its share of the batch, and their gradients are averaged.
"""
import contextlib
import time

from support import workers
from support.quiet_tensorflow import tf

PATIENCE_SECS = 5  # at least, before a step of a worker that does not end is given up
TURN_SECS = 0.02  # from one look for the turn to the next
TOKEN_SECS = 0.002  # from one look whether all tokens are taken to the next


def _local_variable(name):
  """Return an int64 on the first parameter server that is not part of the model."""
  return tf.get_variable(name, [], tf.int64, tf.zeros_initializer(), trainable=False,
                         collections=[tf.GraphKeys.LOCAL_VARIABLES], use_resource=False)


class AsyncSteps:
  """Steps one by one, each of one worker.

  The chief allows steps up to the next checkpoint, so that this is of exactly that step.

  Attributes:
    train_op: what a step of this worker runs.
    next_step: int64 scalar; running it takes the number of a step, which nobody else gets.
    step_secs: float, to be set to what a step takes on this worker.
  """

  def __init__(self, member):
    self._member = member
    self._allowed_so_far = 0
    self.step_secs = 0

  def wrap(self, make_optimizer):
    """Return make_optimizer, a function of the learning rate, for these steps."""
    return make_optimizer

  def add(self, global_step, train_step, train_op):
    """Add what these steps need to the graph.

    Args:
      train_step: operation of one gradient step.
      train_op: the same and what follows it once a step, such as moving averages.
    """
    del train_step
    self.train_op = train_op
    self._global_step = global_step
    with tf.device('/job:ps/task:0'):
      self._taken, self._allowed = _local_variable('steps_taken'), _local_variable('steps_allowed')
      self.next_step = tf.count_up_to(self._taken, tf.int64.max) + 1
      self._step_fed = tf.placeholder(tf.int64, [])
      self._allow = tf.assign(self._allowed, self._step_fed)
      self._start = tf.group(tf.assign(self._taken, self._global_step), tf.assign(self._allowed, 0))

  def start(self, sess):
    """Begin these steps, once the variables of the model have their values."""
    if self._member.task.is_chief:
      self._member.call(sess.run, self._start)

  def first_step(self):
    """Return the number of this worker's first step."""
    return int(self._member.run(self.next_step))

  def share(self, batch):
    """Return this worker's part of an array of examples."""
    return batch

  def wait_for_turn(self, step):
    """Wait until the chief has allowed a step."""
    while step > self._allowed_so_far:
      self._allowed_so_far = int(self._member.run(self._allowed))
      if step > self._allowed_so_far:
        time.sleep(TURN_SECS)

  def allow(self, step):
    """As the chief, allow all steps up to this one."""
    self._member.run(self._allow, {self._step_fed: step})
    self._allowed_so_far = step

  def settle(self, step):
    """As the chief, wait for the others' steps up to this one; return the steps done.

    They are fewer if none has ended for a while: a worker was killed in one, or they were stopped.
    """
    patience = 2 * self.step_secs
    if self._allowed_so_far:
      patience = max(PATIENCE_SECS, 10 * self.step_secs)
    done, since = -1, time.monotonic()
    while done < step and time.monotonic() - since < patience:
      now_done = int(self._member.run(self._global_step))
      if now_done > done:
        done, since = now_done, time.monotonic()
      else:
        time.sleep(TURN_SECS)
    return done


class _SyncOptimizer(tf.train.SyncReplicasOptimizer):
  """Whose averaging, which the chief does, needs no batch, as it would after the loss of one."""

  def apply_gradients(self, *args, **kwargs):
    with tf.control_dependencies(None):
      op = super().apply_gradients(*args, **kwargs)
    self.ready_for_local_init_op.mark_used()  # tf.train.MonitoredSession's
    return op


class SyncSteps:
  """Steps of all workers together, with TensorFlow's SyncReplicasOptimizer.

  Attributes:
    train_op, next_step, step_secs: as of `AsyncSteps`.
  """

  def __init__(self, member):
    self._member = member
    self.step_secs = 0
    self._workers = len(member.task.worker_hosts)

  def wrap(self, make_optimizer):
    """Return make_optimizer, a function of the learning rate, for these steps."""
    def make(learning_rate):
      self._optimizer = _SyncOptimizer(
          make_optimizer(learning_rate), self._workers, self._workers)
      return self._optimizer
    return make

  def add(self, global_step, train_step, train_op):
    """Add what these steps need to the graph; see `AsyncSteps`."""
    self._global_step = global_step
    # The moving averages are the chief's: once a step, when all gradients are in the weights and
    # no other step can begin without its share.
    self.train_op = train_op if self._member.task.is_chief else train_step
    with tf.control_dependencies([self.train_op]), tf.device(self._global_step.device):
      self.next_step = tf.identity(self._global_step) + 1  # read where it lies, after the step
    self._first_step = self._global_step + 1
    self._queue_runner = self._optimizer.get_chief_queue_runner()
    self._tokens_left = self._queue_runner.queue.size()
    self._is_first_step = True

  def start(self, sess):
    """Begin these steps, once the variables of the model have their values."""
    if not self._member.task.is_chief:
      self._member.call(sess.run, self._optimizer.local_step_init_op)
      return
    self._member.call(sess.run, self._optimizer.chief_init_op)
    # This thread averages the gradients of a step as they come, applies them, and hands out as many
    # tokens as there are workers. Without the optimizer's extra tokens at the start, which would
    # let a fast worker do the first step alone.
    self._queue_runner.create_threads(sess, tf.train.Coordinator(), daemon=True, start=True)

  def first_step(self):
    """Return the number of this worker's first step."""
    return int(self._member.run(self._first_step))

  def share(self, batch):
    """Return this worker's part of an array of examples."""
    return batch[self._member.task.index::self._workers]

  def wait_for_turn(self, step):
    """Wait until all workers have taken their tokens of the step before.

    Otherwise a fast one could take that of another, and do two shares of one step.
    """
    del step
    # Not at the first step: it may be this worker, killed before it took its token, whom others
    # wait for.
    while not self._is_first_step and self._member.run(self._tokens_left) > 0:
      time.sleep(TOKEN_SECS)
    self._is_first_step = False

  def allow(self, step):
    """Return at once: no step begins without the chief."""

  def settle(self, step):
    """As the chief, return the steps done."""
    del step
    return int(self._member.run(self._global_step))


# -- Loops -------------------------------------------------------------------------------


def next_saved_step(steps_done, interval, last_step):
  """Return the next of the steps 1, 1 + interval, 1 + 2 * interval, ... and the last one."""
  return min(-(-steps_done // interval) * interval + 1, last_step)


def lead_steps(member, steps, steps_done, interval, last_step, do_step, keep):
  """As the chief, do steps, and keep the checkpoints of those of all workers.

  Args:
    member: workers.Member.
    steps: AsyncSteps or SyncSteps, started.
    steps_done: int, those of earlier runs.
    do_step: function of a step and, by keyword, whether it is followed by another one; does it
      and returns this worker's next step.
    keep: function of the steps done; writes their checkpoint.
  """
  stop, saved_step = member.stop, next_saved_step(steps_done, interval, last_step)
  steps.allow(saved_step)
  step, has_begun = steps.first_step(), False  # before another worker can take it
  member.announce_run()
  while steps_done < last_step and not stop.received:
    with contextlib.suppress(workers.StepUnfinished):  # a stop signal
      while step <= saved_step and not stop.received:
        step, has_begun = do_step(step, is_followed=True), True
    if not has_begun:
      break
    if stop.received:
      steps.allow(0)
    # What the others have begun belongs to the checkpoint; what one was killed in is done here.
    while (steps_done := steps.settle(saved_step)) < saved_step and not stop.received:
      do_step(saved_step, is_followed=False)
    keep(steps_done)
    saved_step = next_saved_step(steps_done, interval, last_step)
    steps.allow(saved_step)


def follow_steps(member, steps, last_step, do_step):
  """As another worker, do steps until the last one is taken.

  Args:
    do_step: as for `lead_steps`.
  """
  with contextlib.suppress(workers.StepUnfinished):
    step = steps.first_step()
    while step <= last_step and not member.stop.received:
      step = do_step(step, is_followed=True)


def print_end(member):
  """Say how a worker's part has ended."""
  print(f'Stopped by {member.stop.received}; {member.task.name} may be started again.'
        if member.stop.received else 'The training has finished.')
