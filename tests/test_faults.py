"""What goes wrong around the scripts: kills, stop signals, damaged checkpoints, a full or read-only disk, and
several processes on one model folder. The long form of the kills is `python tests/faults.py`."""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import script_support

import faults
import pytest
import support

import flower_preprocess

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='signals and mounts as POSIX has them')

MNIST_LINE = r'^After (\d+) training step'
FOREVER = '--training_steps=1000000'
# For a trainer that others run beside: it leaves them a core.
ONE_CORE = {**os.environ, 'TF_NUM_INTRAOP_THREADS': '1', 'TF_NUM_INTEROP_THREADS': '1'}


@pytest.fixture(autouse=True)
def interruptible():
  """Scripts started here take Ctrl-C, even where pytest itself runs in the background of a shell."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
  """As mnist_dir, with more test images, so that the accuracies of weights that differ, differ."""
  return support.write_mnist(tmp_path_factory.mktemp('digits'), test=1000)


def mnist_args(data_dir, model_dir, *more):
  return (f'--data_dir={data_dir}', f'--model_dir={model_dir}', '--batch_size=20', *more)


@pytest.fixture(scope='session')
def saved_dir(digits_dir, tmp_path_factory):
  """A model folder with checkpoints of the steps 1, 6 and 8."""
  folder = tmp_path_factory.mktemp('saved')
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, folder, '--training_steps=8',
                                                            '--save_interval_steps=5'))
  assert (result.returncode, result.stderr) == (0, '')
  assert faults.named_steps(folder) == [1, 6, 8]
  return folder


@pytest.fixture
def model_dir(saved_dir, tmp_path):
  """A copy of saved_dir to spoil."""
  return pathlib.Path(shutil.copytree(saved_dir, tmp_path / 'model'))


def contents(folder):
  """Return {name: bytes} of the files in a folder."""
  return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.is_file()}


def data_path(model_dir, step):
  return model_dir / f'mnist.ckpt-{step}.data-00000-of-00001'


def one_error_line(result, script):
  """Assert that a script failed with one line on standard error, no traceback; return the line."""
  lines = result.stderr.splitlines()
  assert result.returncode == 1 and len(lines) == 1 and lines[0].startswith(f'{script}: error: '), result
  return lines[0]


# -- A. Kills ----------------------------------------------------------------------------


def test_mnist_training_survives_kills(digits_dir, tmp_path):
  trainer = faults.mnist_trainer(digits_dir, tmp_path / 'model')
  rounds, steps = faults.kill_rounds(trainer, 4, seed=3)
  assert sorted(done.moment for done in rounds) == sorted(faults.MOMENTS)
  assert rounds[-1].saved and rounds[-1].printed  # the kills hit a trainer at work
  step, accuracy = faults.evaluate_mnist(digits_dir, trainer.model_dir)
  assert step == steps
  faults.check_accuracy(accuracy, faults.undisturbed_accuracies(trainer, digits_dir, steps, seeds=(2, 3)))
  faults.check_at_end(trainer.model_dir, trainer.model_name)


def test_flower_training_survives_a_kill_while_it_saves(photos_file, trunk_ckpt, tmp_path):
  trainer = faults.flower_trainer(photos_file, trunk_ckpt, tmp_path / 'model')
  rounds, steps = faults.kill_rounds(trainer, 1, seed=1, moments=['while writing'])
  assert rounds[0].hit
  assert faults.named_steps(trainer.model_dir)[-1] == steps - 1  # named after the last step, counted from 0
  faults.check_at_end(trainer.model_dir, trainer.model_name)


def test_next_start_sweeps_what_a_kill_while_deleting_left(model_dir, digits_dir):
  # A checkpoint that is no longer named and only partly deleted, and one that is not yet deleted.
  (model_dir / 'mnist.ckpt-1.index').unlink()
  (model_dir / 'checkpoint').write_text('model_checkpoint_path: "mnist.ckpt-8"\n'
                                        'all_model_checkpoint_paths: "mnist.ckpt-8"\n')
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, model_dir, '--training_steps=9'))
  assert result.returncode == 0 and 'mnist.ckpt-8, after 8 training step(s).' in result.stdout, result
  faults.check_at_end(model_dir, 'mnist.ckpt')
  assert faults.named_steps(model_dir) == [8, 9]


def test_next_start_sweeps_temporary_files_of_a_killed_one(model_dir, digits_dir):
  left = ['mnist.ckpt-9.data-00000-of-00001.tempstate123', 'mnist.ckpt-9.index.tempstate123',
          'checkpoint.tmp0a1b2c', '.train.pid.abcdefgh.tmp']
  for name in left:
    (model_dir / name).write_bytes(b'x')
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, model_dir, '--training_steps=9'))
  assert (result.returncode, result.stderr) == (0, '')
  faults.check_at_end(model_dir, 'mnist.ckpt')


# -- B. Damaged checkpoints and state files ----------------------------------------------


def cut_data(model_dir, step):
  path = data_path(model_dir, step)
  os.truncate(path, path.stat().st_size // 2)


def remove_data(model_dir, step):
  data_path(model_dir, step).unlink()


def change_data(model_dir, step):
  path = data_path(model_dir, step)
  content = bytearray(path.read_bytes())
  for place in (1, 3):  # in the first dense layer's weights, and in their moving averages
    content[len(content) * place // 4] ^= 1
  path.write_bytes(content)


def cut_index(model_dir, step):
  path = model_dir / f'mnist.ckpt-{step}.index'
  os.truncate(path, path.stat().st_size // 2)


def empty_index(model_dir, step):
  os.truncate(model_dir / f'mnist.ckpt-{step}.index', 0)


def remove_index(model_dir, step):
  (model_dir / f'mnist.ckpt-{step}.index').unlink()


DAMAGES = [cut_data, remove_data, change_data, cut_index, empty_index, remove_index]


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_checkpoint_is_skipped(damage, model_dir, digits_dir):
  damage(model_dir, 8)
  before = contents(model_dir)
  result = support.run_script('mnist_eval.py', f'--data_dir={digits_dir}', f'--model_dir={model_dir}',
                              '--run_once', '--split=test')
  assert result.returncode == 0 and 'After 6 training step(s), test accuracy' in result.stdout, result
  lines = result.stderr.splitlines()
  assert len(lines) == 1 and 'mnist.ckpt-8' in lines[0] and lines[0].endswith('skipped'), result
  assert contents(model_dir) == before
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, model_dir, '--training_steps=9'))
  assert result.returncode == 0 and 'mnist.ckpt-6, after 6 training step(s).' in result.stdout, result
  lines = result.stderr.splitlines()
  assert len(lines) == 1 and 'mnist.ckpt-8' in lines[0] and lines[0].endswith('skipped'), result
  assert faults.named_steps(model_dir) == [1, 6, 9]
  faults.read_whole(model_dir / 'mnist.ckpt-9')


def test_without_a_whole_checkpoint_nothing_is_overwritten(model_dir, digits_dir):
  for damage, step in ((cut_data, 1), (empty_index, 6), (remove_data, 8)):
    damage(model_dir, step)
  before = contents(model_dir)
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, model_dir, '--training_steps=9'))
  *skipped, error = result.stderr.splitlines()
  assert result.returncode == 1 and 'none of the 3 checkpoints' in error, result
  assert len(skipped) == 3 and all(line.endswith('skipped') for line in skipped), result
  assert 'After' not in result.stdout
  assert contents(model_dir) == before
  result = support.run_script('mnist_eval.py', f'--data_dir={digits_dir}', f'--model_dir={model_dir}',
                              '--run_once')
  assert result.returncode == 1 and result.stdout.endswith('\nNo checkpoint file found\n'), result
  assert len(result.stderr.splitlines()) == 3 and 'Traceback' not in result.stderr, result
  assert contents(model_dir) == before


@pytest.mark.parametrize('state', [None, b'', b'no state file', b'\xff\xfe\x00\x01',
                                   b'model_checkpoint_path: "mnist.ck'],
                         ids=['missing', 'empty', 'text', 'bytes', 'cut'])
def test_spoiled_state_file_does_not_start_training_anew(state, model_dir, digits_dir):
  if state is None:
    (model_dir / 'checkpoint').unlink()
  else:
    (model_dir / 'checkpoint').write_bytes(state)
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, model_dir, '--training_steps=9'))
  assert result.returncode == 0 and 'mnist.ckpt-8, after 8 training step(s).' in result.stdout, result
  assert 'Traceback' not in result.stderr
  assert faults.named_steps(model_dir) == [1, 6, 8, 9]


@pytest.mark.parametrize('polling', ['--run_once', '--timeout_secs=0.5'])
@pytest.mark.parametrize('state', [b'', b'no state file', b'\xff\xfe\x00\x01'], ids=['empty', 'text', 'bytes'])
def test_spoiled_state_file_does_not_stop_evaluation(state, polling, model_dir, digits_dir):
  (model_dir / 'checkpoint').write_bytes(state)
  result = support.run_script('mnist_eval.py', f'--data_dir={digits_dir}', f'--model_dir={model_dir}',
                              '--split=test', '--eval_interval_secs=0.1', polling)
  assert 'Traceback' not in result.stderr
  # A poller may wait for the trainer to write the file anew; it must not end by an error.
  assert result.returncode == 0 and 'After 8 training' in result.stdout or (
      polling != '--run_once' and result.stdout.endswith('\nNo checkpoint file found\n')), result


# -- C and E. Trainer and evaluators at the same time ------------------------------------


def scores(lines):
  """Return [(step, accuracy)] that an evaluator printed."""
  return [(int(match.group(1)), match.group(2)) for match in
          (re.search(r'^After (\d+) training step\(s\), test accuracy = (\S+)$', line) for line in lines) if match]


def test_evaluators_follow_a_trainer_that_deletes_checkpoints(digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = (f'--data_dir={digits_dir}', f'--model_dir={folder}', '--split=test')
  with contextlib.ExitStack() as stack:
    # It learns slowly, so that the accuracies differ from step to step.
    trainer = stack.enter_context(faults.Started('mnist_train.py', *mnist_args(
        digits_dir, folder, '--save_interval_steps=20', '--max_to_keep=2', '--learning_rate_base=0.0005',
        FOREVER), env=ONE_CORE))
    trainer.wait_for(MNIST_LINE)
    evaluators = [stack.enter_context(faults.Started('mnist_eval.py', *args, '--eval_interval_secs=0.2',
                                                     '--timeout_secs=6')) for _ in range(3)]
    for evaluator in evaluators:
      evaluator.wait_for(MNIST_LINE, count=3)
    trainer.signal(signal.SIGTERM)  # it saves its last step
    assert trainer.end() == 0 and not trainer.errors
    statuses = [evaluator.end() for evaluator in evaluators]
  assert statuses == [0, 0, 0], [evaluator.errors for evaluator in evaluators]
  last = int(re.search(r'mnist\.ckpt-(\d+)$', trainer.lines[-1]).group(1))
  of_step = {}
  for evaluator in evaluators:
    # It may say that a checkpoint went away while it was read, and nothing else.
    assert all(line.endswith('skipped') for line in evaluator.errors), evaluator.errors
    steps = [step for step, _ in scores(evaluator.lines)]
    assert steps == sorted(set(steps)) and steps[-1] == last, (steps, last)
    for step, accuracy in scores(evaluator.lines):
      of_step.setdefault(step, set()).add(accuracy)
  assert all(len(accuracies) == 1 for accuracies in of_step.values()), of_step
  assert len(set().union(*of_step.values())) > 1, of_step  # or the comparison says nothing
  assert faults.evaluate_mnist(digits_dir, folder) == (last, float(*of_step[last]))


def test_evaluations_from_cron_while_training_runs(digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = (f'--data_dir={digits_dir}', f'--model_dir={folder}', '--run_once', '--split=test')
  started = []
  with contextlib.ExitStack() as stack:
    trainer = stack.enter_context(faults.Started('mnist_train.py', *mnist_args(
        digits_dir, folder, '--save_interval_steps=20', FOREVER), env=ONE_CORE))
    for number in range(6):
      if number == 2:  # the second line means that the first checkpoint is named: from here on each finds one
        trainer.wait_for(MNIST_LINE, count=2)
      started.append(stack.enter_context(faults.Started('mnist_eval.py', *args)))
      next_start = time.monotonic() + 1
      while time.monotonic() < next_start:  # as cron would, whether or not the one before has ended
        assert trainer.process.poll() is None, trainer.errors
        time.sleep(0.02)
    statuses = [each.end() for each in started]
    trainer.signal(signal.SIGTERM)
    assert trainer.end() == 0
  said = [(status, each.lines[1:], each.errors) for each, status in zip(started, statuses, strict=True)]
  for number, (status, lines, errors) in enumerate(said):
    assert errors == [], said
    if status == 0:
      assert len(lines) == len(scores(lines)) == 1, said
    else:
      assert number < 2 and (status, lines) == (1, ['No checkpoint file found']), said


# -- D. Two trainers on one folder -------------------------------------------------------


def test_second_trainer_stops_and_takes_over_after_a_kill(digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = mnist_args(digits_dir, folder, '--save_interval_steps=20', FOREVER)
  with faults.Started('mnist_train.py', *args) as first:
    first.wait_for(MNIST_LINE)
    second = support.run_script('mnist_train.py', *mnist_args(digits_dir, folder))
    line = one_error_line(second, 'mnist_train.py')
    assert f'process {first.process.pid} is training' in line
    first.wait_for(MNIST_LINE, count=2)  # a second save means that the first is done
    first.signal(signal.SIGKILL)
    first.end()
  step = faults.named_steps(folder)[-1]
  third = support.run_script('mnist_train.py', *mnist_args(digits_dir, folder, f'--training_steps={step + 1}'))
  assert (third.returncode, third.stderr) == (0, '')
  assert f'Going on from {folder}/mnist.ckpt-{step}, after {step} training step(s).' in third.stdout
  faults.check_at_end(folder, 'mnist.ckpt')


def test_second_flower_trainer_stops(photos_file, trunk_ckpt, tmp_path):
  folder = tmp_path / 'model'
  with script_support.folder_lock(str(folder)):
    result = support.run_script('flower_finetune.py', f'--input_file={photos_file}', f'--ckpt_file={trunk_ckpt}',
                                f'--model_dir={folder}')
    assert f'process {os.getpid()} is training' in one_error_line(result, 'flower_finetune.py')
    assert sorted(os.listdir(folder)) == ['train.lock', 'train.pid']


# -- F. Full and read-only disks, permissions, folders -----------------------------------


@contextlib.contextmanager
def small_disk(path, megabytes):
  """A file system of that size, mounted at path for the block; skips the test where none can be mounted."""
  path.mkdir()
  if not sys.platform.startswith('linux') or os.geteuid() != 0:
    pytest.skip('only root on Linux can mount a small file system')
  mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m,mode=755', 'tmpfs', path],
                           capture_output=True, text=True)
  if mounted.returncode:
    pytest.skip(f'no file system can be mounted: {mounted.stderr.strip()}')
  try:
    yield path
  finally:
    subprocess.run(['umount', path], check=True)


def fill(folder):
  """Leave no byte free on the file system of a folder."""
  with open(folder / 'filler', 'wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(b'x' * 4096)


def make_read_only(folder):
  subprocess.run(['mount', '-o', 'remount,ro', folder], check=True)


def test_disk_full_at_a_later_checkpoint(digits_dir, tmp_path):
  with small_disk(tmp_path / 'disk', 34) as disk:  # 13.3 MB a checkpoint: the third does not fit
    folder = disk / 'model'
    args = mnist_args(digits_dir, folder, '--save_interval_steps=5', '--training_steps=30')
    result = support.run_script('mnist_train.py', *args)
    assert 'cannot save step 11' in one_error_line(result, 'mnist_train.py')
    assert faults.temporary_files(folder) == []
    assert faults.named_steps(folder) == [1, 6]
    for step in (1, 6):
      faults.read_whole(folder / f'mnist.ckpt-{step}')
    # Going on where there is still no room fails in the same way; where there is, it goes on.
    result = support.run_script('mnist_train.py', *args)
    assert 'cannot save step 11' in one_error_line(result, 'mnist_train.py')
    assert faults.temporary_files(folder) == []
    subprocess.run(['mount', '-o', 'remount,size=60m', disk], check=True)
    result = support.run_script('mnist_train.py', *args, '--training_steps=12', '--save_interval_steps=20')
    assert (result.returncode, result.stderr) == (0, ''), result
    assert 'mnist.ckpt-6, after 6' in result.stdout
    faults.check_at_end(folder, 'mnist.ckpt')


def test_disk_full_from_the_start_of_training(digits_dir, saved_dir, tmp_path):
  with small_disk(tmp_path / 'disk', 42) as disk:
    folder = pathlib.Path(shutil.copytree(saved_dir, disk / 'model', ignore=shutil.ignore_patterns('train')))
    before = contents(folder)
    fill(disk)
    result = support.run_script('mnist_train.py', *mnist_args(digits_dir, folder, '--training_steps=9'))
    one_error_line(result, 'mnist_train.py')
    assert contents(folder) == before
    assert faults.temporary_files(folder) == []
    faults.read_whole(folder / 'mnist.ckpt-8')


def test_disk_full_or_read_only_while_evaluating(digits_dir, saved_dir, tmp_path):
  with small_disk(tmp_path / 'disk', 42) as disk:
    folder = pathlib.Path(shutil.copytree(saved_dir, disk / 'model', ignore=shutil.ignore_patterns('train')))
    args = (f'--data_dir={digits_dir}', f'--model_dir={folder}', '--run_once', '--split=test')
    before = contents(folder)
    fill(disk)
    one_error_line(support.run_script('mnist_eval.py', *args), 'mnist_eval.py')
    assert contents(folder) == before
    (disk / 'filler').unlink()
    shutil.rmtree(folder / 'eval_test', ignore_errors=True)
    make_read_only(disk)
    one_error_line(support.run_script('mnist_eval.py', *args), 'mnist_eval.py')
    result = support.run_script('mnist_train.py', *mnist_args(digits_dir, folder, '--training_steps=9'))
    assert 'Read-only file system' in one_error_line(result, 'mnist_train.py')
    assert contents(folder) == before


def test_disk_full_or_read_only_while_preprocessing(photos_dir, tmp_path):
  with small_disk(tmp_path / 'disk', 10) as disk:  # 24 photos of 1.07 MB
    args = (f'--input_dir={photos_dir}', f'--output_file={disk / "photos.npy"}')
    result = support.run_script('flower_preprocess.py', *args)
    assert 'No space left' in one_error_line(result, 'flower_preprocess.py')
    assert os.listdir(disk) == []
    make_read_only(disk)
    result = support.run_script('flower_preprocess.py', *args)
    assert 'Read-only file system' in one_error_line(result, 'flower_preprocess.py')


def test_failed_preprocessing_keeps_the_output_before(photos_dir, photos_file, tmp_path):
  with small_disk(tmp_path / 'disk', 40) as disk:  # room for one output of 26 MB
    for path in (photos_file, photos_file.with_suffix('.json')):
      shutil.copy(path, disk)
    before = contents(disk)
    result = support.run_script('flower_preprocess.py', f'--input_dir={photos_dir}',
                                f'--output_file={disk / photos_file.name}')
    one_error_line(result, 'flower_preprocess.py')
    assert contents(disk) == before


def test_disk_full_or_read_only_while_finetuning(photos_file, trunk_ckpt, tmp_path):
  with small_disk(tmp_path / 'disk', 180) as disk:  # 118 MB a checkpoint: the second does not fit
    folder = disk / 'model'
    args = (f'--input_file={photos_file}', f'--ckpt_file={trunk_ckpt}', f'--model_dir={folder}', '--batch_size=4',
            '--steps=40')
    result = support.run_script('flower_finetune.py', *args)
    assert 'cannot save step 30' in one_error_line(result, 'flower_finetune.py')
    assert faults.temporary_files(folder) == []
    assert faults.named_steps(folder) == [0]
    faults.read_whole(folder / 'flower.ckpt-0')
    make_read_only(disk)
    result = support.run_script('flower_finetune.py', *args)
    assert 'Read-only file system' in one_error_line(result, 'flower_finetune.py')


_become_script = support._become_script


def become_script_under_permissions(*args):
  """As support's, where permissions count for root too: without two of its capabilities."""
  header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this process
  libc = ctypes.CDLL(None)
  libc.capget(header, sets)
  sets[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
  libc.capset(header, sets)
  _become_script(*args)


def test_missing_permission(digits_dir, model_dir, photos_dir, photos_file, trunk_ckpt, tmp_path, monkeypatch):
  if os.geteuid() == 0:
    if not sys.platform.startswith('linux'):
      pytest.skip('permissions do not count for root, and only Linux can change that')
    monkeypatch.setattr(support, '_become_script', become_script_under_permissions)
  secret, fixed = tmp_path / 'secret', tmp_path / 'fixed'
  secret.mkdir(mode=0o000)
  fixed.mkdir(mode=0o555)
  before = contents(model_dir)
  model_dir.chmod(0o555)
  data = f'--data_dir={digits_dir}'
  try:
    for script, *args in (
        ('mnist_train.py', data, f'--model_dir={model_dir}', '--training_steps=9', '--batch_size=20'),
        ('mnist_eval.py', data, f'--model_dir={model_dir}', '--run_once', '--split=test'),
        ('mnist_train.py', f'--data_dir={secret}', f'--model_dir={tmp_path / "other"}'),
        ('flower_preprocess.py', f'--input_dir={photos_dir}', f'--output_file={fixed / "o.npy"}'),
        ('flower_preprocess.py', f'--input_dir={secret}', f'--output_file={tmp_path / "o.npy"}'),
        ('flower_finetune.py', f'--input_file={photos_file}', f'--ckpt_file={trunk_ckpt}',
         f'--model_dir={fixed}')):
      result = support.run_script(script, *args)
      assert 'ermission denied' in one_error_line(result, script), result
  finally:
    for folder in (model_dir, secret, fixed):
      folder.chmod(0o755)
  assert contents(model_dir) == before
  assert os.listdir(secret) == os.listdir(fixed) == []
  assert not (tmp_path / 'o.npy').exists()


def test_missing_folders(digits_dir, photos_dir, photos_file, trunk_ckpt, tmp_path):
  missing, file, incomplete = tmp_path / 'missing', tmp_path / 'file', tmp_path / 'incomplete'
  file.write_text('')
  incomplete.mkdir()
  (incomplete / 'README').write_text('')  # an empty folder would be filled from the network
  for script, args, expected in (
      ('mnist_train.py', mnist_args(incomplete, tmp_path / 'model'), 'incomplete'),
      ('mnist_train.py', mnist_args(digits_dir, file / 'model'), 'Not a directory'),
      ('mnist_train.py', mnist_args(digits_dir, file), 'file'),
      ('mnist_eval.py', (f'--data_dir={incomplete}', '--run_once'), 'incomplete'),
      ('flower_preprocess.py', (f'--input_dir={missing}', f'--output_file={tmp_path / "o.npy"}'), 'missing'),
      ('flower_preprocess.py', (f'--input_dir={photos_dir}', f'--output_file={file / "o.npy"}'), 'file'),
      ('flower_finetune.py', (f'--input_file={missing / "o.npy"}', f'--model_dir={tmp_path / "m"}'), 'missing'),
      ('flower_finetune.py', (f'--input_file={photos_file}', f'--ckpt_file={trunk_ckpt}', f'--model_dir={file}'),
       'file')):
    assert expected in one_error_line(support.run_script(script, *args), script)
  assert sorted(os.listdir(tmp_path)) == ['file', 'incomplete'] and file.read_text() == ''
  result = support.run_script('mnist_eval.py', f'--data_dir={digits_dir}', f'--model_dir={missing}', '--run_once')
  assert (result.returncode, result.stderr) == (1, '') and result.stdout.endswith('\nNo checkpoint file found\n')
  assert not missing.exists()


# -- G. Signals --------------------------------------------------------------------------


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopped_training_saves_and_goes_on(number, digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = mnist_args(digits_dir, folder, '--save_interval_steps=20', FOREVER)
  with faults.Started('mnist_train.py', *args) as started:
    started.wait_for(MNIST_LINE, count=2)
    started.signal(number)
    assert started.end() == 0 and started.errors == []
  match = re.fullmatch(rf'Stopped by {number.name}; run again to go on\. Saved (.*-(\d+))', started.lines[-1])
  assert match, started.lines[-1]
  path, step = match.group(1), int(match.group(2))
  assert faults.named_steps(folder)[-1] == step and path == str(folder / f'mnist.ckpt-{step}')
  assert int(faults.read_whole(path)['global_step']) == step
  result = support.run_script('mnist_train.py', *mnist_args(digits_dir, folder, f'--training_steps={step + 1}'))
  assert (result.returncode, result.stderr) == (0, '')
  assert f'Going on from {path}, after {step} training step(s).' in result.stdout
  faults.check_at_end(folder, 'mnist.ckpt')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopped_polling_ends_well(number, digits_dir, saved_dir, tmp_path):
  folder = shutil.copytree(saved_dir, tmp_path / 'model')
  args = (f'--data_dir={digits_dir}', f'--model_dir={folder}', '--split=test')
  with faults.Started('mnist_eval.py', *args) as started:
    started.wait_for(r'^After 8 training step\(s\), test accuracy')
    started.signal(number)  # in the middle of the ten seconds between two looks
    assert started.end(timeout=8) == 0 and started.errors == []
  assert [step for step, _ in scores(started.lines)] == [1, 6, 8]


@pytest.fixture(scope='session')
def many_photos_dir(tmp_path_factory):
  """Photos enough for a signal to come in the middle of their preprocessing."""
  return support.write_photos(tmp_path_factory.mktemp('many'), count=60)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_stopped_preprocessing_leaves_nothing_half_written(number, many_photos_dir, photos_dir, tmp_path):
  output = tmp_path / 'photos.npy'
  args = (f'--output_file={output}',)
  with faults.Started('flower_preprocess.py', f'--input_dir={many_photos_dir}', *args) as started:
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 10_000_000 for path in tmp_path.glob('.photos.npy.*')):
      assert started.process.poll() is None and time.monotonic() < deadline, started.errors
      time.sleep(0.001)
    started.signal(number)
    status = started.end()
  assert not output.exists() and not output.with_suffix('.json').exists()
  if number == signal.SIGKILL:
    assert status == -number
  else:
    assert (status, started.errors) == (130, ['flower_preprocess.py: interrupted'])
    assert os.listdir(tmp_path) == []
  # The next run is not bothered by what a killed one left under other names.
  result = support.run_script('flower_preprocess.py', f'--input_dir={photos_dir}', *args)
  assert (result.returncode, result.stderr) == (0, '')
  assert sorted(name for name in os.listdir(tmp_path) if name[0] != '.') == ['photos.json', 'photos.npy']
  assert not flower_preprocess.load_processed_data(str(output)).files[24:]
