"""Fixtures of the robustness tests: small digits, and a trained folder to spoil."""
import os
import pathlib
import shutil
import signal
import sys

import made_data
import pytest
import running
import spoiling

import mnist_input
import mnist_train
from support.console import STOP_SIGNALS


@pytest.fixture(autouse=True)
def stoppable():
  """Scripts started here take stop signals, even where pytest runs under nohup or with `&`."""
  before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
  for number in STOP_SIGNALS:
    if before[number] is signal.SIG_IGN:  # which a process hands on to those that it starts
      signal.signal(number, signal.SIG_DFL)
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
  """A folder of 200 training, 50 validation and 60 test images, for DIGITS."""
  return made_data.write_mnist(tmp_path_factory.mktemp('digits'), train=250)


@pytest.fixture(scope='session')
def digits(digits_dir):
  """The same, read."""
  return mnist_input.read_data_sets(digits_dir, one_hot=True, validation_size=50)


@pytest.fixture(scope='session')
def saved_dir(digits, tmp_path_factory):
  """A model folder with checkpoints of the steps 1, 6 and 8."""
  model_dir = tmp_path_factory.mktemp('saved')
  mnist_train.train(digits, mnist_train.FLAGS.options(
      model_dir=model_dir, training_steps=8, save_interval_steps=5, batch_size=20))
  return model_dir


@pytest.fixture
def model_dir(saved_dir, tmp_path):
  """A copy of saved_dir to spoil."""
  return pathlib.Path(shutil.copytree(saved_dir, tmp_path / 'model'))


@pytest.fixture
def permissions_count(monkeypatch):
  """Let permissions count for scripts that are run, even where root runs them."""
  if os.name != 'posix' or os.geteuid() == 0 and not sys.platform.startswith('linux'):
    pytest.skip('permissions do not count here, and only Linux can change that')
  if os.geteuid() == 0:
    monkeypatch.setattr(running, '_become_script', spoiling.become_script_under_permissions)
