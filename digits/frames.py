"""The frame around what a picture shows: the axes of a plot, the border of a drawing area."""
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

SMALLEST_FRAMED = 50  # pixels; a smaller picture is not searched
EDGE = 0.15  # a difference, of the way from black to white
FRAME_SIDE = 0.35  # of the picture's
MOST_EDGES = 150  # more take too long to compare
SMALLEST_INSIDE = 28  # pixels on a side; in less there is no digit


class Edge(NamedTuple):
  """A straight vertical edge in a picture, or a horizontal one in its transpose."""
  place: int  # its column
  begin: int  # its first row
  end: int  # its last row


def long_edges(strong: np.ndarray, least: float) -> list[Edge]:
  """Return the longest Edge in each column of bool [height, width], if of `least` rows or more."""
  gap = max(3, len(strong) // 50)  # ticks interrupt the edges of a plot
  strong = ndimage.binary_closing(np.pad(strong, ((gap, gap), (0, 0))), np.ones([gap, 1]))[gap:-gap]
  row = np.arange(1, len(strong) + 1)[:, None]
  lengths = row - np.maximum.accumulate(np.where(strong, 0, row), axis=0)  # of runs that end here
  ends, lengths = lengths.argmax(0), lengths.max(0)
  return [Edge(x, ends[x] - lengths[x] + 1, ends[x]) for x in np.flatnonzero(lengths >= least)]


def rectangles(columns: list[Edge], rows: list[Edge], tolerance: int) -> Iterator[tuple]:
  """Yield (top, bottom, left, right) of the upright rectangles whose four sides are edges."""
  for left, right in itertools.product(columns, columns):
    if right.place <= left.place or max(abs(left.begin - right.begin),
                                        abs(left.end - right.end)) > tolerance:
      continue
    # Sides end at the corners, as those of a frame do and the lines of squared paper do not.
    sides = [row.place for row in rows if abs(row.begin - left.place) <= tolerance
             and abs(row.end - right.place) <= tolerance]
    top = [side for side in sides if abs(side - left.begin) <= tolerance]
    bottom = [side for side in sides if abs(side - left.end) <= tolerance]
    if top and bottom:
      yield max(top), min(bottom), left.place, right.place


def crop_to_frame(rgb: np.ndarray) -> np.ndarray:
  """Crop float32 [height, width, 3] to the inside of the frame around its middle, if there is one.

  A frame is the axes of a plot or the border of a drawing area, with something in it.
  """
  height, width = rgb.shape[:2]
  if min(height, width) < SMALLEST_FRAMED:
    return rgb
  across = np.abs(rgb[:, 2:] - rgb[:, :-2]).max(2) > EDGE
  down = np.abs(rgb[2:] - rgb[:-2]).max(2) > EDGE
  columns = long_edges(across, FRAME_SIDE * height)
  rows = long_edges(down.T, FRAME_SIDE * width)
  if max(len(columns), len(rows)) > MOST_EDGES:  # squared paper, or a texture
    return rgb
  frames = [frame for frame in rectangles(columns, rows, 2 + max(height, width) // 100)
            if frame[1] - frame[0] > FRAME_SIDE * height
            and frame[3] - frame[2] > FRAME_SIDE * width]
  if not frames:
    return rgb
  top, bottom, left, right = min(frames, key=lambda f: (f[1] - f[0]) * (f[3] - f[2]))
  inside = rgb[top + 3:bottom, left + 3:right]
  if min(inside.shape[:2]) < SMALLEST_INSIDE:
    return rgb
  rim = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
  paper = np.median(rim, axis=0)
  is_empty = (np.abs(inside - paper).max(2) > 2 * EDGE).mean() < 0.002
  # What touches its frame in many places is a part of it, as the bar of an angular 8 is.
  touches = (np.abs(rim - paper).max(1) > EDGE).mean() > 0.05
  return rgb if is_empty or touches else inside
