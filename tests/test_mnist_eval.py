"""mnist_eval.py: the averages' accuracy of each checkpoint, once, and what cron reads."""
import contextlib
import os
import re
import shutil
import threading

import lenet_in_numpy
import numpy as np
import pytest
import running
from lenet_in_numpy import AVERAGE, VARIABLES

import mnist_eval
import mnist_input
from support import checkpoints, evaluation, summaries
from support.quiet_tensorflow import tf


def read_weights(path, suffix=AVERAGE):
  return {name: tf.train.load_variable(str(path), name + suffix) for name in VARIABLES}


def as_pictures(data_set):
  return data_set.images.reshape(-1, 28, 28, 1)


def test_evaluates_the_averages_not_the_live_weights(mnist, trained_dir):
  path = str(trained_dir / 'mnist.ckpt-21')
  with tf.Graph().as_default(), tf.Session() as sess:
    graph = mnist_eval.build_evaluation_graph()
    checkpoints.restore(sess, graph.saver, graph.variables, path)
    found = mnist_eval.predict_logits(sess, graph, mnist.test.images)
  averaged, live = (lenet_in_numpy.logits(as_pictures(mnist.test), read_weights(path, suffix))
                    for suffix in (AVERAGE, ''))
  np.testing.assert_allclose(found, averaged, rtol=1e-3, atol=1e-3)
  assert np.abs(found - live).max() > 0.01  # the live weights answer otherwise


@contextlib.contextmanager
def polling(model_dir, **changes):
  """Give what mnist_eval.restore_each yields for a folder."""
  with tf.Graph().as_default(), tf.Session() as sess:
    options = mnist_eval.FLAGS.options(model_dir=model_dir, eval_interval_secs=0, **changes)
    yield mnist_eval.restore_each(sess, mnist_eval.build_evaluation_graph(), options)


def test_scores_each_checkpoint_once_in_order(mnist, mnist_dir, trained_dir):
  result = running.run_script(
      'mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', trained_dir, '--split=test',
      '--timeout_secs=0', '--eval_interval_secs=0')
  assert (result.returncode, result.stderr) == (0, '')
  assert f'60 test images from {mnist_dir}' in result.stdout
  lines = re.findall(r'After (\d+) training step\(s\), test accuracy = ([\d.]+)', result.stdout)
  assert [step for step, _ in lines] == ['1', '21', '41', '61']
  for step, accuracy in lines:
    weights = read_weights(trained_dir / f'mnist.ckpt-{step}')
    predicted = lenet_in_numpy.logits(as_pictures(mnist.test), weights).argmax(1)
    right = np.mean(predicted == mnist.test.labels.argmax(1))
    assert float(accuracy) == pytest.approx(right, abs=1e-5)
  assert float(lines[-1][1]) > 0.9  # the easy digits are learned


def test_a_folder_that_is_trained_in_again_is_scored_again(trained_dir, tmp_path):
  folder = tmp_path / 'model'
  with polling(folder, timeout_secs=1) as polls:
    shutil.copytree(trained_dir, folder)
    assert [checkpoints.step_of(next(polls)) for _ in range(4)] == [1, 21, 41, 61]
    shutil.rmtree(folder)
    shutil.copytree(trained_dir, folder, copy_function=shutil.copyfile)  # with times of their own
    assert [checkpoints.step_of(path) for path in polls] == [1, 21, 41, 61]


def test_a_checkpoint_that_comes_file_by_file_is_scored_when_it_is_whole(
    trained_dir, tmp_path, capsys):
  data = (trained_dir / 'mnist.ckpt-21.data-00000-of-00001').read_bytes()
  with polling(tmp_path, timeout_secs=1) as polls:
    for name in ('mnist.ckpt-1.index', 'mnist.ckpt-1.data-00000-of-00001', 'mnist.ckpt-21.index'):
      shutil.copy(trained_dir / name, tmp_path)
    assert checkpoints.step_of(next(polls)) == 1
    (tmp_path / 'mnist.ckpt-21.data-00000-of-00001').write_bytes(data[:len(data) // 3])
    threading.Timer(0.3, (tmp_path / 'mnist.ckpt-21.data-00000-of-00001').write_bytes, [data]
                    ).start()
    assert [checkpoints.step_of(path) for path in polls] == [21]
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'mnist.ckpt-21' in said and 'skipped until' in said


def test_the_step_that_a_checkpoint_holds_decides(mnist, trained_dir, tmp_path, capsys):
  for path in trained_dir.glob('mnist.ckpt-[12]*'):
    os.link(path, tmp_path / path.name.replace('-1.', '-999.'))  # a copy under another name
  mnist_eval.evaluate(mnist, mnist_eval.FLAGS.options(model_dir=tmp_path, run_once=True))
  assert 'After 21 training step(s)' in capsys.readouterr().out


def test_weights_that_are_not_finite_are_refused(mnist, trained_dir, tmp_path, capsys):
  for path in trained_dir.glob('mnist.ckpt-21.*'):
    os.link(path, tmp_path / path.name)
  with tf.Graph().as_default(), tf.Session() as sess:
    graph = mnist_eval.build_evaluation_graph()
    checkpoints.restore(sess, graph.saver, graph.variables, str(tmp_path / 'mnist.ckpt-21'))
    tf.global_variables()[0].load(np.full([5, 5, 1, 32], np.nan), sess)
    graph.saver.save(sess, str(tmp_path / 'mnist.ckpt'), 41, write_state=False)
  mnist_eval.evaluate(mnist, mnist_eval.FLAGS.options(model_dir=tmp_path, run_once=True))
  said = capsys.readouterr()
  assert 'mnist.ckpt-41 holds numbers that are not finite' in said.err
  assert 'After 21 training step(s)' in said.out


def test_polling_says_once_that_it_waits(tmp_path, capsys):
  with polling(tmp_path, timeout_secs=0.3) as polls:
    assert list(polls) == []
  waiting = f'No checkpoint file found in {tmp_path} yet: waiting for one.\n'
  assert capsys.readouterr().out == waiting


def test_accuracy_goes_to_a_tensorboard_folder_of_its_own(mnist, tmp_path, trained_dir):
  for path in trained_dir.glob('mnist.ckpt-61*'):
    os.link(path, tmp_path / path.name)
  accuracy = mnist_eval.evaluate(mnist, mnist_eval.FLAGS.options(
      model_dir=tmp_path, split='test', run_once=True))
  events = [event for path in (tmp_path / 'eval_test').glob('events*')
            for event in tf.train.summary_iterator(str(path)) if event.summary.value]
  assert [(event.step, event.summary.value[0].tag) for event in events] == [(61, 'accuracy')]
  assert events[0].summary.value[0].simple_value == pytest.approx(accuracy)


def test_run_once_without_a_checkpoint(mnist_dir, tmp_path):
  result = running.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--run_once',
                              '--model_dir', tmp_path / 'none')
  assert result.returncode == 1
  assert result.stdout.splitlines()[-1] == 'No checkpoint file found'
  assert len(result.stderr.splitlines()) == 1 and 'run mnist_train.py first' in result.stderr
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(('least', 'status'), [('0', 0), ('1', 1)])
def test_min_accuracy_sets_the_status(mnist_dir, trained_dir, tmp_path, least, status):
  # Of step 1, whose accuracy is between the two on any machine.
  for path in trained_dir.glob('mnist.ckpt-1.*'):
    os.link(path, tmp_path / path.name)
  result = running.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', tmp_path,
                              '--run_once', '--min_accuracy', least)
  assert result.returncode == status
  assert ('below --min_accuracy=1' in result.stderr) == (status == 1)


def test_warns_of_images_that_may_have_been_trained_on(mnist_dir, trained_dir):
  result = running.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', trained_dir,
                              '--run_once', '--validation_size=5100')
  assert result.returncode == 0 and len(result.stderr.splitlines()) == 1
  assert 'trained on other images' in result.stderr and '--validation_size' in result.stderr


# -- What was confused -------------------------------------------------------------------


def test_confusion_matrix_counts_the_test_images(mnist, mnist_dir, trained_dir):
  result = running.run_script('mnist_eval.py', '--data_dir', mnist_dir, '--model_dir', trained_dir,
                              '--split=test', '--run_once', '--confusion_matrix')
  rows = np.array([line.split() for line in result.stdout.splitlines()
                   if re.fullmatch(r'\s*\d(\s+\d+){10}', line)], int)
  np.testing.assert_array_equal(rows[:, 0], range(10))
  np.testing.assert_array_equal(rows[:, 1:].sum(1), mnist.test.labels.sum(0))  # by true digit
  accuracy = float(re.search(r'test accuracy = ([\d.]+)', result.stdout)[1])
  assert np.trace(rows[:, 1:]) == round(accuracy * 60)


def test_confused_pairs_count_both_directions(capsys):
  matrix = evaluation.confusion_matrix(np.array([1, 1, 7, 3, 3, 3]), np.array([7, 7, 1, 3, 5, 3]),
                                       10)
  assert matrix[1, 7] == 2 and matrix[7, 1] == 1 and matrix[3, 3] == 2 and matrix.sum() == 6
  evaluation.print_confusion(matrix, range(10))
  assert 'Most often confused: 1 and 7 (3 times), 3 and 5 (1 times)' in capsys.readouterr().out


def test_tensorboard_shows_the_confusion_matrix(tmp_path):
  with summaries.SummaryWriter(str(tmp_path)) as writer:
    evaluation.add_confusion(writer, 7, np.array([[3, 1], [0, 0]]))
  event, = (event for path in tmp_path.iterdir()
            for event in tf.train.summary_iterator(str(path)) if event.summary.value)
  image = event.summary.value[0].image
  with tf.Graph().as_default(), tf.Session() as sess:
    picture = sess.run(tf.io.decode_png(image.encoded_image_string))
  assert event.step == 7 and picture.shape == (200, 200, 1)
  # A square for each cell, in shares of its row; a row without images is black.
  assert [picture[y, x, 0] for y in (50, 150) for x in (50, 150)] == [191, 64, 0, 0]


def test_tensorboard_shows_the_first_wrong_digits(mnist_dir, tmp_path, trained_dir):
  for path in trained_dir.glob('mnist.ckpt-1.*'):
    os.link(path, tmp_path / path.name)
  mnist = mnist_input.read_data_sets(mnist_dir, one_hot=True)
  mnist_eval.evaluate(mnist, mnist_eval.FLAGS.options(
      model_dir=tmp_path, run_once=True, confusion_matrix=True))
  values = [value for path in (tmp_path / 'eval_validation').glob('events*')
            for event in tf.train.summary_iterator(str(path)) for value in event.summary.value]
  encoded, = (value.image.encoded_image_string for value in values if value.tag == 'wrong_digits')
  with tf.Graph().as_default(), tf.Session() as sess:
    picture = sess.run(tf.io.decode_png(encoded))[..., 0]
  predicted = lenet_in_numpy.logits(as_pictures(mnist.validation)[:200],
                                    read_weights(tmp_path / 'mnist.ckpt-1')).argmax(1)
  wrong = mnist.validation.images[:200][predicted != mnist.validation.labels[:200].argmax(1)]
  assert picture.shape == (140, 140) and len(wrong) >= 25
  for k in (0, 6, 24):  # rows of five
    row, column = divmod(k, 5)
    np.testing.assert_array_equal(
        picture[row * 28:row * 28 + 28, column * 28:column * 28 + 28],
        np.round(wrong[k] * 255).reshape(28, 28))
