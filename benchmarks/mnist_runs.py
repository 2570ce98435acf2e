"""Train MNIST with the settings of RESULTS.md, evaluate, and record what comes of it.

    python -m benchmarks.mnist_runs                          # all of them, which takes hours
    python -m benchmarks.mnist_runs default --seeds=1        # one of them
    python -m benchmarks.mnist_runs default --seeds=1 --test # and its test accuracy

Each run goes through the scripts' own command lines, into a folder of its own inside --folder, and
goes on there if it was ended before. Two run at a time, with one thread each, which is faster than
one after another with two. What tables and pictures need is kept in
benchmarks/recorded/SETTING-SEED.json. The test images are looked at with --test only.
"""
import argparse
import concurrent.futures
import pathlib
import re
import threading

import numpy as np

import mnist_eval
import mnist_input
from benchmarks import recording
from support.quiet_tensorflow import tf

THREADS = 1  # of a run
WRONG_DIGITS = 40  # kept of a run, to be shown

TRAIN, CLUSTER = 'mnist_train.py', 'mnist_dist_train.py'
LONGER = ['--regularization_rate=0.001', '--moving_average_decay=0.9999',
          '--training_steps=30000']
SETTINGS = {
    'book': [TRAIN, '--nodropout', '--training_steps=30000'],  # at first, for 6,000 steps
    'default': [TRAIN, '--training_steps=20000'],
    'listing': [TRAIN, '--learning_rate_base=0.8', '--training_steps=2001'],
    # The best that was found on validation images, without and with augmentation: a larger rate
    # that falls, a stronger penalty, longer averages.
    'best': [TRAIN, '--learning_rate_base=0.1', '--learning_rate_decay=0.95', *LONGER],
    'augment': [TRAIN, '--augment', '--learning_rate_base=0.1', '--learning_rate_decay=0.97',
                *LONGER],
    # A cluster beside a single process.
    'single': [TRAIN, '--training_steps=2000'],
    'asynchronous': [CLUSTER, '--training_steps=2000', '--local_workers=2'],
    'synchronous': [CLUSTER, '--training_steps=2000', '--local_workers=2', '--sync'],
}


def read_filters(model_dir):
  """Return the averages of the first convolution's filters, [32][5][5]."""
  newest = max(model_dir.glob('mnist.ckpt-*.index'), key=lambda path: int(path.stem[11:]))
  weights = tf.train.load_checkpoint(str(newest.with_suffix(''))).get_tensor(
      'layer1-conv1/weight/ExponentialMovingAverage')  # [5, 5, 1, 32]
  return weights[:, :, 0].transpose(2, 0, 1).astype(float).round(4).tolist()


def find_wrong_digits(model_dir):
  """Return [[test image, its label, the answer], ...] of the first wrong answers."""
  test = mnist_input.read_data_sets(mnist_input.DATA_DIR).test
  with tf.Graph().as_default(), tf.Session() as sess:
    graph, *_ = mnist_eval.restore_model(sess, str(model_dir))
    predicted = mnist_eval.predict_logits(sess, graph, test.images).argmax(1)
  return [[int(k), int(test.labels[k]), int(predicted[k])]
          for k in np.flatnonzero(predicted != test.labels)[:WRONG_DIGITS]]


_graph_lock = threading.Lock()  # what reads checkpoints and events here does so one at a time


def record(name, seed, folder, test):
  """Train and evaluate a setting, and keep what comes of it; return a line about it."""
  model_dir = folder / f'{name}-{seed}'
  command = [*SETTINGS[name], f'--seed={seed}']
  recording.run_script(*command, f'--model_dir={model_dir}', '--max_to_keep=100', threads=THREADS)
  recording.run_script('mnist_eval.py', f'--model_dir={model_dir}', '--timeout_secs=0',
                       '--eval_interval_secs=0', threads=THREADS)
  with _graph_lock:
    content = {'command': ' '.join(command), 'threads': THREADS, 'filters': read_filters(model_dir),
               'training': {tag: curve for tag, curve in recording.read_curves(
                   model_dir / 'train').items() if tag != 'learning_rate'},
               'validation': recording.read_curves(model_dir / 'eval_validation')['accuracy']}
    if test:
      printed, *_ = recording.run_script('mnist_eval.py', f'--model_dir={model_dir}',
                                         '--split=test', '--run_once', threads=THREADS)
      content['test'] = float(re.search(r'test accuracy = ([\d.]+)', printed)[1])
      content['wrong'] = find_wrong_digits(model_dir)
    recording.write_record(f'{name}-{seed}', **content)
  return f'{name}, seed {seed}: validation {content["validation"][-1]}, test {content.get("test")}'


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('settings', nargs='*', metavar='SETTING', help=', '.join(SETTINGS))
  parser.add_argument('--seeds', default='1,2,3', help='seeds, separated by commas')
  parser.add_argument('--folder', type=pathlib.Path,
                      default=recording.ROOT / 'model-saves' / 'recorded',
                      help='folder of the model folders')
  parser.add_argument('--parallel', type=int, default=2, help='runs at a time (default: 2)')
  parser.add_argument('--test', action='store_true', help='also look at the test images')
  args = parser.parse_args()
  for name in args.settings:
    if name not in SETTINGS:
      parser.error(f'{name} is not a setting: choose from {", ".join(SETTINGS)}')
  with concurrent.futures.ThreadPoolExecutor(args.parallel) as executor:
    runs = [executor.submit(record, name, int(seed), args.folder, args.test)
            for name in args.settings or SETTINGS for seed in args.seeds.split(',')]
    for run in concurrent.futures.as_completed(runs):
      print(run.result(), flush=True)


if __name__ == '__main__':
  main()
