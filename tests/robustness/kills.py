"""Kill a trainer at random moments, start it again, and check that nothing is lost or changed.

    python tests/robustness/kills.py --rounds=50                    # mnist_train.py, made-up digits
    python tests/robustness/kills.py --data_dir=data/mnist          # ... on the real ones

Prints a line a round and a summary; ends with a traceback at the first violation. The same
functions, with few rounds, are what test_kills.py runs. POSIX only: SIGKILL is the point.
"""
import argparse
import os
import pathlib
import re
import signal
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

if __name__ == '__main__':
  sys.path[:0] = [str(folder) for folder in pathlib.Path(__file__).resolve().parents[1:3]]

import made_data
import running

from support import checkpoints
from support.quiet_tensorflow import tf

# When a round kills: a few milliseconds after a printed step; while a file of a save has its
# temporary name; while the state file names a checkpoint that is not whole; at any time.
MOMENTS = ('after a line', 'while writing', 'between files', 'at any time')

POLL_SECS = 0.0002  # a save is over after some milliseconds


class Violation(AssertionError):
  """Something that a kill must never cause."""


def require(condition, message):
  """Raise Violation unless condition; unlike assert, whatever python's flags."""
  if not condition:
    raise Violation(message)


# -- What a model folder must be like ----------------------------------------------------


def temporary_files(folder):
  """Return the names in a folder that only an unfinished write has."""
  return sorted(name for name in os.listdir(folder)
                if name.startswith('.') or re.search(r'_temp|\.tempstate|\.tmp', name))


def named_steps(model_dir):
  """Return the steps that the state file names, oldest first."""
  state = tf.train.get_checkpoint_state(str(model_dir))
  paths = state.all_model_checkpoint_paths if state else []
  return [int(path.rsplit('-', 1)[-1]) for path in paths]


def steps_of_files(model_dir):
  """Return {step: number of files} of all checkpoint files in a folder, named or not."""
  found = [re.search(r'\.ckpt-(\d+)\.(?:index|meta|data-\d+-of-\d+)$', name)
           for name in os.listdir(model_dir)]
  steps = [int(match.group(1)) for match in found if match]
  return {step: steps.count(step) for step in sorted(steps)}


def read_whole(checkpoint_path):
  """Read every tensor of a checkpoint; return {name: array}."""
  reader = tf.train.load_checkpoint(str(checkpoint_path))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def newest_step(model_dir, model_name):
  """Return the step in the name of the newest checkpoint, which must load whole, or -1."""
  paths = checkpoints.list_checkpoints(model_dir, model_name)
  if not paths:
    return -1
  for name, value in read_whole(paths[-1]).items():
    require(np.all(np.isfinite(value)), f'{paths[-1]}: {name} is not finite')
  return int(paths[-1].rsplit('-', 1)[-1])


def check_at_end(model_dir, model_name, killed_at=()):
  """Check that all checkpoints of an ended trainer load, and that nothing else lies about.

  Args:
    killed_at: the newest steps after kills, which may lack their .meta file: it is written last.
  """
  left = temporary_files(model_dir)
  require(not left, f'temporary files are left: {left}')
  found, named = steps_of_files(model_dir), named_steps(model_dir)
  whole = {step: count for step, count in found.items() if step not in killed_at or count != 2}
  require(list(found) == named and set(whole.values()) <= {3},
          f'files of the steps {found}, named are {named}')
  for step in named:
    read_whole(os.path.join(model_dir, f'{model_name}-{step}'))


def check_equal(checkpoint_path, other_path):
  """Check that two checkpoints hold the same bits: weights, averages, slots and step."""
  tensors, others = read_whole(checkpoint_path), read_whole(other_path)
  require(set(tensors) == set(others), f'names differ: {sorted(set(tensors) ^ set(others))}')
  differing = [name for name, value in sorted(tensors.items())
               if value.tobytes() != others[name].tobytes()]
  require(not differing, f'{checkpoint_path} and {other_path} differ in {", ".join(differing)}')


# -- Killing -----------------------------------------------------------------------------


class Trainer(NamedTuple):
  """A trainer to kill."""
  script: str
  args: tuple  # without --model_dir
  model_dir: str
  model_name: str
  line: str  # pattern of the line of a step, which is group 1
  steps_flag: str | None  # None where args hold the steps, on which the learning rate depends

  def all_args(self, steps):
    args = (*self.args, f'--model_dir={self.model_dir}')
    return (*args, f'--{self.steps_flag}={steps}') if self.steps_flag else args


def mnist_trainer(data_dir, model_dir, **flags):
  """Return the Trainer of mnist_train.py, with small batches and few checkpoints."""
  flags = {'batch_size': 20, 'save_interval_steps': 5, 'max_to_keep': 3, **flags}
  args = (f'--data_dir={data_dir}', *(f'--{name}={value}' for name, value in flags.items()))
  return Trainer('mnist_train.py', args, str(model_dir), 'mnist.ckpt',
                 r'^After (\d+) training step', 'training_steps')


def flower_trainer(photos_file, backbone_ckpt, model_dir, steps):
  """Return the Trainer of flower_finetune.py, which saves some ten times in a run."""
  args = (f'--input_file={photos_file}', f'--ckpt_file={backbone_ckpt}', '--batch_size=4',
          f'--steps={steps}')
  return Trainer('flower_finetune.py', args, str(model_dir), 'flower.ckpt',
                 r'^Step (\d+): Validation accuracy', None)


def _is_between_files(model_dir):
  """Return whether a checkpoint has some of its files, or other ones than the state file names."""
  try:
    found = steps_of_files(model_dir)
    state = pathlib.Path(model_dir, 'checkpoint').read_text()
  except OSError:
    return False
  named = {int(step) for step in re.findall(r'^all_.*-(\d+)"$', state, re.MULTILINE)}
  return set(found) != named or any(count < 3 for count in found.values())


def _wait_for_moment(moment, started, trainer, random):
  if moment == 'at any time':
    time.sleep(random.uniform(0, 3))
    return
  # Of ten lines in all, a round may take one.
  started.wait_for(trainer.line, count=random.randint(1, 4) if trainer.steps_flag else 1)
  time.sleep(random.uniform(0, 0.04))  # not always in the same part of a step
  if moment != 'after a line':
    has_come = _is_between_files if moment == 'between files' else temporary_files
    while not has_come(trainer.model_dir):
      require(started.status is None, f'it ended without being caught {moment}')
      time.sleep(POLL_SECS)
    time.sleep(random.choice([0, 0.001, 0.003]))  # not always at the start of the moment


def _check_start(lines, saved):
  """Check that a run with these lines went on from the step that was saved."""
  said = re.search(r'^Going on from .+?-(\d+)(?:\.|, after)', '\n'.join(lines), re.M)
  require(int(said[1] if said else -1) == saved, f'{saved} was saved, and then said {lines}')


def kill_once(trainer, moment, random, saved):
  """Start a trainer, kill it at a moment, check what it said, and return the step it has saved.

  Args:
    saved: the step that it is to go on from, -1 for none.
  """
  with running.Started(trainer.script, *trainer.all_args(1_000_000)) as started:
    _wait_for_moment(moment, started, trainer, random)
    require(started.status is None, f'it ended by itself: {started.texts}')
    started.signal(signal.SIGKILL)
    started.end()
    lines, errors = started.lines, started.errors
    steps = [int(match.group(1)) for match in started.find(trainer.line)]
  require(not errors, f'the trainer said {errors}')
  require(steps == sorted(set(steps)), f'steps go back: {steps}')
  if steps:  # killed before its first step, it may not have come to say anything
    _check_start(lines, saved)
  # A step is saved before its line is printed.
  now = newest_step(trainer.model_dir, trainer.model_name)
  require(now >= max([saved, *steps]), f'{saved} was saved, {steps} printed, but {now} is saved')
  return now


def kill_rounds(trainer, rounds, seed=0, moments=MOMENTS, report=lambda line: None):
  """Kill a trainer that often, then let it run to its end; check all that it leaves.

  Args:
    seed: int, of the moments and delays.
    moments: the moments to choose from; each comes once before one comes twice.
    report: function of a line about each round.
  """
  random = np.random.RandomState(seed)
  saved, killed_at = -1, []
  for number in range(rounds):
    if number % len(moments) == 0:
      order = random.permutation(len(moments))
    moment = moments[order[number % len(moments)]]
    saved = kill_once(trainer, moment, random, saved)
    killed_at.append(saved)
    left = temporary_files(trainer.model_dir) if os.path.isdir(trainer.model_dir) else []
    report(f'round {number + 1}: killed {moment}, saved {saved}, left {left}')
  require(saved >= 0, 'no kill has hit a trainer at work')
  steps = saved + 13  # some checkpoints more
  _check_start(run_to_end(trainer, steps).stdout.splitlines(), saved)
  check_at_end(trainer.model_dir, trainer.model_name, killed_at)
  check_undisturbed(trainer, steps)


def run_to_end(trainer, steps):
  """Run a trainer, which must not say anything on standard error, for so many steps in all."""
  result = running.run_script(trainer.script, *trainer.all_args(steps), timeout=900)
  require(result.returncode == 0 and not result.stderr,
          f'{trainer.script} ended with status {result.returncode}: {result.stderr}')
  return result


def check_undisturbed(trainer, steps):
  """Check that a trainer that was killed ended in the same bits as one that was not."""
  name = f'{trainer.model_name}-{newest_step(trainer.model_dir, trainer.model_name)}'
  with tempfile.TemporaryDirectory() as model_dir:
    # Saving takes most of the time, and changes no weight.
    args = [arg for arg in trainer.args if not arg.startswith('--save_interval_steps')]
    if len(args) < len(trainer.args):
      args.append('--save_interval_steps=1000000')
    run_to_end(trainer._replace(model_dir=model_dir, args=tuple(args)), steps)
    check_equal(os.path.join(trainer.model_dir, name), os.path.join(model_dir, name))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=50)
  parser.add_argument('--data_dir', help='folder of MNIST files; made-up digits if not given')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  options = parser.parse_args()
  os.environ['PYTHONWARNINGS'] = 'ignore:resource_tracker'  # of locks that killed processes held
  with tempfile.TemporaryDirectory(prefix='kills-') as folder:
    data_dir = (os.path.abspath(options.data_dir) if options.data_dir
                else made_data.write_mnist(os.path.join(folder, 'data')))
    kill_rounds(mnist_trainer(data_dir, os.path.join(folder, 'model')), options.rounds,
                options.seed, report=lambda line: print(line, flush=True))
  print(f'{options.rounds} kills: the same bits as without a kill')


if __name__ == '__main__':
  main()
