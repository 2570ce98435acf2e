"""Export a model of flower_finetune.py as a SavedModel, for use without this suite.

    python flower_export.py

Reads the newest checkpoint of --model_dir and writes --export_dir/1, on the next run 2, and so on,
which TensorFlow Serving, saved_model_cli and tf.saved_model.load read. The model takes

    photos_bytes   strings [n], the contents of JPEG, PNG, GIF or BMP files

and in its other signature, named `images`, which the converter to TensorFlow Lite takes, too,

    images         float32 [n, 299, 299, 3], RGB in [0, 1]

and returns

    classes        strings [n], the name of the most probable class of each photo
    probabilities  float32 [n, classes], in the order of the names in assets/labels.txt

The signature of images has probabilities only. Photos are decoded by tf.io.decode_image: it does
not turn them upright by their EXIF orientation, and shows transparent parts in whatever colour they
have. A photo that cannot be decoded fails the request that it is in.
"""
import os

import flower_inference
import flower_predict
from flowers.photo import IMAGE_SIZE
from support import console, saved_models
from support.quiet_tensorflow import tf

EXPORT_DIR = os.path.join('exports', 'flowers')
LABELS_FILE = 'labels.txt'  # the asset that holds the class names, one a line

FLAGS = console.Flags()
FLAGS.share(flower_predict.FLAGS, 'model_dir')
FLAGS.DEFINE_path('export_dir', EXPORT_DIR, 'Folder of the numbered SavedModels.',
                  for_tensorflow=True)


def decode_photos(photos: tf.Tensor) -> tf.Tensor:
  """Decode and scale photos inside the graph, as prediction does.

  Args:
    photos: string [n], contents of files.

  Returns:
    float32 [n, 299, 299, 3], RGB in [0, 1], in steps of 1/255.
  """
  def decode(contents):
    pixels = tf.io.decode_image(contents, channels=3, expand_animations=False)
    pixels.set_shape([None, None, 3])
    # In whole steps of 1/255, as the images of the data file are.
    image = tf.round(tf.image.resize_images(pixels, [IMAGE_SIZE, IMAGE_SIZE])) / 255
    image.set_shape([IMAGE_SIZE, IMAGE_SIZE, 3])  # also of no photos at all
    return image

  return tf.map_fn(decode, photos, tf.float32)


def export(options: console.Options | None = None) -> tuple[str, str]:
  """Export the newest checkpoint of a model that can answer for one photo alone.

  Returns:
    The paths of the checkpoint and of the SavedModel.

  Raises:
    UserError: as flower_predict.open_model, or if the export cannot be written.
  """
  options = options or FLAGS.options()
  names = [console.printable(label) for label in flower_predict.read_labels(options.model_dir)]
  with saved_models.new_graph() as sess:
    # Clients send photos as files, or in the place of what is decoded from these, images.
    photos = tf.placeholder(tf.string, [None])
    images = tf.placeholder_with_default(
        decode_photos(photos), [None, IMAGE_SIZE, IMAGE_SIZE, 3])
    logits, _ = flower_inference.inference(
        saved_models.never_empty(images), len(names), is_training=False)
    logits = logits[:tf.shape(images)[0]]
    probabilities = tf.nn.softmax(logits)  # [n, classes]
    classes = tf.gather(tf.constant(names), tf.argmax(logits, 1))  # [n]
    checkpoint_path = flower_predict.restore_model(sess, options.model_dir)
    signatures = {
        saved_models.SERVING_DEFAULT: saved_models.Signature(
            {'photos_bytes': photos}, {'classes': classes, 'probabilities': probabilities}),
        'images': saved_models.Signature(  # without strings, which small devices do not have
            {'images': images}, {'probabilities': probabilities})}
    return checkpoint_path, saved_models.export(
        sess, options.export_dir, signatures, {LABELS_FILE: ''.join(f'{name}\n' for name in names)})


def main(argv: list[str]) -> None:
  console.refuse_arguments(argv)
  checkpoint_path, saved_model_dir = export(FLAGS)
  console.report(f'Exported {checkpoint_path} to {saved_model_dir}')


if __name__ == '__main__':
  console.run(main, FLAGS)
