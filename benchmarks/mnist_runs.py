"""Train and evaluate mnist_train.py with the settings of RESULTS.md, and record what comes of it.

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
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading

import mnist_eval
import mnist_input
from support import files
from support.quiet_tensorflow import tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDED = ROOT / 'benchmarks' / 'recorded'

SETTINGS = {
    'book': ['--nodropout', '--training_steps=30000'],  # its first 6,000 steps are the book's run
    'default': ['--training_steps=20000'],
    'listing': ['--learning_rate_base=0.8', '--training_steps=2001'],
    # Candidates for the best that flags alone reach: larger and falling rates, a stronger penalty,
    # longer averages.
    'fast': ['--learning_rate_base=0.1', '--learning_rate_decay=0.9',
             '--regularization_rate=0.001', '--moving_average_decay=0.999',
             '--training_steps=10000'],
    'steady': ['--learning_rate_base=0.1', '--learning_rate_decay=0.97',
               '--regularization_rate=0.001', '--moving_average_decay=0.9999',
               '--training_steps=10000'],
}


def run_script(script, *flags):
  """Run a script with one thread; return what it has printed."""
  environment = {**os.environ, 'TF_NUM_INTRAOP_THREADS': '1', 'TF_NUM_INTEROP_THREADS': '1'}
  result = subprocess.run([sys.executable, ROOT / script, *flags], cwd=ROOT, env=environment,
                          stdout=subprocess.PIPE, text=True)
  if result.returncode:
    raise SystemExit(f'{script} {" ".join(flags)} ended with status {result.returncode}')
  return result.stdout


def read_curves(folder):
  """Return {tag: [[step, value], ...]} of the event files in a folder, each step once."""
  curves = {}
  for path in sorted(folder.glob('events.*')):
    for event in tf.train.summary_iterator(str(path)):
      for value in event.summary.value:
        if value.HasField('simple_value'):
          curves.setdefault(value.tag, {})[event.step] = float(f'{value.simple_value:.6g}')
  return {tag: sorted(map(list, points.items())) for tag, points in curves.items()}


def read_filters(model_dir):
  """Return the averages of the first convolution's filters, [32][5][5]."""
  newest = max(model_dir.glob('mnist.ckpt-*.index'), key=lambda path: int(path.stem[11:]))
  weights = tf.train.load_checkpoint(str(newest.with_suffix(''))).get_tensor(
      'layer1-conv1/weight/ExponentialMovingAverage')  # [5, 5, 1, 32]
  return weights[:, :, 0].transpose(2, 0, 1).round(4).tolist()


def find_wrong_digits(model_dir):
  """Return [[test image, its label, the answer], ...] of the wrong answers."""
  test = mnist_input.read_data_sets(mnist_input.DATA_DIR).test
  with tf.Graph().as_default(), tf.Session() as sess:
    graph = mnist_eval.build_evaluation_graph()
    mnist_eval.restore_model(sess, graph, str(model_dir))
    predicted = mnist_eval.predict_logits(sess, graph, test.images).argmax(1)
  return [[k, int(label), int(answer)] for k, (label, answer) in
          enumerate(zip(test.labels, predicted, strict=True)) if label != answer]


_graph_lock = threading.Lock()  # what reads checkpoints and events here does so one at a time


def record(name, seed, folder, test):
  """Train and evaluate a setting, and write what came of it; return a line about it."""
  model_dir = folder / f'{name}-{seed}'
  flags = [*SETTINGS[name], f'--seed={seed}']
  run_script('mnist_train.py', *flags, f'--model_dir={model_dir}', '--max_to_keep=100')
  run_script('mnist_eval.py', f'--model_dir={model_dir}', '--timeout_secs=0',
             '--eval_interval_secs=0')
  path = RECORDED / f'{name}-{seed}.json'
  kept = json.loads(path.read_text()) if path.exists() else {}
  with _graph_lock:
    kept.update(
        flags=flags, python=platform.python_version(), tensorflow=tf.VERSION,
        machine=f'{platform.system()} {platform.machine()}, one thread',
        validation=read_curves(model_dir / 'eval_validation')['accuracy'],
        training=read_curves(model_dir / 'train'), filters=read_filters(model_dir))
    if test:
      printed = run_script('mnist_eval.py', f'--model_dir={model_dir}', '--split=test',
                           '--run_once')
      kept['test'] = float(re.search(r'test accuracy = ([\d.]+)', printed)[1])
      kept['wrong'] = find_wrong_digits(model_dir)
  with files.replace_file(str(path)) as temporary_path:
    pathlib.Path(temporary_path).write_text(json.dumps(kept) + '\n')
  return f'{name}, seed {seed}: validation {kept["validation"][-1]}, test {kept.get("test")}'


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('settings', nargs='*', metavar='SETTING', help=', '.join(SETTINGS))
  parser.add_argument('--seeds', default='1,2,3', help='seeds, separated by commas')
  parser.add_argument('--folder', type=pathlib.Path, default=ROOT / 'model-saves' / 'recorded',
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
