"""Model folders: whatever their names, whatever lies in them, whoever else is at work in them."""
import contextlib
import json
import os
import re
import shutil

import kills
import numpy as np
import pytest
import running
import spoiling

import mnist_eval
import mnist_input
import mnist_train
from support import checkpoints, console
from support.quiet_tensorflow import tf

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='names and processes as POSIX has them')


def train(digits, model_dir, steps, **changes):
  """Train in this process, with batches of 20."""
  changes = {'batch_size': 20, 'save_interval_steps': 5, **changes}
  return mnist_train.train(digits, mnist_train.FLAGS.options(
      model_dir=str(model_dir), training_steps=steps, **changes))


def evaluate(digits, model_dir, **changes):
  """Score the newest checkpoint, or with run_once=False all, in this process."""
  return mnist_eval.evaluate(digits, mnist_eval.FLAGS.options(
      **{'model_dir': str(model_dir), 'split': 'test', 'run_once': True, **changes}))


# -- Names -------------------------------------------------------------------------------


@pytest.mark.parametrize('script', [
    'mnist_train', 'mnist_eval', 'mnist_predict', 'mnist_export', 'flower_finetune',
    'flower_predict', 'flower_export'])
def test_a_name_that_is_a_pattern_is_refused_in_one_line(script, tmp_path):
  for name in ('run[1]', 'run*', 'run?', 'back\\slash'):
    result = running.run_script(f'{script}.py', f'--model_dir={name}', cwd=tmp_path)
    line = spoiling.one_line(result, status=2)
    assert f'--model_dir={name}' in line and 'takes for a pattern: choose a name without' in line
  assert os.listdir(tmp_path) == []


def test_other_names_work_and_are_printed_on_one_line(digits, digits_dir, tmp_path):
  folder = tmp_path / '两 words\nand a line'
  train(digits, folder, 3)
  assert train(digits, folder, 4) == os.path.join(folder, 'mnist.ckpt-4')
  result = running.run_script('mnist_eval.py', *mnist_args(digits_dir, folder, '--run_once'))
  assert (result.returncode, result.stderr) == (0, '')
  assert result.stdout.splitlines()[0].endswith(f'from {tmp_path}/两 words\\nand a line.')


def test_the_folder_above_a_link_is_the_one_that_the_system_means(digits, digits_dir, tmp_path):
  """TensorFlow shortens link/../model as text, to model."""
  for folder, steps in (('here/model', 1), ('there/model', 2)):
    train(digits, tmp_path / folder, steps)
  (tmp_path / 'there' / 'inside').mkdir()
  (tmp_path / 'here' / 'link').symlink_to(tmp_path / 'there' / 'inside')
  args = mnist_args(digits_dir, 'link/../model', '--run_once')
  result = running.run_script('mnist_eval.py', *args, cwd=tmp_path / 'here')
  assert result.returncode == 0 and 'After 2 training step(s)' in result.stdout


def test_a_home_folder_and_no_remote_place(digits_dir, tmp_path):
  args = (f'--data_dir={digits_dir}', '--validation_size=50', '--training_steps=1')
  result = running.run_script('mnist_train.py', *args, '--model_dir=~/model', cwd=tmp_path,
                              env={'HOME': str(tmp_path)})
  assert (result.returncode, result.stderr) == (0, '')
  assert sorted(os.listdir(tmp_path)) == ['model']
  result = running.run_script('mnist_train.py', *args, '--model_dir=ram://x', cwd=tmp_path)
  assert '--model_dir=ram://x' in spoiling.one_line(result, status=2)
  assert sorted(os.listdir(tmp_path)) == ['model']


# -- The disk decides --------------------------------------------------------------------


def state_naming(path):
  return b'model_checkpoint_path: "%s"\nall_model_checkpoint_paths: "%s"\n' % (path, path)


@pytest.mark.parametrize('state', [
    None, b'', b'no state file', b'\xff\xfe\x00\x01', b'model_checkpoint_path: "mnist.ck',
    state_naming(b'flower.ckpt-30'), state_naming(rb'C:\\Users\\me\\model\\mnist.ckpt-900'),
    state_naming(b'/elsewhere/mnist.ckpt-3'), state_naming(b'mnist.ckpt-99'),
    state_naming(b'mnist.ckpt-1')], ids=[
        'missing', 'empty', 'text', 'bytes', 'cut', 'another model', 'Windows', 'elsewhere',
        'nothing that exists', 'fewer than there are'])
def test_the_state_file_hides_no_checkpoint(state, model_dir, digits, capsys):
  (model_dir / 'checkpoint').unlink()
  if state is not None:
    (model_dir / 'checkpoint').write_bytes(state)
  evaluate(digits, model_dir)
  evaluate(digits, model_dir, run_once=False, timeout_secs=0)
  train(digits, model_dir, 9)
  out, err = capsys.readouterr()
  assert re.findall(r'^After (\d+) .* test', out, re.M) == ['8', '1', '6', '8']
  assert f'Going on from {model_dir}/mnist.ckpt-8, after 8' in out and err == ''
  assert list(kills.steps_of_files(model_dir)) == [1, 6, 8, 9]
  assert kills.named_steps(model_dir) == [1, 6, 8, 9]


def test_a_folder_of_another_model_is_refused(model_dir, digits):
  for path in model_dir.glob('mnist.ckpt-*'):
    path.rename(model_dir / path.name.replace('mnist.', 'flower.'))
  before = spoiling.snapshot(model_dir)
  with pytest.raises(console.UserError, match=r'another model, flower\.ckpt-1.*another folder'):
    train(digits, model_dir, 9)
  assert evaluate(digits, model_dir) is None
  assert spoiling.snapshot(model_dir) == before


# -- Damaged checkpoints -----------------------------------------------------------------


def index_and_data(model_dir, step):
  return [model_dir / f'mnist.ckpt-{step}{suffix}' for suffix in checkpoints.SUFFIXES[:2]]


def cut(path):
  os.truncate(path, path.stat().st_size // 2)


def empty(path):
  os.truncate(path, 0)


DAMAGES = {
    'data cut': lambda index, data: cut(data),
    'data removed': lambda index, data: data.unlink(),
    'data with a wrong byte': lambda index, data: spoiling.flip_a_byte(data, 0.9),
    'index cut': lambda index, data: cut(index),
    'index empty': lambda index, data: empty(index),
    'index with a wrong byte': lambda index, data: spoiling.flip_a_byte(index),
    'index of text': lambda index, data: index.write_text('not an index\n' * 30),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_skipped_in_one_line(damage, model_dir, digits, capsys):
  damage(*index_and_data(model_dir, 8))
  before = spoiling.contents(model_dir)
  evaluate(digits, model_dir)
  assert spoiling.contents(model_dir) == before
  out, err = capsys.readouterr()
  assert 'After 6 training step(s), test accuracy' in out
  assert len(err.splitlines()) == 1 and 'mnist.ckpt-8' in err and err.endswith('skipped\n')
  train(digits, model_dir, 8)  # over the damaged one, too
  out, err = capsys.readouterr()
  assert 'mnist.ckpt-6, after 6 training step(s).' in out
  assert len(err.splitlines()) == 1 and 'mnist.ckpt-8' in err and err.endswith('skipped\n')
  kills.check_at_end(model_dir, 'mnist.ckpt')
  assert kills.named_steps(model_dir) == [1, 6, 8]


def test_without_a_whole_checkpoint_nothing_is_overwritten(model_dir, digits, capsys):
  for damage, step in (('data cut', 1), ('index empty', 6), ('data removed', 8)):
    DAMAGES[damage](*index_and_data(model_dir, step))
  before = spoiling.contents(model_dir)
  for run in (lambda: train(digits, model_dir, 9), lambda: evaluate(digits, model_dir)):
    with pytest.raises(console.UserError, match='none of the 3 checkpoints .*: fetch the'):
      run()
    out, err = capsys.readouterr()
    assert out == '' and [line[-7:] for line in err.splitlines()] == ['skipped'] * 3
    assert spoiling.contents(model_dir) == before


def test_checkpoints_of_another_network_are_refused(digits, tmp_path):
  spoiling.write_checkpoint(tmp_path / 'mnist.ckpt-7', other__weight=np.zeros([3, 4], np.float32))
  before = spoiling.snapshot(tmp_path)
  for run in (lambda: train(digits, tmp_path, 9), lambda: evaluate(digits, tmp_path)):
    with pytest.raises(console.UserError, match='mnist.ckpt-7 is of another network'):
      run()
  assert {path: spoiling.snapshot(tmp_path).get(path) for path in before} == before


# -- What a killed trainer leaves --------------------------------------------------------


def test_what_a_killed_trainer_left_is_swept_and_nothing_else(model_dir, digits):
  swept = ['mnist.ckpt-9.data-00000-of-00001.tempstate123', 'mnist.ckpt-9.index.tempstate7',
           'mnist.ckpt-0.data-00000-of-00001']  # of a checkpoint that was being deleted
  kept = ['.mynotes.tmp', 'mnist.ckpt-3.index.bak', 'mnist.ckpt-best', 'notes.json',
          'other.ckpt-9.data-00000-of-00001.tempstate1', 'mnist.ckpt-7.data-00000-of-00001']
  for name in swept + kept:
    (model_dir / name).touch()
  train(digits, model_dir, 9)
  left = set(os.listdir(model_dir))
  assert not left & set(swept) and left >= set(kept)


# -- Files that know what they belong to -------------------------------------------------


def permuted(digits):
  train = mnist_input.DataSet(digits.train.images, digits.train.labels[:, ::-1])
  return digits._replace(train=train)


def test_a_folder_that_was_trained_on_other_data_is_refused(model_dir, digits, digits_dir):
  other_split = mnist_input.read_data_sets(digits_dir, one_hot=True, validation_size=40)
  before = spoiling.contents(model_dir)
  for others in (permuted(digits), other_split):
    with pytest.raises(console.UserError, match='--model_dir=.* training_data .*another folder'):
      train(others, model_dir, 9)
    assert spoiling.contents(model_dir) == before


# -- Beside a trainer --------------------------------------------------------------------


def mnist_args(digits_dir, model_dir, *more):
  return (f'--data_dir={digits_dir}', f'--model_dir={model_dir}', '--validation_size=50', *more)


FOREVER = ('--batch_size=20', '--training_steps=1000000')
# For a trainer that others run beside: it leaves them a core.
ONE_CORE = {'TF_NUM_INTRAOP_THREADS': '1', 'TF_NUM_INTEROP_THREADS': '1'}


def scores(text):
  """Return [(step, accuracy)] that an evaluator printed."""
  return re.findall(r'^After (\d+) training step\(s\), test accuracy = (\S+)$', text, re.M)


def test_all_are_answered_beside_a_trainer_that_keeps_one_checkpoint(digits, digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = mnist_args(digits_dir, folder, '--save_interval_steps=1', '--max_to_keep=1', *FOREVER)
  with running.Started('mnist_train.py', *args, env=ONE_CORE) as trainer:
    trainer.wait_for('^After 1 ')
    steps = []
    with tf.Graph().as_default(), tf.Session() as sess:
      graph = mnist_eval.build_evaluation_graph()
      while len(steps) < 15 or len(set(steps)) < 6:
        path = checkpoints.restore_newest(sess, graph.saver, graph.variables, folder, 'mnist.ckpt')
        steps.append(checkpoints.step_of(path))
    assert steps == sorted(steps)
    results = [running.run_script('mnist_eval.py', *mnist_args(
        digits_dir, folder, '--run_once', '--split=test')) for _ in range(3)]
    assert trainer.status is None
  assert [(result.returncode, result.stderr) for result in results] == [(0, '')] * 3
  assert all(len(scores(result.stdout)) == 1 for result in results)


def test_evaluators_follow_a_trainer_and_its_successor(digits_dir, tmp_path):
  """Two evaluators score all they see alike; a folder deleted and trained again is scored again."""
  folder = tmp_path / 'model'
  # It learns slowly, so that the accuracies differ from step to step.
  training = mnist_args(digits_dir, folder, '--save_interval_steps=20', '--max_to_keep=2',
                        '--learning_rate_base=0.0005', *FOREVER)
  polling = mnist_args(digits_dir, folder, '--split=test', '--eval_interval_secs=0.1')
  with (running.Started('mnist_eval.py', *polling) as first,
        running.Started('mnist_eval.py', *polling) as second):
    last = []
    for round_ in (1, 2):
      with running.Started('mnist_train.py', *training, env=ONE_CORE) as trainer:
        trainer.wait_for('^After', count=3)
        trainer.signal(15)  # SIGTERM: it saves its last step
        assert trainer.end() == 0 and not trainer.errors
        last.append(re.search(r'mnist\.ckpt-(\d+)$', trainer.lines[-1]).group(1))
      for evaluator in (first, second):
        evaluator.wait_for(rf'^After {last[-1]} ', count=last.count(last[-1]))
      if round_ == 1:
        shutil.rmtree(folder)
    events = list((folder / 'eval_test').iterdir())
    assert len(events) == 2 and all(path.stat().st_size > 100 for path in events)
    for evaluator in (first, second):
      evaluator.signal(15)
      assert evaluator.end() == 0 and evaluator.lines[-1] == 'Stopped by a signal.'
      # It may say that a checkpoint went away while it was read, and nothing else.
      assert all(line.endswith('skipped') for line in evaluator.errors), evaluator.errors
    said = [scores('\n'.join(evaluator.lines)) for evaluator in (first, second)]
  of_step = {}
  for step, accuracy in said[0] + said[1]:
    of_step.setdefault(step, set()).add(accuracy)
  # Both trainers went through the same weights.
  assert all(len(accuracies) == 1 for accuracies in of_step.values()), of_step


@pytest.mark.parametrize('made_again', [False, True], ids=['deleted', 'deleted and made again'])
def test_a_trainer_notices_that_its_folder_was_deleted(made_again, digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = mnist_args(digits_dir, folder, '--save_interval_steps=5', *FOREVER)
  with running.Started('mnist_train.py', *args) as trainer:
    trainer.wait_for('^After 6 ')
    while folder.exists():  # it may just be writing there
      shutil.rmtree(folder, ignore_errors=True)
    if made_again:
      with checkpoints.ModelFolder(str(folder), 'mnist.ckpt'):
        assert trainer.end() == 1
    else:
      assert trainer.end() == 1
    assert len(trainer.errors) == 1 and 'run again' in trainer.errors[0]
  assert kills.steps_of_files(folder) == {} if folder.exists() else True


def test_summaries_that_cannot_be_kept_are_said_once_and_end_nothing(digits, tmp_path, capsys):
  (tmp_path / 'train').touch()
  (tmp_path / 'eval_test').touch()
  train(digits, tmp_path, 11)
  assert evaluate(digits, tmp_path) is not None
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2 and all('no summaries are kept in' in line for line in lines), lines
  kills.check_at_end(tmp_path, 'mnist.ckpt')


# -- Advice that works -------------------------------------------------------------------


def test_after_weights_that_exploded(digits, tmp_path, capsys):
  with pytest.raises(console.UserError) as caught:
    train(digits, tmp_path / 'fast', 50, learning_rate_base=1e6)
  advice = 'give a smaller --learning_rate_base and another --model_dir'
  assert advice in str(caught.value) and '1e+06' in str(caught.value)
  # Half of the advice is not enough, and that is said.
  capsys.readouterr()
  with contextlib.suppress(console.UserError):
    train(digits, tmp_path / 'fast', 50)
  assert advice in capsys.readouterr().err
  # All of it works.
  train(digits, tmp_path / 'slow', 50)
  assert capsys.readouterr().err == '' and evaluate(digits, tmp_path / 'slow') > 0.9


def test_a_model_json_that_is_not_one(model_dir, digits):
  (model_dir / 'model.json').write_text('{"training_data": ')
  before = spoiling.contents(model_dir)
  with pytest.raises(console.UserError, match='model.json is not a JSON file'):
    train(digits, model_dir, 9)
  assert spoiling.contents(model_dir) == before
  (model_dir / 'model.json').write_text(json.dumps({'training_data': 'other'}))
  with pytest.raises(console.UserError, match='training_data "other"'):
    train(digits, model_dir, 9)
