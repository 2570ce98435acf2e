"""The network of mnist_inference.py in numpy: what its tests compare it with."""
import numpy as np

VARIABLES = {
    'layer1-conv1/weight': [5, 5, 1, 32], 'layer1-conv1/bias': [32],
    'layer3-conv2/weight': [5, 5, 32, 64], 'layer3-conv2/bias': [64],
    'layer5-fc1/weight': [3136, 512], 'layer5-fc1/bias': [512],
    'layer6-fc2/weight': [512, 10], 'layer6-fc2/bias': [10],
}
AVERAGE = '/ExponentialMovingAverage'  # behind the name of a variable, its moving average


def logits(images, weights):
  """Return the logits, without dropout.

  Args:
    images: float [n, 28, 28, 1].
    weights: {name of VARIABLES: array}.
  """
  net = images
  for layer in ('layer1-conv1', 'layer3-conv2'):
    kernel = weights[layer + '/weight']
    padded = np.pad(net, [(0, 0), (2, 2), (2, 2), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    net = np.einsum('nhwcij,ijcd->nhwd', windows, kernel)  # windows: [n, h, w, c, 5, 5]
    net = np.maximum(net + weights[layer + '/bias'], 0)
    n, h, w, c = net.shape
    net = net.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
  net = net.reshape(len(net), -1)
  net = np.maximum(net @ weights['layer5-fc1/weight'] + weights['layer5-fc1/bias'], 0)
  return net @ weights['layer6-fc2/weight'] + weights['layer6-fc2/bias']
