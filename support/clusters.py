"""A cluster on TensorFlow's runtime: what tf.train.MonitoredTrainingSession does not do for it.

Variables lie on the parameter servers, and with them a notice, in which worker 0, the chief, says
how the training stands. The chief restores the newest checkpoint, and does so again after the loss
of a parameter server or of itself; the others wait until it notes that it is training. At the end
it saves and notes how the training has ended; the others end, then the parameter servers.
"""
import concurrent.futures
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable

from support import checkpoints, console
from support.console import UserError
from support.quiet_tensorflow import describe_error, tf
from support.summaries import SummaryWriter

# On this machine unless other addresses are given: ports as in the book.
PS_HOSTS = '127.0.0.1:2222'
WORKER_HOSTS = '127.0.0.1:2223,127.0.0.1:2224'

START_SECS = 300  # for all parameter servers to be there
POLL_SECS = 0.5  # from one look at the others to the next
ANSWER_SECS = 3  # for a process to answer
AWAY_SECS = 5  # without an answer, after which a line says who is away
STOP_SECS = 2  # after a stop signal, for a step that may wait for a worker who is away
SAVE_SECS = 8  # after a stop signal to a parameter server, for the chief to save
FINISH_SECS = 60  # for the other workers to end when the training has finished

# States of a training, in the notice.
STARTING, TRAINING = 'starting', 'training'

# What is raised when another process is not there, not yet ready, or no server of TensorFlow's.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
        tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
        tf.errors.InternalError, tf.errors.UnimplementedError)

background: list[object] = []  # servers and threads of this process, which may never end


# -- Who is who --------------------------------------------------------------------------


def define_flags(flag_values: console.Flags) -> None:
  """Define the flags of a cluster, under the book's names."""
  flag_values.DEFINE_enum('job_name', None, ['ps', 'worker'],
                          'What this process is: a parameter server or a worker.')
  flag_values.DEFINE_integer('task_index', 0, 'Number of this process among those of its job, from '
                             '0 on; worker 0 is the chief.', 0)
  flag_values.DEFINE_string('ps_hosts', PS_HOSTS, 'Addresses of the parameter servers, host:port, '
                            'separated by commas; in private networks only.')
  flag_values.DEFINE_string('worker_hosts', WORKER_HOSTS, 'Addresses of the workers, host:port, '
                            'separated by commas.')
  flag_values.DEFINE_bool(
      'sync', False, 'Workers share the batch of each step and wait for each other. Without, each '
      'does steps of its own, and the last step may be passed by their number less one.')
  flag_values.DEFINE_float('start_secs', START_SECS, 'Seconds to wait for parameter servers.', 0)


def check_shares(options: console.Options, workers: int) -> None:
  """Raise UserError if the workers of a synchronous step cannot have as many examples each."""
  if options.sync and options.batch_size % workers:
    raise UserError(f'--batch_size={options.batch_size} cannot be shared by {workers} workers: '
                    'with --sync give a multiple of their number', console.WRONG_USAGE)


def _split(address: str) -> tuple[str, int]:
  host, port = address.rsplit(':', 1)
  return host, int(port)


def _answers(address: str) -> bool:
  # By a plain connection; a session of TensorFlow's would go on trying.
  try:
    socket.create_connection(_split(address), ANSWER_SECS).close()
    return True
  except (OSError, UnicodeError):
    return False


def _proxy_hint(address: str) -> str:
  """Return what to say of a proxy on the way to an address; on this machine gRPC takes none."""
  host = _split(address)[0]
  with contextlib.suppress(OSError, UnicodeError), socket.socket() as probe:
    probe.bind((host, 0))  # fails for an address of another machine
    os.environ['no_grpc_proxy'] = ','.join(filter(None, [
        os.environ.get('no_grpc_proxy') or os.environ.get('no_proxy'), 'localhost', host]))
    return ''
  names = [name for name in ('grpc_proxy', 'https_proxy', 'http_proxy') if os.environ.get(name)]
  return f', through the proxy of {names[0]} if no_proxy does not name {host}' if names else ''


def _keep_to_loopback(port: int) -> bool:
  """Let nobody but this machine connect to a port on which this process listens; Linux only."""
  for number in os.listdir('/proc/self/fd'):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(number))) as listening:
      if (listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
          and listening.getsockname()[1] == port):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')
        return True
  return False


# -- The part of a process ---------------------------------------------------------------


def _notice(address: str, content: dict | None = None, closed_queues: int = 0) -> dict:
  """Return the notice on a parameter server, after writing it if there is a content."""
  # This session, with no job but the parameter server's own, waits for no other process.
  config = tf.ConfigProto(device_filters=['/job:none'],
                          operation_timeout_in_ms=ANSWER_SECS * 1000)
  with tf.Graph().as_default():
    notice = tf.Variable(json.dumps(content), name='notice', use_resource=False)
    read, writes = notice.read_value(), [notice.initializer]
    writes += [queue.close(cancel_pending_enqueues=True) for queue in _step_queues(closed_queues)]
    with contextlib.closing(tf.Session(f'grpc://{address}', config=config)) as sess:
      if content:
        sess.run(writes)
      return json.loads(sess.run(read))


def _step_queues(workers: int) -> list[tf.FIFOQueue]:
  """Return a queue for each worker, of the numbers of the synchronous steps that are done."""
  return [tf.FIFOQueue(-1, tf.int64, (), shared_name=f'steps_done_{index}')
          for index in range(workers)]


class Member:
  """A process of a cluster: what it is, and what it does besides the steps of a training."""

  def __init__(self, options: console.Options, stop: console.StopSignals):
    """Read from flags what it is.

    Raises:
      UserError: if there is no such process, it is running already, or as for `check_shares`.
    """
    self.hosts = {name: getattr(options, f'{name}_hosts').replace(' ', '').split(',')
                  for name in ('worker', 'ps')}
    addresses = sum(self.hosts.values(), [])
    for address in addresses:
      if not re.fullmatch(r'[\w.-]+:[1-9]\d{0,4}', address) or _split(address)[1] > 65535:
        raise UserError(f'{address!r} in --ps_hosts or --worker_hosts is not an address: give '
                        'host:port, separated by commas', console.WRONG_USAGE)
      if addresses.count(address) > 1:
        raise UserError(f'--ps_hosts and --worker_hosts name {address} twice: give each process an '
                        'address of its own', console.WRONG_USAGE)
    if options.job_name is None:
      raise UserError('--job_name is missing: give --job_name=ps or --job_name=worker, or '
                      '--local_workers=2 to try a cluster on this machine', console.WRONG_USAGE)
    if options.task_index >= len(self.hosts[options.job_name]):
      raise UserError(f'--task_index={options.task_index}: --{options.job_name}_hosts names '
                      f'{len(self.hosts[options.job_name])}, the first is 0', console.WRONG_USAGE)
    self.job_name, self.index = options.job_name, options.task_index
    self.name = f'{self.job_name} {self.index}'
    self.workers, self.is_chief = len(self.hosts['worker']), self.name == 'worker 0'
    check_shares(options, self.workers)
    self.stop, self.options, self.target = stop, options, ''
    # A session waits for no other worker.
    self.config = tf.ConfigProto(device_filters=['/job:ps', f'/job:worker/task:{self.index}'])
    self.notice: dict = {}  # the newest; empty if a parameter server does not answer
    self._note: dict = {'settings': {'ps_hosts': self.hosts['ps'],
                                     'worker_hosts': self.hosts['worker'], 'sync': options.sync}}
    self._address = self.hosts[self.job_name][self.index]
    self._hints = {address: _proxy_hint(address) for address in addresses}
    self._away: dict[str, float] = {}  # since when a process does not answer, by its name
    self._said: set[str] = set()  # the names of those of which a line says so
    # Whom a worker waits for. The notice is read last, so that the chief's is not an old one.
    self._needed = {f'{job_name} {index}': self.hosts[job_name][index] for job_name, count in (
        ('worker', self.workers if options.sync else 1), ('ps', len(self.hosts['ps'])))
                    for index in range(count) if f'{job_name} {index}' != self.name}
    if _answers(self._address):
      raise UserError(f'{self.name} cannot listen on port {_split(self._address)[1]}: {self.name}, '
                      f'or another program, listens at {self._address} already; end it, or give '
                      'another address')

  def device_setter(self) -> Callable[[tf.Operation], str]:
    """Return what `tf.device` takes: variables on the parameter servers, all else on this worker.
    """
    choose = tf.train.replica_device_setter(
        cluster=self.hosts, worker_device=f'/job:worker/task:{self.index}')
    # Moving averages are computed where they and the weights lie. On a worker, they would take the
    # weights from before the step, and make a step move four times the bytes.
    return lambda op: (
        op.inputs[0].device if op.name.startswith('ExponentialMovingAverage/') and op.inputs
        and op.inputs[0].device.startswith('/job:ps') else choose(op))

  def look(self) -> None:
    """Look for the processes that a worker needs, say for which it waits, and read the notice.

    Raises:
      UserError: if flags differ from those of another process.
    """
    notice = {}
    for name, address in self._needed.items():
      try:
        if not _answers(address):
          raise tf.errors.UnavailableError(None, None, 'nobody listens')
        if name.startswith('ps'):
          notice = self._compare(_notice(address), name)
        self._away.pop(name, None)
        if name in self._said:
          self._said.remove(name)
          print(f'{name} is there.')
      except LOST:
        since = self._away.setdefault(name, time.monotonic())
        if name not in self._said and time.monotonic() - since > AWAY_SECS:
          self._said.add(name)
          print(f'Waiting for {name} at {address}{self._hints[address]}.')
    self.lost_server = next((name for name in self._away if name.startswith('ps')), None)
    self.notice = {} if self.lost_server else notice

  def _compare(self, notice: dict, name: str) -> dict:
    """Return a notice; raise UserError if it is of another cluster or training."""
    for key, value in {**self._note['settings'], 'ps_index': int(name.split()[1])}.items():
      other = notice['settings'].get(key, value)
      if other != value:
        raise UserError(f'{key} is {value} for {self.name}, but {other} in the cluster of {name} '
                        f'at {self._needed[name]}: give all processes the same')
    return notice

  def _start_server(self) -> None:
    try:
      server = tf.train.Server(self.hosts, self.job_name, self.index, start=False)
    except tf.errors.OpError as error:
      raise UserError(f'{self.name} cannot listen on the port of {self._address} '
                      f'({describe_error(error)}): give another address') from None
    # TensorFlow listens on all interfaces, whatever the address.
    is_local = all(re.match(r'127\.|localhost:', address) for address in self._hints)
    if not (is_local and sys.platform == 'linux' and _keep_to_loopback(_split(self._address)[1])):
      print(f'TensorFlow listens on port {_split(self._address)[1]} of every interface of this '
            'machine and has no password: use it in private networks only.')
    server.start()
    self.target = server.target
    background.append(server)

  def serve(self) -> int:
    """Be a parameter server until the training has ended; return the exit status."""
    self._start_server()
    _notice(self._address, {'settings': {**self._note['settings'], 'ps_index': self.index}})
    print(f'Parameter server {self.index} of {len(self.hosts["ps"])} is ready.')
    # Until the chief notes the end, or a signal comes, and then as long as workers need the server.
    deadline = None
    while deadline is None or time.monotonic() < deadline and any(
        map(_answers, self.hosts['worker'])):
      time.sleep(POLL_SECS)
      with contextlib.suppress(*LOST):  # if this process was stopped meanwhile, for example
        self.notice = _notice(self._address)
      if deadline is None and ('ended' in self.notice or self.stop.received):
        deadline = time.monotonic() + self.notice.get('end_secs', SAVE_SECS)
    print(self.notice.get('ended') or f'Stopped by {self.stop.received}.')
    return console.SUCCESS

  def work(self, train: Callable[[], None], **settings: object) -> int:
    """Be a worker: join the cluster and do train(); return the exit status.

    Args:
      settings: for JSON; in these all workers must agree with the chief.

    Raises:
      UserError: if a parameter server does not answer in time, as `look`, or as train() does.
    """
    self._note['settings'] = json.loads(json.dumps({**self._note['settings'], **settings}))
    # In a thread, because TensorFlow's calls keep Python from handling signals.
    background.append(concurrent.futures.ThreadPoolExecutor(1))
    try:
      self._attend(background[-1].submit(self._join_and_do, train))
      self.end('The training has finished.')
    except Exception:
      if self._note.get('state') == TRAINING:
        self.end('Worker 0 has failed.', console.FAILURE)
      raise
    self.look()
    if not self.is_chief and 'ended' in self.notice:
      print(self.notice['ended'])
    elif self.stop.received and self._note.get('state') != TRAINING:
      print(f'Stopped by {self.stop.received}; {self.name} may be started again.')
    return self.notice.get('status', console.SUCCESS)

  def _join_and_do(self, train: Callable[[], None]) -> None:
    if not self.is_chief:
      self._start_server()
    # When there is a notice, all settings have been compared.
    self.wait_for(lambda: self.notice and (self.is_chief or 'state' in self.notice))
    if self.is_chief:
      self.note(state=STARTING)  # before the others see that it is there
      self._start_server()
    while True:
      try:
        return train()
      except LOST:  # where no session recovers from it, as while saving at the end
        time.sleep(POLL_SECS)

  def _attend(self, training: concurrent.futures.Future) -> None:
    """Look for the others until the training is done or a stop signal ends it."""
    began, stopped_at = time.monotonic(), None
    while not concurrent.futures.wait([training], POLL_SECS).done:
      self.look()
      if self.lost_server and not self.target and (
          time.monotonic() - began > self.options.start_secs):
        address = self._needed[self.lost_server]
        raise UserError(
            f'{self.lost_server} at {address} does not answer after {self.options.start_secs:g} '
            f'seconds{self._hints[address]}: start it, or correct --ps_hosts')
      stopped_at = stopped_at or self.stop.received and time.monotonic()
      if stopped_at and time.monotonic() - stopped_at > STOP_SECS:
        if not self.is_chief:  # which has nothing to save
          return
        if self.lost_server:
          raise UserError(f'stopped by {self.stop.received} while {self.lost_server} is away: what '
                          'was trained since the newest checkpoint is lost')
        self.end()  # the step may wait for a worker
    with contextlib.suppress(StopIteration):
      training.result()

  def note(self, **changes: object) -> None:
    """As the chief, change the notice.

    Raises:
      tf.errors.AbortedError: if a parameter server is lost, from which a session recovers.
    """
    self._note.update(changes)
    for index, address in enumerate(self.hosts['ps']):
      try:
        _notice(address, {**self._note, 'settings': {**self._note['settings'], 'ps_index': index}},
                self.workers if 'ended' in self._note else 0)
      except LOST:
        raise tf.errors.AbortedError(None, None, f'ps {index} is lost') from None

  def end(self, ended: str = '', status: int = console.SUCCESS) -> None:
    """As the chief, let the other processes end, whatever they wait for; the first reason counts.
    """
    if self.is_chief and 'state' in self._note and 'ended' not in self._note:
      stopped = f'Worker 0 was stopped by {self.stop.received}.' if self.stop.received else ''
      with contextlib.suppress(tf.errors.AbortedError):
        self.note(ended=stopped or ended, status=status,
                  end_secs=STOP_SECS if stopped or status else FINISH_SECS)

  def wait_for(self, condition: Callable[[], object]) -> None:
    """Wait; raise StopIteration, which ends a MonitoredSession, if there is nothing more to do."""
    while not condition():
      if self.is_over():
        raise StopIteration
      time.sleep(POLL_SECS / 5)

  def is_over(self) -> bool:
    """Return whether this worker is to do no more steps."""
    return bool(self.stop.received or 'ended' in self.notice)

  def is_training(self) -> bool:
    """Return whether the chief was there and training at the last look."""
    return 'worker 0' not in self._away and self.notice.get('state') == TRAINING


# -- Steps -------------------------------------------------------------------------------


class SyncOptimizer(tf.train.SyncReplicasOptimizer):
  """Averages the gradients of all workers; each has a queue of its own for what it waits for.

  From TensorFlow's one queue, a fast worker could take the token of another and do two shares of a
  step; and the queue is closed when the chief loses a server.
  """

  def __init__(self, optimizer: tf.train.Optimizer, member: Member):
    super().__init__(optimizer, member.workers, member.workers)
    self.member = member

  def apply_gradients(self, grads_and_vars: list, global_step: tf.Variable | None = None,
                      name: str | None = None) -> tf.Tensor:
    """Return what ends when the step has been done with the gradients of all workers."""
    with tf.control_dependencies(None):  # averaging does not wait for a batch of the chief's
      token = super().apply_gradients(grads_and_vars, global_step, name).op.inputs[1].op
      with tf.device('/job:ps/task:0'):
        queues = _step_queues(self.member.workers)
        own = queues[self.member.index]
        with tf.control_dependencies(self._chief_queue_runner.enqueue_ops):  # averaged and applied
          step_done = global_step.read_value()
          hand_out = tf.group(self._sync_token_queue.dequeue_many(self.member.workers),
                              *[queue.enqueue(step_done) for queue in queues])
        with tf.control_dependencies(token.control_inputs):  # this worker's gradients
          self.steps_done = own.dequeue()
        self.forget = own.dequeue_many(own.size())  # what was left for a process that died
        # Those who wait for a chief that died wait for a step that will not come.
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
    self.member, self._last_step = member, last_step
    self._sync: SyncOptimizer | None = None

  def optimizer(self, optimizer: tf.train.Optimizer) -> tf.train.Optimizer:
    """Return the optimizer, or one that averages gradients for synchronous steps."""
    if self.member.options.sync:
      self._sync = optimizer = SyncOptimizer(optimizer, self.member)
    return optimizer

  def hooks(self) -> list[tf.train.SessionRunHook]:
    """Return TensorFlow's hooks for these steps, and this one."""
    hooks = [self]
    if self._sync:
      hooks.append(self._sync.make_session_run_hook(self.member.is_chief, num_tokens=0))
    if self.member.is_chief:  # the others end when it has saved
      hooks.append(tf.train.StopAtStepHook(last_step=self._last_step))
    return hooks

  def share(self) -> slice:
    """Return which examples of the batch of a step are this worker's."""
    return slice(self.member.index, None, self.member.workers) if self._sync else slice(None)

  def scaffold(self, restore: Callable[[tf.Session], object]) -> tf.train.Scaffold:
    """Return what begins a session: as the chief, with initial values and restore(session)."""
    initialize = tf.global_variables_initializer()

    def begin_training(scaffold: tf.train.Scaffold, session: tf.Session) -> None:
      del scaffold
      self.member.note(state=STARTING)  # before the others see initial values
      session.run(initialize)
      restore(session)

    if self.member.is_chief:
      return tf.train.Scaffold(init_op=tf.no_op(), init_fn=begin_training)
    # The others wait in this hook: TensorFlow looks for the chief every 30 seconds only.
    ready = tf.constant([], tf.string)
    return tf.train.Scaffold(ready_op=ready, ready_for_local_init_op=ready)

  def begin(self) -> None:
    self._global_step = tf.train.get_global_step()
    self._missing = tf.report_uninitialized_variables()

  def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
    self._is_noted = False
    if not self.member.is_chief:
      self._wait(session)
    elif not self._count(session):
      coord.request_stop()

  def _count(self, session: tf.Session) -> bool:
    """Find out the number of the next step, and return whether there is one."""
    if self._sync:
      session.run(self._sync.forget)
    self.steps_done = int(session.run(self._global_step))
    self.next_step = self.steps_done + 1 + (0 if self._sync else self.member.index)
    return self.steps_done < self._last_step

  def _wait(self, session: tf.Session) -> None:
    """Wait until the chief is training and there are steps to do."""
    self.member.notice = {}  # the next is newer than the session
    self.member.wait_for(lambda: self.member.is_training()
                         and not session.run(self._missing).size and self._count(session))

  def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
    session = run_context.session
    if not self.member.is_chief:
      if self.steps_done >= self._last_step or not self.member.is_training():
        self._wait(session)
        if self._sync:
          session.run(self._sync.local_step_init_op)
    elif not self._is_noted:
      if self._sync:
        session.run(self._sync.wake)
      self.member.note(state=TRAINING)
      self._is_noted = True
    return tf.train.SessionRunArgs(self._sync.steps_done if self._sync else [])

  def after_run(self, run_context: tf.train.SessionRunContext,
                run_values: tf.train.SessionRunValues) -> None:
    # The number is read after the step, because other workers may have done some meanwhile.
    self.steps_done = int(run_values.results if self._sync
                          else run_context.session.run(self._global_step))
    self.next_step = self.steps_done + 1 if self._sync else self.next_step + self.member.workers
    if self.member.is_over() or self.member.is_chief and self.steps_done >= self._last_step:
      run_context.request_stop()

  def end(self, session: tf.Session) -> None:
    if self.member.stop.received:
      self.member.end()


class SaverHook(tf.train.CheckpointSaverHook):
  """Saves after steps 1, 1 + N, 1 + 2 N, ..., and the last, as the book does in one process.

  TensorFlow's own saves after 0, N, 2 N, ..., and writes an event file beside the checkpoints.
  A subclass has three methods: check(step) looks at the values of each step; report(session, step)
  returns the line of a step that is to be saved, and more values for the summaries;
  conclude(session) is called when the last is saved.

  Attributes:
    values: of the fetches, in the last step of the chief.
  """
  first_step = 1  # what the first is called in names and lines

  def __init__(self, steps: Steps, saver: tf.train.Saver, path: str, save_steps: int,
               writer: SummaryWriter, fetches: dict[str, tf.Tensor]):
    folder, name = os.path.split(path)
    super().__init__(folder, save_steps=save_steps, saver=saver, checkpoint_basename=name,
                     save_graph_def=False)
    self._steps, self._every, self._summary_writer, self._fetches = (
        steps, save_steps, writer, fetches)
    self.values: dict[str, float] = {}

  def begin(self) -> None:
    self._global_step_tensor = tf.train.get_global_step()

  def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
    del coord
    self._saved = int(session.run(self._global_step_tensor))
    self._summary_writer.start(session.graph, self._saved)

  def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
    return tf.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context: tf.train.SessionRunContext,
                run_values: tf.train.SessionRunValues) -> None:
    self.values, step = run_values.results, self._steps.steps_done
    self.check(step - 1 + self.first_step)
    # When a step to save is reached or passed: it may have been another worker's.
    if (step - 1) // self._every > (self._saved - 1) // self._every:
      self._save(run_context.session, step)

  def end(self, session: tf.Session) -> None:
    # Once more, if a step of another worker came while it was saved.
    while (step := int(session.run(self._global_step_tensor))) != self._saved:
      self._save(session, step)
    self.conclude(session)
    if self._saver.last_checkpoints:
      checkpoints.report_saved(self._saver.last_checkpoints[-1], self._steps.member.stop.received)

  def _save(self, session: tf.Session, step: int) -> None:
    self._saved, number = step, step - 1 + self.first_step
    line, values = self.report(session, number)
    super()._save(session, number)
    self._summary_writer.add_scalars(number, **self.values, **values)
    print(line)
