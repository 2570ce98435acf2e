"""A cluster on TensorFlow's runtime: what tf.train.MonitoredTrainingSession does not do for it.

Variables lie on the parameter servers, and so does a notice, in which worker 0, the chief, says how
the training stands. At the start it restores the newest checkpoint and notes its settings and that
it is training; the others compare, then begin. After the loss of a parameter server or of itself it
does so again. At the end it saves, notes how the training has ended, waits for the others to end,
and notes that all is over, whereupon the parameter servers end.
"""
import concurrent.futures
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from support import console
from support.console import UserError
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

# On this machine unless other addresses are given: ports as in the book.
PS_HOSTS = '127.0.0.1:2222'
WORKER_HOSTS = '127.0.0.1:2223,127.0.0.1:2224'

START_SECS = 300  # for all parameter servers to be there
POLL_SECS = 0.5  # from one look at the others to the next
ANSWER_SECS = 3  # for a process to answer
AWAY_LOOKS = 10  # without an answer, after which a line says who is away
STOP_SECS = 2  # after a stop signal, for what may wait for a worker that is away
SERVE_SECS = 8  # after a stop signal to a parameter server, for the chief to save
FINISH_SECS = 60  # for the other workers to end when the training has finished

# What is raised when another process is not there or not yet ready.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
        tf.errors.OutOfRangeError, tf.errors.DeadlineExceededError, tf.errors.InternalError,
        tf.errors.FailedPreconditionError, tf.errors.NotFoundError, tf.errors.UnimplementedError)

# States of a training.
STARTING, TRAINING = 'starting', 'training'

servers: list[tf.train.Server] = []  # of this process


# -- Who is who --------------------------------------------------------------------------


def define_flags(flag_values: console.Flags) -> None:
  """Define the flags of a cluster, under the book's names."""
  flags.DEFINE_enum('job_name', None, ['ps', 'worker'], 'What this process is: a parameter server '
                    'or a worker.', flag_values=flag_values)
  flags.DEFINE_integer('task_index', 0, 'Number of this process among those of its job, from 0 on; '
                       'worker 0 is the chief.', lower_bound=0, flag_values=flag_values)
  flags.DEFINE_string('ps_hosts', PS_HOSTS, 'Addresses of the parameter servers, host:port, '
                      'separated by commas; in private networks only.', flag_values=flag_values)
  flags.DEFINE_string('worker_hosts', WORKER_HOSTS, 'Addresses of the workers, host:port, '
                      'separated by commas.', flag_values=flag_values)
  flags.DEFINE_bool('sync', False, 'Workers share the batch of each step and wait for each other. '
                    'Without, each does steps of its own, and the last step may be passed by their '
                    'number less one.', flag_values=flag_values)
  flags.DEFINE_float('start_secs', START_SECS, 'Seconds to wait for the parameter servers.',
                     lower_bound=0, flag_values=flag_values)


class Task:
  """A process of a cluster, as flags describe it."""

  def __init__(self, options: console.Options):
    """Read the flags.

    Raises:
      UserError: if an address is not one or is there twice, there is no such process, or as for
        `check_shares`.
    """
    self.hosts = {job_name: getattr(options, f'{job_name}_hosts').replace(' ', '').split(',')
                  for job_name in ('worker', 'ps')}
    for job_name, addresses in self.hosts.items():
      for address in addresses:
        if not re.fullmatch(r'[\w.-]+:[1-9]\d{0,4}', address) or _split(address)[1] > 65535:
          raise UserError(f'--{job_name}_hosts: {address!r} is not an address: give host:port, '
                          'separated by commas', console.WRONG_USAGE)
    self.addresses = self.hosts['ps'] + self.hosts['worker']
    twice = max(self.addresses, key=self.addresses.count)
    if self.addresses.count(twice) > 1:
      raise UserError(f'--ps_hosts and --worker_hosts name {twice} twice: give each process an '
                      'address of its own', console.WRONG_USAGE)
    self.job_name, self.index, self.workers = (
        options.job_name, options.task_index, len(self.hosts['worker']))
    if self.job_name is None:
      raise UserError('--job_name is missing: give --job_name=ps or --job_name=worker, or '
                      '--local_workers=2 to try a cluster on this machine', console.WRONG_USAGE)
    if self.index >= len(self.hosts[self.job_name]):
      raise UserError(
          f'--task_index={self.index}: --{self.job_name}_hosts names '
          f'{len(self.hosts[self.job_name])}, counted from 0', console.WRONG_USAGE)
    check_shares(options, self.workers)
    self.name = f'{self.job_name} {self.index}'
    self.address = self.hosts[self.job_name][self.index]
    self.is_chief = self.name == 'worker 0'


def check_shares(options: console.Options, workers: int) -> None:
  """Raise UserError if the workers of a synchronous step cannot have as many examples each."""
  if options.sync and options.batch_size % workers:
    raise UserError(f'--batch_size={options.batch_size} cannot be shared by {workers} workers: '
                    'with --sync give a multiple of their number', console.WRONG_USAGE)


# -- Addresses, servers, devices ---------------------------------------------------------


def _split(address: str) -> tuple[str, int]:
  host, port = address.rsplit(':', 1)
  return host, int(port)


def _answers(address: str) -> bool:
  try:
    socket.create_connection(_split(address), ANSWER_SECS).close()
    return True
  except (OSError, UnicodeError):
    return False


def _proxy_hint(address: str) -> str:
  """Return what to say of a proxy on the way to an address, if there is one.

  To addresses of this machine, there never is.
  """
  host = _split(address)[0]
  with contextlib.suppress(OSError, UnicodeError), socket.socket() as probe:
    probe.bind((host, 0))  # fails for an address of another machine
    os.environ['no_grpc_proxy'] = ','.join(filter(None, [
        os.environ.get('no_grpc_proxy') or os.environ.get('no_proxy'), 'localhost', host]))
    return ''
  names = [name for name in ('grpc_proxy', 'https_proxy', 'http_proxy') if os.environ.get(name)]
  return f', through the proxy of {names[0]}, unless no_proxy names {host}' if names else ''


def _keep_to_loopback(port: int) -> bool:
  """Let nobody but this machine connect to a port on which this process listens; Linux only."""
  for number in os.listdir('/proc/self/fd'):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(number))) as listening:
      if (listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
          and listening.getsockname()[1] == port):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')
        return True
  return False


def _start_server(task: Task) -> tf.train.Server:
  """Start TensorFlow's server of a task.

  It listens on all interfaces of the machine, unless all addresses of the cluster are of this
  machine's loopback, and it is Linux.

  Raises:
    UserError: if it cannot listen on its port.
  """
  port = _split(task.address)[1]
  try:
    server = tf.train.Server(tf.train.ClusterSpec(task.hosts), task.job_name, task.index,
                             start=False)
  except tf.errors.OpError:
    raise UserError(f'{task.name} cannot listen on port {port}: it is in use, or is not for '
                    'users; give another address') from None
  is_local = all(re.match(r'127\.|localhost:', address) for address in task.addresses)
  if not (is_local and sys.platform == 'linux' and _keep_to_loopback(port)):
    print(f'TensorFlow listens on port {port} of every interface of this machine and has no '
          'password: use it in private networks only.')
  server.start()
  servers.append(server)
  return server


def session_config(task: Task) -> tf.ConfigProto:
  """Return what keeps a worker's session from waiting for the other workers."""
  return tf.ConfigProto(device_filters=['/job:ps', f'/job:worker/task:{task.index}'])


def device_setter(task: Task) -> Callable[[tf.Operation], str]:
  """Return what `tf.device` takes: variables on the parameter servers, all else on this worker."""
  choose = tf.train.replica_device_setter(
      cluster=task.hosts, worker_device=f'/job:worker/task:{task.index}')
  # Moving averages are computed where they and the weights lie. On a worker, they would take the
  # weights from before the step, and make a step move four times the bytes.
  return lambda op: (
      op.inputs[0].device if op.name.startswith('ExponentialMovingAverage/') and op.inputs
      and op.inputs[0].device.startswith('/job:ps') else choose(op))


# -- The part of a process ---------------------------------------------------------------


def _notice(address: str, content: dict | None = None, closed_queues: int = 0) -> dict:
  """Return the notice on a parameter server, after writing it if there is a content."""
  # Of its own, this session waits for no other process, and no call in it for ever.
  config = tf.ConfigProto(device_filters=['/job:ps/task:0'],
                          operation_timeout_in_ms=ANSWER_SECS * 1000)
  with tf.Graph().as_default(), tf.Session(f'grpc://{address}', config=config) as sess:
    notice = tf.Variable(json.dumps(content), name='notice', use_resource=False)
    if content:
      sess.run([notice.initializer, *(queue.close(cancel_pending_enqueues=True)
                                      for queue in _step_queues(closed_queues))])
    return json.loads(sess.run(notice.read_value()))


def _step_queues(workers: int) -> list[tf.FIFOQueue]:
  """Return a queue for each worker, of the numbers of the synchronous steps that are done."""
  return [tf.FIFOQueue(-1, tf.int64, (), shared_name=f'steps_done_{index}')
          for index in range(workers)]


class Member:
  """What a process does in a cluster, besides the steps of a training."""

  def __init__(self, task: Task, options: console.Options, stop: console.StopSignals,
               **settings: object):
    """Keep what it is.

    Args:
      settings: for JSON; in these a worker must agree with the chief.
    """
    self.task, self.stop, self.options = task, stop, options
    self.notice: dict = {}  # the newest on ps 0; empty if there is none
    self.step_secs = 0.  # that the last step has taken
    self.away: dict[str, int] = {}  # in how many looks a process has not answered, by its name
    self._note: dict = {'settings': json.loads(json.dumps({
        'ps_hosts': task.hosts['ps'], 'worker_hosts': task.hosts['worker'], **settings}))}
    needed = ['worker 0']
    if task.job_name == 'worker':
      workers = range(task.workers if options.sync else 1)
      needed = [f'worker {index}' for index in workers if index != task.index]
      needed += [f'ps {index}' for index in range(len(task.hosts['ps']))]
    self._needed = {name: task.hosts[name.split()[0]][int(name.split()[1])] for name in needed}
    self._hints = {name: _proxy_hint(address) for name, address in self._needed.items()}

  def look(self) -> None:
    """Look for the processes that this one needs, and say for which it waits."""
    for name, address in self._needed.items():
      try:
        if not _answers(address):
          raise tf.errors.UnavailableError(None, None, 'nobody listens')
        if name.startswith('ps'):
          notice = _notice(address)
          self._compare(name, notice)
          self.notice = notice if name == 'ps 0' else self.notice
        if self.away.pop(name, 0) >= AWAY_LOOKS:
          print(f'{name} is there.')
      except LOST:
        self.away[name] = self.away.get(name, 0) + 1
        if self.away[name] == AWAY_LOOKS:
          print(f'Waiting for {name} at {address}{self._hints[name]}.')

  def _compare(self, name: str, notice: dict) -> None:
    """Raise UserError if a parameter server, or the training noted there, is of another cluster."""
    other = {**notice['settings'], 'ps': notice['ps']}
    for key, value in {**self._note['settings'], 'ps': int(name.split()[1])}.items():
      if other.get(key, value) != value:
        raise UserError(f'{key} is {value} for {self.task.name}, but {other[key]} for the training '
                        f'on {name} at {self._needed[name]}: give all processes the same')

  def _check_address(self) -> None:
    if _answers(self.task.address):
      raise UserError(f'{self.task.name} cannot listen on port {_split(self.task.address)[1]}: '
                      f'{self.task.name} of this cluster, or another program, listens at '
                      f'{self.task.address} already; end it, or give another address')

  def serve(self) -> None:
    """Be a parameter server until the chief notes that all is over."""
    self._check_address()
    _start_server(self.task)
    notice = _notice(self.task.address, {**self._note, 'ps': self.task.index})
    print(f'Parameter server {self.task.index} of {len(self.task.hosts["ps"])} is ready.')
    deadline = None
    while not notice.get('is_over'):
      self.look()
      if self.stop.received:  # the chief may be about to save
        deadline = deadline or time.monotonic() + SERVE_SECS
        if 'worker 0' in self.away or time.monotonic() > deadline:
          break
      time.sleep(POLL_SECS)
      notice = _notice(self.task.address)
    print(notice.get('ended') or f'Stopped by {self.stop.received}.')

  def work(self, train: Callable[[], None]) -> int:
    """Be a worker: join the cluster and do train(); return the exit status.

    Raises:
      UserError: if another process is this worker, a parameter server does not answer in time,
        settings differ, or as train() does.
    """
    self._check_address()
    self._join()
    self.server = _start_server(self.task)
    # In a thread, because TensorFlow's calls keep Python from handling signals.
    training = concurrent.futures.Future()
    threading.Thread(target=_run_into, args=(training, train), daemon=True).start()
    try:
      self._attend(training)
    except Exception as error:
      self._end(f'Worker 0 has failed: {console.describe(error)}', console.FAILURE)
      raise
    self._end('The training has finished.', console.SUCCESS)
    if not self.task.is_chief:
      print(self.notice.get('ended') or f'Stopped by {self.stop.received}; {self.task.name} may be '
            'started again.')
    return self.notice.get('status', console.SUCCESS)

  def _join(self) -> None:
    """Wait for the parameter servers, and for the chief; all settings are compared."""
    deadline = time.monotonic() + self.options.start_secs
    while True:
      self.look()
      missing = [name for name in self.away if name.startswith('ps')]
      if not missing and (self.task.is_chief or 'state' in self.notice):
        return
      if self.stop.received:
        raise KeyboardInterrupt
      if missing and time.monotonic() > deadline:
        raise UserError(
            f'{missing[0]} at {self._needed[missing[0]]} does not answer after '
            f'{self.options.start_secs:g} seconds{self._hints[missing[0]]}: start it, or correct '
            '--ps_hosts')
      time.sleep(POLL_SECS)

  def _attend(self, training: concurrent.futures.Future) -> None:
    """Look for the others until the training is done, or a stop signal ends it."""
    stopped_at = None
    while not training.done():
      concurrent.futures.wait([training], POLL_SECS)
      self.look()
      if not self.stop.received:
        continue
      stopped_at = stopped_at or time.monotonic()
      if time.monotonic() - stopped_at < max(STOP_SECS, 2 * self.step_secs):
        continue
      if not self.task.is_chief:  # which has nothing to save
        return
      if any(name.startswith('ps') for name in self.away):
        raise UserError(f'stopped by {self.stop.received} while {[*self.away][0]} is away: what '
                        'was trained since the newest checkpoint is lost')
      self.note_stop()  # ends a synchronous step that waits for a worker
    training.result()

  def note(self, **changes: object) -> None:
    """As the chief, change the notice.

    Raises:
      tf.errors.AbortedError: if a parameter server is lost, from which a session recovers.
    """
    self._note.update(changes)
    for index, address in enumerate(self.task.hosts['ps']):
      try:
        _notice(address, {**self._note, 'ps': index},
                self.task.workers if 'ended' in self._note else 0)
      except LOST:
        raise tf.errors.AbortedError(None, None, f'ps {index} is lost') from None

  def note_stop(self) -> None:
    """As the chief, let the others end after a stop signal, whatever they wait for."""
    self.note(ended=f'Worker 0 was stopped by {self.stop.received}.')

  def is_over(self) -> bool:
    """Return whether this worker is to do no more steps."""
    return bool(self.stop.received or 'ended' in self.notice)

  def was_training(self) -> bool:
    """Return whether the chief was there and training at the last look."""
    return 'worker 0' not in self.away and self.notice.get('state') == TRAINING

  def is_training(self) -> bool:
    """Return the same after a look at the notice."""
    try:
      self.notice = _notice(self.task.hosts['ps'][0])
    except LOST:
      return False
    return self.was_training()

  def _end(self, ended: str, status: int) -> None:
    """As the chief, end the training that has begun for all."""
    if not self.task.is_chief or (status and self._note.get('state') != TRAINING):
      return
    with contextlib.suppress(tf.errors.AbortedError):
      self.note(**{'ended': ended, 'status': status, **self._note})
      wait_secs = STOP_SECS if status or self.stop.received else FINISH_SECS
      deadline = time.monotonic() + wait_secs
      while any(map(_answers, self.task.hosts['worker'][1:])) and time.monotonic() < deadline:
        time.sleep(POLL_SECS / 5)
      self.note(is_over=True)


def _run_into(future: concurrent.futures.Future, function: Callable[[], None]) -> None:
  try:
    future.set_result(function())
  except BaseException as error:
    future.set_exception(error)


# -- Steps -------------------------------------------------------------------------------


class SyncOptimizer(tf.train.SyncReplicasOptimizer):
  """Averages the gradients of all workers; each has a queue of its own for what it waits for.

  From TensorFlow's one queue, a fast worker could take the token of another and do two shares of a
  step; and the queue is closed when the chief loses a server.
  """

  def __init__(self, optimizer: tf.train.Optimizer, task: Task):
    super().__init__(optimizer, task.workers, task.workers)
    self._task = task

  def apply_gradients(self, grads_and_vars: list, global_step: tf.Variable | None = None,
                      name: str | None = None) -> tf.Tensor:
    """Return what ends when the step has been done with the gradients of all workers."""
    with tf.control_dependencies(None):  # averaging does not wait for a batch of the chief's
      token = super().apply_gradients(grads_and_vars, global_step, name).op.inputs[1].op
      with tf.device('/job:ps/task:0'):
        queues = _step_queues(self._task.workers)
        own = queues[self._task.index]
        with tf.control_dependencies(self._chief_queue_runner.enqueue_ops):  # averaged and applied
          step_done = global_step.read_value()
          hand_out = tf.group(self._sync_token_queue.dequeue_many(self._task.workers),
                              *[queue.enqueue(step_done) for queue in queues])
        with tf.control_dependencies(token.control_inputs):  # this worker's gradients
          self.steps_done = own.dequeue()
        self.forget = own.dequeue_many(own.size())  # what was left for a process that died
        # Those who waited for a chief that died wait for a step that will not come.
        self.wake = tf.group(*[queue.enqueue(global_step) for queue in queues if queue is not own])
        wake_self = own.enqueue(global_step)
    # When it ends, as by the loss of a server, the chief finds that out in its next step.
    self._chief_queue_runner = tf.train.QueueRunner(
        own, [hand_out], wake_self, wake_self, queue_closed_exception_types=LOST)
    self.ready_for_local_init_op.mark_used()
    return tf.assign(self._local_step, self.steps_done)


class Steps(tf.train.SessionRunHook):
  """The steps of a worker: when they begin and end, and the number of each."""

  def __init__(self, member: Member, last_step: int):
    self._member, self._task, self._last_step = member, member.task, last_step
    self._optimizer: SyncOptimizer | None = None

  def wrap(self, make_optimizer: Callable[[tf.Tensor], tf.train.Optimizer]
           ) -> Callable[[tf.Tensor], tf.train.Optimizer]:
    """Return a function of the learning rate that makes the optimizer for these steps."""
    def make(learning_rate: tf.Tensor) -> tf.train.Optimizer:
      self._optimizer = SyncOptimizer(make_optimizer(learning_rate), self._task)
      return self._optimizer
    return make if self._member.options.sync else make_optimizer

  def hooks(self) -> list[tf.train.SessionRunHook]:
    """Return TensorFlow's hooks for these steps, and this one."""
    hooks = [self]
    if self._task.is_chief:  # the others end when it has saved
      hooks.append(tf.train.StopAtStepHook(last_step=self._last_step))
    if self._optimizer:
      hooks.append(self._optimizer.make_session_run_hook(self._task.is_chief, num_tokens=0))
    return hooks

  def share(self, batch: np.ndarray) -> np.ndarray:
    """Return this worker's part of the examples of a step."""
    return batch[self._task.index::self._task.workers] if self._optimizer else batch

  def scaffold(self, restore: Callable[[tf.Session], object]) -> tf.train.Scaffold:
    """Return what begins a session: as the chief, with initial values and restore(session)."""
    initialize = tf.global_variables_initializer()

    def begin_training(scaffold: tf.train.Scaffold, session: tf.Session) -> None:
      del scaffold
      self._member.note(state=STARTING)  # before the others see initial values
      session.run(initialize)
      restore(session)

    if self._task.is_chief:
      return tf.train.Scaffold(init_op=tf.no_op(), init_fn=begin_training)
    # The others are to wait in this hook: TensorFlow looks for the chief every 30 seconds only.
    ready = tf.constant([], tf.string)
    return tf.train.Scaffold(ready_op=ready, ready_for_local_init_op=ready)

  def begin(self) -> None:
    self._global_step = tf.train.get_global_step()
    self._missing = tf.report_uninitialized_variables()

  def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
    self._is_noted = False
    if not self._task.is_chief:
      self._wait(session)
    elif not self._count(session):
      coord.request_stop()

  def _count(self, session: tf.Session) -> bool:
    """Find out the number of the next step, and return whether there is one."""
    if self._optimizer:
      session.run(self._optimizer.forget)
    self.steps_done = int(session.run(self._global_step))
    self.next_step = self.steps_done + 1 + (0 if self._optimizer else self._task.index)
    self._is_done = self.steps_done >= self._last_step
    return not self._is_done

  def _wait(self, session: tf.Session) -> None:
    """Wait until the chief is training and there are steps to do, or all is over."""
    while not (self._member.is_training() and not session.run(self._missing).size
               and self._count(session)):
      if self._member.is_over():
        raise StopIteration  # MonitoredSession's own way
      time.sleep(POLL_SECS / 5)

  def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
    session = run_context.session
    if self._task.is_chief and not self._is_noted:
      if self._optimizer:
        session.run(self._optimizer.wake)
      self._member.note(state=TRAINING)
      self._is_noted = True
    elif not self._task.is_chief and (self._is_done or not self._member.was_training()):
      self._wait(session)
      if self._optimizer:
        session.run(self._optimizer.local_step_init_op)
    self._began = time.monotonic()
    return tf.train.SessionRunArgs(self._optimizer.steps_done if self._optimizer else [])

  def after_run(self, run_context: tf.train.SessionRunContext,
                run_values: tf.train.SessionRunValues) -> None:
    self._member.step_secs = time.monotonic() - self._began
    self.steps_done = int(run_values.results if self._optimizer
                          else run_context.session.run(self._global_step))
    self.next_step = self.steps_done + 1 if self._optimizer else self.next_step + self._task.workers
    self._is_done = self.steps_done >= self._last_step
    if self._member.is_over() or self._is_done and self._task.is_chief:
      run_context.request_stop()

  def end(self, session: tf.Session) -> None:
    del session
    if self._task.is_chief and self._member.stop.received:
      self._member.note_stop()


class _BookTimer(tf.train.SecondOrStepTimer):
  def should_trigger_for_step(self, step: int) -> bool:
    return (step - 1) // self._every_steps > (self.last_triggered_step() - 1) // self._every_steps


class SaverHook(tf.train.CheckpointSaverHook):
  """Saves after steps 1, 1 + N, 1 + 2 N, ..., as the book does in one process, and the last.

  TensorFlow's own saves after 0, N, 2 N, ..., and writes an event file beside the checkpoints.
  """

  def __init__(self, saver: tf.train.Saver, model_dir: str, model_name: str, save_steps: int,
               writer: SummaryWriter, listener: tf.train.CheckpointSaverListener):
    super().__init__(model_dir, save_steps=save_steps, saver=saver, checkpoint_basename=model_name,
                     listeners=[listener], save_graph_def=False)
    self._timer, self._summary_writer = _BookTimer(every_steps=save_steps), writer
    self._steps_per_run = 1

  def begin(self) -> None:
    self._global_step_tensor = tf.train.get_global_step()

  def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
    del coord
    steps_done = int(session.run(self._global_step_tensor))
    self._timer.update_last_triggered_step(steps_done)
    self._summary_writer.start(session.graph, steps_done)

  def end(self, session: tf.Session) -> None:
    # Once more, if a step of another worker came while it was saved.
    while (step := int(session.run(self._global_step_tensor))) != self._timer.last_triggered_step():
      self._timer.update_last_triggered_step(step)
      self._save(session, step)
