"""Measure steps of mnist_dist_train.py, and reckon what a network allows.

    python -m benchmarks.distributed

Prints the steps a second of one process with two threads, and of clusters of one and two workers
with one thread each; the bytes that a step moves; and a table for 4, 16 and 64 workers at 1 and
10 Gbit/s with 1 to 8 parameter servers, where the servers' links are the limit. The runs take
turns, so that a machine whose speed drifts treats all alike; the median is printed. A figure is
the time between two printed checkpoints, so that the start does not count.
"""
import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import psutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = {'MNIST': 1_663_370, 'Inception-v3': 24_339_242}  # trained, float32; of five classes
WORKERS, GBITS, SERVERS = (4, 16, 64), (1, 10), (1, 2, 4, 8)

CONTESTANTS = {
    'one process, two threads': ('mnist_train.py', 2, []),
    '1 worker, asynchronous': ('mnist_dist_train.py', 1, ['--local_workers=1']),
    '2 workers, asynchronous': ('mnist_dist_train.py', 1, ['--local_workers=2']),
    '2 workers, synchronous': ('mnist_dist_train.py', 1, ['--local_workers=2', '--sync']),
}


def loopback_bytes():
  """Return the bytes that this machine has sent to itself so far, those of other programs too."""
  return sum(counters.bytes_sent for name, counters in psutil.net_io_counters(pernic=True).items()
             if name.startswith('lo'))


def measure(script, threads, flags, steps):
  """Run a script; return (steps a second, bytes a step) between its last two checkpoints."""
  environment = {**os.environ, 'TF_NUM_INTRAOP_THREADS': str(threads),
                 'TF_NUM_INTEROP_THREADS': str(threads)}
  with tempfile.TemporaryDirectory() as model_dir:
    process = subprocess.Popen(
        [sys.executable, '-u', ROOT / script, *flags, f'--model_dir={model_dir}',
         f'--save_interval_steps={steps}', f'--training_steps={2 * steps + 1}'],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    seen = {}
    for line in process.stdout:
      match = re.search(r'After (\d+) training step', line)
      if match:
        seen[int(match[1])] = time.perf_counter(), loopback_bytes()
    if process.wait():
      raise SystemExit(f'{script} ended with status {process.returncode}')
  (first, (began, sent)), (last, (ended, all_sent)) = sorted(seen.items())[-2:]
  return (last - first) / (ended - began), (all_sent - sent) / (last - first)


def largest_share(servers):
  """Return the share of MNIST's bytes on the fullest of so many parameter servers.

  One matrix has nineteen of twenty; the many of Inception-v3 divide well.
  """
  sys.path.insert(0, str(ROOT))
  import mnist_train
  from support import cluster
  from support.quiet_tensorflow import tf
  task = cluster.Task('worker', 0, [f'127.0.0.1:{port}' for port in range(1, servers + 1)],
                      ['127.0.0.1:100'])
  with tf.Graph().as_default(), tf.device(cluster.device_setter(task)):
    mnist_train.build_model(tf.placeholder(tf.float32, [None, 28, 28, 1]),
                            tf.placeholder(tf.float32, [None, 10]), 55000, mnist_train.FLAGS.options())
    loads = {}
    for variable in tf.trainable_variables():
      loads[variable.device] = loads.get(variable.device, 0) + variable.shape.num_elements()
  return max(loads.values()) / sum(loads.values())


def print_table(name, parameters, shares, step_secs):
  """Print how many steps a second the parameter servers' links carry."""
  size = 4 * parameters
  print(f'\n{name}: {parameters:,} parameters. In a step, a worker fetches {size / 1e6:.1f} MB of '
        f'weights and sends as many of gradients.\nSteps a second that the fullest server\'s link '
        'carries; in brackets, the seconds that a step must take on one worker, for so many of '
        'them not to wait for it' + ('; * where the measured step is shorter' if step_secs else ''))
  print(f'{"workers":>8} {"Gbit/s":>7}' + ''.join(f'{servers:>15} ps' for servers in SERVERS))
  for workers in WORKERS:
    for gbits in GBITS:
      cells = []
      for servers in SERVERS:
        # Full duplex: the weights of one step go out while the gradients of another come in.
        transfer = size * shares[servers] * 8 / (gbits * 1e9)
        mark = '*' if step_secs and step_secs < workers * transfer else ' '
        cells.append(f'{1 / transfer:8.1f} ({workers * transfer:5.2f}){mark}')
      print(f'{workers:8} {gbits:7} ' + ' '.join(f'{cell:>17}' for cell in cells))


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--steps', type=int, default=200, help='steps in a run (default: 200)')
  parser.add_argument('--rounds', type=int, default=3, help='runs of each (default: 3)')
  args = parser.parse_args()
  rates = {name: [] for name in CONTESTANTS}
  for _ in range(args.rounds):
    for name, (script, threads, flags) in CONTESTANTS.items():
      rates[name].append(measure(script, threads, flags, args.steps))
  print(f'{"":26} {"steps/s":>8} {"MB/step":>8}')
  medians = {}
  for name, found in rates.items():
    medians[name], sent = map(statistics.median, zip(*found, strict=True))
    print(f'{name:26} {medians[name]:8.2f} {sent / 1e6:8.1f}')
  step_secs = 1 / medians['1 worker, asynchronous']
  print_table('MNIST', MODELS['MNIST'], {servers: largest_share(servers) for servers in SERVERS},
              step_secs)
  print_table('Inception-v3', MODELS['Inception-v3'],
              {servers: 1 / servers for servers in SERVERS}, None)


if __name__ == '__main__':
  main()
