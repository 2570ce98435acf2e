"""Time each script from its start to its first step or answer, and the share of the import.

    python -m benchmarks.start --input_dir=flower_photos

The models are made first, with a step each and a backbone of random weights, in a temporary folder;
a few of the photos are enough. The scripts take turns, so that a machine whose speed drifts treats
all alike; the median is printed.
"""
import argparse
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from PIL import Image, ImageDraw

from benchmarks import random_backbone

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMPORT = ['-c', "from support.quiet_tensorflow import tf; print('imported')"]
WHOLE_IMPORT = ['-c', "import tensorflow.compat.v1 as tf; print('imported')"]


def seconds_until(mark, command):
  """Start Python with a command; return the seconds until it prints a line with mark."""
  start = time.perf_counter()
  with subprocess.Popen([sys.executable, '-u', *command], cwd=ROOT, text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    for line in process.stdout:
      if mark in line:
        seconds = time.perf_counter() - start
        process.terminate()
        process.communicate()
        return seconds
    raise SystemExit(f'{command} did not print {mark!r}: {process.stderr.read()}')


def copy_photos(input_dir, folder, count):
  """Copy count photos of each class folder."""
  for class_dir in sorted(path for path in input_dir.iterdir() if path.is_dir()):
    (folder / class_dir.name).mkdir(parents=True)
    for path in sorted(class_dir.iterdir())[:count]:
      shutil.copy(path, folder / class_dir.name)


def draw_digit(path):
  """Write a picture of a 7."""
  picture = Image.new('L', (100, 100), 255)
  ImageDraw.Draw(picture).line([(30, 25), (70, 25), (45, 80)], fill=0, width=6)
  picture.save(path)


def prepare(folder, input_dir):
  """Make data and models in folder; return {name: (mark, command)} of what is timed."""
  copy_photos(input_dir, folder / 'photos', 12)
  draw_digit(folder / 'digit.png')
  random_backbone.write_random_backbone(folder / 'inception_v3.ckpt')
  digits, flowers = f'--model_dir={folder}/digits', f'--model_dir={folder}/flowers'
  photo = str(next((folder / 'photos').glob('*/*')))
  preprocess = ['flower_preprocess.py', f'--input_dir={folder}/photos',
                f'--output_file={folder}/photos.npy', '--validation_percentage=20',
                '--testing_percentage=20']
  finetune = ['flower_finetune.py', f'--input_file={folder}/photos.npy',
              f'--ckpt_file={folder}/inception_v3.ckpt', '--steps=1']
  for command in (['mnist_train.py', digits, '--training_steps=1'], preprocess,
                  [*finetune, flowers]):
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

  def new_dir(name):
    shutil.rmtree(folder / name, ignore_errors=True)
    return f'--model_dir={folder}/{name}'

  return {
      "TensorFlow's import alone": ('imported', lambda: IMPORT),
      'the same with Keras, as TensorFlow has it': ('imported', lambda: WHOLE_IMPORT),
      'mnist_train.py, first step': (
          'After 1 training', lambda: ['mnist_train.py', new_dir('new')]),
      'mnist_eval.py, 5,000 images': (
          'accuracy', lambda: ['mnist_eval.py', digits, '--run_once']),
      'mnist_predict.py, a picture': (
          'with probability', lambda: ['mnist_predict.py', digits, f'{folder}/digit.png']),
      'mnist_export.py': (
          'Exported', lambda: ['mnist_export.py', digits, f'--export_dir={folder}/exports']),
      'mnist_dist_train.py, two workers': (
          'After 1 training', lambda: ['mnist_dist_train.py', new_dir('new'), '--local_workers=2']),
      'flower_preprocess.py, 60 photos': ('Saved', lambda: preprocess),
      'flower_finetune.py, features kept': ('Step 0', lambda: [*finetune, new_dir('new')]),
      'flower_predict.py, a photo': (photo, lambda: ['flower_predict.py', flowers, photo]),
      'flower_export.py': (
          'Exported', lambda: ['flower_export.py', flowers, f'--export_dir={folder}/exports']),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--input_dir', type=pathlib.Path, default=ROOT / 'flower_photos',
                      help='folder of class folders')
  parser.add_argument('--rounds', type=int, default=5, help='runs of each (default: 5)')
  args = parser.parse_args()
  if not args.input_dir.is_dir():
    parser.error(f'--input_dir={args.input_dir} is not a folder')
  with tempfile.TemporaryDirectory() as folder:
    timed = prepare(pathlib.Path(folder), args.input_dir)
    times = {name: [] for name in timed}
    for _ in range(args.rounds):
      for name, (mark, make_command) in timed.items():
        times[name].append(seconds_until(mark, make_command()))
  imported = statistics.median(next(iter(times.values())))
  print(f'| {"from the start to":42} | seconds | share of the import |\n|{"-" * 44}|---|---|')
  for name, seconds in times.items():
    median = statistics.median(seconds)
    print(f'| {name:42} | {median:.1f} | {100 * imported / median:.0f} % |')


if __name__ == '__main__':
  main()
