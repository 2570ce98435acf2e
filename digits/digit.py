"""A picture of a digit, as people make them, turned into a 28x28 digit as MNIST's are.

`digit_of` does it in steps, each a function: put transparent parts on paper, crop to a frame, find
the direction of colour in which ink differs from paper, flatten the light, take ruled lines off,
choose the pieces that make up the digit, give one cut to its box a margin, bring its stroke to
MNIST's width, and place it as MNIST places digits.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from digits import frames, margins, paper, pieces, strokes
from support import pictures
from support.console import UserError

# How MNIST was made (http://yann.lecun.com/exdb/mnist/): the digit's box is scaled into
# 20x20 pixels, and its centre of mass is put at the centre of 28x28.
IMAGE_SIZE = 28

# Pictures are averaged down to so many pixels, and so many on a side.
WORK_PIXELS, WORK_SIDE = 500_000, 3000

# Finding strokes.
WINDOWS = (0.4, 0.15, 0.06)  # of the shorter side, widest first: what is wider is paper, not stroke
STROKES_A_WINDOW, NARROWEST = 3.5, 9  # of a last window: stroke widths; at least so many pixels
NOISE_FACTOR = 4.0  # ink is that many standard deviations of the paper's noise
INK_THRESHOLD = 0.42  # of full ink; what is fainter counts as paper


class Digit(NamedTuple):
  """A digit as MNIST's are."""
  image: np.ndarray  # float32 [28, 28] in [0, 1], 0 for paper
  count: int  # separate digit-like pieces that the picture shows; the image is of one


def read_digit(path: str) -> Digit:
  """Return the digit that an image file shows.

  Raises:
    UserError: if it is not a picture, damaged or too large, or shows no digit.
    OSError: if the file cannot be read.
  """
  return digit_of(read_picture(path), path)


def read_picture(path: str) -> np.ndarray:
  """Return an image file as float32 [height, width, 4] in [0, 1]: red, green, blue, alpha."""
  try:
    image = pictures.decode(pictures.read_file(path), WORK_PIXELS)
  except pictures.UnreadablePicture as error:
    raise UserError(f'{path} {error}') from None
  factor = math.sqrt(image.width * image.height / WORK_PIXELS)
  image = image.reduce([math.ceil(max(1, factor, side / WORK_SIDE)) for side in image.size])
  return np.asarray(image.convert('RGBA'), np.float32) / 255


def digit_of(rgba: np.ndarray, name: str) -> Digit:
  """Return the digit in float32 [height, width, 4] in [0, 1]; UserError, with name, of none."""
  # Each step takes away one thing that MNIST's digits do not have around them.
  rgb = frames.crop_to_frame(paper.put_on_paper(rgba))
  if np.ptp(rgb, axis=(0, 1)).max() < paper.MIN_CONTRAST:
    raise UserError(f'{name} shows no digit: all of it is of one shade')
  plane, ratio = paper.main_colour(rgb)
  dark = paper.is_dark_on_light(plane)
  ink, count = find_digit(plane if dark else 1 - plane, ratio and dark)
  if (padded := margins.add_margin(plane, ink > 0.5)) is not None:
    plane, dark = padded
    ink, count = find_digit(plane if dark else 1 - plane, ratio and dark)
  if not count:
    raise UserError(f'{name} shows no digit: nothing stands out from its paper')
  return Digit(place(strokes.normalise(strokes.crop(ink, 0.2))), count)


def find_strokes(plane: np.ndarray, window: int, ratio: bool) -> tuple:
  """Return all ink narrower than a window, up to 1, and what `pieces.choose_pieces` returns."""
  ink = paper.flatten_light(plane, window, ratio)
  floor = max(paper.MIN_CONTRAST, NOISE_FACTOR * paper.noise_of(ink))
  threshold = max(INK_THRESHOLD * paper.ink_level(ink, floor), floor)
  mask = paper.drop_ruled_lines(ink > threshold, ink > max(threshold / 2, floor))
  return ink, *pieces.choose_pieces(mask)


def find_digit(plane: np.ndarray, ratio: bool) -> tuple[np.ndarray, int]:
  """Find the digit in dark strokes on light paper, as for `paper.flatten_light`.

  Returns:
    float32 [height, width] in [0, 1], the digit's ink, 0 for all else; and the number of
    separate digits, 0 if there is none.
  """
  found = None
  for share in WINDOWS:
    window = max(3, round(share * min(plane.shape)))
    ink, mask, count, runs_out = find_strokes(plane, window, ratio)
    if count and (found is None or not runs_out):
      found = ink, mask, count
    if count and not runs_out:
      break
  if found is None:
    return np.zeros_like(plane), 0
  ink, mask, count = found
  narrow = max(NARROWEST, round(STROKES_A_WINDOW * strokes.stroke_width(mask)))
  if narrow < 0.7 * window:  # what is wider than these strokes was no stroke, but light
    again = find_strokes(plane, narrow, ratio)
    if again[2]:
      ink, mask, count = again[:3]
  # The soft edge belongs to the stroke.
  edge = ndimage.binary_dilation(mask, np.ones([3, 3]), iterations=1 + min(mask.shape) // 200)
  ink = np.where(edge, ink, 0)
  # Not the maximum, which in a JPEG is the dark line that its compression adds beside an edge.
  return np.clip(ink / np.percentile(ink[ink >= ink.max() / 2], 75), 0, 1), count


def place(box: np.ndarray) -> np.ndarray:
  """Scale and place the ink of a digit's box as MNIST's are: float32 [28, 28] in [0, 1]."""
  box = strokes.resize(box, strokes.BOX_SIZE)
  # The pixel (14, 14) is the centre of mass, as far as the box still fits in.
  top, left = (int(np.clip(round(IMAGE_SIZE / 2 - centre), 0, IMAGE_SIZE - length))
               for centre, length in zip(ndimage.center_of_mass(box), box.shape, strict=True))
  digit = np.zeros([IMAGE_SIZE, IMAGE_SIZE], np.float32)
  digit[top:top + box.shape[0], left:left + box.shape[1]] = np.clip(box, 0, 1)
  return digit
