"""A picture of a digit, as people make them, turned into a 28x28 digit as MNIST's are.

`read_digit` does it in steps, each a function of its own: read the file, show it the way the
camera was held, put transparent parts on paper, crop to a frame, find the direction of colour in
which ink differs from paper, flatten the light, take ruled lines off, choose the pieces that
make up the digit, bring its stroke to MNIST's width, and place it as MNIST places digits.
"""
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from digits import frames, paper, pieces
from support import pictures
from support.console import UserError

# How MNIST was made (http://yann.lecun.com/exdb/mnist/): the digit's box is scaled into
# 20x20 pixels, and its centre of mass is put at the centre of 28x28.
IMAGE_SIZE = 28
BOX_SIZE = 20

# Pictures.
MAX_PIXELS = 100_000_000  # larger ones are refused before they are decoded
WORK_PIXELS = 500_000  # larger ones are averaged down to this

# Finding strokes.
WINDOWS = (0.4, 0.15, 0.06)  # of the shorter side, widest first: what is wider is paper, not stroke
STROKES_A_WINDOW, NARROWEST = 3.5, 9  # of a last window: stroke widths; at least so many pixels
NOISE_FACTOR = 4.0  # ink is that many standard deviations of the paper's noise
INK_THRESHOLD = 0.42  # of full ink; what is fainter counts as paper

# Stroke width in pixels of a 20x20 box, by `stroke_width`.
THIN_STROKE, THICK_STROKE, USUAL_STROKE = 1.4, 6.0, 2.5
STROKE_SIDE = 100  # a smaller box is enlarged to this side first


class Digit(NamedTuple):
  """A digit as MNIST's are."""
  image: np.ndarray  # float32 [28, 28] in [0, 1], 0 for paper
  count: int  # separate digit-like pieces that the picture shows; the image is of one


def read_digit(path):
  """Return the Digit that an image file shows.

  Raises:
    UserError: as for `read_picture`, or if the picture shows no digit.
    OSError: if the file cannot be read.
  """
  return digit_of(read_picture(path), path)


def digit_of(rgba, name):
  """Return the Digit in float32 [height, width, 4] in [0, 1]; name stands in messages."""
  rgb = frames.crop_to_frame(paper.put_on_paper(rgba))
  if np.ptp(rgb, axis=(0, 1)).max() < paper.MIN_CONTRAST:
    raise UserError(f'{name} shows no digit: all of it is of one shade')
  plane, ratio = paper.main_colour(rgb)
  dark = paper.is_dark_on_light(plane)
  ink, count = find_digit(plane if dark else 1 - plane, ratio and dark)
  if not count:
    raise UserError(f'{name} shows no digit: nothing stands out from its paper')
  return Digit(place(normalise_stroke(crop(ink, 0.2))), count)


# -- The picture -------------------------------------------------------------------------


def read_picture(path):
  """Return an image file as float32 [height, width, 4] in [0, 1]: red, green, blue, alpha.

  It is the way up that its EXIF orientation asks for, and has about WORK_PIXELS pixels at most.
  Of an animation, the first picture counts.

  Raises:
    UserError: if it is not a regular file of a picture, if it is damaged, or too large.
    OSError: if the file cannot be read.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of Pillow, about EXIF blocks
    try:
      with pictures.open_picture(pictures.read_file(path), MAX_PIXELS) as image, \
          pictures.damage_told():
        pixels = decode(image)  # before the orientation, as `open_picture` tells
        return pictures.turn(pixels, pictures.orientation_of(image))
    except pictures.UnreadablePicture as error:
      raise UserError(f'{path} {error}') from None


def decode(image):
  """Return a Pillow image, averaged down to WORK_PIXELS: float32 [height, width, 4] in [0, 1]."""
  factor = math.ceil(math.sqrt(image.width * image.height / WORK_PIXELS))
  if factor > 1:  # a JPEG is decoded to a half, a quarter or an eighth at once
    image.draft(None, (image.width // factor, image.height // factor))
    factor = math.ceil(math.sqrt(image.width * image.height / WORK_PIXELS))
  image.load()
  if image.mode == 'I;16B':  # of a TIFF file; has no extrema
    image = image.convert('I')
  wide = image.mode.startswith('I')  # 16 bits and more, which convert() would cut off
  # 8, 10, 12 and 14-bit values come in 16-bit files too: white is the least full scale that fits.
  white = 2 ** max(8, int(image.getextrema()[1]).bit_length()) - 1 if wide else 255
  strips = []
  height = 64 * factor  # a strip at a time, so that a large picture is not in memory several times
  for top in range(0, image.height, height):
    strip = image.crop((0, top, image.width, min(top + height, image.height)))
    strip = Image.fromarray(np.asarray(strip, np.float32)) if wide else strip.convert('RGBA')
    strips.append(np.asarray(strip.reduce(factor), np.float32) / white)
  pixels = np.concatenate(strips)
  if wide:
    pixels = np.stack([pixels] * 3 + [np.ones_like(pixels)], 2)
  return np.clip(pixels, 0, 1)


# -- The strokes -------------------------------------------------------------------------


def find_strokes(plane, window, ratio):
  """Find the digit's strokes, none of which is wider than a window.

  Args:
    plane, window, ratio: as for `paper.flatten_light`.

  Returns:
    float32 [height, width] up to 1, all ink; and what `pieces.choose_pieces` returns.
  """
  ink = paper.flatten_light(plane, window, ratio)
  floor = max(paper.MIN_CONTRAST, NOISE_FACTOR * paper.noise_of(ink))
  threshold = max(INK_THRESHOLD * paper.ink_level(ink, floor), floor)
  mask = paper.drop_ruled_lines(ink > threshold, ink > max(threshold / 2, floor))
  return ink, *pieces.choose_pieces(mask)


def find_digit(plane, ratio):
  """Find the digit in dark strokes on light paper.

  Args:
    plane: float32 [height, width] in [0, 1].
    ratio: as for `paper.flatten_light`.

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
  narrow = max(NARROWEST, round(STROKES_A_WINDOW * stroke_width(mask)))
  if narrow < 0.7 * window:  # what is wider than these strokes was no stroke, but light
    again = find_strokes(plane, narrow, ratio)
    if again[2]:
      ink, mask, count = again[:3]
  # The soft edge belongs to the stroke.
  edge = ndimage.binary_dilation(mask, np.ones([3, 3]), iterations=1 + min(mask.shape) // 200)
  ink = np.where(edge, ink, 0)
  # Not the maximum, which in a JPEG is the dark line that its compression adds beside an edge.
  return np.clip(ink / np.percentile(ink[ink >= ink.max() / 2], 75), 0, 1), count


def stroke_width(mask):
  """Return the mean width of the strokes of bool [height, width], in pixels."""
  depth = ndimage.distance_transform_edt(np.pad(mask, 1))
  # Across a stroke of width w, depth rises from 1 to w / 2 and falls: its mean is w / 4 + 1 / 2.
  return max(1., 4 * float(depth[depth > 0].mean()) - 2)


# -- The digit ---------------------------------------------------------------------------


def crop(ink, threshold):
  """Return the box of float32 [height, width] that holds all ink above a threshold."""
  rows, columns = np.nonzero(ink > threshold)
  return ink[rows.min():rows.max() + 1, columns.min():columns.max() + 1]


def resize(ink, height, width):
  """Return float32 ink at another size, averaged where it is smaller, so that thin lines stay."""
  if ink.shape == (height, width):
    return ink
  return np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.HAMMING))


def normalise_stroke(box):
  """Bring strokes far thinner or thicker than MNIST's to the usual width.

  Args:
    box: float32 [height, width] in [0, 1], the digit's ink, cropped.

  Returns:
    float32 [h, w] in [0, 1], a little larger or smaller, and the same array if its strokes are
    as MNIST's.
  """
  side = max(box.shape)
  enlarged = box
  if side < STROKE_SIDE:
    enlarged = resize(box, *(max(1, round(length * STROKE_SIDE / side)) for length in box.shape))
  side = max(enlarged.shape)
  mask = enlarged > 0.5
  if not mask.any():
    return box
  width = stroke_width(mask) * BOX_SIZE / side
  if THIN_STROKE <= width <= THICK_STROKE:
    return box
  # (width + 2 r) / (side + 2 r) = USUAL_STROKE / BOX_SIZE, all in pixels of the enlarged box.
  share = USUAL_STROKE / BOX_SIZE
  radius = (share * side - width * side / BOX_SIZE) / (2 * (1 - share))
  margin = max(0, math.ceil(radius)) + 1
  mask = np.pad(mask, margin)
  outside = ndimage.distance_transform_edt(~mask) - 0.5
  inside = ndimage.distance_transform_edt(mask) - 0.5
  distance = np.where(mask, -inside, outside)  # to the ink's edge, negative in ink
  return crop(np.float32(np.clip(radius + 0.5 - distance, 0, 1)), 0)


def place(box):
  """Scale and place a digit as MNIST's are.

  Args:
    box: float32 [height, width] in [0, 1], the digit's ink, cropped.

  Returns:
    float32 [28, 28] in [0, 1].
  """
  scale = BOX_SIZE / max(box.shape)
  height, width = (max(1, round(length * scale)) for length in box.shape)
  box = resize(box, height, width)
  total = box.sum()
  centre = [np.dot(box.sum(1 - axis), np.arange(box.shape[axis])) / total for axis in (0, 1)]
  # The pixel (14, 14) is the centre, as far as the box still fits in.
  top, left = (int(np.clip(round(IMAGE_SIZE / 2 - c), 0, IMAGE_SIZE - length))
               for c, length in zip(centre, box.shape, strict=True))
  digit = np.zeros([IMAGE_SIZE, IMAGE_SIZE], np.float32)
  digit[top:top + height, left:left + width] = np.clip(box, 0, 1)
  return digit
