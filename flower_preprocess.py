"""Turn a folder of photo folders, one a class, into one file of 299x299 images.

    python flower_preprocess.py
    python flower_preprocess.py --input_dir=my_photos --output_file=my_photos.npy

Reads the photos (JPEG, PNG, GIF, BMP, TIFF, WebP) in each class folder of --input_dir, and in
the folders inside of it; or in train/, validation/ and test/, or what else they are called, around
the class folders or inside of them. Writes --output_file and a .json file beside it, as
flowers/data_file.py describes. The flower photos themselves are downloaded if the folder
flower_photos is missing.
"""
import collections
import contextlib
import os
from typing import NamedTuple

from tqdm import tqdm

from flowers import data_file, folders, photo
from flowers.data_file import SPLITS
from support import console, files, pictures
from support.console import UserError, report, warn

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

FLAGS = console.Flags()
FLAGS.DEFINE_path('input_dir', INPUT_DATA, 'Folder of the class folders.')
FLAGS.DEFINE_path('output_file', OUTPUT_FILE, 'The .npy file to write.')
FLAGS.DEFINE_integer('validation_percentage', VALIDATION_PERCENTAGE,
                     'Percent of photos for validation.', 0, 99)
FLAGS.DEFINE_integer('testing_percentage', TEST_PERCENTAGE,
                     'Percent of photos for the final test.', 0, 99)
FLAGS.DEFINE_integer('seed', SEED, 'Seed of the split and of the order.', 0, 2**31 - 1)


class Photo(NamedTuple):
  """A photo of a class folder."""
  path: str
  name: str  # its path below the input folder, with '/' on every system
  label: str  # the name of its class
  split: str  # one of SPLITS


class ImageLists(NamedTuple):
  """What `create_image_lists` found."""
  photos: list[Photo]  # in the order of the data file
  skipped: list[tuple[str, str]]  # path and why, of all else in the class folders
  outside: collections.Counter  # photos in no class folder, by their topmost folder
  empty_classes: set[str]  # class folders without a photo
  given_splits: list[str]  # the splits that have folders of their own; else they are drawn


# -- The lists of photos -----------------------------------------------------------------


def create_image_lists(input_dir: str, testing_percentage: int, validation_percentage: int,
                       seed: int) -> ImageLists:
  """Find the photos, decide the split of each, and put each split in a random order.

  Args:
    input_dir: the folder of the class folders, or of the folders of the splits.
    testing_percentage, validation_percentage: together at most 99; for the splits that have no
      folder.
    seed: the same seed and names give the same lists.

  Raises:
    UserError: if there are fewer than 2 or more than folders.MAX_CLASSES classes.
    OSError: if something cannot be read.
  """
  problems, folder_names = folders.find_files(input_dir)
  photo_names = [name for name, problem in problems.items() if problem is None]
  depths = folders.split_depths(photo_names)
  places = {name: folders.place(name, depths) for name in problems}
  given = {places[name][0] for name in photo_names} - {None}
  # What has folders of its own is not drawn from the training photos.
  if 'validation' in given:
    validation_percentage = 0
  if 'testing' in given:
    testing_percentage = 0
  # A photo stays in the split whose folder it is in, but for a split that has none: that is drawn
  # from the training photos, by a number that depends on the photo's name alone.
  photos, skipped, outside = [], [], collections.Counter()
  for name, problem in problems.items():
    path, (split, label) = os.path.join(input_dir, *name.split('/')), places[name]
    if problem is None and label is None:
      outside[name.split('/')[0] if '/' in name else '.'] += 1
    elif problem is None:
      chance, order = folders.draw(seed, name)
      if split in (None, 'training'):
        split = folders.drawn_split(chance, validation_percentage, testing_percentage)
      photos.append((SPLITS.index(split), order, Photo(path, name, label, split)))
    elif label:  # other files beside the class folders are left out without a word
      skipped.append((path, problem))
  photos = [each for *_, each in sorted(photos)]
  labels = {each.label for each in photos}
  if not 2 <= len(labels) <= folders.MAX_CLASSES:
    folders.refuse_folder(input_dir, labels, photo_names, depths)
  classes = {folders.place(f'{name}/', depths)[1] for name in folder_names} - {None}
  return ImageLists(photos, skipped, outside, classes - labels,
                    [split for split in SPLITS if split in given])


def report_folder(found: ImageLists, input_dir: str) -> None:
  """Print how the folder is split, and what in it is perhaps not as it should be."""
  if found.given_splits:
    drawn = [split for split in SPLITS if split not in found.given_splits]
    print('Split as the folders are: ' + ', '.join(found.given_splits)
          + ''.join(f'; {split} photos are drawn from the training ones' for split in drawn) + '.')
  for folder, count in sorted(found.outside.items()):
    warn(f'skipped: {count} photos in {os.path.normpath(os.path.join(input_dir, folder))}, which '
         'is in no class folder')
  for name in sorted(found.empty_classes):
    warn(f'{name} has no photo that can be read: it is not a class')
  by_name = collections.defaultdict(set)
  for each in found.photos:
    by_name[each.label.casefold()].add(each.label)
  for names in by_name.values():
    if len(names) > 1:
      warn(f'{" and ".join(sorted(names))} are classes apart: give their folders one name if they '
           'are the same')


# -- The output --------------------------------------------------------------------------


def check_options(options: console.Options) -> None:
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
  if not data_file.is_written_here(output_file):
    raise UserError(f'--output_file={output_file}: this file, or '
                    f'{data_file.names_path(output_file)}, would be replaced and is not of '
                    'flower_preprocess.py: move it away, or give another name')


def _refuse_bad_photos(input_dir: str, written: list[Photo], skipped: list[tuple[str, str]]
                       ) -> None:
  """Raise UserError if most photos could not be decoded, or those of fewer than 2 classes could."""
  # Other files are left out, too; but where photos fail to decode, something is wrong with them.
  bad = [f'{path} {why}' for path, why in skipped
         if path.lower().endswith(PHOTO_ENDINGS) or why == pictures.DAMAGED]
  if len(bad) > len(written):
    raise UserError(f'--input_dir={input_dir}: {len(bad)} of {len(bad) + len(written)} photos '
                    f'cannot be read ({bad[0]}): nothing is written')
  classes = {each.label for each in written}
  if len(classes) < 2:
    raise UserError(f'--input_dir={input_dir} has {len(classes)} classes with photos that can be '
                    'read: give photos of 2 or more')


def _write_photos(writer: data_file.DataWriter, photos: list[Photo]
                  ) -> tuple[list[Photo], list[tuple[str, str]]]:
  """Decode and write photos; return those written, and path and why of the others."""
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


def preprocess(options: console.Options | None = None) -> None:
  """Write the photos of options.input_dir to options.output_file, and their names beside it.

  Both files appear whole or, if this fails, stay as they were.

  Raises:
    UserError: if the options or the folder cannot be right, or most photos cannot be read.
    OSError: if something cannot be read or written.
  """
  options = options or FLAGS.options()
  check_options(options)
  found = create_image_lists(options.input_dir, options.testing_percentage,
                             options.validation_percentage, options.seed)
  report_folder(found, options.input_dir)
  with data_file.data_writer(options.output_file) as writer:
    written, damaged = _write_photos(writer, found.photos)
    skipped = sorted(found.skipped + damaged)
    for path, why in skipped:
      warn(f'skipped: {path} {why}')
    _refuse_bad_photos(options.input_dir, written, skipped)
    # Only now is it known which photos there are: a label is its place among the sorted names.
    labels = sorted({each.label for each in written})
    counts = {split: sum(each.split == split for each in written) for split in SPLITS}
    writer.finish(labels, [each.name for each in written],
                  [labels.index(each.label) for each in written], counts, seed=options.seed)
  _report_classes(labels, {each.label for each in found.photos}, written)
  print(f'Skipped {len(skipped) + sum(found.outside.values())} files.')
  print('%d training examples, %d validation examples and %d testing example.'
        % tuple(counts.values()))


def _report_classes(labels: list[str], found: set[str], photos: list[Photo]) -> None:
  """Print how many photos each class has, and which classes have none, at all or in a split."""
  for name in sorted(found - set(labels)):
    warn(f'{name} has no photo that can be read: it is not a class')
  in_split = collections.Counter((each.label, each.split) for each in photos)
  for label in labels:
    report(f'{label}: {sum(in_split[label, split] for split in SPLITS)} photos')
  for split in SPLITS:
    without = [label for label in labels if not in_split[label, split]]
    if without:
      report(f'No {split} photos: {", ".join(without)}.')


# -- Downloading -------------------------------------------------------------------------


def fetch_photos(input_dir: str) -> None:
  """Download the flower photos and unpack them as input_dir.

  Raises:
    UserError: if they cannot be had.
  """
  advice = ('fetch it elsewhere and unpack it, so that '
            f'--input_dir={input_dir} holds the class folders')
  with files.temporary_folder(os.path.abspath(input_dir)) as folder:
    files.unpack(files.download(ARCHIVE_URL, folder, advice, ARCHIVE_SHA256), folder)
    os.replace(os.path.join(folder, INPUT_DATA), input_dir)


def main(argv: list[str]) -> None:
  console.refuse_arguments(argv)
  check_options(FLAGS)  # before a download, too
  if not os.path.isdir(FLAGS.input_dir):
    is_default = os.path.basename(os.path.normpath(FLAGS.input_dir)) == INPUT_DATA
    if not is_default or os.path.lexists(FLAGS.input_dir):
      raise UserError(f'--input_dir={FLAGS.input_dir} is not a folder: give a folder of class '
                      'folders')
    fetch_photos(FLAGS.input_dir)
  preprocess(FLAGS)
  report(f'Saved {FLAGS.output_file} and {data_file.names_path(FLAGS.output_file)}')


if __name__ == '__main__':
  console.run(main, FLAGS)
