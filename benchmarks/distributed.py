"""Measure the steps of mnist_dist_train.py beside those of one process.

    python -m benchmarks.distributed

Prints the steps a second of one process with two threads, and of clusters of one and two workers
with one thread each; their ratio to the first; and the bytes that a step moves between processes.
The runs take turns, so that a machine whose speed drifts treats all alike; the median is printed. A
figure is the time between two printed checkpoints, so that the start does not count.
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

CONTESTANTS = {
    'one process, two threads': ('mnist_train.py', 2, []),
    '1 worker, asynchronous': ('mnist_dist_train.py', 1, ['--local_workers=1']),
    '2 workers, asynchronous': ('mnist_dist_train.py', 1, ['--local_workers=2']),
    '2 workers, synchronous': ('mnist_dist_train.py', 1, ['--local_workers=2', '--sync']),
}


def loopback_bytes() -> int:
  """Return the bytes that this machine has sent to itself so far, those of other programs too."""
  return sum(counters.bytes_sent for name, counters in psutil.net_io_counters(pernic=True).items()
             if name.startswith('lo'))


def measure(script: str, threads: int, flags: list[str], steps: int) -> tuple[float, float]:
  """Return the steps a second and the bytes a step between a script's last two checkpoints."""
  environment = {**os.environ, 'TF_NUM_INTRAOP_THREADS': str(threads),
                 'TF_NUM_INTEROP_THREADS': str(threads)}
  seen = {}
  with tempfile.TemporaryDirectory() as model_dir, subprocess.Popen(
      [sys.executable, ROOT / script, *flags, f'--model_dir={model_dir}',
       f'--save_interval_steps={steps}', f'--training_steps={2 * steps + 1}'],
      cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
    for line in process.stdout:
      match = re.search(r'After (\d+) training step', line)
      if match:
        seen[int(match[1])] = time.perf_counter(), loopback_bytes()
  if process.returncode:
    raise SystemExit(f'{script} ended with status {process.returncode}')
  (first, (began, sent)), (last, (ended, all_sent)) = sorted(seen.items())[-2:]
  return (last - first) / (ended - began), (all_sent - sent) / (last - first)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--steps', type=int, default=200, help='steps in a run (default: 200)')
  parser.add_argument('--rounds', type=int, default=3, help='runs of each (default: 3)')
  args = parser.parse_args()
  found = {name: [] for name in CONTESTANTS}
  for _ in range(args.rounds):
    for name, (script, threads, flags) in CONTESTANTS.items():
      found[name].append(measure(script, threads, flags, args.steps))
  print(f'{"":26} {"steps/s":>8} {"ratio":>6} {"MB/step":>8}')
  single = None
  for name, results in found.items():
    rate, sent = map(statistics.median, zip(*results, strict=True))
    single = single or rate
    print(f'{name:26} {rate:8.2f} {rate / single:6.2f} {sent / 1e6:8.1f}')


if __name__ == '__main__':
  main()
