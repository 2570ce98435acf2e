"""Classify photos with a model of flower_finetune.py.

    python flower_predict.py photo.jpg another.png
    python flower_predict.py folder_of_photos

Reads photos and the model folder alone: class names, batch normalization and newest checkpoint.
Prints for each photo its most probable classes, in the order given.
"""
import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

import flower_finetune
import flower_inference
from flowers import photo
from support import checkpoints, console, pictures
from support.quiet_tensorflow import tf

TOP_K = 3  # classes printed for a photo
PHOTOS_PER_RUN = 32  # decoded and classified at a time, which bounds the memory

FLAGS = console.Flags()
FLAGS.share(flower_finetune.FLAGS, 'model_dir')
FLAGS.DEFINE_integer('top_k', TOP_K, 'Most probable classes to print.', 1)


def read_labels(model_dir: str) -> list[str]:
  """Return the class names of a model that can answer for one photo alone.

  Raises:
    UserError: if the folder holds no such model, or one that normalizes each photo with the
      statistics of its batch.
  """
  model = checkpoints.read_model(model_dir)
  if not {'labels', 'batch_norm'} <= model.keys():
    raise console.UserError(f'--model_dir={model_dir} holds no model of flower_finetune.py: run '
                            'it first, or name its folder')
  if model['batch_norm'] != 'frozen':
    raise console.UserError(
        f'--model_dir={model_dir} holds a model of --batch_norm=batch, whose answer for a photo '
        'depends on the others of its batch: fine-tune with --batch_norm=frozen to predict')
  return model['labels']


def restore_model(sess: tf.Session, model_dir: str) -> str:
  """Restore the network of the default graph from the newest checkpoint; return its path.

  Raises:
    UserError: if there is no checkpoint that can be used.
  """
  variables = flower_inference.model_variables()
  return checkpoints.restore_model(
      sess, tf.train.Saver(variables), {variable.op.name: variable for variable in variables},
      model_dir, flower_finetune.MODEL_NAME)


@contextlib.contextmanager
def open_model(model_dir: str) -> Iterator[tuple[list[str], Callable[[np.ndarray], np.ndarray]]]:
  """Restore the newest checkpoint of a model for the block.

  Gives the class names and predict, which takes photos, uint8 [n, 299, 299, 3], and returns their
  class probabilities, float32 [n, classes], each row adding up to 1.

  Raises:
    UserError: as `read_labels`, or if there is no checkpoint that can be used.
  """
  labels = read_labels(model_dir)
  with tf.Graph().as_default(), tf.Session() as sess:
    # One graph for all photos; the book makes new operations for each.
    images = tf.placeholder(tf.uint8, [None, photo.IMAGE_SIZE, photo.IMAGE_SIZE, 3])
    logits, _ = flower_inference.inference(
        tf.image.convert_image_dtype(images, tf.float32), len(labels), is_training=False)
    probabilities = tf.nn.softmax(logits)  # [n, classes]
    restore_model(sess, model_dir)
    yield labels, lambda photos: sess.run(probabilities, {images: photos})


def classify(paths: Iterable[str], options: console.Options | None = None) -> int:
  """Print the most probable classes of each photo; return how many could not be read.

  Args:
    paths: files, folders of them, or patterns.

  Raises:
    UserError: as `open_model`.
  """
  options = options or FLAGS.options()
  with open_model(options.model_dir) as (labels, predict), photo.PhotoDecoder() as decoder:
    def answer(images: list[np.ndarray]) -> Iterator[str]:
      for row in predict(np.stack(images)):
        best = np.argsort(-row, kind='stable')[:options.top_k]
        yield ', '.join(f'{labels[k]} {row[k]:.4f}' for k in best)

    return pictures.print_answers(paths, decoder.image, answer, PHOTOS_PER_RUN)


def main(argv: list[str]) -> int:
  if len(argv) < 2:
    raise console.UserError('no photo given: python flower_predict.py PHOTO_OR_FOLDER...',
                            console.WRONG_USAGE)
  return console.FAILURE if classify(argv[1:], FLAGS) else console.SUCCESS


if __name__ == '__main__':
  console.run(main, FLAGS)
