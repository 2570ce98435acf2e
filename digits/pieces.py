"""Connected pieces of ink: which of them make up a digit, and whether there are more digits."""
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

MOST_PIECES = 200  # the largest; what is smaller than so many others is dirt

# In shares of the digit's longer side.
GAP = 0.03  # a stroke may be interrupted for that long
NEAR = 0.25  # pieces nearer than that belong together
SPECK, SPECK_AREA = 0.08, 0.03  # shorter pieces, or of less area than that share of its, are dirt
DIGIT_LIKE = 0.5  # a piece of that height is another digit
BESIDE, BELOW = 0.05, 0.25  # if it is that far away
BORDER_GAP = 0.1  # pieces at the picture's border must be that near
RUNS_ALONG = 0.08  # of the picture's shorter side: a digit is not at its border for so long


class Piece(NamedTuple):
  """A connected piece of ink."""
  label: int
  top: int
  bottom: int  # the row after the last
  left: int
  right: int
  area: int
  at_border: int  # pixels of ink at the picture's border

  @property
  def size(self) -> int:
    return max(self.bottom - self.top, self.right - self.left)

  def gap(self, other: 'Piece') -> int:
    """Return the pixels between two pieces' boxes, 0 if they overlap."""
    return max(0, self.top - other.bottom, other.top - self.bottom,
               self.left - other.right, other.left - self.right)

  def surrounds(self, other: 'Piece') -> bool:
    """Return whether another piece lies inside this one's box, clear of its sides."""
    return (self.top < other.top and self.bottom > other.bottom
            and self.left < other.left and self.right > other.right)


def find_pieces(mask: np.ndarray) -> tuple[list[Piece], np.ndarray]:
  """Return the largest connected pieces of bool [height, width], and int32 labels of that shape."""
  labels, count = ndimage.label(mask, np.ones([3, 3]))
  areas = np.bincount(labels.ravel(), minlength=count + 1)
  border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
  at_border = np.bincount(border, minlength=count + 1)
  boxes = ndimage.find_objects(labels)
  largest = (1 + np.argsort(-areas[1:], kind='stable')[:MOST_PIECES]).tolist()
  return [Piece(label, rows.start, rows.stop, columns.start, columns.stop, int(areas[label]),
                int(at_border[label])) for label in largest
          for rows, columns in [boxes[label - 1]]], labels


def is_another_digit(piece: Piece, digit: Piece) -> bool:
  """Return whether a piece stands beside or below a digit, and is of its height."""
  if (piece.bottom - piece.top < DIGIT_LIKE * (digit.bottom - digit.top)
      or piece.size < DIGIT_LIKE * digit.size or piece.area < 0.2 * digit.area):
    return False
  beside = max(piece.left - digit.right, digit.left - piece.right)
  below = max(piece.top - digit.bottom, digit.top - piece.bottom)
  # A digit broken in two is mostly broken across, and digits stand side by side.
  return beside > BESIDE * digit.size or below > BELOW * digit.size


def main_piece(pieces: list[Piece], height: int, width: int) -> Piece:
  """Return the piece most like a digit: large, in the middle, not at the border, not a frame."""
  def score(piece: Piece) -> float:
    off_centre = (abs((piece.top + piece.bottom) / height - 1)
                  + abs((piece.left + piece.right) / width - 1))
    value = math.sqrt(piece.size * piece.area) * (1 - 0.25 * off_centre)
    if piece.at_border > 0.03 * min(height, width):
      value *= 0.3
    if piece.size > max(height, width) / 2 and any(
        piece.surrounds(other) and other.size > piece.size / 4 for other in pieces):
      value *= 0.1
    return value
  return max(pieces, key=score)


def choose_pieces(mask: np.ndarray) -> tuple[np.ndarray, int, bool]:
  """Choose the pieces of ink, bool [height, width], that make up the digit.

  That is the largest piece, rather in the middle than at the border, and what is near it; not
  a frame around all, not what comes in from the border, not dirt.

  Returns:
    bool [height, width], the digit's ink; the number of separate digits, 0 if none; and whether
    the digit runs along the border, as shadows do.
  """
  height, width = mask.shape
  bridge = int(GAP * min(height, width) / 2)
  joined = ndimage.binary_dilation(mask, np.ones([bridge + 1] * 2)) if bridge else mask
  pieces, labels = find_pieces(joined)
  if not pieces:
    return mask, 0, False
  main = main_piece(pieces, height, width)
  pieces = [piece for piece in pieces
            if piece.size >= SPECK * main.size and piece.area >= SPECK_AREA * main.area
            and not (piece.at_border and piece.gap(main) > BORDER_GAP * main.size)
            and not piece.surrounds(main)]
  others = [piece for piece in pieces if is_another_digit(piece, main)]
  parts = [piece.label for piece in pieces
           if piece not in others and piece.gap(main) <= NEAR * main.size
           and not any(piece.gap(other) < piece.gap(main) for other in others)]
  digit = mask & np.isin(labels, parts)
  return digit, 1 + len(others), main.at_border > RUNS_ALONG * min(height, width)
