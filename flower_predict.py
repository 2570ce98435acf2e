"""Classify photos with a model of flower_finetune.py.

    python flower_predict.py photo.jpg another.jpg

Reads JPEG files and the model folder alone: class names, batch normalisation and newest
checkpoint. Prints for each photo its most probable classes.
"""
import contextlib
import os

import script_support  # first: it imports TensorFlow quietly

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags

import flower_inference
import flower_preprocess
from flower_finetune import EVAL_BATCH, MODEL_FILE, MODEL_NAME, TRAIN_FILE

FLAGS = flags.FLAGS

TOP_K = 3  # classes printed for a photo


def define_flags():
  """Define the flags of prediction."""
  flags.DEFINE_string('model_dir', TRAIN_FILE, 'Folder of the fine-tuned checkpoints.')
  flags.DEFINE_integer('top_k', TOP_K, 'Most probable classes to print.', lower_bound=1)


def read_model(model_dir):
  """Return the class names of a model that can answer for one photo alone.

  Args:
    model_dir: str, a folder of flower_finetune.py.

  Raises:
    script_support.UserError: if the folder holds no such model, or one that normalises each
      photo with the statistics of its batch.
  """
  path = os.path.join(model_dir, MODEL_FILE)
  if not os.path.exists(path):
    raise script_support.UserError(f'--model_dir={model_dir} holds no model: run flower_finetune.py first')
  model = script_support.read_json(path)
  labels = model.get('labels')
  if not script_support.is_list_of_names(labels) or len(labels) < 2:
    raise script_support.UserError(f'{path}: "labels" is no list of two or more class names: '
                                   'fine-tune into a new --model_dir')
  if model.get('batch_norm') != 'frozen':
    raise script_support.UserError(
        f'--model_dir={model_dir} was trained with --batch_norm={model.get("batch_norm")}, so that its answer '
        'for a photo depends on the others of a batch: fine-tune with --batch_norm=frozen to classify photos')
  return labels


def read_photos(paths):
  """Decode and scale photos as preprocessing does.

  Args:
    paths: list of str.

  Returns:
    ({path: float32 [299, 299, 3] in [0, 1]}, [(path, why it could not be read)]).
  """
  photos, problems = {}, []
  with tf.Graph().as_default(), tf.Session() as sess:
    contents = tf.placeholder(tf.string, [])
    decoded = flower_preprocess.decode_photo(contents)
    for path in paths:
      problem = flower_preprocess.photo_problem(path)
      if not problem:
        try:
          with open(path, 'rb') as file, script_support.log_lines_held_back(script_support.RAISED_TOO):
            photos[path] = sess.run(decoded, {contents: file.read()})
          continue
        except tf.errors.InvalidArgumentError:
          problem = 'is damaged or cut short'
      problems.append((path, problem))
  return photos, problems


@contextlib.contextmanager
def open_model(model_dir):
  """Restore the newest whole checkpoint of a model for the block.

  Args:
    model_dir: str.

  Gives (class names, predict): predict takes photos, float32 [n, 299, 299, 3] in [0, 1], and
  returns their class probabilities, float32 [n, classes], each row adding up to 1.

  Raises:
    script_support.UserError: as `read_model`, or if there is no whole checkpoint.
  """
  labels = read_model(model_dir)
  with tf.Graph().as_default(), tf.Session() as sess:
    images = tf.placeholder(tf.float32, [None, flower_inference.IMAGE_SIZE, flower_inference.IMAGE_SIZE, 3])
    logits, _ = flower_inference.inference(images, len(labels), is_training=False)
    probabilities = tf.nn.softmax(logits)
    variables = flower_inference.model_variables()
    path = script_support.restore_newest(sess, tf.train.Saver(variables),
                                         {variable.op.name: variable for variable in variables},
                                         script_support.named_checkpoints(model_dir, MODEL_NAME))
    if path is None:
      raise script_support.UserError(f'--model_dir={model_dir} holds no checkpoint: run flower_finetune.py first')
    yield labels, lambda photos: sess.run(probabilities, {images: photos})


def main(argv):
  if len(argv) < 2:
    raise script_support.UsageError('no photo given: python flower_predict.py PHOTO...')
  read_model(FLAGS.model_dir)  # first, so that photos are not decoded in vain
  paths, model, status = argv[1:], None, script_support.SUCCESS
  with contextlib.ExitStack() as stack:
    for start in range(0, len(paths), EVAL_BATCH):
      photos, problems = read_photos(paths[start:start + EVAL_BATCH])
      for path, problem in problems:
        script_support.warn(f'error: {path} {problem}')
        status = script_support.FAILURE
      if not photos:
        continue
      model = model or stack.enter_context(open_model(FLAGS.model_dir))
      labels, predict = model
      for path, row in zip(photos, predict(np.stack(list(photos.values()))), strict=True):
        best = np.argsort(-row, kind='stable')[:FLAGS.top_k]
        print(f'{script_support.printable(path)}: '
              + ', '.join(f'{script_support.printable(labels[k])} {row[k]:.4f}' for k in best))
  return status


if __name__ == '__main__':
  script_support.run(main, define_flags)
