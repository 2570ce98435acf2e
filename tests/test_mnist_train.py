"""mnist_train.py: the arithmetic of a step, checkpoints as the book's, exact resume, summaries."""
import re

import lenet_in_numpy
import made_data
import numpy as np
import pytest
import running
from lenet_in_numpy import AVERAGE, VARIABLES
from tensorboard.backend.event_processing import event_accumulator

import mnist_inference
import mnist_input
import mnist_train
from support import checkpoints, summaries
from support.console import UserError
from support.quiet_tensorflow import tf


def tiny_options(model_dir, **changes):
  return mnist_train.FLAGS.options(
      model_dir=model_dir, **{'batch_size': 10, 'training_steps': 3, **changes})


def read_tensors(path):
  reader = tf.train.load_checkpoint(str(path))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def read_events(folder):
  return [event for path in sorted(folder.glob('events*'))
          for event in tf.train.summary_iterator(str(path))]


# -- Arithmetic --------------------------------------------------------------------------


def test_loss_rate_step_and_average_equal_numpy(mnist):
  """Steps against numpy: L2 term, staircase decay, gradient step, moving average."""
  options = tiny_options('unused', learning_rate_base=0.5, learning_rate_decay=0.9,
                         regularization_rate=0.02, batch_size=100, dropout=False)
  with tf.Graph().as_default(), tf.Session() as sess:
    tf.set_random_seed(1)
    x = tf.constant(mnist.train.images[:100].reshape(-1, 28, 28, 1))
    model = mnist_train.build_model(x, tf.constant(mnist.train.labels[:100]), 200, options)
    live = tf.trainable_variables()
    names = [variable.op.name for variable in live]
    averages = [sess.graph.get_tensor_by_name(name + AVERAGE + ':0') for name in names]
    gradients = tf.gradients(model.loss, live)
    sess.run(tf.global_variables_initializer())
    for step in range(5):
      rate, before, old_averages, applied = sess.run(
          [model.learning_rate, live, averages, gradients])
      assert rate == pytest.approx(0.5 * 0.9 ** (step // 2))  # an epoch is 200 / 100 = 2 steps
      _, loss, cross_entropy = sess.run([model.train_op, model.loss, model.cross_entropy])
      after, new_averages = sess.run([live, averages])
      l2 = sum(0.02 * np.sum(np.square(weights, dtype=np.float64)) / 2
               for name, weights in zip(names, before, strict=True)
               if name in ('layer5-fc1/weight', 'layer6-fc2/weight'))
      assert loss - cross_entropy == pytest.approx(l2, rel=1e-4)
      decay = min(0.99, (1 + step + 1) / (10 + step + 1))  # of the step just done
      for k, name in enumerate(names):
        np.testing.assert_allclose(after[k], before[k] - rate * applied[k],
                                   rtol=1e-4, atol=1e-5, err_msg=name)
        averaged = decay * old_averages[k] + (1 - decay) * after[k]
        np.testing.assert_allclose(new_averages[k], averaged, rtol=1e-4, atol=1e-6, err_msg=name)


def test_printed_loss_is_that_of_the_weights_before_the_step(mnist, tmp_path, capsys):
  path = mnist_train.train(mnist, tiny_options(tmp_path, training_steps=1))
  values = read_tensors(path)
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=2, dropout=False))
  printed = float(re.search(r'After 2 .* is ([\d.]+)\.', capsys.readouterr().out)[1])
  images, labels = mnist.train.starting_at(10).next_batch(10)
  logits = lenet_in_numpy.logits(images.reshape(-1, 28, 28, 1).astype(np.float64), values)
  cross_entropy = np.mean(np.log(np.exp(logits).sum(1)) - logits[labels.astype(bool)])
  l2 = sum(0.0001 * np.square(values[name], dtype=np.float64).sum() / 2
           for name in ('layer5-fc1/weight', 'layer6-fc2/weight'))
  assert printed == pytest.approx(cross_entropy + l2, rel=1e-4)


# -- Checkpoints -------------------------------------------------------------------------


def test_printed_steps_and_checkpoints(mnist_dir, tmp_path):
  result = running.run_script(
      'mnist_train.py', '--data_dir', mnist_dir, '--model_dir', tmp_path, '--training_steps=8',
      '--save_interval_steps=3', '--max_to_keep=2', '--batch_size=10')
  assert (result.returncode, result.stderr) == (0, '')
  steps = re.findall(r'After (\d+) training step\(s\), loss on training batch is [\d.]+\.',
                     result.stdout)
  assert steps == ['1', '4', '7', '8']
  assert result.stdout.splitlines()[-1] == f'Saved {tmp_path}/mnist.ckpt-8'
  assert {path.name for path in tmp_path.iterdir()} == {
      'checkpoint', 'model.json', 'train', 'train.lock',
      *(f'mnist.ckpt-{step}{suffix}' for step in (7, 8) for suffix in checkpoints.SUFFIXES)}
  # TensorFlow's own functions find them, too, and would in another place.
  assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'mnist.ckpt-8')
  state = tf.train.get_checkpoint_state(str(tmp_path))
  assert list(state.all_model_checkpoint_paths) == [
      str(tmp_path / 'mnist.ckpt-7'), str(tmp_path / 'mnist.ckpt-8')]
  assert set(read_tensors(tmp_path / 'mnist.ckpt-8')) == {
      *VARIABLES, *(name + AVERAGE for name in VARIABLES), 'global_step'}


def test_import_meta_graph_as_in_the_books_chapter_5(trained_dir, mnist):
  path = str(trained_dir / 'mnist.ckpt-21')
  with tf.Graph().as_default() as graph, tf.Session() as sess:
    saver = tf.train.import_meta_graph(path + '.meta')
    saver.restore(sess, path)
    x, y_ = (graph.get_tensor_by_name(f'{name}:0') for name in ('x-input', 'y-input'))
    images = mnist.test.images.reshape(-1, 28, 28, 1)
    logits = sess.run('layer6-fc2/add:0', {x: images, y_: mnist.test.labels})
    assert sess.run('global_step:0') == 21
  assert logits.shape == (60, 10)


def test_resumes_and_then_has_nothing_to_do(mnist, tmp_path, capsys):
  mnist_train.train(mnist, tiny_options(tmp_path))
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=5))
  said = capsys.readouterr().out
  assert f'Going on from {tmp_path}/mnist.ckpt-3, after 3 training step(s).' in said
  assert f'Saved {tmp_path}/mnist.ckpt-5' in said
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=5))
  assert 'Nothing to do: 5 of 5 training step(s) are done' in capsys.readouterr().out


@pytest.mark.parametrize('augment', [False, True])
def test_a_resumed_run_ends_in_the_same_bits(mnist, tmp_path, augment):
  # 200 images in batches of 30: epochs end inside batches.
  whole = mnist_train.train(mnist, tiny_options(tmp_path / 'whole', training_steps=15,
                                                batch_size=30, augment=augment))
  for steps in (4, 11, 15):
    parts = mnist_train.train(mnist, tiny_options(tmp_path / 'parts', training_steps=steps,
                                                  batch_size=30, augment=augment))
  found, expected = read_tensors(parts), read_tensors(whole)
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_seed_decides_all_losses(mnist_dir, tmp_path):
  def losses(name, seed):
    result = running.run_script(
        'mnist_train.py', '--data_dir', mnist_dir, '--model_dir', tmp_path / name,
        '--training_steps=40', '--save_interval_steps=4', f'--seed={seed}')
    return re.findall(r'is ([\d.]+)\.\n', result.stdout)
  first = losses('a', 7)
  assert len(first) == 11 and first == losses('b', 7) and first != losses('c', 8)


def test_a_changed_option_is_printed_and_other_data_refused(mnist, tmp_path, capsys):
  mnist_train.train(mnist, tiny_options(tmp_path))
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=4, learning_rate_base=0.02))
  assert 'Going on with learning_rate_base 0.02, after 0.01 before.' in capsys.readouterr().out
  labels = np.roll(mnist.train.labels, 1, axis=0)
  other = mnist._replace(train=mnist_input.DataSet(mnist.train.images, labels))
  with pytest.raises(UserError, match='training_data'):
    mnist_train.train(other, tiny_options(tmp_path, training_steps=5))


# -- Runs that go wrong ------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_and_its_advice_helps(mnist_dir, mnist, tmp_path):
  args = ['mnist_train.py', '--data_dir', mnist_dir, '--training_steps=50',
          '--save_interval_steps=1']
  ruined = tmp_path / 'ruined'
  result = running.run_script(*args, '--model_dir', ruined, '--learning_rate_base=1e30')
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
  assert mnist_train.DIVERGED_ADVICE in result.stderr and str(ruined) in result.stderr
  saved = checkpoints.list_checkpoints(str(ruined), 'mnist.ckpt')
  assert int(re.search(r'at step (\d+)', result.stderr)[1]) not in map(checkpoints.step_of, saved)
  for path in saved:
    assert all(np.isfinite(value).all() for value in read_tensors(path).values())
  # "... give a smaller --learning_rate_base and another --model_dir".
  result = running.run_script(*args, '--model_dir', tmp_path / 'other', '--learning_rate_base=0.01')
  assert (result.returncode, result.stderr) == (0, '')


def test_going_on_with_a_dead_network_warns(mnist, tmp_path, capsys):
  # The hidden layer of such a network is zero for every image; so are its weights here.
  path = mnist_train.train(mnist, tiny_options(tmp_path, training_steps=101))
  with tf.Graph().as_default(), tf.Session() as sess:
    values = {name: value * (0 if name.startswith('layer') else 1)
              for name, value in read_tensors(path).items()}
    variables = {name: tf.Variable(value) for name, value in values.items()}
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(variables).save(sess, path, write_meta_graph=False, write_state=False)
  capsys.readouterr()
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=102, learning_rate_base=0.001))
  said = capsys.readouterr().err.splitlines()
  assert 'no better than guessing (2.3)' in said[0] and mnist_train.DIVERGED_ADVICE in said[0]


def test_labels_that_are_not_one_hot_are_refused(mnist_dir, tmp_path):
  with pytest.raises(UserError, match='one_hot=True'):
    mnist_train.train(mnist_input.read_data_sets(mnist_dir), tiny_options(tmp_path))


# -- Options and summaries ---------------------------------------------------------------


def test_options_are_the_flags_defaults_changed_by_name():
  options = mnist_train.FLAGS.options(training_steps=7, model_dir='~')
  assert (options.training_steps, options.batch_size, options.dropout) == (7, 100, True)
  assert options.model_dir not in ('~', '')
  with pytest.raises(TypeError, match="no option 'trainingsteps'"):
    mnist_train.FLAGS.options(trainingsteps=7)
  with pytest.raises(UserError, match='batch_size=0'):
    mnist_train.FLAGS.options(batch_size=0)
  with pytest.raises(UserError, match='takes for a pattern'):
    mnist_train.FLAGS.options(model_dir='run[1]')


def test_summaries_and_graph_go_to_tensorboard(trained_dir):
  events = read_events(trained_dir / 'train')
  found = {(value.tag, event.step) for event in events for value in event.summary.value}
  assert found == {(tag, step) for tag in ('loss', 'cross_entropy', 'learning_rate')
                   for step in (1, 21, 41, 61)}
  graph = tf.GraphDef.FromString(next(event.graph_def for event in events if event.graph_def))
  boxes = {node.name.split('/')[0] for node in graph.node}
  assert boxes >= {'x-input', 'layer1-conv1', 'layer2-pool1', 'layer3-conv2', 'layer4-pool2',
                   'layer5-fc1', 'layer6-fc2'}


def test_tensorboard_shows_each_step_once_after_a_kill(mnist, tmp_path):
  # Killed after step 5, of which there are summaries and no checkpoint: it goes on from step 4.
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=4, save_interval_steps=1))
  with summaries.SummaryWriter(str(tmp_path / 'train')) as writer:
    writer.add_scalars(5, loss=-1)
  mnist_train.train(mnist, tiny_options(tmp_path, training_steps=6, save_interval_steps=1))
  shown = event_accumulator.EventAccumulator(str(tmp_path / 'train'))
  shown.Reload()
  losses = shown.Scalars('loss')
  assert [event.step for event in losses] == [1, 2, 3, 4, 5, 6]
  assert losses[4].value > 0


# -- Augmentation and other labels -------------------------------------------------------


def test_augmentation_follows_from_its_seed_and_moves_little(mnist):
  images = np.zeros([500, 28, 28, 1], np.float32)
  images[:, 14, 20] = 1  # a dot six pixels beside the centre
  with tf.Graph().as_default(), tf.Session() as sess:
    first, same, other = (sess.run(mnist_train.augment(tf.constant(images), tf.constant(
        seed, tf.int64))) for seed in ([1, 5], [1, 5], [1, 6]))
  np.testing.assert_array_equal(first, same)
  assert np.abs(first - other).max() > 0.5
  weight = first[..., 0] / first.sum((1, 2, 3))[:, None, None]
  across, down = (weight.sum(axis) @ np.arange(28) for axis in (1, 2))
  # Within 2 pixels of shift, and what scaling, shearing and turning do six pixels off the centre.
  assert np.abs(across - 20).max() < 2 + 6 * 0.12 + 0.3 and np.ptp(across) > 3
  assert np.abs(down - 14).max() < 2 + 6 * (0.1 + 0.18) + 0.3 and np.ptp(down) > 3
  assert abs(np.mean(across) - 20) < 0.3 and abs(np.mean(down) - 14) < 0.3


def test_without_changes_augmentation_changes_nothing(mnist, monkeypatch):
  monkeypatch.setattr(mnist_train, 'AUGMENTATION', (0.,) * 7)
  images = mnist.train.images[:5].reshape(-1, 28, 28, 1)
  with tf.Graph().as_default(), tf.Session() as sess:
    found = sess.run(mnist_train.augment(tf.constant(images), tf.constant([1, 2], tf.int64)))
  np.testing.assert_allclose(found, images, atol=1e-6)


@pytest.mark.parametrize('labels', [[3, 7], list(range(1, 27))], ids=['two', 'letters'])
def test_as_many_labels_as_the_data_has(tmp_path, labels):
  data_dir, model_dir = made_data.write_mnist(tmp_path / 'data', labels=labels), tmp_path / 'model'
  def run(script, *args):
    result = running.run_script(script, '--model_dir', model_dir, *args)
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout
  run('mnist_train.py', '--data_dir', data_dir, '--training_steps=3', '--batch_size=50')
  assert checkpoints.read_model(str(model_dir))['labels'] == labels
  shown = run('mnist_eval.py', '--data_dir', data_dir, '--run_once', '--confusion_matrix')
  assert re.search(rf'^true.*{labels[0]} .*{labels[-1]}$', shown, re.M)
  picture = made_data.draw_stroke(tmp_path / 'digit.png')
  answer, = re.findall(r': (\d+) with probability', run('mnist_predict.py', picture))
  run('mnist_export.py', '--export_dir', tmp_path / 'exports')
  with tf.Graph().as_default(), tf.Session() as sess:
    signature = tf.saved_model.load(sess, ['serve'], str(tmp_path / 'exports' / '1')
                                    ).signature_def['serving_default']
    classes = sess.run(signature.outputs['classes'].name, {
        signature.inputs['images'].name: np.random.rand(9, 28, 28, 1)})
  assert {int(answer), *classes} <= set(labels)
  result = running.run_script('mnist_eval.py', '--model_dir', model_dir, '--run_once')
  assert result.returncode == 1 and 'give the data of its training' in result.stderr


def test_without_dropout_every_unit_counts(mnist):
  images = mnist.train.images[:10].reshape(-1, 28, 28, 1)
  for dropout in (True, False):
    with tf.Graph().as_default() as graph:
      mnist_train.build_model(tf.constant(images), tf.constant(mnist.train.labels[:10]), 200,
                              tiny_options('unused', dropout=dropout))
      names = [op.name for op in graph.get_operations() if 'dropout' in op.name]
    assert bool(names) == dropout
  assert mnist_inference.DROPOUT_RATE == 0.5
