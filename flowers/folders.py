"""Folders of photos as people have them: which files are photos, of which class, in which split.

A class is a folder with photos at any depth. A folder is split already if at some depth its folders
are called train and test, training_set and val_images, 训练集 and 测试集 or the like, around the
class folders or inside of them.
"""
import hashlib
import os
import posixpath
import re
import stat
import unicodedata
from collections.abc import Iterable

from support import pictures
from support.console import UserError

MAX_CLASSES = 1000

# Names of folders that split the photos already: one of these words, beside words that add nothing.
SPLIT_WORDS = {
    'train': 'training', 'training': 'training', '训练': 'training', '训练集': 'training',
    'val': 'validation', 'valid': 'validation', 'validation': 'validation', 'dev': 'validation',
    '验证': 'validation', '验证集': 'validation', '开发集': 'validation',
    'test': 'testing', 'testing': 'testing', '测试': 'testing', '测试集': 'testing'}
EMPTY_WORDS = {'set', 'seg', 'split', 'data', 'dataset', 'folder', 'img', 'imgs', 'image', 'images',
               'photo', 'photos', 'pic', 'pics', 'picture', 'pictures', '数据', '图片'}

# What systems leave in folders of photos, besides hidden files; left out without a word.
SYSTEM_NAMES = {'thumbs.db', 'desktop.ini', '@eadir', '#recycle', '__macosx'}


# -- Finding photos ----------------------------------------------------------------------


def _file_problem(path: str) -> str | None:
  """Return why a file cannot be a photo; looks at its beginning only."""
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


def _is_of_no_interest(name: str) -> bool:
  return name.startswith('.') or name.lower() in SYSTEM_NAMES


def find_files(input_dir: str) -> tuple[dict[str, str | None], list[str]]:
  """Find all files of a folder at any depth, but hidden ones and those of the system.

  A folder is read once, under its own name: links to one that is read anyway are not followed.

  Returns:
    Why each file cannot be a photo, or None, by its name; and the names of the folders. A name is
    a path below input_dir with '/' on every system; names are sorted.
  """
  def stop(error):
    raise error

  root = os.path.realpath(input_dir)
  problems, folders, followed = {}, [], set()
  for path, subfolders, names in os.walk(input_dir, followlinks=True, onerror=stop):
    prefix = os.path.relpath(path, input_dir).replace(os.sep, '/') + '/'
    prefix = '' if prefix == './' else prefix
    for name in sorted(subfolders):
      target = os.path.realpath(os.path.join(path, name))
      if os.path.islink(os.path.join(path, name)):
        is_read_anyway = target in followed or (target + os.sep).startswith(root + os.sep)
        if is_read_anyway or (root + os.sep).startswith(target + os.sep):
          problems[prefix + name] = 'is a link to a folder that is read already'
          subfolders.remove(name)
          continue
        followed.add(target)
    subfolders[:] = sorted(name for name in subfolders if not _is_of_no_interest(name))
    folders += [prefix + name for name in subfolders]
    problems.update((prefix + name, _file_problem(os.path.join(path, name)))
                    for name in names if not _is_of_no_interest(name))
  return {name: problems[name] for name in sorted(problems)}, folders


# -- Classes and splits ------------------------------------------------------------------


def split_named(folder: str) -> str | None:
  """Return the split that a folder's name stands for."""
  words = re.split(r'[\W_\d]+', re.sub(r'(?<=[a-z])(?=[A-Z])', '_', folder).lower())
  words = [word if word in SPLIT_WORDS else word.removesuffix('set') for word in words]
  words = [word for word in words if word and word not in EMPTY_WORDS]
  return SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def split_depths(photo_names: Iterable[str]) -> set[int]:
  """Return the depths at which folders split the photos: for training and something else."""
  splits: dict[int, set[str | None]] = {}
  for name in photo_names:
    for depth, folder in enumerate(name.split('/')[:-1]):
      splits.setdefault(depth, set()).add(split_named(folder))
  return {depth for depth, found in splits.items()
          if 'training' in found and len(found - {None}) > 1}


def place(name: str, depths: set[int]) -> tuple[str | None, str | None]:
  """Return the split and the class of a file, as its folders say.

  Args:
    depths: what `split_depths` returns.

  Returns:
    The split is None where there are no folders of splits, or where the file is in none of them;
    then the class is None, too, as it is for a file outside of class folders.
  """
  folders = name.split('/')[:-1]
  named = {split_named(folders[depth]) for depth in depths if depth < len(folders)}
  classes = [folder for depth, folder in enumerate(folders) if depth not in depths]
  if not depths:
    return None, classes[0] if classes else None
  if len(named) != 1 or None in named or not classes:
    return None, None
  split = named.pop()
  if len(classes) > 1 and split_named(classes[0]) == split:  # as archives unpack: train/train/cats
    classes.pop(0)
  return split, classes[0]


def draw(seed: int, name: str) -> tuple[int, int]:
  """Return two random numbers for a photo: 0 to 99 for its split, and one for its place.

  They depend on the seed and its name alone, so that one photo more does not move the others;
  and not on how a system writes accents.
  """
  text = unicodedata.normalize('NFC', f'{seed}/{name}').encode('utf-8', 'surrogateescape')
  number = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), 'big')
  return number % 100, number // 100


def drawn_split(chance: int, validation_percentage: int, testing_percentage: int) -> str:
  """Return the split that a random number, 0 to 99, decides."""
  if chance < validation_percentage:
    return 'validation'
  return 'testing' if chance < validation_percentage + testing_percentage else 'training'


def refuse_folder(input_dir: str, classes: set[str], photo_names: list[str], depths: set[int]
                  ) -> None:
  """Raise the UserError of a folder with too few or too many classes."""
  given = f'--input_dir={input_dir}'
  inside = [name for name in photo_names if '/' in name]
  if not photo_names:
    raise UserError(f'{given} holds no photo that can be read: give a folder of class folders with '
                    'photos')
  if not inside:
    parent = os.path.dirname(os.path.abspath(input_dir))
    raise UserError(f'{given} holds {len(photo_names)} photos itself and no class folders: give '
                    f'the folder of the class folders, perhaps --input_dir={parent}')
  top = posixpath.commonpath([posixpath.dirname(name) for name in inside])
  below = {name[len(top) + 1:].split('/')[0] for name in inside if '/' in name[len(top) + 1:]}
  if top and len(below) > 1:
    raise UserError(f'{given} has photos in one folder only, {top}, and in {len(below)} folders '
                    f'inside of that: give --input_dir={os.path.join(input_dir, *top.split("/"))}')
  if depths:
    splits = sorted({'/'.join(name.split('/')[:max(depths) + 1]) for name in inside})
    raise UserError(f'{given} is split into {", ".join(splits[:6])}, with {len(classes)} class '
                    'folders of photos: lay it out as train/CLASS/ and test/CLASS/, with 2 to '
                    f'{MAX_CLASSES} classes')
  raise UserError(f'{given} has {len(classes)} class folders with photos: give a folder of 2 to '
                  f'{MAX_CLASSES}, one for each class')
