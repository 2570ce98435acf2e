"""Turn a folder of photo folders, one a class, into one file of 299x299 images.

    python flower_preprocess.py
    python flower_preprocess.py --input_dir=my_photos --output_file=my_photos.npy

Reads the photos (JPEG, PNG, GIF, BMP, TIFF, WebP) in each class folder of --input_dir, and in
the folders inside of it; or in train/, validation/ and test/ with the class folders in each.
Writes --output_file and a .json file beside it, as flowers/data_file.py tells. The flower photos
themselves are downloaded if the folder flower_photos is missing.
"""
import collections
import contextlib
import os
import shutil
from typing import NamedTuple

from absl import flags
from tqdm import tqdm

from flowers import data_file, folders, photo
from flowers.data_file import SPLITS
from support import console, files, pictures
from support.console import UserError, printable, warn

# Files.
INPUT_DATA = 'flower_photos'
OUTPUT_FILE = 'flower_processed_data.npy'

# Shares of the validation and the testing photos, in percent.
VALIDATION_PERCENTAGE = 10
TEST_PERCENTAGE = 10

SEED = 1  # of the split and of the order

# Names of photos: a file with one of these that is not a photo counts as a damaged one.
PHOTO_ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.webp', '.tif',
                 '.tiff', '.heic', '.avif')

ARCHIVE_URL = 'http://download.tensorflow.org/example_images/flower_photos.tgz'
ARCHIVE_SHA256 = '4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c'

FLAGS = flags.FlagValues()
console.DEFINE_path('input_dir', INPUT_DATA, 'Folder of the class folders.', FLAGS)
console.DEFINE_path('output_file', OUTPUT_FILE, 'The .npy file to write.', FLAGS)
flags.DEFINE_integer('validation_percentage', VALIDATION_PERCENTAGE,
                     'Percent of photos for validation.', 0, 99, flag_values=FLAGS)
flags.DEFINE_integer('testing_percentage', TEST_PERCENTAGE,
                     'Percent of photos for the final test.', 0, 99, flag_values=FLAGS)
flags.DEFINE_integer('seed', SEED, 'Seed of the split and of the order.', 0, 2**31 - 1,
                     flag_values=FLAGS)


def options(**changes):
  """Return the options of `preprocess`: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


class Photo(NamedTuple):
  """A photo of a class folder."""
  path: str
  name: str  # its path below the input folder, with '/' on every system
  label: str  # the name of its class
  split: str  # one of SPLITS


class ImageLists(NamedTuple):
  """What `create_image_lists` found."""
  classes: list  # names of the class folders, sorted, whether or not a photo is in them
  photos: list  # Photos in the order of the data file
  skipped: list  # (path, why) of all else in the class folders
  given_splits: list  # the splits that have folders of their own; else they are drawn


# -- The lists of photos -----------------------------------------------------------------


def create_image_lists(input_dir, testing_percentage, validation_percentage, seed):
  """Find the photos, decide the split of each, and put each split in a random order.

  Args:
    input_dir: the folder of the class folders, or of the folders of the splits.
    testing_percentage, validation_percentage: int, together at most 99; for the splits that
      have no folder.
    seed: int; the same seed and names give the same lists.

  Returns:
    ImageLists.

  Raises:
    UserError: if there are fewer than 2 or more than folders.MAX_CLASSES classes.
    OSError: if something cannot be read.
  """
  problems, all_folders = folders.find_files(input_dir)
  photo_names = [name for name, problem in problems.items() if problem is None]
  is_split = folders.is_split(photo_names)
  places = {name: folders.place(name, is_split) for name in problems}
  given = {places[name][0] for name in photo_names if places[name][1]} - {None}
  # What has folders of its own is not drawn from the training photos.
  validation_percentage *= 'validation' not in given
  testing_percentage *= 'testing' not in given
  photos, skipped = [], []
  for name, problem in problems.items():
    path, (split, label) = os.path.join(input_dir, *name.split('/')), places[name]
    if label and not problem:
      chance, order = folders.draw(seed, name)
      if split in (None, 'training'):
        split = folders.drawn_split(chance, validation_percentage, testing_percentage)
      photos.append((SPLITS.index(split), order, Photo(path, name, label, split)))
    elif label or not problem:  # other files beside the class folders are left out without a word
      skipped.append((path, problem or 'is not in a class folder'))
  photos = [photo for *_, photo in sorted(photos)]
  count = len({photo.label for photo in photos})
  if not 2 <= count <= folders.MAX_CLASSES:
    folders.refuse_folder(input_dir, count, problems, photo_names)
  classes = {folders.place(f'{name}/', is_split)[1] for name in all_folders} - {None}
  return ImageLists(sorted(classes), photos, skipped,
                    [split for split in SPLITS if split in given])


# -- The output --------------------------------------------------------------------------


def check_options(options):
  """Raise UserError if the output's name or the percentages cannot be as they are."""
  output_file = options.output_file
  if options.validation_percentage + options.testing_percentage > 99:
    raise UserError(f'--validation_percentage={options.validation_percentage} and '
                    f'--testing_percentage={options.testing_percentage} leave nothing to train on: '
                    'give a sum below 100', console.WRONG_USAGE)
  if not output_file.endswith('.npy'):
    raise UserError(f'--output_file={output_file}: give a name that ends in .npy',
                    console.WRONG_USAGE)
  if os.path.isdir(output_file) or not os.path.isdir(os.path.dirname(output_file) or '.'):
    raise UserError(f'--output_file={output_file} is a folder, or in none: give the name of a file '
                    'in a folder')
  _refuse_foreign_names(output_file)


def _refuse_foreign_names(output_file):
  """Raise UserError if a .json file beside the output is there and was not written here."""
  path = data_file.names_path(output_file)
  if not os.path.lexists(path):
    return
  ours = False
  with contextlib.suppress(UserError, FileNotFoundError):
    files.require_regular_file(path, data_file.MAX_NAMES_BYTES)
    ours = files.read_json(path).keys() >= {'labels', 'files', 'counts'}
  if not ours:
    raise UserError(f'--output_file={output_file}: {path}, which would be replaced, is not a file '
                    'of flower_preprocess.py: move it away, or give another name')


def _refuse_small_disk(output_file, count):
  """Raise UserError if the disk has no room for count photos."""
  needed = count * data_file.IMAGE_BYTES
  free = shutil.disk_usage(os.path.dirname(output_file) or '.').free
  if free < needed:
    raise UserError(f'--output_file={output_file}: No space left for {count} photos, which take '
                    f'{needed / 1e9:.2f} GB: {free / 1e9:.2f} GB are free')


def _refuse_bad_photos(input_dir, written, skipped):
  """Raise UserError if most photos could not be decoded, or those of fewer than 2 classes could."""
  # Other files are left out, too; but where photos fail to decode, something is wrong with them.
  bad = [f'{path} {why}' for path, why in skipped
         if path.lower().endswith(PHOTO_ENDINGS) or why == pictures.DAMAGED]
  if len(bad) > len(written):
    raise UserError(f'--input_dir={input_dir}: {len(bad)} of {len(bad) + len(written)} photos '
                    f'cannot be read ({bad[0]}): nothing is written')
  classes = {photo.label for photo in written}
  if len(classes) < 2:
    raise UserError(f'--input_dir={input_dir} has {len(classes)} classes with photos that can be '
                    'read: give photos of 2 or more')


def _write_photos(writer, photos):
  """Decode and write photos; return (those written, [(path, why)] of the others)."""
  written, skipped = [], []
  decoded_photos = photo.decoded_photos([each.path for each in photos])
  with contextlib.closing(decoded_photos), \
      tqdm(total=len(photos), unit='photo', disable=None) as bar:
    for each, decoded in zip(photos, decoded_photos, strict=True):
      if decoded.problem:
        skipped.append((each.path, decoded.problem))
      else:
        writer.add(decoded)
        written.append(each)
      bar.update()
  return written, skipped


def preprocess(options):
  """Write the photos of options.input_dir to options.output_file, and their names beside it.

  Both files appear whole or, if this fails, stay as they were.

  Raises:
    UserError: if the options or the folder cannot be right, or most photos cannot be read.
    OSError: if something cannot be read or written.
  """
  check_options(options)
  found = create_image_lists(options.input_dir, options.testing_percentage,
                             options.validation_percentage, options.seed)
  if found.given_splits:
    drawn = [split for split in SPLITS if split not in found.given_splits]
    print('Split as the folders are: ' + ', '.join(found.given_splits)
          + ''.join(f'; {split} photos are drawn from the training ones' for split in drawn) + '.')
  with data_file.data_writer(options.output_file) as writer:
    _refuse_small_disk(options.output_file, len(found.photos))
    written, damaged = _write_photos(writer, found.photos)
    skipped = sorted(found.skipped + damaged)
    for path, why in skipped:
      warn(f'skipped: {path} {why}')
    _refuse_bad_photos(options.input_dir, written, skipped)
    labels = sorted({photo.label for photo in written})
    counts = {split: sum(photo.split == split for photo in written) for split in SPLITS}
    writer.finish(labels, [photo.name for photo in written],
                  [labels.index(photo.label) for photo in written], counts, seed=options.seed)
  for name in found.classes:
    if name not in labels:
      warn(f'{name} has no photo that can be read: it is not a class')
  _report(labels, written)
  print(f'Skipped {len(skipped)} files.')
  print('%d training examples, %d validation examples and %d testing example.'
        % tuple(counts.values()))


def _report(labels, photos):
  """Print how many photos each class has, and which classes have none in a split."""
  in_split = collections.Counter((photo.label, photo.split) for photo in photos)
  for label in labels:
    print(f'{printable(label)}: {sum(in_split[label, split] for split in SPLITS)} photos')
  for split in SPLITS:
    without = [printable(label) for label in labels if not in_split[label, split]]
    if without:
      print(f'No {split} photos: {", ".join(without)}.')


# -- Downloading -------------------------------------------------------------------------


def fetch_photos(input_dir):
  """Download the flower photos and unpack them as input_dir.

  Raises:
    UserError: if they cannot be had.
  """
  advice = ('fetch it elsewhere and unpack it, so that '
            f'--input_dir={input_dir} holds the class folders')
  parent = os.path.dirname(os.path.abspath(input_dir))
  with files.download(ARCHIVE_URL, parent, advice, ARCHIVE_SHA256) as archive_path:
    folder = os.path.dirname(archive_path)
    files.unpack(archive_path, folder)
    os.replace(os.path.join(folder, INPUT_DATA), input_dir)


def main(argv):
  console.refuse_arguments(argv)
  check_options(FLAGS)  # before a download, too
  if not os.path.isdir(FLAGS.input_dir):
    is_default = os.path.basename(os.path.normpath(FLAGS.input_dir)) == INPUT_DATA
    if not is_default or os.path.lexists(FLAGS.input_dir):
      raise UserError(f'--input_dir={FLAGS.input_dir} is not a folder: give a folder of class '
                      'folders')
    fetch_photos(FLAGS.input_dir)
  preprocess(FLAGS)
  print(f'Saved {FLAGS.output_file} and {data_file.names_path(FLAGS.output_file)}')


if __name__ == '__main__':
  console.run(main, FLAGS)
