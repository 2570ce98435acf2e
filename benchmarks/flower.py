"""Time preprocessing and fine-tuning of photos.

    python -m benchmarks.flower --input_dir=flower_photos

Preprocessing, in photos a second, interleaved over the rounds: this suite, from the folder
to the written file; its decoding alone, without the writing; the limit, bare decoding and
scaling of the same files on all cores, which keeps nothing; and the book's loop, which adds
operations to its graph for each photo (on the first --book_photos of them, since it slows
down as it goes).

Fine-tuning, in seconds: TensorFlow's import alone; the default run, up to its first step and from
there; the same with the bottlenecks kept; and --network_steps steps of the whole network. The
backbone's weights are random, which changes no speed.
"""
import argparse
import collections
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import flower_preprocess
from benchmarks import random_backbone
from flowers import photo
from support.quiet_tensorflow import tf

ROOT = pathlib.Path(__file__).resolve().parent.parent

# -- Preprocessing -----------------------------------------------------------------------


def limit(paths):
  """Decode and scale all files on all cores, and keep nothing."""
  with tf.Graph().as_default(), tf.Session() as sess:
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: tf.image.resize_images(
            tf.image.decode_jpeg(tf.io.read_file(path), channels=3), [299, 299]),
        num_parallel_calls=os.cpu_count())
    count = dataset.reduce(tf.constant(0), lambda seen, image: seen + tf.shape(image)[0] // 299)
    assert sess.run(count) == len(paths)


def book(paths):
  """The book's loop: new operations for every photo."""
  with tf.Graph().as_default(), tf.Session() as sess:
    for path in paths:
      image = tf.image.decode_jpeg(tf.gfile.FastGFile(path, 'rb').read())
      image = tf.image.convert_image_dtype(image, dtype=tf.float32)
      sess.run(tf.image.resize_images(image, [299, 299]))


def time_preprocessing(input_dir, output_file, rounds, book_photos):
  """Print photos a second of the contestants; leave the suite's output behind."""
  options = flower_preprocess.FLAGS.options(input_dir=input_dir, output_file=output_file)
  photos = flower_preprocess.create_image_lists(
      options.input_dir, options.testing_percentage, options.validation_percentage, options.seed)
  paths = [photo.path for photo in photos.photos]
  contestants = (
      ('this suite', lambda _: flower_preprocess.preprocess(options), paths),
      ('decoding', lambda few: collections.deque(photo.decoded_photos(few), 0), paths),
      ('limit', limit, paths), ('book', book, paths[:book_photos]))
  rates = {name: [] for name, _, _ in contestants}
  for _ in range(rounds):
    if os.path.exists(output_file):  # to replace a large file makes some file systems write it out
      os.remove(output_file)
    for name, work, few in contestants:
      start = time.perf_counter()
      work(few)
      rates[name].append(len(few) / (time.perf_counter() - start))
  for name, values in rates.items():
    print(f'{name:12} {statistics.median(values):7.1f} photos a second')
  for name in ('this suite', 'decoding'):
    slower = statistics.median(a / b for a, b in zip(rates['limit'], rates[name], strict=True))
    print(f'{name} takes {slower:.2f} times as long as the limit.')


# -- Fine-tuning -------------------------------------------------------------------------


def time_command(*args):
  """Run Python; return the seconds until it has printed the line of step 0, and until its end."""
  start, first_step = time.perf_counter(), None
  with subprocess.Popen([sys.executable, '-u', *args], cwd=ROOT, stdout=subprocess.PIPE,
                        text=True) as process:
    for line in process.stdout:
      if line.startswith('Step 0: '):
        first_step = time.perf_counter() - start
  if process.returncode:
    raise SystemExit(f'{args} ended with status {process.returncode}')
  return first_step, time.perf_counter() - start


def time_finetuning(data_file, folder, network_steps):
  """Print the seconds of fine-tuning runs on a data file."""
  backbone = os.path.join(folder, 'inception_v3.ckpt')
  random_backbone.write_random_backbone(backbone)

  def run(name, *flags):
    return time_command('flower_finetune.py', f'--input_file={data_file}',
                        f'--ckpt_file={backbone}', f'--model_dir={folder}/{name}', *flags)

  _, imported = time_command('-c', 'import support.quiet_tensorflow')
  print(f"TensorFlow's import: {imported:.1f} s")
  for name in ('default run', 'default run, bottlenecks kept'):
    first_step, end = run(name)
    print(f'{name}: {first_step:.1f} s to the end of the first step, {end - first_step:.1f} s from '
          'there')
  first_step, end = run('network', '--nofeature_cache', f'--steps={network_steps}')
  print(f'{network_steps} steps of the whole network: {first_step:.1f} s to the end of the first '
        f'step, {end - first_step:.1f} s from there')


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--input_dir', default=flower_preprocess.INPUT_DATA,
                      help='folder of class folders')
  parser.add_argument('--rounds', type=int, default=5, help='of preprocessing (default: 5)')
  parser.add_argument('--book_photos', type=int, default=100,
                      help="photos for the book's loop (default: 100)")
  parser.add_argument('--network_steps', type=int, default=10,
                      help='steps of the whole network (default: 10)')
  args = parser.parse_args()
  if not os.path.isdir(args.input_dir):
    parser.error(f'--input_dir={args.input_dir} is not a folder')
  with tempfile.TemporaryDirectory() as folder:
    data_file = os.path.join(folder, 'data.npy')
    time_preprocessing(args.input_dir, data_file, args.rounds, args.book_photos)
    time_finetuning(data_file, folder, args.network_steps)


if __name__ == '__main__':
  main()
