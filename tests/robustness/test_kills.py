"""Kills with SIGKILL, and two trainers on one folder. The long form is `python kills.py`."""
import os

import kills
import pytest
import running
import spoiling

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='signals as POSIX has them')


def test_mnist_training_survives_kills_bit_by_bit(mnist_dir, tmp_path):
  trainer = kills.mnist_trainer(mnist_dir, tmp_path / 'model')
  lines = []
  kills.kill_rounds(trainer, 4, seed=3, report=lines.append)
  assert all(any(f'killed {moment},' in line for line in lines) for moment in kills.MOMENTS)


def test_flower_training_survives_a_kill_while_it_saves(photos_file, backbone_ckpt, tmp_path):
  trainer = kills.flower_trainer(photos_file, backbone_ckpt, tmp_path / 'model', steps=40)
  lines = []
  kills.kill_rounds(trainer, 1, seed=1, moments=['while writing'], report=lines.append)
  assert '.tempstate' in lines[0]  # the kill has left what the next trainer swept


def test_the_comparison_of_bits_sees_one_seed_from_another(mnist_dir, tmp_path):
  """That another seed is seen shows that the comparison of what a kill left would see it, too."""
  trainer = kills.mnist_trainer(mnist_dir, tmp_path / 'model', seed=2)
  kills.run_to_end(trainer, 2)
  args = tuple(arg for arg in trainer.args if arg != '--seed=2')
  with pytest.raises(kills.Violation, match='differ in layer1-conv1/bias'):
    kills.check_undisturbed(trainer._replace(args=args), 2)


def test_second_trainer_stops_and_takes_over_after_a_kill(mnist_dir, tmp_path):
  trainer = kills.mnist_trainer(mnist_dir, tmp_path / 'model')
  with running.Started(trainer.script, *trainer.all_args(1_000_000)) as first:
    first.wait_for(trainer.line)
    second = running.run_script(trainer.script, *trainer.all_args(10))
    assert 'another process is training in this folder' in spoiling.one_line(second)
    first.wait_for(trainer.line, count=3)
  step = kills.newest_step(trainer.model_dir, trainer.model_name)
  third = kills.run_to_end(trainer, step + 1)
  assert f'{trainer.model_dir}/mnist.ckpt-{step}, after {step} training step(s).' in third.stdout
  kills.check_at_end(trainer.model_dir, trainer.model_name)


