"""flower_inference.py: Inception-v3 as Google has it, and the fixes that slim needs."""
import importlib

import numpy as np
import pytest

import flower_inference
from support.quiet_tensorflow import tf


@pytest.fixture(scope='module')
def network():
  """The network of the book's five classes, built once: (graph, images, logits, bottlenecks)."""
  with tf.Graph().as_default() as graph:
    tf.set_random_seed(1)
    images = tf.placeholder(tf.float32, [None, 299, 299, 3])
    logits, bottlenecks = flower_inference.inference(images, 5, is_training=False)
  return graph, images, logits, bottlenecks


def test_variables_are_those_of_googles_checkpoint(network):
  graph, _, logits, bottlenecks = network
  with graph.as_default():
    shapes = {variable.op.name: variable.shape.as_list()
              for variable in flower_inference.model_variables()}
    trainable = tf.trainable_variables()
    penalties = tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
  assert len(shapes) == 388
  assert logits.shape.as_list() == [None, 5] and bottlenecks.shape.as_list() == [None, 2048]
  # Names and shapes from Google's inception_v3_2016_08_28 checkpoint.
  for name, shape in (
      ('Conv2d_1a_3x3/weights', [3, 3, 3, 32]), ('Conv2d_1a_3x3/BatchNorm/moving_variance', [32]),
      ('Mixed_6b/Branch_1/Conv2d_0b_1x7/weights', [1, 7, 128, 128]),
      ('Mixed_7c/Branch_2/Conv2d_0c_1x3/BatchNorm/beta', [384]),
      ('AuxLogits/Conv2d_2a_5x5/weights', [5, 5, 128, 768]),
      ('Logits/Conv2d_1c_1x1/weights', [1, 1, 2048, 5]), ('Logits/Conv2d_1c_1x1/biases', [5])):
    assert shapes['InceptionV3/' + name] == shape
  # The backbone, AuxLogits, and the last layer: 2048 weights and a bias for each class.
  auxiliary = 768 * 128 + 128 + 5 * 5 * 128 * 768 + 768 + (768 + 1) * 5
  assert sum(np.prod(variable.shape.as_list()) for variable in trainable) == (
      21_768_352 + auxiliary + (2048 + 1) * 5)
  assert not any('moving' in variable.op.name for variable in trainable)
  assert len(penalties) == sum(variable.op.name.endswith('weights') for variable in trainable)


def test_photos_are_scaled_and_the_last_layer_is_slims(network):
  graph, images, logits, bottlenecks = network
  first = graph.get_operation_by_name('InceptionV3/InceptionV3/Conv2d_1a_3x3/Conv2D').inputs[0]
  slims_logits = graph.get_tensor_by_name('InceptionV3/Logits/SpatialSqueeze:0')
  photos = np.random.RandomState(0).rand(2, 299, 299, 3).astype(np.float32)
  with tf.Session(graph=graph) as sess:
    with graph.as_default():
      sess.run(tf.global_variables_initializer())
    scaled, expected, found, rows = sess.run(
        [first, slims_logits, logits, bottlenecks], {images: photos})
    fed = sess.run(logits, {bottlenecks: rows})
  np.testing.assert_allclose(scaled, photos * 2 - 1, atol=1e-6)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(fed, found, rtol=1e-5, atol=1e-7)


def test_no_random_numbers_but_initial_weights(network):
  # slim's own dropout would draw from a state that a resumed run does not have.
  with tf.Graph().as_default() as training_graph:
    flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 5, True)
  for graph in (network[0], training_graph):
    drawn = [op.name for op in graph.get_operations()
             if 'Random' in op.type or op.type == 'TruncatedNormal']
    assert drawn and all('/Initializer/' in name for name in drawn)


@pytest.mark.parametrize(('fix', 'error'), [('tensor', AttributeError),
                                            ('updates', ModuleNotFoundError)])
def test_tf_slim_still_needs_the_fixes(fix, error, monkeypatch):
  """Fails when a newer tf-slim or TensorFlow can do without: take the fix out then."""
  if fix == 'tensor':
    monkeypatch.delattr(importlib.import_module('tensorflow.python.framework.ops'), 'Tensor')
  else:
    monkeypatch.setattr(flower_inference, 'UPDATES_COLLECTION', tf.GraphKeys.UPDATE_OPS)
  with tf.Graph().as_default(), pytest.raises(error):
    flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 5, False)
