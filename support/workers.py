"""A worker of a cluster: how it joins, its session, and the runs of the chief, worker 0."""
import concurrent.futures
import contextlib
import os
import secrets
import socket
import sys
import threading
import time

from support import cluster, console, launcher
from support.console import UserError
from support.quiet_tensorflow import (
  describe_error,
  give_back_standard_error,
  log_lines_held_back,
  tf,
)

LOST_SECS = 30  # without an answer, after which a parameter server is lost
STOP_SECS = 5  # for a step to end after a stop signal; it may wait for a worker that is away

# What TensorFlow raises when a parameter server is lost, a session was closed, or the variables
# of a run are gone because a new one begins. Anything else is a mistake in the program.
RUN_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
              tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
              tf.errors.NotFoundError, tf.errors.InternalError)

# Sessions with a lost parameter server: to delete one is to close it, and waits for that server.
_kept = []


class RunOver(Exception):
  """The run in which a worker takes part has finished, or the chief has begun another one."""


class StepUnfinished(Exception):
  """A stop signal came in a step that does not end, as it waits for a worker that is away."""


def _silent(addresses):
  """Return the index of the first address where nobody listens, None if there is none."""
  for index, address in enumerate(addresses):
    host, port = address.rsplit(':', 1)
    try:
      socket.create_connection((host.strip('[]'), int(port)), cluster.ANSWER_SECS / 2).close()
    except (OSError, UnicodeError):
      return index
  return None


@contextlib.contextmanager
def _ends_within(seconds, message):
  """End the process with a line if the block, which may wait in TensorFlow for ever, does."""
  def give_up():
    give_back_standard_error()
    console.warn(f'error: {message}')
    os._exit(console.FAILURE)

  timer = threading.Timer(seconds, give_up)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


class Member:
  """A worker's membership of a cluster, from entering this context to leaving it."""

  def __init__(self, task, settings, start_secs, stop):
    """Keep what the worker is.

    Args:
      task: cluster.Task.
      settings: dict for JSON, in which all workers must agree with the chief.
      start_secs: float, how long to wait for the parameter servers.
      stop: console.StopSignals.
    """
    self.task = task
    self.stop = stop
    self._hosts = {'ps_hosts': task.ps_hosts, 'worker_hosts': task.worker_hosts}
    self._settings = settings
    self._start_secs = start_secs
    self._run = None  # the name of the run that this worker takes part in
    self._announced = None  # that of the chief, once the others may join it
    self._session = None
    self._is_lost = False
    self._thread = concurrent.futures.ThreadPoolExecutor(1)

  # -- Begin and end

  def __enter__(self):
    """Start this worker's server, and find the parameter servers.

    Raises:
      UserError: if one does not answer in time, or has other addresses in its flags.
    """
    self._server = cluster.start_server(self.task)
    self._wait_for_servers()
    with _ends_within(self._start_secs + 2 * cluster.ANSWER_SECS, 'the parameter servers do not '
                      'answer: correct --ps_hosts, or start all processes again'):
      self._board = cluster.Board(self.task, self._server)
      notices = self._read_first_notices()
    for index, notice in enumerate(notices):
      for name, hosts in self._hosts.items():
        if notice[name] != hosts:
          raise UserError(f'--{name}={",".join(hosts)}, but ps {index} was started with '
                          f'{",".join(notice[name])}: give all processes the same')
    self._tell(self._board.sign, self.task.index, has_left=False)
    self._answered = self._looked = time.monotonic()
    return self

  def __exit__(self, kind, error, traceback):
    """Sign off; a chief that leaves its run, by whatever failure, ends the training for all.

    One that fails before leaves the others waiting for a better one.
    """
    with contextlib.suppress(*RUN_ERRORS, UserError):
      if not self._is_lost:
        if self.task.is_chief and self._run:
          failure = str(error) if isinstance(error, Exception) else None  # no stop signal
          self._write(self._run, finished=True, failure=failure)
        self._board.sign(self.task.index, has_left=True)

  def _silence(self, index):
    return (f'ps {index} at {self.task.ps_hosts[index]} does not answer after '
            f'{self._start_secs:g} seconds: start it, or correct --ps_hosts')

  def _wait_for_servers(self):
    """Wait until somebody listens at each address of a parameter server."""
    deadline, is_told = time.monotonic() + self._start_secs, False
    while (index := _silent(self.task.ps_hosts)) is not None:
      if time.monotonic() > deadline:
        raise UserError(self._silence(index))
      if self.stop.received:
        raise KeyboardInterrupt
      if not is_told:
        print(f'Waiting for ps {index} at {self.task.ps_hosts[index]}.')
        is_told = True
      time.sleep(cluster.POLL_SECS)

  def _read_first_notices(self):
    """Return the notice of each parameter server, as soon as it has put up its board."""
    deadline = time.monotonic() + self._start_secs
    while True:
      try:
        # TensorFlow logs what it raises of a server that is none of its own.
        with log_lines_held_back(rb'.*master\.cc:\d+\] |Additional GRPC error|:UNKNOWN:Error'):
          return self._board.read()
      except (*RUN_ERRORS, tf.errors.UnimplementedError) as error:
        if self.stop.received:
          raise KeyboardInterrupt from None
        is_foreign = isinstance(error, tf.errors.UnimplementedError)  # a server of something else
        if time.monotonic() > deadline or is_foreign:
          raise UserError(f'--ps_hosts={",".join(self.task.ps_hosts)} do not answer as parameter '
                          f'servers ({describe_error(error)}): correct it, or start all '
                          'processes again') from None
      time.sleep(cluster.POLL_SECS)

  # -- Runs

  def _tell(self, change, *args, **kwargs):
    """Change the board; raise UserError if a parameter server is lost."""
    try:
      change(*args, **kwargs)
    except RUN_ERRORS:
      self._lose(_silent(self.task.ps_hosts))

  def _write(self, run, **notice):
    self._tell(self._board.write, **self._hosts, run=run, settings=self._settings, **notice)
    self._announced = run

  def begin_run(self):
    """As the chief, end the run of an earlier one, and return the graph of a new one.

    The variables of the earlier one stay on the parameter servers until these end: nothing that is
    still under way there can reach the new ones. tf.Session.reset would delete them, and was seen
    to end a parameter server that was in use with a segmentation fault.
    """
    self._write(None)
    self._run = secrets.token_hex(4)
    return self._graph()

  def announce_run(self):
    """As the chief, let the others join, now that the variables have their values."""
    self._write(self._run)

  def runs(self):
    """As another worker, yield the graph of each run of the chief, until one is finished.

    Each is a context, which ends when the run is over.

    Raises:
      UserError: if this worker's settings are not the chief's, or the chief has failed.
    """
    waits_since, is_told = time.monotonic(), False
    while not self.stop.received:
      notice = self._look()
      if notice.get('finished'):
        if notice['failure']:
          raise UserError(f'worker 0 has ended: {notice["failure"]}')
        return
      if notice.get('run') not in (None, self._run):
        for name, value in self._settings.items():
          if notice['settings'].get(name) != value:
            raise UserError(f'{name} is {value} for {self.task.name}, but '
                            f'{notice["settings"].get(name)} for worker 0: give all the same')
        self._run = notice['run']
        yield self._graph()
        waits_since, is_told = time.monotonic(), False
      elif time.monotonic() - waits_since > STOP_SECS and not is_told:
        print('Waiting for worker 0, the chief: start it, also if it has ended.')
        is_told = True
      time.sleep(cluster.POLL_SECS)

  @contextlib.contextmanager
  def _graph(self):
    """Give a graph whose variables lie on the parameter servers, in a container of the run."""
    graph = tf.Graph()
    with contextlib.suppress(RunOver), graph.as_default(), graph.container(self._run), \
        tf.device(cluster.device_setter(self.task)):
      yield graph

  # -- Sessions

  @contextlib.contextmanager
  def session(self):
    """Give a tf.Session of the default graph; what it runs goes through `run` or `call`."""
    self._session = tf.Session(self._server.target, config=tf.ConfigProto(
        device_filters=['/job:ps', f'/job:worker/task:{self.task.index}']))
    try:
      yield self._session
    finally:
      if not self._is_lost:
        # In a thread, because TensorFlow waits for a parameter server, for ever if it is lost.
        closing = threading.Thread(target=self._session.close, daemon=True)
        closing.start()
        closing.join(cluster.ANSWER_SECS)

  def call(self, function, *args, stoppable=False):
    """Return function(*args), which may wait for other processes; watch the board meanwhile.

    Args:
      stoppable: whether to give up some seconds after a stop signal.

    Raises:
      RunOver: if this run is over.
      StepUnfinished: if a stop signal came and the function does not end.
      UserError: if a parameter server is lost.
    """
    graph = tf.get_default_graph()

    def call_in_graph():
      with graph.as_default():  # the default is one for each thread
        return function(*args)

    # In a thread, because TensorFlow neither lets Python handle signals while it waits, nor ends
    # when a server has gone without a word.
    result, stopped_at = self._thread.submit(call_in_graph), None
    while True:
      if time.monotonic() - self._looked > cluster.POLL_SECS:
        self._require_run()
      try:
        return result.result(timeout=cluster.POLL_SECS)
      except concurrent.futures.TimeoutError:
        if stoppable and self.stop.received:
          stopped_at = stopped_at or time.monotonic()
          if time.monotonic() - stopped_at > STOP_SECS:
            raise StepUnfinished from None
      except RUN_ERRORS as error:
        self._explain(error)

  def run(self, fetches, feed_dict=None):
    """Run a step in the session; see `call`."""
    return self.call(self._session.run, fetches, feed_dict, stoppable=True)

  def _look(self):
    """Return the notice of the board.

    Raises:
      UserError: if a parameter server has not answered for LOST_SECS.
    """
    while True:
      self._looked = time.monotonic()
      try:
        notice = self._board.read()[0]
        self._answered = time.monotonic()
        return notice
      except RUN_ERRORS:
        index = _silent(self.task.ps_hosts)
        if time.monotonic() - self._answered > LOST_SECS:
          self._lose(index)
        time.sleep(cluster.POLL_SECS)

  def _require_run(self):
    notice = self._look()
    if self.task.is_chief:
      if notice.get('run') != self._announced:
        self._run = None  # which is not to be ended
        raise UserError('another worker 0 has taken over: end one of the two')
    elif notice.get('finished') or notice.get('run') != self._run:
      raise RunOver

  def _explain(self, error):
    """Raise what an error in a step comes from: a new run, a lost server, or something else."""
    deadline = time.monotonic() + LOST_SECS
    while time.monotonic() < deadline:
      try:
        self._board.read()
      except RUN_ERRORS:  # the connection to a server is broken, and with it its variables
        self._lose(_silent(self.task.ps_hosts))
      self._require_run()
      time.sleep(cluster.POLL_SECS)
    raise error

  def _lose(self, index):
    self._is_lost = True
    _kept.append((self._session, self._board))
    give_back_standard_error()  # the call that waits for the server may hold back its lines
    which = ('a parameter server does not answer, or has been started again and has lost its '
             'variables' if index is None
             else f'ps {index} at {self.task.ps_hosts[index]} is lost')
    raise UserError(f'{which}: start all processes again, to go on from the newest checkpoint')


# -- A script of a cluster ---------------------------------------------------------------


@contextlib.contextmanager
def join(task, settings, options):
  """Give the Member of a worker's task, which ends its steps at a stop signal.

  Args:
    settings: as for `Member`.
    options: of the script.
  """
  with console.StopSignals() as stop, Member(task, settings, options.start_secs, stop) as member:
    yield member


def take_part(script, flag_values, work):
  """Be what the flags say: a whole cluster on this machine, a parameter server, or a worker.

  Args:
    script: str, the path of the script, which a whole cluster is made of.
    work: function of a cluster.Task and the flags that does a worker's part.

  Returns:
    The exit status.
  """
  if flag_values.local_workers:
    cluster.check_alone(flag_values)
    cluster.check_shares(flag_values, flag_values.local_workers)
    return launcher.launch(script, flag_values)
  if flag_values.end_with_stdin:
    launcher.obey_stdin()
  task = cluster.read_task(flag_values)
  return cluster.serve(task) if task.job_name == 'ps' else work(task, flag_values)


def run(main, flag_values):
  """As console.run, but end a process that has a server at once.

  Its threads of TensorFlow may wait for others that have gone, and Python would wait for them.
  """
  status = console.SUCCESS
  try:
    console.run(main, flag_values)
  except SystemExit as end:
    status = end.code
  if cluster.servers and 'ipykernel' not in sys.modules:
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError):
        stream.flush()
    os._exit(status)
  sys.exit(status)
