"""A cluster of parameter servers and workers on TensorFlow's runtime: servers, devices, the board.

Each worker builds the graph for itself and shares the variables, which lie on the parameter
servers. Worker 0 is the chief: it gives the variables their values, saves them, and tells on a
notice board, which lies on the parameter servers, which run they are of and when it has ended.

  begin  A parameter server puts up an empty board. The chief makes the variables of its run in a
         container of their own, then writes the run's name on the board; the others join it.
  fault  A chief that is started again begins a new run from the newest checkpoint; the others see
         its name on the board and join. A worker that is started again joins the run.
  end    After its last checkpoint the chief writes on the board that the training has finished.
         Each worker signs off and ends; a parameter server ends when all have signed off.

TensorFlow's servers have no password and run what they are sent.
"""
import contextlib
import json
import os
import re
import socket
import sys
import time
from typing import NamedTuple

from absl import flags

from support import console
from support.console import UserError
from support.quiet_tensorflow import log_lines_held_back, tf

# On this machine unless other addresses are given: ports as in the book.
PS_HOSTS = '127.0.0.1:2222'
WORKER_HOSTS = '127.0.0.1:2223,127.0.0.1:2224'

START_SECS = 300  # for all parameter servers to be there
POLL_SECS = 0.5  # from one look at the board to the next
ANSWER_SECS = 10  # for a parameter server to answer such a look
GRACE_SECS = 60  # for a worker to sign off after the training has finished; it may be dead
servers = []  # of this process


# -- Who is who --------------------------------------------------------------------------


def define_flags(flag_values):
  """Define the flags of a cluster, under the book's names."""
  flags.DEFINE_enum('job_name', None, ['ps', 'worker'], 'What this process is: a parameter server '
                    'or a worker.', flag_values=flag_values)
  flags.DEFINE_integer('task_index', 0, 'Number of this process among those of its job, from 0 on; '
                       'worker 0 is the chief.',
                       lower_bound=0, flag_values=flag_values)
  flags.DEFINE_string('ps_hosts', PS_HOSTS, 'Addresses of the parameter servers, host:port, '
                      'separated by commas; in private networks only.', flag_values=flag_values)
  flags.DEFINE_string('worker_hosts', WORKER_HOSTS, 'Addresses of the workers, host:port, '
                      'separated by commas.',
                      flag_values=flag_values)
  flags.DEFINE_bool('sync', False, 'Workers share the batch of each step and wait for each other.',
                    flag_values=flag_values)
  flags.DEFINE_float('start_secs', START_SECS, 'Seconds to wait for the parameter servers.',
                     lower_bound=0, flag_values=flag_values)


class Task(NamedTuple):
  """A process of a cluster."""
  job_name: str  # 'ps' or 'worker'
  index: int
  ps_hosts: list  # of host:port
  worker_hosts: list

  @property
  def name(self):
    return f'{self.job_name} {self.index}'

  @property
  def is_chief(self):
    return self.job_name == 'worker' and self.index == 0

  @property
  def port(self):
    hosts = self.ps_hosts if self.job_name == 'ps' else self.worker_hosts
    return int(hosts[self.index].rsplit(':', 1)[1])

  @property
  def spec(self):
    return tf.train.ClusterSpec({'ps': self.ps_hosts, 'worker': self.worker_hosts})


def read_task(options):
  """Return the Task that flags describe.

  Raises:
    UserError: if an address is not one or is there twice, there is no such task, or as for
      `check_shares`.
  """
  hosts = {name: [host.strip() for host in getattr(options, name).split(',')]
           for name in ('ps_hosts', 'worker_hosts')}
  for name, addresses in hosts.items():
    for address in addresses:
      if not re.fullmatch(r'([\w.-]+|\[[\da-fA-F:]+\]):0*[1-9]\d{0,4}', address) or int(
          address.rsplit(':', 1)[1]) > 65535:
        raise UserError(f'--{name}: {address!r} is not an address: give host:port, separated by '
                        'commas', console.WRONG_USAGE)
  addresses = [re.sub(r':0*(\d+)$', r':\1', address)
               for address in hosts['ps_hosts'] + hosts['worker_hosts']]
  twice = [address for address in addresses if addresses.count(address) > 1]
  if twice:
    raise UserError(f'--ps_hosts and --worker_hosts name {twice[0]} twice: give each process an '
                    'address of its own', console.WRONG_USAGE)
  if options.job_name is None:
    raise UserError('--job_name is missing: give --job_name=ps or --job_name=worker, or '
                    '--local_workers=2 to try a whole cluster on this machine', console.WRONG_USAGE)
  task = Task(options.job_name, options.task_index, hosts['ps_hosts'], hosts['worker_hosts'])
  count = len(hosts[f'{task.job_name}_hosts'])
  if task.index >= count:
    raise UserError(f'--task_index={task.index}: --{task.job_name}_hosts names {count}, of which '
                    f'the last is {count - 1}', console.WRONG_USAGE)
  check_shares(options, len(task.worker_hosts))
  return task


def check_alone(options):
  """Raise UserError if flags of a single process are given along with those of a whole cluster."""
  for name in ('job_name', 'task_index', 'ps_hosts', 'worker_hosts'):
    if options[name].present:
      raise UserError(f'--{name} and --local_workers: give --{name} to start one process, or '
                      '--local_workers to start all of them on this machine', console.WRONG_USAGE)


def check_shares(options, workers):
  """Raise UserError if the workers of a synchronous step cannot have as many examples each."""
  if options.sync and options.batch_size % workers:
    raise UserError(f'--batch_size={options.batch_size} cannot be shared by {workers} workers: '
                    'with --sync give a multiple of their number', console.WRONG_USAGE)


# -- Servers and devices -----------------------------------------------------------------


def _keep_to_loopback(port):
  """Let nobody but this machine connect to a port on which this process listens; Linux only.

  TensorFlow listens on all interfaces, whatever the address.
  """
  for number in os.listdir('/proc/self/fd'):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(number))) as listening:
      if (listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
          and listening.getsockname()[1] == port):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')
        return True
  return False


def start_server(task):
  """Start TensorFlow's server of a task and return it.

  It listens on all interfaces of the machine, unless all addresses of the cluster are of this
  machine's loopback, and it is Linux.

  Raises:
    UserError: if it cannot listen on its port.
  """
  try:
    with log_lines_held_back(rb'.*\.cc:\d+\] '):
      server = tf.train.Server(task.spec, task.job_name, task.index, start=False)
  except tf.errors.OpError:
    raise UserError(f'{task.name} cannot listen on port {task.port}: it is in use, or is not for '
                    'users; give another address') from None
  is_local = all(re.match(r'(127\.|localhost:|\[::1\])', address)
                 for address in task.ps_hosts + task.worker_hosts)
  if not (is_local and sys.platform == 'linux' and _keep_to_loopback(task.port)):
    print(f'TensorFlow listens on port {task.port} of every interface of this machine and has no '
          'password: use it in private networks only.')
  server.start()
  servers.append(server)
  return server


class _LeastBytes:
  """Gives each variable to the parameter server with the least bytes so far."""

  def __init__(self, servers):
    self._bytes = [0] * servers

  def __call__(self, variable_op):
    index = self._bytes.index(min(self._bytes))
    variable = variable_op.outputs[0]
    self._bytes[index] += variable.shape.num_elements() * variable.dtype.size
    return index


def device_setter(task):
  """Return what `tf.device` takes: variables on the parameter servers, all else on this worker."""
  choose = tf.train.replica_device_setter(
      cluster=task.spec, worker_device=f'/job:worker/task:{task.index}',
      ps_strategy=_LeastBytes(len(task.ps_hosts)))

  def choose_but_for_averages(op):
    # Moving averages are computed where they and the weights lie. On a worker, they would take the
    # weights from before the step, and make a step move four times the bytes.
    if op.name.startswith('ExponentialMovingAverage/') and op.inputs and op.inputs[
        0].device.startswith('/job:ps'):
      return op.inputs[0].device
    return choose(op)

  return choose_but_for_averages


# -- The notice board --------------------------------------------------------------------


class Board:
  """What the processes of a cluster tell each other, on each of the parameter servers.

  The chief's notice is the same on all. Each holds who has signed off for itself, so that it can
  end without asking the others.
  """

  def __init__(self, task, server):
    """Build the board's graph: on a parameter server its own part only, on a worker all."""
    is_ps = task.job_name == 'ps'
    config = tf.ConfigProto(
        device_filters=[f'/job:ps/task:{task.index}'] if is_ps
        else ['/job:ps', f'/job:worker/task:{task.index}'],
        operation_timeout_in_ms=ANSWER_SECS * 1000)
    with tf.Graph().as_default() as graph:
      self._notice_fed = tf.placeholder(tf.string, [])
      self._index_fed, self._left_fed = tf.placeholder(tf.int32, []), tf.placeholder(tf.bool, [])
      self._notices, self._lefts, writes, signs = [], [], [], []
      for index in [task.index] if is_ps else range(len(task.ps_hosts)):
        with tf.device(f'/job:ps/task:{index}'):
          notice = tf.Variable(self._notice_fed, name=f'notice_{index}')
          left = tf.Variable([False] * len(task.worker_hosts), name=f'left_{index}')
          self._notices.append(tf.identity(notice))
          self._lefts.append(tf.identity(left))
          writes.append(tf.assign(notice, self._notice_fed))
          signs.append(tf.scatter_update(left, self._index_fed, self._left_fed))
      self._write, self._sign = tf.group(*writes), tf.group(*signs)
      self._init = tf.global_variables_initializer()
    self._session = tf.Session(server.target, graph, config)

  def put_up(self, **notice):
    """Make the board of a parameter server."""
    self._session.run(self._init, {self._notice_fed: json.dumps(notice)})

  def write(self, **notice):
    """Replace the notice: anything that JSON takes, by name."""
    self._session.run(self._write, {self._notice_fed: json.dumps(notice)})

  def read(self):
    """Return the notice of each parameter server, a dict."""
    return [json.loads(notice) for notice in self._session.run(self._notices)]

  def read_left(self):
    """Return, for each parameter server, which workers have left, bool [workers]."""
    return self._session.run(self._lefts)

  def sign(self, index, *, has_left):
    """Tell whether a worker has left or is there."""
    self._session.run(self._sign, {self._index_fed: index, self._left_fed: has_left})


def serve(task):
  """Be a parameter server until the training has finished and all workers have signed off."""
  board = Board(task, start_server(task))
  board.put_up(ps_hosts=task.ps_hosts, worker_hosts=task.worker_hosts)
  print(f'Parameter server {task.index} of {len(task.ps_hosts)} is ready.')
  finished_at = None
  while True:
    time.sleep(POLL_SECS)
    (notice,), (left,) = board.read(), board.read_left()
    finished_at = (finished_at or time.monotonic()) if notice.get('finished') else None
    if finished_at and (left.all() or time.monotonic() - finished_at > GRACE_SECS):
      break
  away = [str(index) for index, has_left in enumerate(left) if not has_left]
  print('The training has finished' + (f'; worker {", ".join(away)} has not signed off.' if away
                                       else '.'))
  time.sleep(2 * POLL_SECS)  # the last one's answer is on its way
