"""Export a model of flower_finetune.py as a SavedModel, for use without this suite.

    python flower_export.py

Reads the newest whole checkpoint of --model_dir and writes --export_dir/1, on the next run 2, and
so on, which TensorFlow Serving, saved_model_cli and tf.saved_model.load read. The model takes

    photos_bytes   strings [n], the contents of JPEG, PNG, GIF or BMP files

and returns

    classes        strings [n], the name of the most probable class of each photo
    probabilities  float32 [n, classes], in the order of the names in assets/labels.txt

It decodes as flower_predict.py does: JPEG files upright by their EXIF orientation, transparent
parts of PNG files on white, of an animation the first picture. Without Python there is no Pillow,
though: TIFF and WebP files, PNG files not of 8 bits a colour, BMP files below 24 bits, and GIF
files that are transparent or do not fill their screen are refused, and an orientation is seen in a
JPEG file's EXIF alone. A photo that cannot be decoded fails the request that it is in.
"""
import os

import numpy as np
from absl import flags

import flower_inference
import flower_predict
from flowers import photo
from support import console, pictures, saved_models
from support.quiet_tensorflow import tf

EXPORT_DIR = os.path.join('exports', 'flowers')
LABELS_FILE = 'labels.txt'  # the asset that holds the class names, one a line

# Segments of a JPEG file that are looked at. Before the pixels stand some ten; a file made to waste
# time may have millions.
MAX_SEGMENTS = 1000
MAX_BLOCKS = 10_000  # likewise of a GIF file: 255 bytes each

# What stands in a JPEG file, as big-endian numbers.
START_OF_SCAN, APP1, FILL = 0xFFDA, 0xFFE1, 0xFFFF  # marks of segments; one that is filled up
EXIF = int.from_bytes(b'Exif', 'big')  # how that segment begins, after APP1 and its length
LITTLE_ENDIAN, BIG_ENDIAN = (int.from_bytes(begin, 'big') for begin in (b'II*\0', b'MM\0*'))
SHORT, LONG = 3, 4  # types of the orientation's value, of 2 and 4 bytes

# What stands in a GIF file.
EXTENSION, CONTROL, PICTURE = 0x21, 0xF9, 0x2C  # a block; of these the one that tells transparency

FLAGS = flags.FlagValues()
console.share_flags(FLAGS, flower_predict.FLAGS, 'model_dir')
console.DEFINE_path('export_dir', EXPORT_DIR, 'Folder of the numbered SavedModels.', FLAGS)


def options(**changes):
  """Return the options of an export: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


# -- The decoder, all of it inside the graph ---------------------------------------------


def _numbers(data, first, size, little_endian):
  """Return the unsigned integers of size bytes that begin at byte first of the rows of data.

  Args:
    data: uint8 tensor [bytes] or [rows, bytes]; what is missing at its end counts as zeros.
    first: scalar int64 tensor, or int.
    little_endian: scalar bool tensor.

  Returns:
    int64, a scalar or [rows].
  """
  digits = tf.cast(data[..., first:first + size], tf.int64)
  missing = size - tf.shape(digits)[-1]
  digits = tf.pad(digits, [[0, 0]] * (len(data.shape) - 1) + [[0, missing]])
  powers = np.array([256 ** k for k in range(size)], np.int64)
  return tf.reduce_sum(digits * tf.where_v2(little_endian, powers, powers[::-1]), -1)


def _find_exif(data):
  """Return EXIF's part of a JPEG file, empty if there is none: uint8 tensors [bytes]."""
  def number(first, size):
    return _numbers(data, first, size, False)

  def is_exif(start):
    return (tf.equal(number(start, 2), APP1) & tf.equal(number(start + 4, 4), EXIF)
            & tf.equal(number(start + 8, 2), 0))

  def goes_on(start):
    mark = number(start, 2)
    return (mark >= 0xFF00) & tf.not_equal(mark, START_OF_SCAN) & ~is_exif(start)

  def next_start(start):
    return start + tf.where_v2(tf.not_equal(number(start, 2), FILL), 2 + number(start + 2, 2), 1)

  start = tf.while_loop(goes_on, next_start, [tf.constant(2, tf.int64)],
                        maximum_iterations=MAX_SEGMENTS)
  length = tf.where_v2(is_exif(start), number(start + 2, 2), 0)
  return data[start + 10:start + 2 + length]


def exif_orientation(contents):
  """Return EXIF's orientation in a JPEG file, 1 to 8; 1 where there is none, or a wrong one.

  Args:
    contents: scalar string tensor.

  Returns:
    scalar int32 tensor.
  """
  exif = _find_exif(tf.io.decode_raw(contents, tf.uint8))
  begin = _numbers(exif, 0, 4, False)
  little_endian = tf.equal(begin, LITTLE_ENDIAN)
  table = _numbers(exif, 4, 4, little_endian)  # the byte at which it begins: its length
  entries = exif[table + 2:table + 2 + 12 * _numbers(exif, table, 2, little_endian)]
  entries = tf.reshape(entries[:tf.size(entries) // 12 * 12], [-1, 12])  # [entries, 12]
  tags, types, shorts = (_numbers(entries, first, 2, little_endian) for first in (0, 2, 8))
  values = tf.where_v2(tf.equal(types, SHORT), shorts, _numbers(entries, 8, 4, little_endian))
  is_orientation = tf.equal(tags, pictures.EXIF_ORIENTATION) & (
      tf.equal(types, SHORT) | tf.equal(types, LONG))
  value = tf.reduce_sum(tf.boolean_mask(values, is_orientation)[:1])  # 0 if there is none
  is_right = (little_endian | tf.equal(begin, BIG_ENDIAN)) & (value >= 1) & (value <= 8)
  return tf.cast(tf.where_v2(is_right, value, pictures.UPRIGHT), tf.int32)


def _require(condition, message):
  """Return a context whose operations fail with a message unless a bool tensor is True."""
  return tf.control_dependencies([tf.debugging.Assert(condition, [message])])


def _decode_png(contents):
  """Return uint8 [height, width, 3] of a PNG file, on white, unless all of it is transparent."""
  # TensorFlow does not scale fewer bits up to 8: the white of a 1-bit file would be 1 of 255.
  with _require(tf.equal(tf.strings.substr(contents, 24, 1), b'\x08'), 'A PNG photo not of 8 bits'):
    pixels = tf.image.decode_png(contents, channels=4)
  colours, alpha = pixels[..., :3], pixels[..., 3:]

  def on_white():
    wide, share = tf.cast(colours, tf.uint16), tf.cast(alpha, tf.uint16)  # below 65536 throughout
    return tf.cast((wide * share + 255 * (255 - share) + 127) // 255, tf.uint8)

  is_plain = tf.reduce_all(tf.equal(alpha, 255)) | tf.reduce_all(tf.equal(alpha, 0))
  return tf.cond(is_plain, lambda: colours, on_white)


def _is_plain_gif(data):
  """Return whether the first picture of a GIF file fills its screen, and none of it is transparent.

  Args:
    data: uint8 tensor [bytes].
  """
  def number(first, size=1):
    return _numbers(data, first, size, True)

  # Before the picture stand extensions: two bytes, and blocks that begin with their size, the last
  # of size 0.
  def goes_on(start, in_blocks, is_transparent):
    del is_transparent
    return (start < size) & (in_blocks | tf.equal(number(start), EXTENSION))

  def read_on(start, in_blocks, is_transparent):
    told = (~in_blocks & tf.equal(number(start + 1), CONTROL)
            & tf.equal(number(start + 3) % 2, 1))
    step = tf.where_v2(in_blocks, 1 + number(start), 2)
    return start + step, ~in_blocks | (number(start) > 0), is_transparent | told

  size, flags_of_screen = tf.size(data, out_type=tf.int64), number(10)
  table = tf.where_v2(flags_of_screen >= 128, 6 * 2 ** (flags_of_screen % 8), 0)  # of colours
  start, _, is_transparent = tf.while_loop(
      goes_on, read_on, (13 + table, tf.constant(False), tf.constant(False)),
      maximum_iterations=MAX_BLOCKS)
  fills = (tf.equal(number(start), PICTURE) & tf.equal(number(start + 1, 4), 0)
           & tf.equal(number(start + 5, 4), number(6, 4)))  # place; width and height
  return fills & ~is_transparent


def _decode_gif_or_bmp(contents):
  """Return uint8 [height, width, 3] of a GIF or BMP file."""
  is_gif = tf.equal(tf.strings.substr(contents, 0, 4), b'GIF8')
  is_bmp = tf.equal(tf.strings.substr(contents, 0, 2), b'BM')
  # Below 24 bits, TensorFlow shows the palette's indices in place of its colours.
  data = tf.io.decode_raw(contents, tf.uint8)
  bits = _numbers(data, 28, 2, True)
  # Where part of a GIF file's screen is empty or transparent, TensorFlow shows what happens to be.
  is_plain = tf.cond(is_gif, lambda: _is_plain_gif(data), lambda: tf.constant(True))
  with _require(is_gif | (is_bmp & (bits >= 24)),
                'Not a JPEG, PNG or GIF photo, nor a BMP one of 24 bits'), \
      _require(is_plain, 'A GIF photo that is transparent or does not fill its screen'):
    pixels = tf.image.decode_image(contents, channels=3, expand_animations=False)
  pixels.set_shape([None, None, 3])
  return pixels


def decode_photos(photos):
  """Decode photos as photo.PhotoDecoder does.

  Args:
    photos: string tensor [n], contents of files.

  Returns:
    float32 [n, 299, 299, 3], RGB in [0, 1].
  """
  @tf.autograph.experimental.do_not_convert  # map_fn would rewrite all that this calls
  def decode(contents):
    is_png = tf.equal(tf.strings.substr(contents, 0, 4), b'\x89PNG')
    return tf.cond(
        tf.image.is_jpeg(contents),
        lambda: photo.decode_photo(contents, exif_orientation(contents)),
        lambda: photo.scale_photo(
            tf.cond(is_png, lambda: _decode_png(contents), lambda: _decode_gif_or_bmp(contents)),
            tf.constant(pictures.UPRIGHT)))

  images = tf.map_fn(decode, photos, tf.float32)
  images.set_shape([None, photo.IMAGE_SIZE, photo.IMAGE_SIZE, 3])
  return images


# -- The export --------------------------------------------------------------------------


def export(options):
  """Export the newest whole checkpoint of a model that can answer for one photo alone.

  Args:
    options: what `options` returns.

  Returns:
    The paths (of the checkpoint, of the SavedModel).

  Raises:
    UserError: as flower_predict.open_model, or if the export cannot be written.
  """
  names = [console.printable(label) for label in flower_predict.read_labels(options.model_dir)]
  with saved_models.new_graph() as sess:
    photos = tf.placeholder(tf.string, [None])
    logits, _ = flower_inference.inference(decode_photos(photos), len(names), is_training=False)
    outputs = {'classes': tf.gather(tf.constant(names), tf.argmax(logits, 1)),  # [n]
               'probabilities': tf.nn.softmax(logits)}  # [n, classes]
    checkpoint_path = flower_predict.restore_model(sess, options.model_dir)
    return checkpoint_path, saved_models.export(
        sess, options.export_dir, {'photos_bytes': photos}, outputs,
        {LABELS_FILE: ''.join(f'{name}\n' for name in names)})


def main(argv):
  console.refuse_arguments(argv)
  checkpoint_path, saved_model_dir = export(FLAGS)
  print(console.printable(f'Exported {checkpoint_path} to {saved_model_dir}'))


if __name__ == '__main__':
  console.run(main, FLAGS)
