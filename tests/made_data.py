"""Small data files that tests write: digits in the MNIST format, and folders of photos."""
import gzip
import pathlib

import numpy as np
from PIL import Image, ImageDraw


def idx_images(images):
  """Return the IDX file, bytes, of uint8 images [n, 28, 28]."""
  return np.array([2051, *images.shape], '>u4').tobytes() + images.tobytes()


def idx_labels(labels):
  """Return the IDX file, bytes, of uint8 labels [n]."""
  return np.array([2049, len(labels)], '>u4').tobytes() + labels.tobytes()


def write_mnist(folder, train=5200, test=60, seed=0, compress=True, labels=range(10)):
  """Write four files in the MNIST format: a bright block, whose place follows from the label."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  random = np.random.RandomState(seed)
  for prefix, count in (('train', train), ('t10k', test)):
    classes = random.randint(0, len(labels), count)
    images = random.randint(0, 60, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, classes, strict=True):
      row, column = divmod(int(label) % 10, 5)
      image[4 + row * 12:12 + row * 12, 1 + column * 5:6 + column * 5] = 255
    for name, content in ((f'{prefix}-images-idx3-ubyte', idx_images(images)),
                          (f'{prefix}-labels-idx1-ubyte', idx_labels(np.uint8(labels)[classes]))):
      if compress:
        (folder / f'{name}.gz').write_bytes(gzip.compress(content, 1, mtime=0))
      else:
        (folder / name).write_bytes(content)
  return folder


def draw_stroke(path):
  """Write a picture of a 1, 60x60 pixels; return its path."""
  picture = Image.new('L', (60, 60), 255)
  ImageDraw.Draw(picture).line([(30, 10), (30, 50)], fill=0, width=5)
  picture.save(path)
  return path


def write_photos(folder, classes=('daisy', 'rose', 'tulip'), count=8, seed=0):
  """Write small JPEG files, count in each class folder, coloured by class."""
  folder = pathlib.Path(folder)
  random = np.random.RandomState(seed)
  for label, name in enumerate(classes):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for k in range(count):
      pixels = random.randint(0, 80, (40 + k, 50, 3)).astype(np.uint8)
      pixels[..., label % 3] += 150
      Image.fromarray(pixels).save(folder / name / f'{k:03d}.jpg', quality=90)
  return folder
