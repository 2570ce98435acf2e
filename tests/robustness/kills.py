"""Kill a trainer at random moments, start it again, and check that nothing is lost or changed.

    python tests/robustness/kills.py --rounds=50                    # mnist_train.py, made-up digits
    python tests/robustness/kills.py --data_dir=data/mnist          # ... on the real ones
    python tests/robustness/kills.py --script=flower --rounds=6     # flower_finetune.py
    python tests/robustness/kills.py --script=flower --rounds=6 --batch_norm=batch

Prints a line a round and a summary; ends with status 1 at the first violation. The same
functions, with few rounds, are what test_kills.py runs. POSIX only: SIGKILL is the point.
"""
import argparse
import os
import pathlib
import re
import shutil
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

# When a round kills: at any time from the start on; a few milliseconds after a printed step;
# while a file of a save has its temporary name; while the state file names a checkpoint that is
# not whole, because it is being moved to its place or being deleted.
MOMENTS = ('after a line', 'while writing', 'between files', 'at any time')

POLL_SECS = 0.0002  # a save is over after some milliseconds
MISS_SECS = 5  # after so long without its moment, a round kills nonetheless


class Violation(AssertionError):
  """Something that a kill must never cause."""


def require(condition, message):
  """Raise Violation unless condition; unlike assert, whatever python's flags."""
  if not condition:
    raise Violation(message)


# -- Processes ---------------------------------------------------------------------------


def _become_script(ignored, *args):
  if ignored is not None:
    signal.signal(ignored, signal.SIG_IGN)
  running._become_script(*args)


class Started:
  """A script in a process of its own, forked from one that has imported TensorFlow."""

  def __init__(self, script, *args, env=None, stdout=None, stderr=None, ignored=None):
    """Start a script.

    Args:
      env: dict, changes of the environment.
      stdout, stderr: paths of what it prints into, if that is not to be read here.
      ignored: number of a signal that is ignored from the start, or None.
    """
    self._script = script
    self._folder = tempfile.TemporaryDirectory()
    self._paths = [pathlib.Path(self._folder.name, name) for name in ('stdout', 'stderr')]
    streams = [str(stdout or self._paths[0]), str(stderr or self._paths[1])]
    self._process = running._context.Process(target=_become_script, args=(
        ignored, script, [os.fspath(arg) for arg in args], str(running.ROOT), streams, env or {}))
    self._process.start()
    self.pid = self._process.pid

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    if self.status is None:
      self.signal(signal.SIGKILL)
      self.end()
    self._folder.cleanup()

  @property
  def status(self):
    """The exit status, None while the process lives."""
    return self._process.exitcode

  def _read(self, number):
    path = self._paths[number]
    return path.read_text(errors='replace').splitlines() if path.exists() else []

  @property
  def lines(self):
    """The lines on standard output so far."""
    return self._read(0)

  @property
  def errors(self):
    """The lines on standard error so far."""
    return self._read(1)

  def find(self, pattern):
    """Return the re.Match of each line of standard output that matches pattern."""
    return [match for match in (re.search(pattern, line) for line in self.lines) if match]

  def wait_for(self, pattern, count=1, timeout=120):
    """Wait until count lines match pattern; return the last re.Match."""
    deadline = time.monotonic() + timeout
    while True:
      ended, found = self.status is not None, self.find(pattern)
      if len(found) >= count:
        return found[-1]
      require(not ended and time.monotonic() < deadline,
              f'{self._script}: no {count} lines {pattern!r}; status {self.status}, printed '
              f'{self.lines}, {self.errors}')
      time.sleep(0.005)

  def signal(self, number):
    """Send a signal."""
    os.kill(self.pid, number)

  def end(self, timeout=120):
    """Wait for the end and return the exit status, that of a signal negative."""
    self._process.join(timeout)
    require(self.status is not None, f'{self._script} does not end: {self.lines}, {self.errors}')
    return self.status


# -- What a model folder must be like ----------------------------------------------------


def step_of(checkpoint_path):
  """Return the step in a checkpoint's name."""
  return int(str(checkpoint_path).rsplit('-', 1)[-1])


def temporary_files(folder):
  """Return the names in a folder that only an unfinished write has."""
  return sorted(name for name in os.listdir(folder)
                if name.startswith('.') or re.search(r'_temp|\.tempstate|\.tmp', name))


def named_steps(model_dir):
  """Return the steps that the state file names, oldest first."""
  state = tf.train.get_checkpoint_state(str(model_dir))
  return [step_of(path) for path in state.all_model_checkpoint_paths] if state else []


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
  """Return the step of the newest checkpoint, which must load whole; None if there is none."""
  paths = checkpoints.list_checkpoints(model_dir, model_name)
  if not paths:
    return None
  try:
    tensors = read_whole(paths[-1])
  except Exception as error:
    raise Violation(f'{paths[-1]} has an index but does not load: {error}') from error
  for name, value in tensors.items():
    require(np.all(np.isfinite(value)), f'{paths[-1]}: {name} is not finite')
  return step_of(paths[-1])


def check_at_end(model_dir, model_name):
  """Check that all checkpoints of an ended trainer load, and that nothing else lies about."""
  left = temporary_files(model_dir)
  require(not left, f'temporary files are left: {left}')
  found, named = steps_of_files(model_dir), named_steps(model_dir)
  require(found == dict.fromkeys(named, 3), f'files of the steps {found}, named are {named}')
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


def flower_trainer(photos_file, backbone_ckpt, model_dir, **flags):
  """Return the Trainer of flower_finetune.py, which saves some ten times in a run."""
  flags = {'batch_size': 4, 'steps': 3000, **flags}
  args = (f'--input_file={photos_file}', f'--ckpt_file={backbone_ckpt}',
          *(f'--{name}={value}' for name, value in flags.items()))
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
  """Wait for a moment to kill; return whether it came."""
  if moment == 'at any time':
    time.sleep(random.uniform(0, 3))
    return True
  # Of ten lines in all, a round may take one.
  started.wait_for(trainer.line, count=random.randint(1, 4) if trainer.steps_flag else 1)
  time.sleep(random.uniform(0, 0.04))  # not always in the same part of a step
  if moment == 'after a line':
    return True
  has_come = _is_between_files if moment == 'between files' else temporary_files
  deadline = time.monotonic() + MISS_SECS
  while time.monotonic() < deadline and started.status is None:
    if has_come(trainer.model_dir):
      time.sleep(random.choice([0, 0.001, 0.003]))  # not always at the start of the moment
      return True
    time.sleep(POLL_SECS)
  return False


class Round(NamedTuple):
  """What a kill did."""
  moment: str
  hit: bool  # whether the moment came
  went_on_from: int  # step the killed run had gone on from, or None for a new start
  printed: int  # last step printed before the kill, or None
  saved: int  # step of the newest checkpoint after the kill, or None
  left: list  # temporary files that the kill left


def _check_start(lines, before):
  """Check what a start after a kill printed; return the step it goes on from, or None."""
  said = [re.search(r'^Going on from .+?-(\d+)(?:\.|, after (\d+) training step)', line)
          for line in lines]
  said = [match for match in said if match]
  step = int(said[0].group(1)) if said else None
  if before and before.saved is not None:
    require(step == before.saved, f'step {before.saved} was saved, but the next start goes on from '
                                  f'{step}; it printed {lines}')
  return step


def kill_once(trainer, moment, random, before):
  """Start a trainer, kill it at a moment, check what it said and left, and return the Round.

  Raises:
    Violation.
  """
  with Started(trainer.script, *trainer.all_args(1_000_000)) as started:
    hit = _wait_for_moment(moment, started, trainer, random)
    require(started.status is None, f'it ended by itself: {started.lines}, {started.errors}')
    started.signal(signal.SIGKILL)
    started.end()
    lines, errors = started.lines, started.errors
    steps = [int(match.group(1)) for match in started.find(trainer.line)]
  require(not errors, f'the trainer said {errors}')
  require(steps == sorted(set(steps)), f'steps go back: {steps}')
  # Killed before its first step, it may not have come to say anything.
  said_start = steps or any('Going on' in line for line in lines)
  went_on_from = _check_start(lines, before) if said_start else before and before.saved
  printed = steps[-1] if steps else before and before.printed
  saved = newest_step(trainer.model_dir, trainer.model_name)
  if before and before.saved is not None:
    require(saved is not None and saved >= before.saved, f'{before.saved} was saved, not {saved}')
  if printed is not None:  # a step is saved before its line is printed
    require(saved is not None and saved >= printed, f'{printed} was printed, but {saved} is saved')
  left = temporary_files(trainer.model_dir) if os.path.isdir(trainer.model_dir) else []
  return Round(moment, hit, went_on_from, printed, saved, left)


def kill_rounds(trainer, rounds, seed=0, moments=MOMENTS, report=None):
  """Kill a trainer that often, then let it run to its end; check all that it leaves.

  Args:
    seed: int, of the moments and delays.
    moments: the moments to choose from; each comes once before one comes twice.
    report: function of (number of the round, Round), or None.

  Returns:
    The Rounds.

  Raises:
    Violation.
  """
  random = np.random.RandomState(seed)
  done = []
  for number in range(rounds):
    if number % len(moments) == 0:
      order = random.permutation(len(moments))
    moment = moments[order[number % len(moments)]]
    done.append(kill_once(trainer, moment, random, done[-1] if done else None))
    if report:
      report(number, done[-1])
  steps = (done[-1].saved or 0) + 13  # some checkpoints more
  finished = run_to_end(trainer, steps)
  _check_start(finished.stdout.splitlines(), done[-1])
  check_at_end(trainer.model_dir, trainer.model_name)
  check_undisturbed(trainer, steps)
  return done


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


# -- By hand -----------------------------------------------------------------------------


def make_flower_inputs(folder):
  """Write preprocessed made-up photos and random weights of Inception-v3; return their paths."""
  import flower_preprocess
  from benchmarks import random_backbone
  photos_file, backbone = os.path.join(folder, 'photos.npy'), os.path.join(folder, 'backbone.ckpt')
  flower_preprocess.preprocess(flower_preprocess.FLAGS.options(
      input_dir=made_data.write_photos(os.path.join(folder, 'photos')), output_file=photos_file,
      testing_percentage=25, validation_percentage=25))
  random_backbone.write_random_backbone(backbone)
  return photos_file, backbone


def _report(number, done):
  print(f'round {number + 1}: killed {done.moment}{"" if done.hit else " (which did not come)"}, '
        f'went on from {done.went_on_from}, printed {done.printed}, saved {done.saved}, left '
        f'{done.left}', flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=50)
  parser.add_argument('--script', choices=['mnist', 'flower'], default='mnist')
  parser.add_argument('--data_dir', help='folder of MNIST files; made-up digits if not given')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  parser.add_argument('--batch_norm', choices=['frozen', 'batch'], default='frozen')
  options = parser.parse_args()
  os.environ['PYTHONWARNINGS'] = 'ignore:resource_tracker'  # of locks that killed processes held
  folder = tempfile.mkdtemp(prefix='kills-')
  model_dir = os.path.join(folder, 'model')
  start = time.monotonic()
  try:
    if options.script == 'mnist':
      data_dir = (os.path.abspath(options.data_dir) if options.data_dir
                  else made_data.write_mnist(os.path.join(folder, 'data')))
      trainer = mnist_trainer(data_dir, model_dir)
    else:
      flags = {'batch_norm': 'batch', 'steps': 20} if options.batch_norm == 'batch' else {}
      trainer = flower_trainer(*make_flower_inputs(folder), model_dir, **flags)
    rounds = kill_rounds(trainer, options.rounds, options.seed, report=_report)
  except Violation as violation:
    print(f'VIOLATION: {violation}\nThe folder is kept: {folder}')
    return 1
  shutil.rmtree(folder)
  hits = ', '.join(f'{sum(each.moment == moment and each.hit for each in rounds)} {moment}'
                   for moment in MOMENTS)
  print(f'{len(rounds)} kills of {trainer.script} in {time.monotonic() - start:.0f} s ({hits}; '
        f'{sum(bool(each.left) for each in rounds)} left temporary files, all swept): the same '
        'bits as without a kill')
  return 0


if __name__ == '__main__':
  sys.exit(main())
