"""Kill a trainer at random moments, start it again, and check that nothing is lost.

    python tests/faults.py --rounds=50                    # mnist_train.py on small made-up digits
    python tests/faults.py --data_dir=data/mnist          # ... on the real ones
    python tests/faults.py --script=flower --rounds=10    # flower_finetune.py on made-up photos

Prints a line a round and a summary; ends with status 1 at the first violation. The same
functions, with few rounds, are what test_faults.py runs. POSIX only: SIGKILL is the point.
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import numpy as np
import support

sys.path.append(str(support.ROOT))  # before script_support, where this runs as a script

import script_support

tf = script_support.tf

# When a round kills: at any time from the start of the process on; a few milliseconds after
# a printed step; while a file of a save has its temporary name; while a checkpoint is
# complete but not yet named, or no longer named but not yet deleted.
MOMENTS = ('after a line', 'while writing', 'between files', 'at any time')

POLL_SECS = 0.0002  # a save is over after some milliseconds
MISS_SECS = 5  # after so long without its moment, a round kills nonetheless


class Violation(AssertionError):
  """Something that a kill must never cause."""


def require(condition, message):
  """Raise Violation unless condition; unlike assert, whatever python's flags and wherever called."""
  if not condition:
    raise Violation(message)


# -- Processes ---------------------------------------------------------------------------


class Started:
  """A script in a process of its own, whose lines are collected as they come.

  Attributes:
    process: subprocess.Popen.
    lines, errors: list of str, without line ends; grow while the process lives.
  """

  def __init__(self, script, *args, **kwargs):
    self.process = support.start_script(script, *args, **kwargs)
    self.lines, self.errors = [], []
    self._threads = [threading.Thread(target=self._collect, args=pair, daemon=True)
                     for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))]
    for thread in self._threads:
      thread.start()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    if self.process.poll() is None:
      self.process.kill()
    self.end()

  @staticmethod
  def _collect(stream, lines):
    for line in stream:
      lines.append(line.rstrip('\n'))
    stream.close()

  def find(self, pattern):
    """Return the re.Match of each line of standard output that matches pattern."""
    return [match for match in (re.search(pattern, line) for line in list(self.lines)) if match]

  def wait_for(self, pattern, count=1, timeout=60):
    """Wait until count lines match pattern; return the last re.Match."""
    deadline = time.monotonic() + timeout
    while len(self.find(pattern)) < count:
      ended = self.process.poll() is not None
      if ended:
        self.end()
      if (ended and len(self.find(pattern)) < count) or time.monotonic() > deadline:
        raise AssertionError(f'{self.process.args[2]}: no {count} lines {pattern!r}; status '
                             f'{self.process.poll()}, printed {self.lines}, {self.errors}')
      time.sleep(0.005)
    return self.find(pattern)[-1]

  def signal(self, number):
    """Send a signal."""
    self.process.send_signal(number)

  def end(self, timeout=60):
    """Wait for the end of the process and of its output; return its status."""
    status = self.process.wait(timeout)
    for thread in self._threads:
      thread.join(timeout)
    return status


# -- What a model folder must be like ----------------------------------------------------


def temporary_files(folder):
  """Return the names in a folder that only an unfinished write has."""
  return sorted(name for name in os.listdir(folder)
                if name.startswith('.') or re.search(r'_temp|\.tempstate|\.tmp', name))


def named_steps(model_dir):
  """Return the steps that the `checkpoint` file names, oldest first."""
  state = tf.train.get_checkpoint_state(str(model_dir))
  return [script_support.step_of(path) for path in state.all_model_checkpoint_paths] if state else []


def steps_of_files(model_dir):
  """Return the steps of all checkpoint files in a folder, named or not."""
  return sorted({int(match.group(1)) for match in
                 (re.search(r'\.ckpt-(\d+)\.(?:index|data-\d+-of-\d+)$', name) for name in os.listdir(model_dir))
                 if match})


def read_whole(checkpoint_path):
  """Read every tensor of a checkpoint; return {name: array}."""
  reader = tf.train.load_checkpoint(str(checkpoint_path))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def check_after_kill(model_dir, model_name):
  """Return the step of the newest checkpoint that the state file names, None if there is no such file.

  Raises:
    Violation: if that checkpoint does not load whole.
  """
  steps = named_steps(model_dir) if os.path.isdir(model_dir) else []
  if not steps:
    return None
  path = os.path.join(model_dir, f'{model_name}-{steps[-1]}')
  try:
    tensors = read_whole(path)
  except Exception as error:
    raise Violation(f'{path} is named but does not load: {error}') from error
  for name, value in tensors.items():
    require(np.all(np.isfinite(value)), f'{path}: {name} is not finite')
  return steps[-1]


def check_at_end(model_dir, model_name):
  """Check the folder of a trainer that ended: all named checkpoints load, and nothing else lies about.

  Raises:
    Violation.
  """
  require(not temporary_files(model_dir), f'temporary files are left: {temporary_files(model_dir)}')
  require('train.pid' not in os.listdir(model_dir), 'train.pid is left')
  require(steps_of_files(model_dir) == named_steps(model_dir),
          f'there are files of the steps {steps_of_files(model_dir)}, named are {named_steps(model_dir)}')
  for step in named_steps(model_dir):
    read_whole(os.path.join(model_dir, f'{model_name}-{step}'))


# -- Killing -----------------------------------------------------------------------------


class Trainer(NamedTuple):
  """A trainer to kill."""
  script: str
  args: tuple  # without --model_dir and the number of steps
  steps_flag: str
  model_dir: str
  model_name: str
  interval: int  # steps from one checkpoint to the next
  line: str  # pattern of the line of a step; group 1 is the step
  start_secs: float  # roughly, until the first step: kills at any time fall into twice of that

  def all_args(self, steps):
    return (*self.args, f'--model_dir={self.model_dir}', f'--{self.steps_flag}={steps}')


def mnist_trainer(data_dir, model_dir, interval=5, **flags):
  """Return the Trainer of mnist_train.py, with small batches and few checkpoints."""
  flags = {'batch_size': 20, 'save_interval_steps': interval, 'max_to_keep': 3, **flags}
  return Trainer('mnist_train.py', (f'--data_dir={data_dir}', *(f'--{name}={flags[name]}' for name in flags)),
                 'training_steps', str(model_dir), 'mnist.ckpt', interval,
                 r'^After (\d+) training step', start_secs=2)


def flower_trainer(photos_file, trunk_ckpt, model_dir):
  """Return the Trainer of flower_finetune.py, which saves every 30 steps, after step 0, 30, ..."""
  args = (f'--input_file={photos_file}', f'--ckpt_file={trunk_ckpt}', '--batch_size=4')
  return Trainer('flower_finetune.py', args, 'steps', str(model_dir), 'flower.ckpt', 30,
                 r'^Step (\d+): Validation accuracy', start_secs=6)


def _unnamed(model_dir):
  """Return the names of checkpoints with an index that the state file does not name."""
  try:
    indices = {name[:-len('.index')] for name in os.listdir(model_dir) if name.endswith('.index')}
    state = pathlib.Path(model_dir, 'checkpoint').read_text()
  except OSError:
    return set()
  return {name for name in indices if f'"{name}"' not in state}


def _at_moment(moment, started, trainer, random, unnamed_before):
  """Wait for a moment to kill; return whether it came."""
  if moment == 'at any time':
    time.sleep(random.uniform(0, 2 * trainer.start_secs))
    return True
  try:
    started.wait_for(trainer.line, count=random.randint(1, 4))
    if moment == 'after a line':
      time.sleep(random.uniform(0, 0.04))
      return True
    deadline = time.monotonic() + MISS_SECS
    time.sleep(random.uniform(0, 0.04))  # not always in the same part of a step
    while time.monotonic() < deadline and started.process.poll() is None:
      if temporary_files(trainer.model_dir) if moment == 'while writing' else (
          _unnamed(trainer.model_dir) - unnamed_before):
        time.sleep(random.choice([0, 0.001, 0.003]))  # not always at the start of the moment
        return True
      time.sleep(POLL_SECS)
    return False
  except AssertionError as error:
    raise Violation(f'the trainer did not get to its steps: {error}') from None


class Round(NamedTuple):
  """What a kill did."""
  moment: str
  hit: bool  # whether the moment came
  went_on_from: int  # step the killed run had gone on from, or None for a new start
  printed: int  # last step printed before the kill, or None
  saved: int  # step of the newest named checkpoint after the kill, or None
  left: list  # temporary files that the kill left


def _check_start(lines, trainer, before):
  """Check what a start after a kill says; return the step it goes on from, None for a new start.

  Args:
    lines: list of str, what it printed.
    trainer: Trainer.
    before: Round before it, None if there was none.
  """
  said = [re.search(r'^Going on from (.+?-(\d+))(?:\.|, after (\d+) training step)', line) for line in lines]
  said = [match for match in said if match]
  step = int(said[0].group(2)) if said else None
  if said and said[0].group(3):
    require(said[0].group(2) == said[0].group(3), f'{said[0].group()}: the name is of another step')
  if before and before.saved is not None:
    require(said, f'step {before.saved} was saved, but the next start does not say it goes on; it printed {lines}')
    require(step == before.saved, f'step {before.saved} was the newest named, but it goes on from {step}')
  if before and before.printed is not None:
    require((step or 0) >= before.printed - trainer.interval,
            f'step {before.printed} was printed, but it goes on from {step}')
  return step


def kill_once(trainer, moment, random, before):
  """Start a trainer, kill it at a moment, and check what it said and left.

  Args:
    trainer: Trainer.
    moment: one of MOMENTS.
    random: numpy.random.RandomState.
    before: Round before, None for the first.

  Returns:
    Round.

  Raises:
    Violation.
  """
  model_dir = trainer.model_dir
  with Started(trainer.script, *trainer.all_args(1_000_000)) as started:
    unnamed_before = _unnamed(model_dir)
    hit = _at_moment(moment, started, trainer, random, unnamed_before)
    require(started.process.poll() is None, f'the trainer ended by itself: {started.lines}, {started.errors}')
    started.signal(signal.SIGKILL)
    started.end()
  require(not started.errors, f'the trainer said {started.errors}')
  steps = [int(match.group(1)) for match in started.find(trainer.line)]
  require(all(step <= later for step, later in zip(steps, steps[1:], strict=False)), f'steps go back: {steps}')
  # Killed before its first step, it may not have come to say anything.
  if steps or any('Going on' in line for line in started.lines):
    went_on_from = _check_start(started.lines, trainer, before)
    printed = steps[-1] if steps else (before.printed if before else None)
  else:
    went_on_from, printed = (before.saved, before.printed) if before else (None, None)
  saved = check_after_kill(model_dir, trainer.model_name)
  if before and before.saved is not None:
    require(saved is not None and saved >= before.saved, f'step {before.saved} was saved, now it is {saved}')
  if printed is not None:
    require((saved or 0) >= printed - trainer.interval, f'step {printed} was printed, but {saved} is saved')
  left = temporary_files(model_dir) if os.path.isdir(model_dir) else []
  return Round(moment, hit, went_on_from, printed, saved, left)


def kill_rounds(trainer, rounds, seed=0, moments=MOMENTS, report=None):
  """Kill a trainer that often, then let it run to its end; check after each kill.

  What it leaves in its folder at the end is for `check_at_end`.

  Args:
    trainer: Trainer.
    rounds: int.
    seed: int, of the moments and delays.
    moments: the moments to choose from; each comes once before one comes twice.
    report: function of (number of the round, Round), or None.

  Returns:
    (the Rounds, steps of the finished run).

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
  steps = (done[-1].saved or 0) + 2 * trainer.interval + 3
  finished = support.run_script(trainer.script, *trainer.all_args(steps), timeout=300)
  require(finished.returncode == 0 and not finished.stderr,
          f'the run after the last kill ended with status {finished.returncode}: {finished.stderr}')
  _check_start(finished.stdout.splitlines(), trainer, done[-1])
  return done, steps


# -- Accuracy of what was killed and of what was not -------------------------------------


def evaluate_mnist(data_dir, model_dir, *flags):
  """Return (step, accuracy) of the newest checkpoint as mnist_eval.py prints them."""
  result = support.run_script('mnist_eval.py', f'--data_dir={data_dir}', f'--model_dir={model_dir}', '--run_once',
                              '--split=test', *flags)
  match = re.search(r'^After (\d+) training step\(s\), test accuracy = (\S+)$', result.stdout, re.MULTILINE)
  require(result.returncode == 0 and match, f'mnist_eval.py: {result}')
  return int(match.group(1)), float(match.group(2))


def undisturbed_accuracies(trainer, data_dir, steps, seeds):
  """Return the test accuracies of mnist_train.py without kills, one for each seed."""
  accuracies = []
  for seed in seeds:
    with tempfile.TemporaryDirectory() as model_dir:
      # Only the weights at the end count here, and saving takes most of the time.
      other = trainer._replace(model_dir=model_dir, args=(*trainer.args, f'--seed={seed}',
                                                          '--save_interval_steps=1000000'))
      result = support.run_script(other.script, *other.all_args(steps), timeout=600)
      require(result.returncode == 0, f'an undisturbed run failed: {result}')
      accuracies.append(evaluate_mnist(data_dir, model_dir)[1])
  return accuracies


def check_accuracy(accuracy, undisturbed):
  """Check that an accuracy is what undisturbed runs reach.

  A few seeds do not show the whole spread, so it is widened by its own width, and by what
  a handful of images make.

  Raises:
    Violation.
  """
  margin = max(undisturbed) - min(undisturbed) + 0.01
  require(min(undisturbed) - margin <= accuracy <= max(undisturbed) + margin,
          f'accuracy {accuracy:g} after kills, but {min(undisturbed):g} to {max(undisturbed):g} without')


# -- By hand -----------------------------------------------------------------------------


def make_flower_inputs(folder):
  """Write made-up photos, preprocessed, and an Inception-v3 of random weights; return their paths."""
  import flower_inference
  import flower_preprocess
  photos_file, trunk = os.path.join(folder, 'photos.npy'), os.path.join(folder, 'inception_v3.ckpt')
  flower_preprocess.preprocess(str(support.write_photos(os.path.join(folder, 'photos'))), photos_file,
                               testing_percentage=20, validation_percentage=20, seed=1)
  with tf.Graph().as_default(), tf.Session() as sess:
    tf.set_random_seed(5)
    flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 3, False)
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(flower_inference.get_tuned_variables()).save(sess, trunk, write_meta_graph=False,
                                                                 write_state=False)
  return photos_file, trunk


def _report(number, done):
  print(f'round {number + 1}: killed {done.moment}{"" if done.hit else " (which did not come)"}, went on from '
        f'{done.went_on_from}, printed {done.printed}, saved {done.saved}, left {done.left}', flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=50)
  parser.add_argument('--script', choices=['mnist', 'flower'], default='mnist')
  parser.add_argument('--data_dir', help='folder of MNIST files; made-up digits if not given')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  parser.add_argument('--undisturbed', type=int, default=5, help='runs without kills to compare accuracies with')
  options = parser.parse_args()
  folder = tempfile.mkdtemp(prefix='faults-')
  model_dir = os.path.join(folder, 'model')
  start = time.monotonic()
  try:
    if options.script == 'mnist':
      data_dir = os.path.abspath(options.data_dir) if options.data_dir else (
          support.write_mnist(os.path.join(folder, 'data'), test=1000))
      trainer = mnist_trainer(data_dir, model_dir)
    else:
      trainer = flower_trainer(*make_flower_inputs(folder), model_dir)
    rounds, steps = kill_rounds(trainer, options.rounds, options.seed, report=_report)
    if options.script == 'mnist':
      step, accuracy = evaluate_mnist(data_dir, model_dir)
      require(step == steps, f'the last step is {steps}, scored is {step}')
      undisturbed = undisturbed_accuracies(trainer, data_dir, steps, range(1, options.undisturbed + 1))
      print(f'accuracy {accuracy:g} after kills; without, {steps} steps each: '
            f'{", ".join(f"{value:g}" for value in sorted(undisturbed))}')
      check_accuracy(accuracy, undisturbed)
    check_at_end(model_dir, trainer.model_name)
  except Violation as violation:
    print(f'VIOLATION: {violation}\nThe folder is kept: {folder}')
    return 1
  shutil.rmtree(folder)
  hits = ', '.join(f'{sum(each.moment == moment and each.hit for each in rounds)} {moment}' for moment in MOMENTS)
  print(f'{len(rounds)} kills of {trainer.script} in {time.monotonic() - start:.0f} s ({hits}; '
        f'{sum(bool(each.left) for each in rounds)} left temporary files, all swept), {steps} steps: no violation')
  return 0


if __name__ == '__main__':
  sys.exit(main())
