"""Pictures of ink on paper: transparent parts, colour, light and ruled lines."""
import math

import numpy as np
from PIL import Image
from scipy import ndimage

MIN_CONTRAST = 0.05  # of the way from black to white; what is fainter is not ink

# Lines of ruled paper.
LINE_SIDE = 200  # they are looked for in a picture of about that side
LINE_COVER = 0.8  # of the way from border to border


def put_on_paper(rgba: np.ndarray) -> np.ndarray:
  """Put what is transparent in float32 [height, width, 4] on paper of the shade that shows ink."""
  rgb, alpha = rgba[..., :3], rgba[..., 3:]
  if np.ptp(alpha) < MIN_CONTRAST:  # it says nothing, and is 0 in many a 32-bit BMP
    return rgb
  visible = rgb[alpha[..., 0] > 0.5]
  if not len(visible):
    visible = rgb[alpha[..., 0] > alpha.max() / 2]
  shades = np.percentile(visible, [2, 50, 98], axis=0)  # [3, 3]
  if np.ptp(shades, axis=0).max() > 0.4:  # ink and paper are both visible
    paper = shades[1]
  else:  # only ink is visible
    paper = np.float32(shades[1].mean() < 0.5)
  return np.float32(rgb * alpha + paper * (1 - alpha))


def main_colour(rgb: np.ndarray) -> tuple[np.ndarray, bool]:
  """Return a picture along the direction of colour in which its details differ most.

  That is from black to white, or from red to a green that is as bright: float32 [height, width]
  in [0, 1]; and whether brighter light makes every value larger.
  """
  size = max(3, min(rgb.shape[:2]) // 4)
  detail = rgb - ndimage.uniform_filter(rgb, (size, size, 0), mode='nearest')
  detail = detail.reshape(-1, 3)
  weight = np.square(detail).sum(1, keepdims=True)  # strong differences count more than much noise
  _, directions = np.linalg.eigh((detail * weight).T @ detail)
  direction = directions[:, -1]
  direction = direction * (np.sign(direction.sum()) or 1)
  direction[np.abs(direction) < 0.1 * np.abs(direction).max()] = 0
  direction /= np.abs(direction).sum()
  plane = rgb @ np.float32(direction) - min(0, direction[direction < 0].sum())
  return np.float32(plane), bool((direction >= 0).all())


def is_dark_on_light(plane: np.ndarray) -> bool:
  """Return whether the details of float32 [height, width] are darker than what is around."""
  small = Image.fromarray(plane)
  factor = max(1, min(plane.shape) // 32)
  coarse = np.asarray(small.reduce(factor))
  size = max(3, round(0.6 * min(coarse.shape)))
  around = ndimage.median_filter(coarse, size, mode='nearest')
  around = np.asarray(Image.fromarray(around).resize(small.size, Image.Resampling.BILINEAR))
  detail = plane - around
  return float(np.sum(detail ** 3)) <= 0


def flatten_light(plane: np.ndarray, window: int, ratio: bool) -> np.ndarray:
  """Return how much darker each pixel is than the paper around it.

  The paper is what is left when all that is dark and narrower than the window is closed.

  Args:
    plane: float32 [height, width] in [0, 1], dark strokes on light paper.
    window: in pixels.
    ratio: whether to measure in shares of the paper's light, which a shadow leaves alike.
  """
  smooth = plane  # small pictures keep their sharp edges
  if min(plane.shape) > 200:
    smooth = ndimage.gaussian_filter(plane, min(plane.shape) / 500)
  paper = ndimage.grey_closing(smooth, (window, window), mode='nearest')
  ink = 1 - plane / np.maximum(paper, 0.1) if ratio else paper - plane
  return ink - max(0, np.median(ink))  # noise makes the paper, a maximum, too light


def noise_of(plane: np.ndarray) -> float:
  """Return the standard deviation of the noise, by the differences of neighbours."""
  if plane.shape[1] < 2:
    return 0.
  # Half of all normal numbers lie within 0.6745 deviations; a difference is of two of them.
  return float(np.median(np.abs(np.diff(plane, axis=1)))) / (0.6745 * math.sqrt(2))


def ink_level(ink: np.ndarray, floor: float) -> float:
  """Return the strength of full ink: the mean over all above the floor, weighed by its square."""
  values = ink[ink > floor].astype(np.float64)
  return float((values ** 3).sum() / (values ** 2).sum()) if len(values) else 0.


def ruled_rows(mask: np.ndarray) -> np.ndarray:
  """Return the ink of straight lines that cross the picture from its left to its right border.

  They may fall or rise by a tenth of the picture's height, as in a photo held askew. Where strokes
  cross them is left out.
  """
  factor = max(1, max(mask.shape) // LINE_SIDE)
  coarse = ndimage.maximum_filter1d(mask, factor, 0)[factor // 2::factor]
  coarse = ndimage.maximum_filter1d(coarse, factor, 1)[:, factor // 2::factor]
  margin = len(coarse) // 10 + 1
  coarse = ndimage.maximum_filter1d(np.pad(coarse, ((margin, margin), (0, 0))), 3, 0)
  rows, columns = np.arange(margin, len(coarse) - margin), np.arange(coarse.shape[1])
  band = np.zeros_like(coarse)
  for fall in range(-margin, margin + 1):
    places = rows[:, None] + np.round(fall * (columns / len(columns) - 0.5)).astype(int)
    line = coarse[places, columns]  # [rows, columns]
    ends = max(1, len(columns) // 20)
    crossing = ((line.mean(1) > LINE_COVER) & (line[:, :ends].mean(1) > 0.5)
                & (line[:, -ends:].mean(1) > 0.5))
    band[places[crossing], columns] = True
  band = ndimage.maximum_filter1d(band, 3, 0)[margin:-margin].repeat(factor, 0).repeat(factor, 1)
  band = np.pad(band, ((0, factor), (0, factor)), 'edge')[:mask.shape[0], :mask.shape[1]]
  # A stroke that crosses a line is longer than the line is thick.
  return band & mask & ~ndimage.binary_opening(mask, np.ones([max(4, len(mask) // 50), 1]))


def drop_ruled_lines(mask: np.ndarray, weak: np.ndarray) -> np.ndarray:
  """Return ink without the lines of ruled or squared paper.

  Args:
    mask: bool [height, width], ink.
    weak: bool [height, width], ink and what is half as strong, as pale lines are in places.
  """
  if min(mask.shape) < 100:
    return mask
  lines = mask & (ruled_rows(weak) | ruled_rows(weak.T).T)
  if not lines.any():
    return mask
  strokes = mask & ~lines
  # What a line took out of a stroke along with itself is put back.
  size = max(3, min(mask.shape) // 50)
  bridged = ndimage.binary_closing(np.pad(strokes, size), np.ones([size, size]))
  bridged = bridged[size:-size, size:-size]
  return strokes | (bridged & lines)
