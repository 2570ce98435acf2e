"""The documents are true: their commands run, at tiny size, and both languages say the same."""
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import running
from PIL import Image

README, README_ZH = (
    (running.ROOT / name).read_text(encoding='utf-8') for name in ('README.md', 'README.zh-CN.md'))
RESULTS = (running.ROOT / 'RESULTS.md').read_text(encoding='utf-8')
MAX_LINES = 200  # of a page that is read


def find_blocks(text, kind):
  """Return the content of a document's blocks of code of a kind."""
  return re.findall(rf'^```{kind}\n(.*?)^```', text, re.M | re.S)


def find_commands(text):
  return [line.strip() for block in find_blocks(text, 'sh')
          for line in block.replace('\\\n', ' ').splitlines() if line.strip()]


COMMANDS = find_commands(README)
# Each once, also where a document repeats it.
SCRIPTS = list(dict.fromkeys(command for command in COMMANDS + find_commands(RESULTS)
                             if command.startswith('python ')))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, mnist_dir, photos_dir, backbone_ckpt):
  """A folder in which the commands find what they name, and models of each kind."""
  folder = tmp_path_factory.mktemp('readme')
  (folder / 'data').mkdir()
  (folder / 'data' / 'mnist').symlink_to(mnist_dir)
  for name in ('flower_photos', 'my_photos'):
    (folder / name).symlink_to(photos_dir)
  (folder / 'model-saves' / 'inception').mkdir(parents=True)
  for file in pathlib.Path(backbone_ckpt).parent.glob('inception_v3.ckpt*'):
    (folder / 'model-saves' / 'inception' / file.name).symlink_to(file)
  random = np.random.RandomState(0)
  for name in ('photo.jpg', 'another.jpg', 'digit.png'):
    pixels = random.randint(200, 255, (60, 50, 3)).astype(np.uint8)
    pixels[15:45, 20:26] = 30  # a 1, if it is read as a digit
    Image.fromarray(pixels).save(folder / name)
  return folder


# What makes each script's run tiny; a flag given twice has its last value.
TINY = {
    'mnist_train.py': ['--training_steps=2', '--batch_size=10'],
    'mnist_eval.py': ['--timeout_secs=0', '--eval_interval_secs=0'],
    'mnist_predict.py': [],
    'flower_preprocess.py': ['--validation_percentage=25', '--testing_percentage=25'],
    'flower_finetune.py': ['--steps=1', '--batch_size=4'],
    'flower_predict.py': [],
    'mnist_dist_train.py': ['--training_steps=4', '--batch_size=10'],
    'mnist_export.py': [],
    'flower_export.py': [],
}


# What benchmarks/requirements.txt brings, and the suite does not need.
NEEDED = {'benchmarks.pictures': 'matplotlib', 'benchmarks.flower_limit': 'sklearn'}


@pytest.mark.parametrize('command', SCRIPTS)
def test_each_command_runs(folder, command):
  script, *args = shlex.split(command, comments=True)[1:]
  if script in TINY:
    args = [re.sub(r'flower\.ckpt-\d+', 'flower.ckpt-0', arg) for arg in args]  # of a tiny run
    result = running.run_script(script, *args, *TINY[script], cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout
  else:  # a tool that takes minutes: its flags exist
    tool = ['-m', args[0]] if script == '-m' else [script]
    if tool[-1] in NEEDED:
      pytest.importorskip(NEEDED[tool[-1]])
    result = subprocess.run([sys.executable, *tool, '--help'], cwd=running.ROOT,
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert all(flag in result.stdout for flag in re.findall(r'--\w+', command))


def test_every_script_has_a_command():
  assert {shlex.split(command)[1] for command in SCRIPTS} >= set(TINY)


def test_first_commands_install_train_and_test():
  install = 'python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && '
  assert COMMANDS[0] == install + '.venv/bin/python mnist_train.py'
  assert COMMANDS[1] == install + '.venv/bin/ruff check && .venv/bin/python -m pytest'
  ci = (running.ROOT / '.ci' / 'run').read_text()
  for part in ('-m venv', 'requirements.txt', '/ruff" check', '-m pytest'):
    assert part in ci


def test_both_languages_have_the_same_commands_outputs_and_figures():
  for kind in ('sh', 'text', 'python', 'crontab'):
    assert find_blocks(README, kind) == find_blocks(README_ZH, kind)

  def figures(text):
    return sorted(set(re.findall(r'\d[\d.,]*\d', text)))
  assert figures(README) == figures(README_ZH)
  for text, other in ((README, 'README.zh-CN.md'), (README_ZH, 'README.md')):
    assert f']({other})' in text and '](RESULTS.md)' in text
    assert len(text.splitlines()) <= MAX_LINES


def test_flags_and_defaults_in_the_tables_are_the_scripts():
  for text in (README, README_ZH):
    for section in re.split(r'^## ', text, flags=re.M):
      rows = re.findall(r'^\| `--(\w+)` \| `([^`]+)` \|', section, re.M)
      script = re.search(r'^python (\w+_(?:train|finetune)\.py)', section, re.M)
      if rows:
        flags = running.run_script(script[1], '--help').stdout.split('\n  --')
        for name, default in rows:
          flag, = (flag for flag in flags if re.match(rf'(\[no\])?{name}:', flag))
          assert f"(default: '{default}')" in flag.replace('\n    ', ''), name


def test_pictures_are_there_small_and_the_same_in_both_languages():
  shown, shown_zh, shown_results = (re.findall(r'!\[[^]]+\]\((docs/\w+\.png)\)', text)
                                    for text in (README, README_ZH, RESULTS))
  drawn = sorted(f'docs/{path.name}' for path in (running.ROOT / 'docs').glob('*.png'))
  assert drawn and shown == shown_zh and sorted(shown) == sorted(shown_results) == drawn
  assert all((running.ROOT / name).stat().st_size < 40_000 for name in drawn)


RECORDS = sorted((running.ROOT / 'benchmarks' / 'recorded').glob('*.json'))


@pytest.mark.parametrize('path', RECORDS, ids=lambda path: path.stem)
def test_results_are_those_recorded(path):
  record = json.loads(path.read_text())
  digits = 1 if path.stem.startswith('flowers') else 2  # one photo is 1 %
  figures = [record['validation'][-1][1], *([record['test']] if 'test' in record else [])]
  for figure in figures:
    assert re.search(rf'\b{100 * figure:.{digits}f}\b', RESULTS), (path.stem, figure)
