"""Classify image files of handwritten digits with a checkpoint of mnist_train.py.

    python mnist_predict.py digit.png another.jpg

Reads PNG, JPEG, BMP and GIF files of any size, dark on light or light on dark, one digit
each, and prints for each the file, the digit, its probability, and the runner-up.
"""

import script_support  # first: it imports TensorFlow quietly

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags
from PIL import Image

import mnist_eval
import mnist_inference
from mnist_train import MODEL_NAME, MODEL_SAVE_PATH

FLAGS = flags.FLAGS

# How MNIST was made (http://yann.lecun.com/exdb/mnist/): the digit's box is scaled into
# 20x20 pixels, and its centre of mass is put at the centre of 28x28.
BOX_SIZE = 20
INK_THRESHOLD = 0.2  # of the strongest ink; what is fainter counts as paper

FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF')
MAX_PIXELS = 100_000_000  # larger images are refused before they are decoded


def define_flags():
  """Define the flags of prediction."""
  flags.DEFINE_string('model_dir', MODEL_SAVE_PATH, 'Folder of the checkpoints.')


def read_image(path):
  """Return an image file as grey levels: float32 [height, width] in [0, 1], 1 for white.

  Transparent parts are taken for white paper; of an animation, the first picture counts.

  Raises:
    script_support.UserError: if it is none of the formats, damaged, or above MAX_PIXELS.
  """
  Image.MAX_IMAGE_PIXELS = None  # the bound below is ours
  try:
    with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
      if image.width * image.height > MAX_PIXELS:
        raise script_support.UserError(f'{path} has {image.width}x{image.height} pixels: '
                                       f'scale it down to {MAX_PIXELS // 1_000_000} million at most')
      if image.mode.startswith('I'):  # 16 bits a pixel, which convert() would cut off, not scale
        return np.asarray(image, np.float32) / 65535
      image = image.convert('RGBA')
      paper = Image.new('RGBA', image.size, 'white')
      return np.asarray(Image.alpha_composite(paper, image).convert('L'), np.float32) / 255
  except Image.UnidentifiedImageError:
    raise script_support.UserError(f'{path} is no {", ".join(FORMATS)} image: convert it') from None
  except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise
    if isinstance(error, OSError) and error.strerror:
      raise
    raise script_support.UserError(f'{path} is damaged ({error}): save it again') from None


def ink_of(grey):
  """Return how much ink each pixel holds: float32, same shape, paper 0 and strongest ink 1.

  Whether the digit is dark on light or light on dark is told by the border, which is paper.
  """
  border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
  paper = np.median(border)
  ink = paper - grey if paper > (grey.min() + grey.max()) / 2 else grey - paper
  # Not the maximum, which in a JPEG is the dark line that its compression adds beside an edge.
  full_ink = np.percentile(ink[ink >= ink.max() / 2], 75)
  return np.clip(ink / full_ink, 0, 1)


def normalize(ink):
  """Scale and place a digit as MNIST's are.

  Args:
    ink: float32 [height, width] in [0, 1], 0 for paper.

  Returns:
    float32 [28, 28] in [0, 1].
  """
  rows, columns = np.nonzero(ink > INK_THRESHOLD)
  box = ink[rows.min():rows.max() + 1, columns.min():columns.max() + 1]
  scale = BOX_SIZE / max(box.shape)
  height, width = (max(1, round(length * scale)) for length in box.shape)
  if (height, width) != box.shape:  # an averaging filter, so that thin lines do not vanish
    box = np.asarray(Image.fromarray(box).resize((width, height), Image.Resampling.HAMMING))
  size = mnist_inference.IMAGE_SIZE
  total = box.sum()
  centre = [np.dot(box.sum(1 - axis), np.arange(box.shape[axis])) / total for axis in (0, 1)]
  # The pixel (14, 14) is the centre, as far as the box still fits in.
  top, left = (int(np.clip(round(size / 2 - c), 0, size - length))
               for c, length in zip(centre, box.shape, strict=True))
  digit = np.zeros([size, size], np.float32)
  digit[top:top + height, left:left + width] = np.clip(box, 0, 1)
  return digit


def read_digit(path):
  """Return an image file as a digit in MNIST's manner: float32 [784] in [0, 1].

  Raises:
    script_support.UserError: as for `read_image`, or if the image is of one shade.
    OSError: if the file cannot be read.
  """
  grey = read_image(path)
  if np.ptp(grey) < 0.05:
    raise script_support.UserError(f'{path} shows no digit: all of it is of one shade')
  return normalize(ink_of(grey)).reshape(-1)


def predict(digits, model_dir):
  """Classify digits with the moving averages of the newest whole checkpoint.

  Args:
    digits: float32 [n, 784] in [0, 1].
    model_dir: str.

  Returns:
    float32 [n, 10], the probabilities of the digits 0 to 9.

  Raises:
    script_support.UserError: if there is no checkpoint.
  """
  with tf.Graph().as_default(), tf.Session() as sess:
    graph = mnist_eval.build_evaluation_graph()
    if not script_support.restore_newest(sess, graph.saver, graph.variables,
                                         script_support.named_checkpoints(model_dir, MODEL_NAME)):
      raise script_support.UserError(f'--model_dir={model_dir} holds no checkpoint: run mnist_train.py first')
    logits = mnist_eval.predict_logits(sess, graph, digits).astype(np.float64)
  odds = np.exp(logits - logits.max(1, keepdims=True))
  return odds / odds.sum(1, keepdims=True)


def main(argv):
  if len(argv) < 2:
    raise script_support.UsageError('no image given: python mnist_predict.py IMAGE...')
  digits, status = {}, script_support.SUCCESS
  for path in argv[1:]:
    try:
      digits[path] = read_digit(path)
    except (script_support.UserError, OSError) as error:
      script_support.warn(f'error: {script_support.describe(error)}')
      status = script_support.FAILURE
  if digits:
    probabilities = predict(np.stack(list(digits.values())), FLAGS.model_dir)
    for path, row in zip(digits, probabilities, strict=True):
      runner_up, digit = np.argsort(row)[-2:]
      print(f'{script_support.printable(path)}: {digit} with probability {row[digit]:.4f} '
            f'(runner-up {runner_up} with {row[runner_up]:.4f})')
  return status


if __name__ == '__main__':
  script_support.run(main, define_flags)
