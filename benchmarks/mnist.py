"""Time a training step of mnist_train.py against a tf.data pipeline, Keras and PyTorch.

    python -m benchmarks.mnist

Each contestant runs in a process of its own and waits for its turn; the turns are
interleaved, so that a machine whose speed drifts treats all alike. All train the same
network on the same data in batches of 100 with dropout, L2 penalty, gradient descent with a
decaying rate, and moving averages, each library with its own defaults. PyTorch takes part only if
it is installed. The limit is the arithmetic of a step at the rate of a large matrix product, which
takes its turns, too. Prints the median and the least milliseconds a step, and the median, over
the rounds, of the ratio to this suite.
"""
import argparse
import importlib.util
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH_SIZE = 100
RATE, RATE_DECAY, L2, AVERAGE_DECAY = 0.01, 0.99, 0.0001, 0.99

# Multiplications and additions of a step: 12.3 million products an image forward (0.6 in the
# first convolution, 10.0 in the second, 1.6 in the dense layers), twice that backward.
PRODUCTS = 28 * 28 * 25 * 32 + 14 * 14 * 25 * 32 * 64 + 3136 * 512 + 512 * 10
FLOP = 2 * 3 * PRODUCTS * BATCH_SIZE
MATRIX_SIZE = 3000


def read_data():
  """Return the bundled MNIST as mnist_input.DataSets."""
  import mnist_input
  return mnist_input.read_data_sets(ROOT / mnist_input.DATA_DIR, one_hot=True)


def limit():
  """The arithmetic of a step at the rate of a large float32 matrix product."""
  from support.quiet_tensorflow import tf
  matrix = tf.get_variable('matrix', [MATRIX_SIZE, MATRIX_SIZE])
  product = tf.matmul(matrix, matrix).op
  sess = tf.Session()
  sess.run(tf.global_variables_initializer())

  def run(steps):
    products = steps * FLOP / (2 * MATRIX_SIZE ** 3)
    done = max(1, round(products))
    for _ in range(done):
      sess.run(product)
    return products / done  # the steps are not a whole number of products
  return run


def suite():
  """The loop of mnist_train.py."""
  import numpy as np

  import mnist_train
  from support.quiet_tensorflow import tf
  mnist, options = read_data(), mnist_train.FLAGS.options()
  x = tf.placeholder(tf.float32, [None, 28, 28, 1], name='x-input')
  y_ = tf.placeholder(tf.float32, [None, 10], name='y-input')
  model = mnist_train.build_model(x, y_, mnist.train.num_examples, options)
  sess = tf.Session()
  sess.run(tf.global_variables_initializer())

  def run(steps):
    for _ in range(steps):
      xs, ys = mnist.train.next_batch(options.batch_size)
      xs = np.reshape(xs, (options.batch_size, 28, 28, 1))
      sess.run([model.train_op, model.loss, model.cross_entropy, model.learning_rate],
               feed_dict={x: xs, y_: ys})
  return run


def pipeline():
  """The same graph, fed by tf.data inside it."""
  import mnist_train
  from support.quiet_tensorflow import tf
  mnist, options = read_data(), mnist_train.FLAGS.options()
  images, labels = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
  dataset = (tf.data.Dataset.range(mnist.train.num_examples).shuffle(mnist.train.num_examples)
             .repeat().batch(options.batch_size, drop_remainder=True)
             .map(lambda rows: (tf.gather(images, rows), tf.gather(labels, rows))).prefetch(1))
  iterator = tf.data.make_initializable_iterator(dataset)
  x, y_ = iterator.get_next()
  model = mnist_train.build_model(tf.reshape(x, [-1, 28, 28, 1]), y_, mnist.train.num_examples,
                                  options)
  sess = tf.Session()
  sess.run(tf.global_variables_initializer())
  sess.run(iterator.initializer, {images: mnist.train.images, labels: mnist.train.labels})
  run_step = sess.make_callable(
      [model.train_op, model.loss, model.cross_entropy, model.learning_rate])

  def run(steps):
    for _ in range(steps):
      run_step()
  return run


def keras():
  """model.fit of Keras with its own moving averages."""
  import keras
  mnist = read_data()
  l2 = keras.regularizers.L2(L2 / 2)
  model = keras.Sequential([
      keras.Input([28, 28, 1]),
      keras.layers.Conv2D(32, 5, padding='same', activation='relu'), keras.layers.MaxPooling2D(2),
      keras.layers.Conv2D(64, 5, padding='same', activation='relu'), keras.layers.MaxPooling2D(2),
      keras.layers.Flatten(), keras.layers.Dense(512, activation='relu', kernel_regularizer=l2),
      keras.layers.Dropout(0.5), keras.layers.Dense(10, kernel_regularizer=l2)])
  epoch = mnist.train.num_examples / BATCH_SIZE
  rate = keras.optimizers.schedules.ExponentialDecay(RATE, epoch, RATE_DECAY, True)
  model.compile(keras.optimizers.SGD(rate, use_ema=True, ema_momentum=AVERAGE_DECAY),
                keras.losses.CategoricalCrossentropy(from_logits=True))
  images = mnist.train.images.reshape(-1, 28, 28, 1)

  def run(steps):
    count = steps * BATCH_SIZE
    model.fit(images[:count], mnist.train.labels[:count], BATCH_SIZE, verbose=0)
  return run


def pytorch():
  """A plain loop in PyTorch, with its averaged model."""
  import torch
  from torch import nn
  mnist = read_data()
  model = nn.Sequential(
      nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
      nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
      nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10))
  averages = torch.optim.swa_utils.AveragedModel(
      model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY))
  optimizer = torch.optim.SGD(model.parameters(), RATE)
  epoch = mnist.train.num_examples / BATCH_SIZE
  scheduler = torch.optim.lr_scheduler.LambdaLR(
      optimizer, lambda step: RATE_DECAY ** (step // epoch))

  def run(steps):
    for _ in range(steps):
      images, labels = mnist.train.next_batch(BATCH_SIZE)
      logits = model(torch.from_numpy(images).reshape(-1, 1, 28, 28))
      loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels.argmax(1)))
      loss = loss + L2 / 2 * sum(model[k].weight.square().sum() for k in (7, 10))
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      scheduler.step()
      averages.update_parameters(model)
      loss.item()
  return run


CONTESTANTS = {'this suite': suite, 'tf.data in the graph': pipeline, 'Keras model.fit': keras,
               'PyTorch': pytorch, 'limit': limit}


def serve(name):
  """Run as many steps as each line on standard input says, and answer with the seconds taken."""
  run = CONTESTANTS[name]()
  for line in sys.stdin:
    start = time.perf_counter()
    share = run(int(line)) or 1
    print(f'seconds {(time.perf_counter() - start) * share}', flush=True)


def ask(process, steps):
  """Return the milliseconds a step of a contestant."""
  process.stdin.write(f'{steps}\n')
  process.stdin.flush()
  for line in process.stdout:
    if line.startswith('seconds '):
      return float(line.split()[1]) / steps * 1000
  raise SystemExit('a contestant ended: see its message above')


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--steps', type=int, default=50, help='steps in a turn (default: 50)')
  parser.add_argument('--rounds', type=int, default=12,
                      help='turns of each contestant (default: 12)')
  parser.add_argument('--serve', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    return serve(args.serve)
  names = [name for name in CONTESTANTS if name != 'PyTorch' or importlib.util.find_spec('torch')]
  command = [sys.executable, '-m', 'benchmarks.mnist', '--serve']
  processes = {name: subprocess.Popen([*command, name], cwd=ROOT, text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
               for name in names}
  times = {name: [] for name in names}
  for process in processes.values():
    ask(process, args.steps)  # a first turn to warm up
  for _ in range(args.rounds):
    for name, process in processes.items():
      times[name].append(ask(process, args.steps))
  for process in processes.values():
    process.stdin.close()
    process.wait()
  print(f'{"":20} {"median ms":>10} {"least ms":>9} {"ratio":>6}')
  for name in names:
    ratio = statistics.median(b / a for a, b in zip(times['this suite'], times[name], strict=True))
    print(f'{name:20} {statistics.median(times[name]):10.1f} {min(times[name]):9.1f} {ratio:6.2f}')


if __name__ == '__main__':
  main()
