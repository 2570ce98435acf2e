"""The LeNet-style network: constants and graph, shared by training, evaluation and prediction.

Two convolutions with max pooling, one hidden dense layer with dropout, and a linear output:
1,663,370 parameters. This module is imported, never run; it reads no flags and no files.
"""
from collections.abc import Callable

from support.quiet_tensorflow import tf

# Images and classes.
INPUT_NODE = 784  # = IMAGE_SIZE * IMAGE_SIZE * NUM_CHANNELS
OUTPUT_NODE = 10  # = NUM_LABELS
IMAGE_SIZE = 28
NUM_CHANNELS = 1
NUM_LABELS = 10

# First convolution: depth and filter size.
CONV1_DEEP = 32
CONV1_SIZE = 5

# Second convolution: depth and filter size.
CONV2_DEEP = 64
CONV2_SIZE = 5

# Nodes of the hidden dense layer.
FC_SIZE = 512

# Share of the hidden layer's outputs that training sets to zero.
DROPOUT_RATE = 0.5


Regularizer = Callable[[tf.Tensor], tf.Tensor]  # a variable's penalty, a scalar


def get_weight_variable(shape: list[int], regularizer: Regularizer | None) -> tf.Variable:
  """Return the float32 variable `weight`, as the book's layers call it, of the variable scope.

  It starts from a normal distribution of standard deviation 0.1, cut at two deviations. Its penalty
  is added to the collection `losses`.
  """
  weights = tf.get_variable('weight', shape,
                            initializer=tf.truncated_normal_initializer(stddev=0.1))
  if regularizer is not None:
    tf.add_to_collection('losses', regularizer(weights))
  return weights


def _get_bias_variable(size: int, initial_value: float) -> tf.Variable:
  return tf.get_variable('bias', [size], initializer=tf.constant_initializer(initial_value))


def inference(input_tensor: tf.Tensor, train: bool, regularizer: Regularizer | None,
              dropout_seed: tf.Tensor | None = None, num_labels: int = NUM_LABELS) -> tf.Tensor:
  """Build the network from images to unscaled logits, float32 [batch, num_labels].

  Args:
    input_tensor: float32 [batch, 28, 28, 1] in [0, 1]; batch may be unknown.
    train: whether to apply dropout.
    regularizer: for the weights of the two dense layers only.
    dropout_seed: int [2]: what dropout sets to zero; None, as in the book: others in each run.
  """
  # Variables are made by name, so that an evaluation graph can restore their moving averages under
  # the names that training gave them. Each layer has a scope of its own, so that names need be told
  # apart inside of it only. Padding with zeros keeps the size of the image, and pooling with a
  # stride of 2 halves it.
  with tf.variable_scope('layer1-conv1'):
    conv1_weights = get_weight_variable([CONV1_SIZE, CONV1_SIZE, NUM_CHANNELS, CONV1_DEEP], None)
    conv1_biases = _get_bias_variable(CONV1_DEEP, 0.0)
    conv1 = tf.nn.conv2d(input_tensor, conv1_weights, strides=[1, 1, 1, 1], padding='SAME')
    relu1 = tf.nn.relu(tf.nn.bias_add(conv1, conv1_biases))  # [batch, 28, 28, 32]

  # Pooling has no variables, and so needs no variable scope.
  with tf.name_scope('layer2-pool1'):
    pool1 = tf.nn.max_pool(relu1, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1],
                           padding='SAME')  # [batch, 14, 14, 32]

  with tf.variable_scope('layer3-conv2'):
    conv2_weights = get_weight_variable([CONV2_SIZE, CONV2_SIZE, CONV1_DEEP, CONV2_DEEP], None)
    conv2_biases = _get_bias_variable(CONV2_DEEP, 0.0)
    conv2 = tf.nn.conv2d(pool1, conv2_weights, strides=[1, 1, 1, 1], padding='SAME')
    relu2 = tf.nn.relu(tf.nn.bias_add(conv2, conv2_biases))  # [batch, 14, 14, 64]

  with tf.name_scope('layer4-pool2'):
    pool2 = tf.nn.max_pool(relu2, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1],
                           padding='SAME')  # [batch, 7, 7, 64]

  # Dense layers read a vector: all 7 * 7 * 64 numbers of an image. The batch stays -1, not the
  # book's pool_shape[0], which is None where it is unknown.
  pool_shape = pool2.get_shape().as_list()
  nodes = pool_shape[1] * pool_shape[2] * pool_shape[3]
  reshaped = tf.reshape(pool2, [-1, nodes])  # [batch, 3136]

  # Only the dense layers are regularized and have dropout: they hold 97 % of the parameters.
  with tf.variable_scope('layer5-fc1'):
    fc1_weights = get_weight_variable([nodes, FC_SIZE], regularizer)
    fc1_biases = _get_bias_variable(FC_SIZE, 0.1)
    fc1 = tf.nn.relu(tf.matmul(reshaped, fc1_weights) + fc1_biases)  # [batch, 512]
    if train and dropout_seed is None:
      fc1 = tf.nn.dropout(fc1, rate=DROPOUT_RATE)
    elif train:
      # Drawn from a seed, not from a hidden state, so that a resumed run draws the same.
      fc1 = tf.nn.experimental.stateless_dropout(fc1, rate=DROPOUT_RATE, seed=dropout_seed)

  # No softmax: the loss takes logits, and the largest of them is the answer as it is.
  with tf.variable_scope('layer6-fc2'):
    fc2_weights = get_weight_variable([FC_SIZE, num_labels], regularizer)
    fc2_biases = _get_bias_variable(num_labels, 0.1)
    return tf.matmul(fc1, fc2_weights) + fc2_biases  # [batch, num_labels]
