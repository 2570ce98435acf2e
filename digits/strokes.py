"""The width of a digit's strokes: measured, and brought to that of MNIST's."""
import math

import numpy as np
from PIL import Image
from scipy import ndimage

BOX_SIZE = 20  # pixels: the longer side of a digit of MNIST's

# Stroke width in pixels of a box of that size, by `stroke_width`.
THIN_STROKE, THICK_STROKE, USUAL_STROKE = 1.4, 6.0, 2.5
STROKE_SIDE = 100  # a smaller box is enlarged to this side first


def stroke_width(mask: np.ndarray) -> float:
  """Return the mean width of the strokes of bool [height, width], in pixels."""
  depth = ndimage.distance_transform_edt(np.pad(mask, 1))
  # Across a stroke of width w, depth rises from 1 to w / 2 and falls: its mean is w / 4 + 1 / 2.
  return max(1., 4 * float(depth[depth > 0].mean()) - 2)


def crop(ink: np.ndarray, threshold: float) -> np.ndarray:
  """Return the box of float32 [height, width] that holds all ink above a threshold."""
  rows, columns = np.nonzero(ink > threshold)
  return ink[rows.min():rows.max() + 1, columns.min():columns.max() + 1]


def resize(ink: np.ndarray, side: int) -> np.ndarray:
  """Scale float32 [height, width] to a longer side, averaged if smaller: thin lines stay."""
  height, width = (max(1, round(length * side / max(ink.shape))) for length in ink.shape)
  if ink.shape == (height, width):
    return ink
  return np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.HAMMING))


def normalise(box: np.ndarray) -> np.ndarray:
  """Bring strokes far thinner or thicker than MNIST's to the usual width.

  A box, float32 [height, width], becomes a little larger or smaller; it stays the same array if its
  strokes are as MNIST's.
  """
  enlarged = resize(box, max(STROKE_SIDE, *box.shape))
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
  mask = np.pad(mask, max(0, math.ceil(radius)) + 1)
  outside = ndimage.distance_transform_edt(~mask) - 0.5
  inside = ndimage.distance_transform_edt(mask) - 0.5
  distance = np.where(mask, -inside, outside)  # to the ink's edge, negative in ink
  return crop(np.float32(np.clip(radius + 0.5 - distance, 0, 1)), 0)
