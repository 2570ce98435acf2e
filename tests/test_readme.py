"""The README is true: every command in it runs, at tiny size, and its two first ones are what CI runs."""
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import support
from PIL import Image

README = (support.ROOT / 'README.md').read_text(encoding='utf-8')
COMMANDS = [line.strip() for block in re.findall(r'```sh\n(.*?)```', README, re.S)
            for line in block.replace('\\\n', ' ').splitlines() if line.strip()]
SCRIPTS = [command for command in COMMANDS if command.startswith('python ')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory, mnist_dir, photos_dir, trunk_ckpt):
  """A working folder in which the README's commands find what they name, and models of each kind."""
  folder = tmp_path_factory.mktemp('readme')
  (folder / 'data').mkdir()
  (folder / 'data' / 'mnist').symlink_to(mnist_dir)
  for name in ('flower_photos', 'my_photos'):
    (folder / name).symlink_to(photos_dir)
  (folder / 'model-saves' / 'inception').mkdir(parents=True)
  for file in pathlib.Path(trunk_ckpt).parent.glob('inception_v3.ckpt*'):
    (folder / 'model-saves' / 'inception' / file.name).symlink_to(file)
  random = np.random.RandomState(0)
  for name in ('digit.png', 'another.jpg', 'photo.jpg'):
    Image.fromarray(random.randint(0, 255, (60, 50, 3)).astype(np.uint8)).save(folder / name)
  return folder


# What makes each script's run tiny; a flag given twice has its last value.
TINY = {
    'mnist_train.py': ['--training_steps=2', '--batch_size=10'],
    'mnist_eval.py': ['--timeout_secs=0', '--eval_interval_secs=0'],
    'mnist_predict.py': [],
    'flower_preprocess.py': ['--validation_percentage=20', '--testing_percentage=20'],
    'flower_finetune.py': ['--steps=1', '--batch_size=4'],
    'flower_predict.py': [],
}


@pytest.mark.parametrize('command', SCRIPTS)
def test_each_script_command_runs(folder, command):
  script, *args = shlex.split(command, comments=True)[1:]
  if script in TINY:
    # A tiny first stage ends with step 0.
    args = [arg.replace('flower.ckpt-299', 'flower.ckpt-0') for arg in args]
    result = support.run_script(script, *args, *TINY[script], cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout
  else:  # a tool that takes minutes: its flags exist
    result = subprocess.run([sys.executable, support.ROOT / script, '--help'], capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 0
    assert all(flag in result.stdout for flag in re.findall(r'--\w+', command))


def test_every_script_has_a_command():
  assert {shlex.split(command)[1] for command in SCRIPTS} >= set(TINY)


def test_first_commands_install_train_and_test():
  install = 'python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && '
  assert COMMANDS[0] == install + '.venv/bin/python mnist_train.py'
  assert COMMANDS[1] == install + '.venv/bin/ruff check && .venv/bin/python -m pytest'
  ci = (support.ROOT / '.ci' / 'run').read_text()
  for part in ('-m venv', 'requirements.txt', '/ruff" check', '-m pytest'):
    assert part in ci


@pytest.mark.parametrize('script', TINY)
def test_defaults_in_the_readme_are_the_scripts(script):
  help_text = support.run_script(script, '--help').stdout
  defaults = {}
  for flag in re.split(r'^  --', help_text, flags=re.M)[1:]:
    default = re.search(r"\(default: '(.*?)'\)", flag, re.S)
    defaults[re.match(r'(?:\[no\])?(\w+)', flag)[1]] = re.sub(r'\s+', '', default[1]) if default else None
  section = re.search(rf'### `{script}`(.*?)\n##', README, re.S)[1]
  shown = dict(re.findall(r'^\| `--(\w+)` \| ([^|]+) \|', section, re.M))
  shown = {name: default.strip('`') if default.startswith('`') else None for name, default in shown.items()}
  assert shown == defaults
