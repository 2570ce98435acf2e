"""The margin of paper that a digit cut to its box lacks."""
import numpy as np
from PIL import Image
from scipy import ndimage

from digits import strokes

SIDE = 100  # pixels of the longer side, to which a picture is brought first
RIM = 6  # pixels: where ink is that has no margin
TOUCHING = 0.01  # of the rim, if it is ink
MARGIN = 25  # pixels
SMALL = 100  # a picture with shorter sides is not a photo with a shadow across it
SPECKS = 0.002  # of a picture: less is noise

# What is at the border is a shadow if the strokes are stronger than it by more than that, in shares
# of its own strength: strokes of a digit differ among themselves, wide areas differ less.
WEAKER, WIDE_WEAKER = 0.3, 0.1
WIDE = 0.2  # of the longer side


def _rim(values: np.ndarray, width: int) -> np.ndarray:
  """Return the values along the border of [height, width], flat."""
  inside = values[width:-width]
  return np.concatenate([part.ravel() for part in (
      values[:width], values[-width:], inside[:, :width], inside[:, -width:])])


def _count_pieces(mask: np.ndarray) -> int:
  areas = np.bincount(ndimage.label(mask)[0].ravel())[1:]
  return int((areas > SPECKS * mask.size).sum())


def _is_shadow(plane: np.ndarray, small: np.ndarray, ink: np.ndarray, digit: np.ndarray) -> bool:
  """Return whether a digit's strokes are far stronger than the ink of a small picture."""
  if max(plane.shape) < SMALL or digit.mean() < SPECKS:
    return False
  low, high = sorted([np.median(small[ink]), np.median(small[~ink])])
  smooth = ndimage.gaussian_filter(plane, max(plane.shape) / 600)  # noise is stronger than strokes
  shade = np.median(smooth[digit])
  limit = WIDE_WEAKER if strokes.stroke_width(ink) > WIDE * SIDE else WEAKER
  return max(low - shade, shade - high) > limit * (high - low)


def add_margin(plane: np.ndarray, digit: np.ndarray) -> tuple[np.ndarray, bool] | None:
  """Put a margin around a digit that is cut to its box.

  Paper is what there is most of along the border, even where most of the box is ink.

  Args:
    plane: float32 [height, width] in [0, 1].
    digit: bool [height, width], the ink that was found without a margin.

  Returns:
    float32, about [150, 150], and whether ink is darker than paper; or None if the digit has a
    margin, or what is at the border is a shadow.
  """
  scale = SIDE / max(plane.shape)
  height, width = (max(1, round(scale * length)) for length in plane.shape)
  small = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
  light = small > np.percentile(plane, [0.5, 99.5]).mean()
  light_share = _rim(light, 1).mean()
  if abs(light_share - 0.5) < 0.1:  # it does not say: ink is in fewer pieces than paper
    light_share += 0.1 * np.sign(_count_pieces(light) - _count_pieces(~light))
  is_dark = bool(light_share >= 0.5)
  ink = light != is_dark
  if (_rim(ink, RIM).mean() < TOUCHING or ink.all()
      or _is_shadow(plane, small, ink, digit)):
    return None
  paper = np.median(_rim(small, 1)[~_rim(ink, 1)])
  padding = [((SIDE - length) // 2 + MARGIN,) * 2 for length in small.shape]
  return np.pad(small, padding, constant_values=paper), is_dark
