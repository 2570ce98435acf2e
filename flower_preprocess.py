"""Turn a folder of photo folders, one a class, into one file of 299x299 images.

    python flower_preprocess.py
    python flower_preprocess.py --input_dir=my_photos --output_file=my_photos.npy

Reads the JPEG files of each class folder in --input_dir; writes --output_file, a structured
array of images, labels and splits, and beside it a .json file of class and file names.
The flower photos themselves are downloaded if the folder flower_photos is missing.
"""
import json
import os
import tarfile
import tempfile
import warnings
from typing import NamedTuple

import script_support  # first: it imports TensorFlow quietly

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags
from PIL import Image
from tqdm import tqdm

FLAGS = flags.FLAGS

# Files.
INPUT_DATA = 'flower_photos'
OUTPUT_FILE = 'flower_processed_data.npy'

# Shares of the validation and the testing photos, in percent.
VALIDATION_PERCENTAGE = 10
TEST_PERCENTAGE = 10

SEED = 1  # of the split and the shuffle

IMAGE_SIZE = 299  # pixels on a side, as Inception-v3 takes them
EXTENSIONS = ('.jpg', '.jpeg')  # in whatever case
MAX_PIXELS = 50_000_000  # larger photos are skipped: decoded, one takes 3 bytes a pixel
MAX_CLASSES = 1000
PARALLEL_PHOTOS = 4  # decoded at a time, which bounds the memory: 0.15 GB each at the most
PHOTOS_PER_WRITE = 8  # 1.07 MB each

ARCHIVE_URL = 'http://download.tensorflow.org/example_images/flower_photos.tgz'
ARCHIVE_SHA256 = '4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c'

SPLITS = ('training', 'validation', 'testing')  # in the order of the records
RECORD = np.dtype([('image', '<f4', (IMAGE_SIZE, IMAGE_SIZE, 3)),  # RGB in [0, 1]
                   ('label', '<i8'),  # index of the class in the sorted class names
                   ('split', '<U10')])  # one of SPLITS


def define_flags():
  """Define a flag for each constant that a user may choose."""
  flags.DEFINE_string('input_dir', INPUT_DATA, 'Folder of the class folders.')
  flags.DEFINE_string('output_file', OUTPUT_FILE, 'The .npy file to write.')
  flags.DEFINE_integer('validation_percentage', VALIDATION_PERCENTAGE, 'Percent of photos for validation.',
                       lower_bound=0, upper_bound=99)
  flags.DEFINE_integer('testing_percentage', TEST_PERCENTAGE, 'Percent of photos for the final test.',
                       lower_bound=0, upper_bound=99)
  flags.DEFINE_integer('seed', SEED, 'Seed of the split and the shuffle.',
                       lower_bound=0, upper_bound=2**31 - 1)


class Photo(NamedTuple):
  """A photo that belongs into the output."""
  path: str
  label: int
  split: str


class ProcessedData(NamedTuple):
  """What `load_processed_data` returns; images are memory-mapped, float32 [n, 299, 299, 3] in [0, 1]."""
  training_images: np.ndarray
  training_labels: np.ndarray  # int64 [n], indices into labels
  validation_images: np.ndarray
  validation_labels: np.ndarray
  testing_images: np.ndarray
  testing_labels: np.ndarray
  labels: list  # class names, sorted
  files: list  # the photo of each record, relative to the input folder: training, validation, testing


# -- Finding photos ----------------------------------------------------------------------


def photo_problem(path):
  """Return why a file cannot be taken for a photo, or None; reads its header only."""
  Image.MAX_IMAGE_PIXELS = None  # the bound below is ours
  try:
    if os.path.getsize(path) == 0:
      return 'is empty'
    with Image.open(path, formats=('JPEG',)) as image:
      if image.width * image.height > MAX_PIXELS:
        return (f'has {image.width}x{image.height} pixels, above the {MAX_PIXELS // 1_000_000} million '
                'that are read: scale it down')
  except Image.UnidentifiedImageError:
    return 'is no JPEG, whatever its name says: convert it'
  except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged headers
    return f'cannot be read: {getattr(error, "strerror", None) or error}'
  return None


def find_photos(input_dir):
  """Return ({class name: sorted paths of its JPEG files}, classes sorted by name).

  Hidden files and folders are left out, and so are folders inside of class folders. A class
  folder without photos is no class.

  Raises:
    script_support.UserError: if there are fewer than 2 or more than MAX_CLASSES classes.
    OSError: if a folder cannot be read.
  """
  classes = {}
  for name in sorted(os.listdir(input_dir)):
    class_dir = os.path.join(input_dir, name)
    if name.startswith('.') or not os.path.isdir(class_dir):
      continue
    files = [os.path.join(class_dir, file_name) for file_name in sorted(os.listdir(class_dir))
             if file_name.lower().endswith(EXTENSIONS) and not file_name.startswith('.')]
    files = [path for path in files if not os.path.isdir(path)]
    if files:
      classes[name] = files
    else:
      script_support.warn(f'{class_dir} holds no JPEG files: it is no class')
  if not 2 <= len(classes) <= MAX_CLASSES:
    raise script_support.UserError(f'--input_dir={input_dir} has {len(classes)} folders with JPEG files: give a '
                                   f'folder of 2 to {MAX_CLASSES}, one for each class')
  return classes


def create_image_lists(input_dir, testing_percentage, validation_percentage, seed):
  """Find the photos, assign each to a split by chance, and shuffle the training photos.

  Args:
    input_dir: str, the folder of the class folders.
    testing_percentage, validation_percentage: int, together at most 100.
    seed: int; the same seed and files give the same lists.

  Returns:
    (class names, sorted; Photos in the order of the output; [(path, why it was skipped)]).

  Raises:
    script_support.UserError, OSError: as `find_photos`.
  """
  classes = find_photos(input_dir)
  random = np.random.RandomState(seed)
  lists, skipped = {split: [] for split in SPLITS}, []
  for label, paths in enumerate(classes.values()):
    for path in paths:
      problem = photo_problem(path)
      if problem:
        skipped.append((path, problem))
        continue
      chance = random.randint(100)
      if chance < validation_percentage:
        split = 'validation'
      elif chance < testing_percentage + validation_percentage:
        split = 'testing'
      else:
        split = 'training'
      lists[split].append(Photo(path, label, split))
  random.shuffle(lists['training'])
  return list(classes), [photo for split in SPLITS for photo in lists[split]], skipped


# -- Decoding ----------------------------------------------------------------------------


def decode_photo(contents):
  """Decode and scale a photo inside the graph.

  Args:
    contents: scalar string tensor, a JPEG file: colour, grey or CMYK, progressive or not.

  Returns:
    float32 [299, 299, 3], RGB in [0, 1].
  """
  image = tf.image.decode_jpeg(contents, channels=3)
  # Scaled as bytes, which takes a quarter of the memory of scaling floats; the kernel computes in floats.
  image = tf.image.resize_images(image, [IMAGE_SIZE, IMAGE_SIZE])
  return image * (1 / 255)


def decoded_photos(paths):
  """Yield (positions, images) in order, in batches, from one graph; undecodable photos are left out.

  Args:
    paths: list of str.

  Yields:
    (int64 [n], float32 [n, 299, 299, 3] in [0, 1]), n up to PHOTOS_PER_WRITE.
  """
  with tf.Graph().as_default(), tf.Session() as sess:
    all_paths = tf.placeholder(tf.string, [None])
    dataset = (tf.data.Dataset.from_tensor_slices(all_paths).enumerate()
               .map(lambda position, path: (position, decode_photo(tf.io.read_file(path))),
                    num_parallel_calls=PARALLEL_PHOTOS)
               .apply(tf.data.experimental.ignore_errors())
               .batch(PHOTOS_PER_WRITE).prefetch(2))
    iterator = tf.data.make_initializable_iterator(dataset)
    next_batch = iterator.get_next()
    sess.run(iterator.initializer, {all_paths: [os.fsencode(path) for path in paths]})
    while True:
      try:
        yield sess.run(next_batch)
      except tf.errors.OutOfRangeError:
        return


# -- Writing and reading the output ------------------------------------------------------


def names_path(data_path):
  """Return the path of the .json file beside a .npy file."""
  return os.path.splitext(data_path)[0] + '.json'


def _write_header(file, count):
  """Write the .npy header of count records at the start of file; its length is always the same."""
  file.seek(0)
  np.lib.format.write_array_header_1_0(file, {'descr': np.lib.format.dtype_to_descr(RECORD),
                                              'fortran_order': False, 'shape': (count,)})
  return file.tell()


def write_records(file, photos, skipped):
  """Write photos as a stream of records.

  Args:
    file: binary file, empty.
    photos: list of Photo.
    skipped: list of (path, why), to which the undecodable ones are added.

  Returns:
    The list of Photos that were written, in order.
  """
  header_size = _write_header(file, len(photos))
  written = []
  buffer = np.zeros(PHOTOS_PER_WRITE, RECORD)
  with script_support.log_lines_held_back(script_support.RAISED_TOO) as standard_error, \
      tqdm(total=len(photos), unit='photo', disable=None, file=standard_error) as bar:
    for positions, images in decoded_photos([photo.path for photo in photos]):
      batch = [photos[position] for position in positions]
      records = buffer[:len(batch)]
      records['image'] = images
      records['label'] = [photo.label for photo in batch]
      records['split'] = [photo.split for photo in batch]
      file.write(records.view(np.uint8))
      written += batch
      bar.update(len(batch))
  decoded = set(written)
  skipped += [(photo.path, 'is damaged or cut short') for photo in photos if photo not in decoded]
  if _write_header(file, len(written)) != header_size:
    raise AssertionError('numpy wrote .npy headers of two lengths')
  return written


def preprocess(input_dir, output_file, testing_percentage=TEST_PERCENTAGE,
               validation_percentage=VALIDATION_PERCENTAGE, seed=SEED):
  """Write the photos of input_dir to output_file and its names beside it.

  Args:
    input_dir, testing_percentage, validation_percentage, seed: as for `create_image_lists`.
    output_file: str, the .npy file; it appears whole or not at all.

  Returns:
    The list of Photos written, in the order of the records.

  Raises:
    script_support.UserError: if there is no class, or no photo could be read.
    OSError: if something cannot be read or written.
  """
  labels, photos, skipped = create_image_lists(input_dir, testing_percentage, validation_percentage, seed)
  with script_support.replace_file(names_path(output_file)) as temporary_names_path, \
      script_support.replace_file(output_file) as temporary_path:
    with open(temporary_path, 'wb') as file:
      written = write_records(file, photos, skipped)
    for path, problem in skipped:
      script_support.warn(f'skipped: {path} {problem}')
    if not written:
      raise script_support.UserError(f'--input_dir={input_dir}: none of its {len(skipped)} photos could be read')
    counts = {split: sum(photo.split == split for photo in written) for split in SPLITS}
    with open(temporary_names_path, 'w', encoding='utf-8') as file:
      json.dump({'labels': labels, 'seed': seed, 'counts': counts,
                 'files': [os.path.relpath(photo.path, input_dir).replace(os.sep, '/') for photo in written]},
                file, indent=1)
    if os.path.exists(names_path(output_file)):
      os.remove(names_path(output_file))  # never old names beside new records
  for label, name in enumerate(labels):
    print(f'{script_support.printable(name)}: {sum(photo.label == label for photo in written)} photos')
  print(f'Skipped {len(skipped)} files.')
  print('%d training examples, %d validation examples and %d testing example.' % tuple(counts.values()))
  return written


def read_names(path):
  """Return (labels, files, counts) of the .json file beside a data file.

  Raises:
    script_support.UserError: if it is missing, no JSON, or does not hold what it should.
  """
  content = script_support.read_json(path)
  labels, files, counts = (content.get(key) for key in ('labels', 'files', 'counts'))
  if not script_support.is_list_of_names(labels) or len(set(labels)) != len(labels) or len(labels) < 2:
    raise script_support.UserError(f'{path}: "labels" is no list of two or more class names: '
                                   'run flower_preprocess.py again')
  if not script_support.is_list_of_names(files):
    raise script_support.UserError(f'{path}: "files" is no list of file names: run flower_preprocess.py again')
  if (not isinstance(counts, dict) or sorted(counts) != sorted(SPLITS)
      or not all(type(count) is int and count >= 0 for count in counts.values())
      or sum(counts.values()) != len(files)):
    raise script_support.UserError(f'{path}: "counts" does not match its {len(files)} files: '
                                   'run flower_preprocess.py again')
  return labels, files, counts


def load_processed_data(path):
  """Open what `preprocess` wrote, without reading the images into memory.

  Args:
    path: str, the .npy file; the .json file is expected beside it.

  Returns:
    ProcessedData.

  Raises:
    script_support.UserError: if the file is no .npy file of such records, is pickled, cut
      short, or does not fit the names beside it.
    OSError: if a file cannot be read.
  """
  try:
    # Unlike np.load, this never takes a file for a pickle or an archive.
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of headers of Python 2, and of sizes that overflow
      records = np.lib.format.open_memmap(path, mode='r')
  except OSError:
    raise
  except Exception as error:  # numpy's parser raises IndexError, TokenError, RecursionError and more
    raise script_support.UserError(f'{path} is no whole .npy file of flower_preprocess.py '
                                   f'({str(error).strip()}): run that again') from None
  if records.dtype != RECORD or records.ndim != 1:
    raise script_support.UserError(f'{path} holds an array {records.shape} of {records.dtype}, not the records '
                                   'of flower_preprocess.py: run that first')
  labels, files, counts = read_names(names_path(path))
  expected = np.repeat(SPLITS, [counts[split] for split in SPLITS])
  if len(records) != len(files) or not np.array_equal(records['split'], expected):
    raise script_support.UserError(f'{path} and {names_path(path)} are not of the same run: '
                                   'run flower_preprocess.py again')
  if len(records) and not 0 <= records['label'].min() <= records['label'].max() < len(labels):
    raise script_support.UserError(f'{path} holds labels beyond its {len(labels)} classes: '
                                   'run flower_preprocess.py again')
  images, record_labels = records['image'], np.array(records['label'])
  ends = np.cumsum([0] + [counts[split] for split in SPLITS])
  parts = [part[start:end] for start, end in zip(ends, ends[1:], strict=False) for part in (images, record_labels)]
  return ProcessedData(*parts, labels=labels, files=files)


# -- Downloading -------------------------------------------------------------------------


def fetch_photos(input_dir):
  """Download the flower photos and unpack them as input_dir.

  Raises:
    script_support.UserError: if they cannot be had.
  """
  parent = os.path.dirname(os.path.abspath(input_dir))
  cure = f'fetch it elsewhere and unpack it, so that --input_dir={input_dir} holds the class folders'
  with script_support.download(ARCHIVE_URL, parent, cure, ARCHIVE_SHA256) as archive_path, \
      tempfile.TemporaryDirectory(dir=parent) as temporary_dir:
    with tarfile.open(archive_path) as archive:
      script_support.unpack(archive, temporary_dir)
    os.replace(os.path.join(temporary_dir, INPUT_DATA), input_dir)


def main(argv):
  script_support.refuse_arguments(argv)
  if FLAGS.validation_percentage + FLAGS.testing_percentage > 99:
    raise script_support.UsageError(
        f'--validation_percentage={FLAGS.validation_percentage} and --testing_percentage='
        f'{FLAGS.testing_percentage} leave nothing to train on: give a sum below 100')
  if not FLAGS.output_file.endswith('.npy'):
    raise script_support.UsageError(f'--output_file={FLAGS.output_file}: give a name that ends in .npy')
  folder = os.path.dirname(FLAGS.output_file) or '.'
  if os.path.isdir(FLAGS.output_file) or not os.path.isdir(folder):
    raise script_support.UserError(f'--output_file={FLAGS.output_file} is a folder, or in none: '
                                   'give the name of a file in a folder')
  if not os.path.isdir(FLAGS.input_dir):
    if os.path.basename(os.path.normpath(FLAGS.input_dir)) != INPUT_DATA or os.path.exists(FLAGS.input_dir):
      raise script_support.UserError(f'--input_dir={FLAGS.input_dir} is no folder: give a folder of class folders')
    fetch_photos(FLAGS.input_dir)
  preprocess(FLAGS.input_dir, FLAGS.output_file, FLAGS.testing_percentage,
             FLAGS.validation_percentage, FLAGS.seed)
  print(f'Saved {FLAGS.output_file} and {names_path(FLAGS.output_file)}')


if __name__ == '__main__':
  script_support.run(main, define_flags)
