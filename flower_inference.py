"""The Inception-v3 network of tf-slim: graph, and which variables are restored and trained.

This module is imported, never run. It is the only one that imports tf-slim, and holds the
two cures that tf-slim 1.1.0 needs on TensorFlow 2.15 and later.
"""
import warnings

import script_support  # first: it imports TensorFlow quietly

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import ops

# First cure: tf-slim reads ops.Tensor, which TensorFlow 2.15 took away.
if not hasattr(ops, 'Tensor'):
  ops.Tensor = tf.Tensor

import tf_slim as slim  # noqa: E402
from tf_slim.nets import inception_v3  # noqa: E402

# Second cure: with the collection UPDATE_OPS, slim's batch_norm calls a layer that tf-keras no
# longer has; with any other name it takes its own. Nothing here runs these operations.
UPDATES_COLLECTION = 'batch_norm_updates_not_run'

IMAGE_SIZE = 299  # pixels on a side
PRE_LOGITS_SIZE = 2048
N_CLASSES = 5  # of the book's flower photos

# Prefixes, separated by commas, of the variables that are not restored, and of those trained.
CHECKPOINT_EXCLUDE_SCOPES = 'InceptionV3/Logits,InceptionV3/AuxLogits'
TRAINABLE_SCOPE = 'InceptionV3/Logits,InceptionV3/AuxLogits'

# The last layers, which the output of all the others, PreLogits, does not depend on.
HEAD_SCOPES = ('InceptionV3/Logits/', 'InceptionV3/AuxLogits/')


def inference(images, n_classes, is_training):
  """Build Inception-v3 with variables named as in Google's checkpoint, 388 of them with 5 classes.

  The L2 penalties of its weights go into the collection of regularization losses.

  Args:
    images: float32 [batch, 299, 299, 3], RGB in [0, 1].
    n_classes: int.
    is_training: bool: True normalises with the statistics of the batch and applies dropout;
      False takes the moving statistics of the checkpoint, and each image stands alone.

  Returns:
    (logits, pre_logits): float32 [batch, n_classes], and float32 [batch, 1, 1, 2048], what the
    last layer reads; with is_training=False it may be fed in place of images.
  """
  scaled = images * 2 - 1  # the checkpoint was trained on [-1, 1]
  with warnings.catch_warnings(), slim.arg_scope(
      inception_v3.inception_v3_arg_scope(updates_collections=UPDATES_COLLECTION)):
    warnings.simplefilter('ignore', UserWarning)  # of the deprecated layer.apply, which slim calls
    _, end_points = inception_v3.inception_v3(scaled, num_classes=n_classes, is_training=is_training)
  pre_logits = end_points['PreLogits']
  # slim's last layer, a 1x1 convolution on 1x1 pixels, as the matrix product it is: when
  # pre_logits is fed, TensorFlow's constant folding makes that convolution's gradient wait
  # for the images all the same.
  with tf.variable_scope('InceptionV3/Logits/Conv2d_1c_1x1', reuse=True):
    weights = tf.get_variable('weights', [1, 1, PRE_LOGITS_SIZE, n_classes])
    biases = tf.get_variable('biases', [n_classes])
  logits = tf.matmul(tf.reshape(pre_logits, [-1, PRE_LOGITS_SIZE]),
                     tf.reshape(weights, [PRE_LOGITS_SIZE, n_classes])) + biases
  return logits, pre_logits


def model_variables():
  """Return the network's variables: weights, biases and the statistics of batch normalisation."""
  return slim.get_model_variables()


def _prefixes(scopes, variables, flag_name):
  """Return the prefixes in a comma-separated string; each must match one of the variables."""
  prefixes = tuple(scope.strip() for scope in scopes.split(',') if scope.strip())
  for prefix in prefixes:
    if not any(variable.op.name.startswith(prefix) for variable in variables):
      raise script_support.UsageError(f'--{flag_name}: {prefix!r} begins the name of no variable: give prefixes '
                                      'like InceptionV3/Logits or InceptionV3/Mixed_7c, separated by commas')
  return prefixes


def get_tuned_variables(checkpoint_exclude_scopes=CHECKPOINT_EXCLUDE_SCOPES):
  """Return the model variables to restore from a pre-trained checkpoint.

  Args:
    checkpoint_exclude_scopes: str, prefixes of the variables to leave out, separated by
      commas; empty: none.

  Raises:
    script_support.UsageError: if a prefix matches no variable.
  """
  exclusions = _prefixes(checkpoint_exclude_scopes, model_variables(), 'checkpoint_exclude_scopes')
  return [variable for variable in model_variables() if not variable.op.name.startswith(exclusions)]


def get_trainable_variables(trainable_scopes=TRAINABLE_SCOPE):
  """Return the variables to train.

  Args:
    trainable_scopes: str, prefixes of their names, separated by commas.

  Raises:
    script_support.UsageError: if a prefix matches no variable, or there is none.
  """
  scopes = _prefixes(trainable_scopes, tf.trainable_variables(), 'trainable_scopes')
  if not scopes:
    raise script_support.UsageError('--trainable_scopes is empty: give one prefix at least')
  return [variable for variable in tf.trainable_variables() if variable.op.name.startswith(scopes)]


def only_head(variables):
  """Return whether the variables are all of the last layers, so that PreLogits stays the same."""
  return all(variable.op.name.startswith(HEAD_SCOPES) for variable in variables)
