"""The documents are true: their commands run, at tiny size, and both languages say the same."""
import gzip
import json
import pathlib
import re
import shlex
import subprocess
import sys

import made_data
import numpy as np
import pytest
import running
from PIL import Image

import mnist_input

README, README_ZH = (
    (running.ROOT / name).read_text(encoding='utf-8') for name in ('README.md', 'README.zh-CN.md'))
RESULTS = (running.ROOT / 'RESULTS.md').read_text(encoding='utf-8')
MAX_LINES = 310  # of a page that is read
MAX_PROSE = 300  # characters of a line


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


def test_arrays_become_files_and_emnist_is_turned(tmp_path, monkeypatch):
  images, labels = np.random.RandomState(0).randint(0, 256, (30, 28, 28)), np.arange(30) % 26 + 1
  for part in ('train', 'test'):
    for name, content in (('images-idx3', made_data.idx_images(np.uint8(images))),
                          ('labels-idx1', made_data.idx_labels(np.uint8(labels)))):
      (tmp_path / f'emnist-letters-{part}-{name}-ubyte.gz').write_bytes(gzip.compress(content))
  monkeypatch.chdir(tmp_path)
  block, _ = find_blocks(README, 'python')
  exec(block, {})
  letters = mnist_input.read_data_sets('letters', one_hot=True, dtype=np.uint8, reshape=False,
                                       validation_size=2)
  assert letters.train.classes == tuple(range(1, 27))
  np.testing.assert_array_equal(letters.test.images[..., 0], images.transpose(0, 2, 1))
  np.testing.assert_array_equal(letters.test.labels.argmax(1) + 1, labels)


def test_what_can_go_wrong_names_tests_that_are_there():
  folder = running.ROOT / 'tests' / 'robustness'
  text = (folder / 'README.md').read_text(encoding='utf-8')
  tests = '\n'.join(path.read_text(encoding='utf-8') for path in folder.parent.rglob('test_*.py'))
  names = set(re.findall(r'`(\w+)`', text)) - {'NAME'}
  assert len(names) > 30
  for name in names:
    assert re.search(rf'def test_\w*{name}\(', tests), name
  for path in re.findall(r'`(\S*test_\w+\.py)`', text):
    assert (folder / path).exists(), path


def test_first_commands_install_train_and_test():
  install = 'python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && '
  assert COMMANDS[0] == install + '.venv/bin/python mnist_train.py'
  assert COMMANDS[1] == install + '.venv/bin/ruff check && .venv/bin/python -m pytest'
  ci = (running.ROOT / '.ci' / 'run').read_text()
  for part in ('-m venv', 'requirements.txt', '/ruff" check', '-m pytest'):
    assert part in ci


def test_both_languages_have_the_same_commands_outputs_and_figures():
  for kind in ('sh', 'powershell', 'text', 'python', 'crontab'):
    assert find_blocks(README, kind) == find_blocks(README_ZH, kind)

  def figures(text):
    return sorted(set(re.findall(r'\d[\d.,]*\d', text)))
  assert figures(README) == figures(README_ZH)
  for text, other in ((README, 'README.zh-CN.md'), (README_ZH, 'README.md')):
    assert f']({other})' in text and '](RESULTS.md)' in text
    assert len(text.splitlines()) <= MAX_LINES
    prose = (line for line in re.sub(r'^```.*?^```', '', text, flags=re.M | re.S).splitlines()
             if not line.startswith('|'))
    assert max(map(len, prose)) <= MAX_PROSE


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
  if 'rows' in record:  # several last layers on the same features
    figures = [figure for *_, validation, test in record['rows'] for figure in (validation, test)]
  else:
    figures = [record['validation'][-1][1], *([record['test']] if 'test' in record else [])]
  for figure in figures:
    assert re.search(rf'\b{100 * figure:.{digits}f}\b', RESULTS), (path.stem, figure)
