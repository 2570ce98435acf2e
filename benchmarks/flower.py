"""Time preprocessing and fine-tuning of photos.

    python benchmarks/flower.py --input_dir=flower_photos

Preprocessing, in photos a second, interleaved over the rounds: this suite, from the folder
to the written file; its decoding alone, without the writing; the limit, decoding and
scaling the same files on all cores and keeping nothing; and the book's loop, which adds
operations to its graph for each photo (on the first --book_photos of them, since it slows
down as it goes).

Fine-tuning, in seconds of the whole command: the default run of --steps steps, its second
time with the features kept, and the same without the cache for --uncached_steps steps.
The trunk's weights are random here, which changes no speed.
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import script_support  # noqa: E402, F401 (first: it imports TensorFlow quietly)

import tensorflow.compat.v1 as tf  # noqa: E402

import flower_inference  # noqa: E402
import flower_preprocess  # noqa: E402


def limit(paths):
  """Decode and scale all files on all cores, and keep nothing."""
  with tf.Graph().as_default(), tf.Session() as sess:
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: tf.image.resize_images(tf.image.decode_jpeg(tf.io.read_file(path), channels=3), [299, 299]),
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


def time_preprocessing(input_dir, rounds, book_photos):
  paths = [path for files in flower_preprocess.find_photos(input_dir).values() for path in files]
  rates = {'this suite': [], 'decoding': [], 'limit': [], 'book': []}
  with tempfile.TemporaryDirectory() as folder:
    output_file = os.path.join(folder, 'data.npy')
    for _ in range(rounds):
      for name, work, few in (
          ('this suite', lambda _: flower_preprocess.preprocess(input_dir, output_file), paths),
          ('decoding', lambda few: collections.deque(flower_preprocess.decoded_photos(few), 0), paths),
          ('limit', limit, paths), ('book', book, paths[:book_photos])):
        start = time.perf_counter()
        work(few)
        rates[name].append(len(few) / (time.perf_counter() - start))
      os.remove(output_file)  # to replace a large file makes some file systems write it out first
  for name, values in rates.items():
    print(f'{name:12} {statistics.median(values):7.1f} photos a second')
  for name in ('this suite', 'decoding'):
    slower = statistics.median(a / b for a, b in zip(rates['limit'], rates[name], strict=True))
    print(f'{name} takes {slower:.2f} times as long as the limit.')


def write_trunk(path):
  """Write a checkpoint of the network without its last layers, of random weights."""
  with tf.Graph().as_default(), tf.Session() as sess:
    flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 2, False)
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(flower_inference.get_tuned_variables()).save(sess, path, write_meta_graph=False)


def time_finetuning(input_dir, steps, uncached_steps):
  with tempfile.TemporaryDirectory() as folder:
    data, trunk = os.path.join(folder, 'data.npy'), os.path.join(folder, 'trunk.ckpt')
    count = len(flower_preprocess.preprocess(input_dir, data))
    write_trunk(trunk)

    def run(*args):
      start = time.perf_counter()
      subprocess.run([sys.executable, ROOT / 'flower_finetune.py', f'--input_file={data}', f'--ckpt_file={trunk}',
                      *args], check=True, stdout=subprocess.DEVNULL, cwd=folder)
      return time.perf_counter() - start

    first = run('--model_dir=first', f'--steps={steps}')
    os.makedirs(os.path.join(folder, 'second'))
    os.link(os.path.join(folder, 'first', 'features.npz'), os.path.join(folder, 'second', 'features.npz'))
    second = run('--model_dir=second', f'--steps={steps}')
    uncached = run('--model_dir=third', f'--steps={uncached_steps}', '--nofeature_cache')
  print(f'{steps} steps on {count} photos: {first:.1f} s the first time, {second:.1f} s the second; '
        f'{uncached_steps} steps without the cache: {uncached:.1f} s')


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--input_dir', default=flower_preprocess.INPUT_DATA, help='folder of class folders')
  parser.add_argument('--rounds', type=int, default=5, help='rounds of preprocessing (default: 5)')
  parser.add_argument('--book_photos', type=int, default=100, help='photos for the book\'s loop (default: 100)')
  parser.add_argument('--steps', type=int, default=300, help='steps of the default run (default: 300)')
  parser.add_argument('--uncached_steps', type=int, default=30, help='steps without the cache (default: 30)')
  args = parser.parse_args()
  if not os.path.isdir(args.input_dir):
    parser.error(f'--input_dir={args.input_dir} is no folder')
  time_preprocessing(args.input_dir, args.rounds, args.book_photos)
  time_finetuning(args.input_dir, args.steps, args.uncached_steps)


if __name__ == '__main__':
  main()
