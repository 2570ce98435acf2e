"""The MNIST half: reader, network, training, evaluation and prediction, against numpy and files."""
import gzip
import hashlib
import math
import os
import re

import script_support

import numpy as np
import pytest
import support
from PIL import Image

import mnist_eval
import mnist_inference
import mnist_input
import mnist_predict
import mnist_train

tf = script_support.tf

VARIABLES = {
    'layer1-conv1/weight': [5, 5, 1, 32], 'layer1-conv1/bias': [32],
    'layer3-conv2/weight': [5, 5, 32, 64], 'layer3-conv2/bias': [64],
    'layer5-fc1/weight': [3136, 512], 'layer5-fc1/bias': [512],
    'layer6-fc2/weight': [512, 10], 'layer6-fc2/bias': [10],
}
MNIST_DIR = support.ROOT / mnist_input.DATA_DIR
AVERAGE = '/ExponentialMovingAverage'


def tiny_options(model_dir, **changes):
  return mnist_train.Options(model_dir=str(model_dir), **{'batch_size': 10, 'training_steps': 3, **changes})


@pytest.fixture(scope='session')
def mnist(mnist_dir):
  return mnist_input.read_data_sets(str(mnist_dir), one_hot=True)


@pytest.fixture(scope='session')
def trained_dir(mnist, tmp_path_factory):
  """A model folder after 61 training steps, with checkpoints at 1, 21, 41 and 61."""
  model_dir = tmp_path_factory.mktemp('trained')
  mnist_train.train(mnist, tiny_options(model_dir, training_steps=61, save_interval_steps=20, batch_size=50))
  return model_dir


# -- Reader ------------------------------------------------------------------------------


def test_bundled_files_have_the_listed_digests():
  listed = re.findall(r'^\| `(\S+)` \| `([0-9a-f]{64})` \|$', (MNIST_DIR / 'README.md').read_text(), re.M)
  assert len(listed) == 4
  for name, digest in listed:
    content = gzip.decompress((MNIST_DIR / f'{name}.gz').read_bytes())
    assert hashlib.sha256(content).hexdigest() == digest


def test_bundled_files_are_mnist():
  mnist = mnist_input.read_data_sets(str(MNIST_DIR), one_hot=False)
  assert [part.num_examples for part in mnist] == [55000, 5000, 10000]
  assert mnist.train.images.shape == (55000, 784) and mnist.train.images.dtype == np.float32
  assert mnist.train.images.min() == 0 and mnist.train.images.max() == 1
  assert mnist.test.labels.dtype == np.int64
  # From LeCun's page: the first labels of the training and test files.
  assert mnist.validation.labels[:5].tolist() == [5, 0, 4, 1, 9]
  assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_validation_is_the_head_of_the_training_file_in_order(mnist_dir, mnist):
  raw = np.frombuffer(gzip.decompress((mnist_dir / 'train-images-idx3-ubyte.gz').read_bytes())[16:], np.uint8)
  labels = np.frombuffer(gzip.decompress((mnist_dir / 'train-labels-idx1-ubyte.gz').read_bytes())[8:], np.uint8)
  images = raw.reshape(-1, 784) / np.float32(255)
  np.testing.assert_array_equal(mnist.validation.images, images[:5000])
  np.testing.assert_array_equal(mnist.train.images, images[5000:])
  np.testing.assert_array_equal(mnist.validation.labels, np.eye(10)[labels[:5000]])
  assert mnist.train.labels.dtype == np.float32


def test_unpacked_files_read_the_same(tmp_path, mnist_dir, mnist):
  unpacked = support.write_mnist(tmp_path, compress=False)
  for part, same in zip(mnist_input.read_data_sets(str(unpacked)), mnist, strict=True):
    np.testing.assert_array_equal(part.images, same.images)
    np.testing.assert_array_equal(part.labels, same.labels)


def numbered_set(count, seed=0):
  """A data set whose labels number its examples."""
  return mnist_input.DataSet(np.arange(count, dtype=np.float32)[:, None], np.arange(count), seed)


def test_next_batch_loses_and_repeats_nothing_within_an_epoch():
  data_set = numbered_set(10)
  batches = [data_set.next_batch(4)[1] for _ in range(5)]
  assert [len(batch) for batch in batches] == [4] * 5  # always full, also across epochs
  first, second = np.split(np.concatenate(batches), 2)
  assert sorted(first) == sorted(second) == list(range(10))
  assert list(first) != list(range(10)) and list(first) != list(second)  # shuffled, each time anew


def test_next_batch_may_exceed_the_epoch():
  labels = numbered_set(3).next_batch(8)[1]
  assert sorted(labels[:3]) == sorted(labels[3:6]) == [0, 1, 2] and len(labels) == 8


def test_next_batch_keeps_images_and_labels_together():
  images, labels = numbered_set(50).next_batch(20)
  np.testing.assert_array_equal(images[:, 0], labels)


def test_reader_leaves_the_callers_random_state_alone(mnist_dir):
  np.random.seed(3)
  expected = np.random.RandomState(3).rand()
  mnist_input.read_data_sets(str(mnist_dir)).train.next_batch(7)
  assert np.random.rand() == expected
  assert numbered_set(9, seed=1).next_batch(9)[1].tolist() != numbered_set(9, seed=2).next_batch(9)[1].tolist()


# -- Network -----------------------------------------------------------------------------


def test_variables_shapes_and_count():
  with tf.Graph().as_default():
    logits = mnist_inference.inference(tf.placeholder(tf.float32, [None, 28, 28, 1]), False, None)
    assert logits.shape.as_list() == [None, 10]
    assert {v.op.name: v.shape.as_list() for v in tf.global_variables()} == VARIABLES
    assert sum(np.prod(shape) for shape in VARIABLES.values()) == 1_663_370
    assert tf.get_collection('losses') == []


@pytest.mark.parametrize('batch', [1, 7])
def test_known_batch_sizes(batch):
  with tf.Graph().as_default():
    assert mnist_inference.inference(tf.zeros([batch, 28, 28, 1]), True, None).shape.as_list() == [batch, 10]


def numpy_logits(images, weights):
  """The network in numpy, without dropout; images [n, 28, 28, 1]."""
  net = images
  for layer in ('layer1-conv1', 'layer3-conv2'):
    kernel = weights[layer + '/weight']
    padded = np.pad(net, [(0, 0), (2, 2), (2, 2), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))  # [n, h, w, c, 5, 5]
    net = np.maximum(np.einsum('nhwcij,ijcd->nhwd', windows, kernel) + weights[layer + '/bias'], 0)
    n, h, w, c = net.shape
    net = net.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
  net = net.reshape(len(net), -1)
  net = np.maximum(net @ weights['layer5-fc1/weight'] + weights['layer5-fc1/bias'], 0)
  return net @ weights['layer6-fc2/weight'] + weights['layer6-fc2/bias']


def test_inference_equals_numpy():
  random = np.random.RandomState(0)
  images = random.rand(3, 28, 28, 1).astype(np.float32)
  with tf.Graph().as_default(), tf.Session() as sess:
    logits = mnist_inference.inference(tf.constant(images), False, None)
    sess.run(tf.global_variables_initializer())
    weights = {v.op.name: sess.run(v).astype(np.float64) for v in tf.global_variables()}
    np.testing.assert_allclose(sess.run(logits), numpy_logits(images, weights), rtol=1e-4, atol=1e-4)


def test_weight_variables_start_within_two_deviations_of_tenths():
  with tf.Graph().as_default(), tf.Session() as sess, tf.variable_scope('some'):
    variable = mnist_inference.get_weight_variable([100, 50], None)
    sess.run(variable.initializer)
    value = sess.run(variable)
  assert variable.op.name == 'some/weight'
  assert 0.19 < np.abs(value).max() <= 0.2 and 0.08 < value.std() < 0.1


# -- Training ----------------------------------------------------------------------------


def test_loss_rate_step_and_average_equal_numpy(mnist, monkeypatch):
  """Steps against numpy: L2 term of the dense weights, staircase decay, gradient step, average."""
  monkeypatch.setattr(mnist_inference, 'DROPOUT_RATE', 0.0)  # so that two runs have one gradient
  options = tiny_options('unused', learning_rate_base=0.5, learning_rate_decay=0.9, regularization_rate=0.02,
                         batch_size=100)
  with tf.Graph().as_default(), tf.Session() as sess:
    tf.set_random_seed(1)
    x, y_ = tf.constant(mnist.train.images[:100].reshape(-1, 28, 28, 1)), tf.constant(mnist.train.labels[:100])
    graph = mnist_train.build_training_graph(x, y_, num_examples=200, options=options)
    live = tf.trainable_variables()
    names = [v.op.name for v in live]
    averages = [sess.graph.get_tensor_by_name(name + AVERAGE + ':0') for name in names]
    gradients = tf.gradients(graph.loss, live)
    sess.run(tf.global_variables_initializer())
    for step in range(5):
      rate, before, old_averages, applied = sess.run([graph.learning_rate, live, averages, gradients])
      assert rate == pytest.approx(0.5 * 0.9 ** (step // 2))  # an epoch is 200 / 100 = 2 steps
      _, loss, cross_entropy = sess.run([graph.train_op, graph.loss, graph.cross_entropy])
      after, new_averages = sess.run([live, averages])
      l2 = sum(0.02 * np.sum(np.square(weights, dtype=np.float64)) / 2
               for name, weights in zip(names, before, strict=True)
               if name in ('layer5-fc1/weight', 'layer6-fc2/weight'))
      assert loss - cross_entropy == pytest.approx(l2, rel=1e-4)
      decay = min(0.99, (1 + step + 1) / (10 + step + 1))  # of the step just done
      for name, w0, w1, gradient, old, new in zip(names, before, after, applied, old_averages, new_averages,
                                                  strict=True):
        np.testing.assert_allclose(w1, w0 - rate * gradient, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(new, decay * old + (1 - decay) * w1, rtol=1e-4, atol=1e-6, err_msg=name)


def test_input_pipeline_has_the_contract_of_next_batch():
  with tf.Graph().as_default(), tf.Session() as sess:
    images = np.repeat(np.arange(10, dtype=np.float32)[:, None], 784, 1)
    data_set = mnist_input.DataSet(images, np.eye(10, dtype=np.float32))
    x, y_, start = mnist_train.build_input(data_set, 4, seed=3)
    start(sess, 0)
    batches = []
    for _ in range(5):
      image_batch, label_batch = sess.run([x, y_])
      assert image_batch.shape == (4, 28, 28, 1)
      np.testing.assert_array_equal(image_batch[:, 0, 0, 0], label_batch.argmax(1))
      batches.append(label_batch.argmax(1))
    first, second = np.split(np.concatenate(batches), 2)
    assert sorted(first) == sorted(second) == list(range(10)) and list(first) != list(second)
    start(sess, 3)  # a resumed run sees what the undisturbed one would have seen
    np.testing.assert_array_equal(sess.run(y_).argmax(1), batches[3])


def test_printed_steps_and_checkpoints(mnist_dir, tmp_path):
  result = support.run_script('mnist_train.py', '--data_dir', mnist_dir, '--model_dir', tmp_path,
                              '--training_steps=8', '--save_interval_steps=3', '--max_to_keep=2',
                              '--batch_size=10')
  assert result.returncode == 0 and result.stderr == ''
  steps = re.findall(r'After (\d+) training step\(s\), loss on training batch is [\d.]+\.', result.stdout)
  assert steps == ['1', '4', '7', '8']
  assert result.stdout.splitlines()[-1] == f'Saved {tmp_path}/mnist.ckpt-8'
  named = script_support.named_checkpoints(str(tmp_path), 'mnist.ckpt')
  assert [script_support.step_of(path) for path in named] == [7, 8]
  assert sorted(p.name for p in tmp_path.glob('*.index')) == ['mnist.ckpt-7.index', 'mnist.ckpt-8.index']
  names = {name for name, _ in tf.train.list_variables(str(tmp_path / 'mnist.ckpt-8'))}
  assert names == {*VARIABLES, *(name + AVERAGE for name in VARIABLES), 'global_step'}


def test_resumes_and_then_has_nothing_to_do(mnist_dir, tmp_path):
  args = ['mnist_train.py', '--data_dir', mnist_dir, '--model_dir', tmp_path, '--batch_size=10']
  assert support.run_script(*args, '--training_steps=3').returncode == 0
  more = support.run_script(*args, '--training_steps=5')
  assert f'Going on from {tmp_path}/mnist.ckpt-3, after 3 training step(s).' in more.stdout
  assert f'Saved {tmp_path}/mnist.ckpt-5' in more.stdout
  done = support.run_script(*args, '--training_steps=5')
  assert done.returncode == 0 and 'Nothing to do: 5 of 5 training step(s) are done' in done.stdout
  assert int(tf.train.load_variable(str(tmp_path / 'mnist.ckpt-5'), 'global_step')) == 5


def test_same_seed_same_losses(mnist_dir, tmp_path):
  def losses(name, seed):
    result = support.run_script('mnist_train.py', '--data_dir', mnist_dir, '--model_dir', tmp_path / name,
                                '--training_steps=40', '--save_interval_steps=4', f'--seed={seed}')
    return re.findall(r'is ([\d.]+)\.\n', result.stdout)
  first = losses('a', 7)
  assert len(first) == 11 and first == losses('b', 7) and first != losses('c', 8)


def test_loss_that_is_not_finite_stops_and_is_not_saved(mnist_dir, tmp_path):
  result = support.run_script('mnist_train.py', '--data_dir', mnist_dir, '--model_dir', tmp_path,
                              '--learning_rate_base=1e30', '--training_steps=50', '--save_interval_steps=1')
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1 and 'learning rate 1e+30' in result.stderr
  step = int(re.search(r'at step (\d+)', result.stderr)[1])
  saved = [script_support.step_of(p) for p in script_support.named_checkpoints(str(tmp_path), 'mnist.ckpt')]
  assert step not in saved
  for path in script_support.named_checkpoints(str(tmp_path), 'mnist.ckpt'):
    assert all(np.isfinite(tf.train.load_variable(path, name)).all() for name in VARIABLES)


def test_scalars_go_to_tensorboard(trained_dir):
  tags = set()
  for path in (trained_dir / 'train').glob('events*'):
    for event in tf.train.summary_iterator(str(path)):
      tags |= {(value.tag, event.step) for value in event.summary.value}
  assert tags == {(tag, step) for tag in ('loss', 'cross_entropy', 'learning_rate') for step in (1, 21, 41, 61)}


# -- Evaluation --------------------------------------------------------------------------


def test_evaluates_the_averages_not_the_live_weights(mnist, trained_dir):
  path = str(trained_dir / 'mnist.ckpt-21')
  images, labels = mnist.test.images.reshape(-1, 28, 28, 1), mnist.test.labels.argmax(1)

  def logits(suffix):
    return numpy_logits(images, {name: tf.train.load_variable(path, name + suffix) for name in VARIABLES})

  with tf.Graph().as_default(), tf.Session() as sess:
    graph = mnist_eval.build_evaluation_graph()
    script_support.restore_checkpoint(sess, graph.saver, graph.variables, path)
    found = mnist_eval.predict_logits(sess, graph, mnist.test.images)
  np.testing.assert_allclose(found, logits(AVERAGE), rtol=1e-3, atol=1e-3)
  assert np.abs(found - logits('')).max() > 0.01  # the live weights answer otherwise
  assert found.shape == (60, 10) and len(labels) == 60


def test_scores_each_checkpoint_once_in_order(mnist, mnist_dir, trained_dir):
  result = support.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', trained_dir, '--split=test',
                              '--timeout_secs=0', '--eval_interval_secs=0')
  assert result.returncode == 0 and result.stderr == ''
  assert f'60 test images from {mnist_dir}' in result.stdout
  lines = re.findall(r'After (\d+) training step\(s\), test accuracy = ([\d.]+)', result.stdout)
  assert [step for step, _ in lines] == ['1', '21', '41', '61']
  for step, accuracy in lines:
    weights = {name: tf.train.load_variable(str(trained_dir / f'mnist.ckpt-{step}'), name + AVERAGE)
               for name in VARIABLES}
    predicted = numpy_logits(mnist.test.images.reshape(-1, 28, 28, 1), weights).argmax(1)
    assert float(accuracy) == pytest.approx(np.mean(predicted == mnist.test.labels.argmax(1)), abs=1e-5)
  assert float(lines[-1][1]) > 0.9  # the easy digits are learned


def test_accuracy_goes_to_a_tensorboard_folder_of_its_own(mnist, tmp_path, trained_dir):
  folder = tmp_path / 'model'
  folder.mkdir()
  for path in trained_dir.glob('mnist.ckpt-61*'):
    os.link(path, folder / path.name)
  accuracy = mnist_eval.evaluate(mnist, str(folder), split='test', run_once=True)
  events = [event for path in (folder / 'eval_test').glob('events*')
            for event in tf.train.summary_iterator(str(path)) if event.summary.value]
  assert [(event.step, event.summary.value[0].tag) for event in events] == [(61, 'accuracy')]
  assert events[0].summary.value[0].simple_value == pytest.approx(accuracy)


def test_run_once_without_a_checkpoint(mnist_dir, tmp_path):
  result = support.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--run_once',
                              '--model_dir', tmp_path / 'none')
  assert result.returncode == 1 and result.stderr == ''
  assert result.stdout.splitlines()[-1] == 'No checkpoint file found'
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(('least', 'status'), [('0', 0), ('1', 1)])
def test_min_accuracy_sets_the_status(mnist_dir, trained_dir, least, status):
  # Step 1's accuracy is between the two, whatever the machine.
  result = support.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', trained_dir,
                              '--run_once', '--min_accuracy', least)
  accuracy = float(re.search(r'validation accuracy = ([\d.]+)', result.stdout)[1])
  assert result.returncode == (status if accuracy < 1 else 0)
  assert ('below --min_accuracy=1' in result.stderr) == (result.returncode == 1)


def test_confusion_matrix_counts_and_pictures(mnist, mnist_dir, trained_dir):
  result = support.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', trained_dir, '--split=test',
                              '--run_once', '--confusion_matrix')
  rows = np.array([line.split() for line in result.stdout.splitlines()
                   if re.fullmatch(r'\s*\d(\s+\d+){10}', line)], int)
  np.testing.assert_array_equal(rows[:, 0], range(10))
  np.testing.assert_array_equal(rows[:, 1:].sum(1), mnist.test.labels.sum(0))  # a row for each true digit
  accuracy = float(re.search(r'test accuracy = ([\d.]+)', result.stdout)[1])
  assert np.trace(rows[:, 1:]) == round(accuracy * 60)


def test_confused_pairs_count_both_directions(capsys):
  matrix = mnist_eval.confusion_matrix(np.array([1, 1, 7, 3, 3, 3]), np.array([7, 7, 1, 3, 5, 3]))
  assert matrix[1, 7] == 2 and matrix[7, 1] == 1 and matrix[3, 3] == 2 and matrix.sum() == 6
  mnist_eval.print_confusion(matrix)
  assert 'Most often confused: 1 and 7 (3 times), 3 and 5 (1 times)' in capsys.readouterr().out


def test_picture_holds_the_first_wrong_digits():
  images = np.random.RandomState(0).rand(40, 784).astype(np.float32)
  wrong = np.arange(3, 40)
  with tf.Graph().as_default(), tf.Session() as sess:
    picture = sess.run(tf.io.decode_png(mnist_eval.wrong_digits_png(images, wrong)))[..., 0]
  assert picture.shape == (140, 140)
  for k in (0, 6, 24):  # rows of five
    row, column = divmod(k, 5)
    np.testing.assert_array_equal(picture[row * 28:row * 28 + 28, column * 28:column * 28 + 28],
                                  np.round(images[wrong[k]] * 255).reshape(28, 28))


# -- Prediction --------------------------------------------------------------------------


def stroke(height, width, top, left, size, background, ink):
  """A picture of an L of ink, size pixels high."""
  picture = np.full([height, width], background, np.uint8)
  picture[top:top + size, left:left + size // 5] = ink
  picture[top + size - size // 5:top + size, left:left + size // 2] = ink
  return picture


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.gif', 'a.jpg'])
@pytest.mark.parametrize(('background', 'ink'), [(255, 0), (0, 255), (200, 40)])
def test_formats_and_polarity_give_one_digit(tmp_path, name, background, ink):
  Image.fromarray(stroke(28, 28, 4, 9, 20, 0, 255)).save(tmp_path / 'reference.png')
  Image.fromarray(stroke(120, 160, 10, 90, 100, background, ink)).save(tmp_path / name)
  reference = mnist_predict.read_digit(str(tmp_path / 'reference.png'))
  digit = mnist_predict.read_digit(str(tmp_path / name))
  assert digit.shape == (784,) and digit.dtype == np.float32 and digit.min() == 0
  assert 0.95 < digit.max() <= 1
  assert np.abs(digit - reference).mean() < 0.01


def test_digit_fills_twenty_pixels_around_its_centre_of_mass(tmp_path):
  Image.fromarray(stroke(300, 200, 20, 100, 90, 255, 0)).save(tmp_path / 'a.png')
  digit = mnist_predict.read_digit(str(tmp_path / 'a.png')).reshape(28, 28)
  rows, columns = np.nonzero(digit > 0.1)
  assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 == 10
  assert abs(np.average(rows, weights=digit[rows, columns]) - 14) <= 0.6
  assert abs(np.average(columns, weights=digit[rows, columns]) - 14) <= 0.6


def test_transparent_paper_is_white(tmp_path):
  grey = stroke(60, 60, 10, 20, 40, 0, 255)
  rgba = np.zeros([60, 60, 4], np.uint8)
  rgba[..., 3] = grey  # black ink, and nothing around it
  Image.fromarray(rgba).save(tmp_path / 'a.png')
  Image.fromarray(255 - grey).save(tmp_path / 'b.png')
  np.testing.assert_allclose(mnist_predict.read_digit(str(tmp_path / 'a.png')),
                             mnist_predict.read_digit(str(tmp_path / 'b.png')), atol=0.02)


def test_predicts_files_and_reports_each_bad_one(mnist, trained_dir, tmp_path):
  # The easy digits are no strokes, so they stand in the middle of their own paper here.
  Image.fromarray(np.uint8(mnist.test.images[0].reshape(28, 28) * 255)).save(tmp_path / 'good.png')
  (tmp_path / 'bad.png').write_bytes(b'no picture')
  result = support.run_script('mnist_predict.py', tmp_path / 'good.png', tmp_path / 'bad.png',
                              '--model_dir', trained_dir)
  assert result.returncode == 1
  assert re.fullmatch(rf'{tmp_path}/good.png: \d with probability [01]\.\d{{4}} '
                      r'\(runner-up \d with 0\.\d{4}\)\n', result.stdout)
  assert 'bad.png' in result.stderr and len(result.stderr.splitlines()) == 1


def test_probabilities_are_the_softmax_of_the_averages(mnist, trained_dir):
  probabilities = mnist_predict.predict(mnist.test.images, str(trained_dir))
  path = str(trained_dir / 'mnist.ckpt-61')
  weights = {name: tf.train.load_variable(path, name + AVERAGE) for name in VARIABLES}
  odds = np.exp(numpy_logits(mnist.test.images.reshape(-1, 28, 28, 1), weights).astype(np.float64))
  np.testing.assert_allclose(probabilities, odds / odds.sum(1, keepdims=True), rtol=1e-2, atol=1e-5)
  assert math.isclose(probabilities[0].sum(), 1)
