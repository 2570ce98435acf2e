"""mnist_inference.py: names, shapes and arithmetic of the network."""
import lenet_in_numpy
import numpy as np
import pytest

import mnist_inference
from support.quiet_tensorflow import tf


def test_variables_shapes_and_count():
  with tf.Graph().as_default():
    images = tf.placeholder(tf.float32, [None, 28, 28, 1])
    logits = mnist_inference.inference(images, False, None)
    assert logits.shape.as_list() == [None, 10]
    found = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    assert found == lenet_in_numpy.VARIABLES
    assert sum(np.prod(shape) for shape in found.values()) == 1_663_370
    assert tf.get_collection('losses') == []


def test_inference_equals_numpy():
  images = np.random.RandomState(0).rand(3, 28, 28, 1).astype(np.float32)
  with tf.Graph().as_default(), tf.Session() as sess:
    logits = mnist_inference.inference(tf.constant(images), False, None)
    sess.run(tf.global_variables_initializer())
    weights = {v.op.name: sess.run(v).astype(np.float64) for v in tf.global_variables()}
    found = sess.run(logits)
  np.testing.assert_allclose(found, lenet_in_numpy.logits(images, weights), rtol=1e-4, atol=1e-4)


def test_dropout_follows_from_its_seed_alone():
  with tf.Graph().as_default(), tf.Session() as sess:
    seed = tf.placeholder(tf.int64, [2])
    images = tf.random_uniform([1, 28, 28, 1], seed=1)
    logits = mnist_inference.inference(tf.Variable(images), True, None, seed)
    assert logits.shape.as_list() == [1, 10]
    sess.run(tf.global_variables_initializer())
    first, same, other = (sess.run(logits, {seed: value}) for value in ([1, 5], [1, 5], [1, 6]))
    dropped = sess.run('layer5-fc1/stateless_dropout/SelectV2:0', {seed: [1, 5]})
  np.testing.assert_array_equal(first, same)
  assert np.abs(first - other).max() > 0.01
  assert dropped.shape == (1, 512) and 0.4 < np.mean(dropped == 0) <= 0.9  # half, and what is dead


def test_the_books_own_call_drops_others_each_time():
  with tf.Graph().as_default(), tf.Session() as sess:
    images = tf.Variable(tf.random_uniform([1, 28, 28, 1], seed=1))
    logits = mnist_inference.inference(images, True, tf.nn.l2_loss)
    assert len(tf.get_collection('losses')) == 2  # of the dense layers
    sess.run(tf.global_variables_initializer())
    assert np.abs(sess.run(logits) - sess.run(logits)).max() > 0.01


@pytest.mark.parametrize('batch', [1, 7])
def test_known_batch_sizes(batch):
  with tf.Graph().as_default():
    logits = mnist_inference.inference(tf.zeros([batch, 28, 28, 1]), False, None)
    assert logits.shape.as_list() == [batch, 10]


def test_weight_variables_start_within_two_deviations_of_tenths():
  with tf.Graph().as_default(), tf.Session() as sess, tf.variable_scope('some'):
    variable = mnist_inference.get_weight_variable([100, 50], None)
    sess.run(variable.initializer)
    value = sess.run(variable)
  assert variable.op.name == 'some/weight'
  assert 0.19 < np.abs(value).max() <= 0.2 and 0.08 < value.std() < 0.1
