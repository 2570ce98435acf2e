"""Measure how right, and how sure, mnist_predict.py is about digits as people bring them.

    python -m benchmarks.digits [--model_dir=FOLDER] [--photos=FOLDER] [--split=validation]

Takes MNIST's digits as they are, as black-on-white PNG files of three sizes, cut to their box in
several looks, and as thin lines drawn along their middle and photographed: with noise, shadows,
ruled and squared paper, as JPEG files. With --photos, also pictures named DIGIT.png or the like
in folders inside FOLDER. Prints Markdown tables: the accuracy for each kind, and a calibration
table for each group. The bound DOUBTFUL_PROBABILITY of mnist_predict.py was chosen with
--split=validation.
"""
import argparse
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import mnist_input
import mnist_predict
from digits import digit, strokes
from support import console

BINS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0001)
SIZES = (28, 100, 300)


class Look(NamedTuple):
  """How a digit looks that is cut to its box."""
  scale: int = 1
  ink: int = 255
  paper: int = 0
  noise: int = 0  # standard deviation
  thicker: int = 0  # pixels on each side of a stroke
  margin: int = 0  # pixels


LOOKS = {'white on black': Look(), 'white on black x6': Look(6),
         'black on white x6': Look(6, 0, 255), 'grey with noise x3': Look(3, 80, 180, 10),
         'ink the larger part, white on black x6': Look(6, thicker=12),
         'ink the larger part, black on white x6': Look(6, 0, 255, thicker=12),
         'a margin of 1 pixel': Look(margin=1), 'a margin of 2 pixels': Look(margin=2)}
KINDS = ('thin line', 'pen', 'marker', 'shadow', 'ruled', 'squared', 'chalk', 'red on green')


# -- Pictures ----------------------------------------------------------------------------


def middle_line(mask: np.ndarray) -> np.ndarray:
  """Return bool [height, width] thinned to lines of one pixel, by Zhang and Suen's rules."""
  mask = np.pad(mask, 1).astype(np.uint8)
  changed = True
  while changed:
    changed = False
    for first in (True, False):
      # The eight neighbours in a circle, from the top, clockwise.
      n = [np.roll(mask, shift, (0, 1)) for shift in
           ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))]
      count = sum(n)
      rises = sum((n[k] == 0) & (n[(k + 1) % 8] == 1) for k in range(8))
      corners = ((n[0] * n[2] * n[4] == 0) & (n[2] * n[4] * n[6] == 0) if first
                 else (n[0] * n[2] * n[6] == 0) & (n[0] * n[4] * n[6] == 0))
      peeled = (mask == 1) & (count >= 2) & (count <= 6) & (rises == 1) & corners
      mask[peeled] = 0
      changed |= bool(peeled.any())
  return mask[1:-1, 1:-1] > 0


def draw(digit: np.ndarray, side: int, width: float, random: np.random.RandomState) -> np.ndarray:
  """Draw a digit's middle line.

  Args:
    digit: float32 [28, 28] in [0, 1].
    width: of the line, in pixels.

  Returns:
    float64 [side, side] in [0, 1], the ink.
  """
  large = np.asarray(Image.fromarray(digit).resize((112, 112), Image.Resampling.BICUBIC))
  line = middle_line(ndimage.gaussian_filter(large, 1.5) > 0.4)
  points = np.argwhere(line)[:, ::-1]  # [n, 2], x and y
  index = {tuple(point): k for k, point in enumerate(points.tolist())}
  pairs = [(k, index[x + dx, y + dy]) for (x, y), k in index.items()
           for dx, dy in ((0, 1), (1, 0), (1, 1), (1, -1)) if (x + dx, y + dy) in index]
  points = points.astype(float)
  for _ in range(6):  # a pen draws no steps
    total, count = points.copy(), np.ones([len(points), 1])
    for a, b in pairs:
      total[a] += points[b]
      total[b] += points[a]
      count[a] += 1
      count[b] += 1
    points = total / count
  low, high = points.min(0), points.max(0)
  scale = random.uniform(0.45, 0.8) * side / max(1, *(high - low))
  points = (points - (low + high) / 2) * scale + side / 2 + random.uniform(-0.08, 0.08, 2) * side
  picture = Image.new('L', (2 * side, 2 * side))
  pen, radius = ImageDraw.Draw(picture), width - 0.5
  for a, b in pairs:
    pen.line([*(2 * points[a]), *(2 * points[b])], fill=255, width=max(1, round(2 * width)))
    for x, y in 2 * points[[a, b]]:
      pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
  return np.asarray(picture.reduce(2)) / 255


def rules(kind: str, side: int, random: np.random.RandomState) -> np.ndarray:
  """Return the lines of ruled or squared paper, or of none: float64 [side, side] in [0, 1]."""
  lines = np.zeros([side, side])
  if kind in ('ruled', 'squared'):
    tilt = random.uniform(-0.05, 0.05)
    y, x = np.mgrid[:side, :side]
    step, width = side * random.uniform(0.05, 0.12), random.uniform(1, 2.5)
    lines[(y + tilt * x) % step < width] = 1
    if kind == 'squared':
      lines[(x - tilt * y) % step < width] = 1
  return lines


def light(kind: str, side: int, random: np.random.RandomState) -> np.ndarray:
  """Return the light on the paper: float64 [side, side] in [0, 1], darker to one side."""
  y, x = np.mgrid[:side, :side] / side - 0.5
  angle = random.uniform(0, 2 * np.pi)
  across = x * np.cos(angle) + y * np.sin(angle)
  brightness = 0.9 - random.uniform(0, 0.3) * (across + 0.5)
  if kind == 'shadow':  # a half plane or a strip, with a sharp or a soft edge
    edge = random.choice([0.005, 0.05, 0.2])
    begin, width = random.uniform(-0.2, 0.2), random.choice([0.3, 2])
    begins, ends = (4 / edge * (across - place) for place in (begin, begin + width))
    shade = 1 / (1 + np.exp(-begins)) / (1 + np.exp(ends))
    brightness *= 1 - random.uniform(0.4, 0.6) * shade
  return brightness


def photograph(digit: np.ndarray, kind: str, random: np.random.RandomState) -> np.ndarray:
  """Return a picture of a digit drawn by hand: uint8 [side, side, 3]."""
  if kind == 'thin line':
    ink = draw(digit, 1000, random.randint(1, 5), random)
    return np.uint8(255 * (1 - ink))[..., None].repeat(3, 2)
  side = random.choice([400, 600, 800])
  share = random.uniform(0.05, 0.1) if kind == 'marker' else random.uniform(0.01, 0.035)
  ink = draw(digit, side, max(1.2, share * side), random)[..., None]
  pens = [(25, 25, 25), (40, 40, 130), (150, 30, 30), (25, 60, 150)]
  pen = np.array(pens[random.randint(4)])
  paper = random.uniform(150, 240) * np.array([1, 0.98, 0.92])
  if kind == 'chalk':
    pen, paper = np.array([230, 230, 220]), random.uniform(30, 70) * np.array([0.7, 1, 0.8])
  elif kind == 'red on green':
    pen, paper = np.array([200, 40, 40]), np.array([0, 140, 0])
  lines = rules(kind, side, random)[..., None] * random.uniform(0.2, 0.6)
  picture = (ink * pen + (1 - ink) * paper * (1 - lines)) * light(kind, side, random)[..., None]
  picture = ndimage.gaussian_filter(picture, (0.7, 0.7, 0)) + random.normal(0, 4, [side, side, 3])
  return np.uint8(np.clip(picture, 0, 255))


def cut_to_box(image: np.ndarray, look: Look, random: np.random.RandomState) -> np.ndarray:
  """Return MNIST's float32 [28, 28] as a screenshot or a segmentation cuts it: uint8 pixels."""
  picture = Image.fromarray(image).resize([28 * look.scale] * 2, Image.Resampling.BICUBIC)
  ink = np.pad(np.clip(np.asarray(picture), 0, 1), look.thicker)
  y, x = np.mgrid[-look.thicker:look.thicker + 1, -look.thicker:look.thicker + 1]
  ink = ndimage.grey_dilation(ink, footprint=np.hypot(x, y) <= look.thicker)
  ink = np.pad(strokes.crop(ink, 0.5), look.margin)
  pixels = look.paper + ink * (look.ink - look.paper) + random.normal(0, look.noise, ink.shape)
  return np.uint8(np.clip(np.round(pixels), 0, 255))


# -- Measuring ---------------------------------------------------------------------------


def measure(name: str, digits: list, labels: np.ndarray, predict: Callable
            ) -> tuple[np.ndarray, np.ndarray]:
  """Print a line for a kind of picture; return which answers are right, and their probabilities.

  Args:
    digits: list of float32 [28, 28] in [0, 1], None for a picture that showed no digit.
  """
  rows = predict(np.stack([np.zeros([28, 28], np.float32) if d is None else d for d in digits]))
  right = (rows.argmax(1) == labels) & [digit is not None for digit in digits]
  sure = np.where([digit is not None for digit in digits], rows.max(1), 0)
  doubtful = sure < mnist_predict.DOUBTFUL_PROBABILITY
  print(f'| {name} | {len(right)} | {100 * right.mean():.2f} % | {doubtful.sum()} | '
        f'{(~right).sum()} | {(~right & doubtful).sum()} |', flush=True)
  return right, sure


def read(path: str) -> np.ndarray | None:
  """Return the digit of a picture, float32 [28, 28], or None if it shows none."""
  try:
    return digit.read_digit(path).image
  except console.UserError:
    return None


def through_a_file(pixels: np.ndarray, path: str) -> np.ndarray | None:
  """Return the digit of a picture, uint8 array, by way of a file."""
  Image.fromarray(pixels).save(path)
  return read(path)


def black_on_white(image: np.ndarray, size: int) -> np.ndarray:
  """Return MNIST's float32 [28, 28] as people save it: uint8 [size, size]."""
  picture = Image.fromarray(np.uint8(np.round(255 * (1 - image))))
  return np.asarray(picture.resize([size, size], Image.Resampling.BICUBIC))


def calibration(title: str, right: np.ndarray, sure: np.ndarray) -> None:
  """Print how often answers are right, by their probability."""
  print(f'\n{title}:\n\n| probability | answers | mean probability | right |\n|---|---|---|---|')
  for low, high in zip(BINS, BINS[1:], strict=False):
    chosen = (sure >= low) & (sure < high)
    if chosen.any():
      print(f'| {low:g} to {min(high, 1):g} | {chosen.sum()} | {sure[chosen].mean():.3f} | '
            f'{100 * right[chosen].mean():.1f} % |')


def measure_made(images: np.ndarray, labels: np.ndarray, predict: Callable, path: str,
                 make: Callable, names: Iterable[str], count: int) -> list:
  """Print a line for each kind of picture that is made of digits; return all their answers.

  Args:
    path: of a file to write the pictures to.
    make: function of an image, a name and a numpy.random.RandomState; returns uint8 pixels.
    count: of the pictures of each kind.
  """
  random, answers = np.random.RandomState(0), []
  for name in names:
    chosen = random.choice(len(images), count, replace=False)
    digits = [through_a_file(make(images[k], name, random), path) for k in chosen]
    answers.append(measure(name, digits, labels[chosen], predict))
  return [np.concatenate(values) for values in zip(*answers, strict=True)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model_dir', default=mnist_predict.FLAGS.options().model_dir)
  parser.add_argument('--photos', type=pathlib.Path)
  parser.add_argument('--split', choices=['validation', 'test'], default='test')
  parser.add_argument('--files', type=int, default=2000,
                      help='MNIST digits of each size above 28x28 (default: 2000)')
  parser.add_argument('--cut', type=int, default=150,
                      help='digits of each look that are cut to their box (default: 150)')
  parser.add_argument('--drawn', type=int, default=60,
                      help='drawn digits of each kind (default: 60)')
  args = parser.parse_args()
  if args.files < 1:
    parser.error('--files: give 1 or more')
  data_set = getattr(mnist_input.read_data_sets(mnist_input.DATA_DIR), args.split)
  images, labels = data_set.images.reshape(-1, 28, 28), data_set.labels
  print('| pictures | number | right | doubtful | wrong | of these doubtful |\n'
        '|---|---|---|---|---|---|')
  results = {}
  with (mnist_predict.open_model(args.model_dir) as (_, predict),
        tempfile.TemporaryDirectory() as folder):
    for count in {args.files, len(images)}:
      measure(f'MNIST, first {count} directly', images[:count], labels[:count], predict)
    for size in SIZES:
      count = len(images) if size == 28 else args.files
      digits = [through_a_file(black_on_white(image, size), f'{folder}/a.png')
                for image in images[:count]]
      found = measure(f'MNIST, files of {size}x{size}', digits, labels[:count], predict)
      results.setdefault('MNIST, files of 28x28', found)
    results['Cut to their box'] = measure_made(
        images, labels, predict, f'{folder}/a.png',
        lambda image, look, random: cut_to_box(image, LOOKS[look], random), LOOKS, args.cut)
    results['Drawn'] = measure_made(images, labels, predict, f'{folder}/a.jpg', photograph, KINDS,
                                    args.drawn)
    if args.photos:
      paths = sorted(path for path in args.photos.glob('*/*') if path.name[0].isdigit())
      results['Photos'] = measure('photos', [read(str(path)) for path in paths],
                                  [int(path.name[0]) for path in paths], predict)
  for title, (right, sure) in results.items():
    calibration(title, right, sure)


if __name__ == '__main__':
  main()
