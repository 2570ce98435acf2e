"""The Inception-v3 network of tf-slim, and the two fixes that tf-slim needs today.

This module is imported, never run; it reads no flags and no files, and no other one imports
tf-slim. tf-slim 1.1.0, its newest release, breaks on TensorFlow 2.15 and later in two places.
"""
import importlib
import warnings

from support.quiet_tensorflow import tf

# First fix: tf-slim asks for ops.Tensor, which TensorFlow 2.15 took away.
ops = importlib.import_module('tensorflow.python.framework.ops')
if not hasattr(ops, 'Tensor'):
  ops.Tensor = tf.Tensor

# It imports TensorFlow by itself, and so comes after the quiet import.
import tf_slim as slim  # noqa: E402
from tf_slim.nets import inception_v3  # noqa: E402

# Second fix: with the collection UPDATE_OPS, slim's batch_norm calls a layer that tf-keras no
# longer has; with any other name it takes its own. Nothing here runs these operations: as in the
# book, the moving statistics stay those of the checkpoint.
UPDATES_COLLECTION = 'batch_norm_updates_not_run'

BOTTLENECK_SIZE = 2048  # numbers that the last layer reads for each photo
DROPOUT_KEEP_PROB = 0.8  # share of them kept, in training with --batch_norm=batch; slim's default

# Name prefixes: of the variables that bottlenecks do not depend on, which are those of the last
# layers, and of the very last layer, which gives the logits.
HEAD_SCOPES = ('InceptionV3/Logits', 'InceptionV3/AuxLogits')
LAST_SCOPE = 'InceptionV3/Logits'


def inference(images: tf.Tensor, n_classes: int, is_training: bool
              ) -> tuple[tf.Tensor, tf.Tensor]:
  """Build Inception-v3 with variables named as in Google's checkpoint, 388 of them with 5 classes.

  The L2 penalties of its weights go into the collection of regularization losses. There is no
  dropout: a caller that wants it applies it to the bottlenecks, and `last_layer` to the result.

  Args:
    images: float32 [batch, 299, 299, 3], RGB in [0, 1].
    is_training: True normalizes with the statistics of the batch; False takes the moving
      statistics of the checkpoint, and each photo stands alone.

  Returns:
    The logits, float32 [batch, n_classes], and the bottlenecks, float32 [batch, 2048], which the
    last layer reads; with is_training=False they may be fed in place of images.
  """
  scaled = images * 2 - 1  # the checkpoint was trained on [-1, 1]
  with warnings.catch_warnings(), slim.arg_scope(
      inception_v3.inception_v3_arg_scope(updates_collections=UPDATES_COLLECTION)):
    warnings.simplefilter('ignore', UserWarning)  # of layer.apply, which slim calls
    # slim's dropout draws from a hidden state, which a resumed run would not have.
    _, end_points = inception_v3.inception_v3(
        scaled, num_classes=n_classes, is_training=is_training, dropout_keep_prob=1.0)
  bottlenecks = tf.reshape(
      end_points['PreLogits'], [-1, BOTTLENECK_SIZE], name='bottlenecks')  # [batch, 2048]
  return last_layer(bottlenecks, n_classes), bottlenecks


def _last_variable(name: str, shape: list[int]) -> tf.Variable:
  with tf.variable_scope('InceptionV3/Logits/Conv2d_1c_1x1', reuse=True):
    return tf.get_variable(name, shape)


def last_weights(n_classes: int) -> tf.Tensor:
  """Return the weights of the last layer, float32 [2048, n_classes], after `inference`."""
  weights = _last_variable('weights', [1, 1, BOTTLENECK_SIZE, n_classes])
  return tf.reshape(weights, [BOTTLENECK_SIZE, n_classes])


def last_layer(bottlenecks: tf.Tensor, n_classes: int) -> tf.Tensor:
  """Return the logits, float32 [batch, n_classes], of float32 [batch, 2048], after `inference`.

  This is slim's last layer, a 1x1 convolution on 1x1 pixels, as the matrix product it is: when
  bottlenecks are fed, TensorFlow's constant folding makes that convolution's gradient wait for the
  images all the same.
  """
  biases = _last_variable('biases', [n_classes])
  return tf.nn.xw_plus_b(bottlenecks, last_weights(n_classes), biases, name='logits')


def model_variables() -> list[tf.Variable]:
  """Return the network's variables: weights, biases and the statistics of its normalization."""
  return slim.get_model_variables()


def backbone_variables() -> list[tf.Variable]:
  """Return the network's variables but for the last layers: those that decide the bottlenecks."""
  return [variable for variable in model_variables() if not is_in_head(variable.op.name)]


def is_in_head(name: str) -> bool:
  """Return whether a variable or scope is of the last layers, which bottlenecks do not need."""
  return name.startswith(HEAD_SCOPES)


def is_in_last_layer(name: str) -> bool:
  """Return whether a variable or scope is of the layer that gives the logits."""
  return name.startswith(LAST_SCOPE)
