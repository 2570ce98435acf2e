"""Folders of photos as people have them: which files are photos, of which class, in which split.

A class is a folder with photos at any depth. Folders that are split already are train/,
validation/ and test/ (and what else they are called) with the class folders in each.
"""
import hashlib
import os
import posixpath
import stat
import unicodedata

from support import pictures
from support.console import UserError

MAX_CLASSES = 1000

# Folders that split the photos already, in whatever case.
SPLIT_FOLDERS = {'train': 'training', 'training': 'training', 'val': 'validation',
                 'valid': 'validation', 'validation': 'validation', 'test': 'testing',
                 'testing': 'testing'}

# What systems leave in folders of photos, besides hidden files; left out without a word.
SYSTEM_FILES = ('thumbs.db', 'desktop.ini')


# -- Finding photos ----------------------------------------------------------------------


def _file_problem(path):
  """Return why a file cannot be a photo, or None; looks at its beginning only.

  Raises:
    OSError: if it cannot be read.
  """
  try:
    status = os.stat(path)
  except OSError:
    if os.path.islink(path):
      return 'is a link that leads nowhere'
    raise
  if not stat.S_ISREG(status.st_mode):
    return 'is not a regular file'
  if not status.st_size:
    return 'is empty'
  with open(path, 'rb') as file:
    head = file.read(pictures.SIGNATURE_BYTES)
  return None if pictures.sniff(head) else 'is not a photo of a kind that is read'


def _is_of_no_interest(name):
  return name.startswith('.') or name.lower() in SYSTEM_FILES


def find_files(input_dir):
  """Find all files of a folder at any depth, but hidden ones and those of the system.

  Returns:
    ({name: why it cannot be a photo, or None}, sorted by name; names of the folders).
    A name is a path below input_dir with '/' on every system.

  Raises:
    OSError: if a file or a folder cannot be read.
  """
  def stop(error):
    raise error

  problems, folders, seen = {}, [], set()
  for path, subfolders, names in os.walk(input_dir, followlinks=True, onerror=stop):
    folder = os.path.relpath(path, input_dir).replace(os.sep, '/') + '/'
    folder = '' if folder == './' else folder
    status = os.stat(path)
    if (status.st_dev, status.st_ino) in seen:  # a link, perhaps to a folder that it is in
      problems[folder] = 'is a link to a folder that is read already'
      subfolders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(name for name in subfolders if not _is_of_no_interest(name))
    folders += [folder + name for name in subfolders]
    problems.update((folder + name, _file_problem(os.path.join(path, name)))
                    for name in names if not _is_of_no_interest(name))
  return {name: problems[name] for name in sorted(problems)}, folders


# -- Classes and splits ------------------------------------------------------------------


def _split_folder(name):
  """Return the split that a file's first folder is named after, or None."""
  return SPLIT_FOLDERS.get(name.split('/')[0].lower()) if '/' in name else None


def is_split(photo_names):
  """Return whether there is a folder train/ with class folders in it, and one of another split."""
  return (any(_split_folder(name) == 'training' and name.count('/') > 1 for name in photo_names)
          and len({_split_folder(name) for name in photo_names} - {None}) > 1)


def place(name, is_split):
  """Return (split of the folders or None, class) of a file; class is None outside of them."""
  split = None
  if is_split:
    split, name = _split_folder(name), name.partition('/')[2]
    if split is None:
      return None, None
  return split, name.split('/')[0] if '/' in name else None


def draw(seed, name):
  """Return two random numbers for a photo: 0 to 99 for its split, and one for its place.

  They depend on the seed and its name alone, so that one photo more does not move the others;
  and not on how a system writes accents.
  """
  text = unicodedata.normalize('NFC', f'{seed}/{name}').encode('utf-8', 'surrogateescape')
  number = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), 'big')
  return number % 100, number // 100


def drawn_split(chance, validation_percentage, testing_percentage):
  """Return the split that a random number, 0 to 99, decides."""
  if chance < validation_percentage:
    return 'validation'
  return 'testing' if chance < validation_percentage + testing_percentage else 'training'


def refuse_folder(input_dir, count, names, photo_names):
  """Raise the UserError of a folder with count classes: fewer than 2, or too many."""
  place = f'--input_dir={input_dir}'
  inside = [name for name in photo_names if '/' in name]
  if not photo_names:
    raise UserError(f'{place} holds {len(names)} files and none of them is a photo: give a folder '
                    'of class folders with photos')
  if not inside:
    parent = os.path.dirname(os.path.abspath(input_dir))
    raise UserError(f'{place} holds {len(photo_names)} photos itself and no class folders: give '
                    f'the folder of the class folders, perhaps --input_dir={parent}')
  top = posixpath.commonpath([posixpath.dirname(name) for name in inside])
  below = {name[len(top) + 1:].split('/')[0] for name in inside
           if '/' in name[len(top) + 1:]}
  if top and len(below) > 1:
    raise UserError(f'{place} has photos in one folder only, {top}, and in {len(below)} folders '
                    f'inside of that: give --input_dir={os.path.join(input_dir, *top.split("/"))}')
  raise UserError(f'{place} has {count} class folders with photos: give a folder of 2 to '
                  f'{MAX_CLASSES}, one for each class')
