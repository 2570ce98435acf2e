"""Classify photos with a model of flower_finetune.py.

    python flower_predict.py photo.jpg another.png

Reads photos and the model folder alone: class names, batch normalization and newest checkpoint.
Prints for each photo its most probable classes, in the order given.
"""
import contextlib
import itertools
import os

import numpy as np
from absl import flags

import flower_finetune
import flower_inference
from flowers import photo
from support import checkpoints, console, files
from support.quiet_tensorflow import tf

TOP_K = 3  # classes printed for a photo
PHOTOS_PER_RUN = 32  # decoded and classified at a time, which bounds the memory

FLAGS = flags.FlagValues()
console.DEFINE_path('model_dir', flower_finetune.TRAIN_FILE,
                    'Folder of the fine-tuned checkpoints.', FLAGS)
flags.DEFINE_integer('top_k', TOP_K, 'Most probable classes to print.', 1, flag_values=FLAGS)


def options(**changes):
  """Return the options of a prediction: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


def read_labels(model_dir):
  """Return the class names of a model that can answer for one photo alone.

  Raises:
    UserError: if the folder holds no such model, or one that normalizes each photo with the
      statistics of its batch.
  """
  path = os.path.join(model_dir, checkpoints.MODEL_FILE)
  if not os.path.exists(path):
    raise console.UserError(f'--model_dir={model_dir} holds no model: run flower_finetune.py first')
  model = files.read_json(path)
  labels, batch_norm = model.get('labels'), model.get('batch_norm')
  if not files.is_list_of_names(labels) or len(labels) < 2:
    raise console.UserError(f'{path}: "labels" is not a list of two or more class names: '
                            'fine-tune into a new --model_dir')
  if batch_norm != 'frozen':
    raise console.UserError(
        f'--model_dir={model_dir} was trained with --batch_norm={batch_norm}, so that its answer '
        'for a photo depends on the others of a batch: fine-tune with --batch_norm=frozen to '
        'classify photos')
  return labels


def restore_model(sess, model_dir):
  """Restore the network of the default graph from the newest whole checkpoint; return its path.

  Raises:
    UserError: if there is no whole checkpoint.
  """
  variables = flower_inference.model_variables()
  path = checkpoints.restore_newest(
      sess, tf.train.Saver(variables), {variable.op.name: variable for variable in variables},
      model_dir, flower_finetune.MODEL_NAME)
  if path is None:
    raise console.UserError(f'--model_dir={model_dir} holds no checkpoint: run '
                            'flower_finetune.py first')
  return path


@contextlib.contextmanager
def open_model(model_dir):
  """Restore the newest whole checkpoint of a model for the block.

  Gives (class names, predict): predict takes photos, float32 [n, 299, 299, 3] in [0, 1], and
  returns their class probabilities, float32 [n, classes], each row adding up to 1.

  Raises:
    UserError: as `read_labels`, or if there is no whole checkpoint.
  """
  labels = read_labels(model_dir)
  with tf.Graph().as_default(), tf.Session() as sess:
    images = tf.placeholder(tf.float32, [None, photo.IMAGE_SIZE, photo.IMAGE_SIZE, 3])
    logits, _ = flower_inference.inference(images, len(labels), is_training=False)
    probabilities = tf.nn.softmax(logits)  # [n, classes]
    restore_model(sess, model_dir)
    yield labels, lambda photos: sess.run(probabilities, {images: photos})


def print_answers(photos, labels, predict, top_k):
  """Print the most probable classes of each photo; return how many could not be read.

  Args:
    photos: what photo.read_photos returns.
    labels, predict: what `open_model` gives.
  """
  images = [image for _, image, _ in photos if image is not None]
  rows = iter(predict(np.stack(images)) if images else ())
  for path, image, problem in photos:
    if image is None:
      console.warn(f'error: {path} {problem}')
      continue
    row = next(rows)
    best = np.argsort(-row, kind='stable')[:top_k]
    print(console.printable(f'{path}: ' + ', '.join(f'{labels[k]} {row[k]:.4f}' for k in best)))
  return len(photos) - len(images)


def classify(paths, options):
  """Print the most probable classes of each photo; return how many could not be read.

  Raises:
    UserError: as `open_model`.
  """
  failures, remaining = 0, iter(paths)
  with open_model(options.model_dir) as (labels, predict):
    while batch := list(itertools.islice(remaining, PHOTOS_PER_RUN)):
      failures += print_answers(photo.read_photos(batch), labels, predict, options.top_k)
  return failures


def main(argv):
  if len(argv) < 2:
    raise console.UserError('no photo given: python flower_predict.py PHOTO...',
                            console.WRONG_USAGE)
  return console.FAILURE if classify(argv[1:], FLAGS) else console.SUCCESS


if __name__ == '__main__':
  console.run(main, FLAGS)
