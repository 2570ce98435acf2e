"""A picture of a digit, as people make them, turned into a 28x28 digit as MNIST's are.

`read_digit` does it in steps, each a function of its own: read the file, show it the way the
camera was held, put transparent parts on paper, crop to a frame, find the direction of colour in
which ink differs from paper, flatten the light, take ruled lines off, choose the pieces that
make up the digit, bring its stroke to MNIST's width, and place it as MNIST places digits.
"""
import io
import itertools
import math
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from support import files
from support.console import UserError

# How MNIST was made (http://yann.lecun.com/exdb/mnist/): the digit's box is scaled into
# 20x20 pixels, and its centre of mass is put at the centre of 28x28.
IMAGE_SIZE = 28
BOX_SIZE = 20

# Files.
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'WEBP')
MAX_PIXELS = 100_000_000  # larger pictures are refused before they are decoded
MAX_FILE_BYTES = 450_000_000  # a BMP of MAX_PIXELS with alpha has 400 million
MAX_SCANS = 100  # of a JPEG; files of cameras and programs have 1 to 12
MAX_SCANNED_PIXELS = 1_500_000_000  # pixels x scans
WORK_PIXELS = 500_000  # larger pictures are averaged down to this

# Frames: plots' axes and drawing areas.
SMALLEST_FRAMED = 50  # pixels; a smaller picture is not searched
EDGE = 0.15  # a difference, of the way from black to white
FRAME_SIDE = 0.35  # of the picture's
MOST_EDGES = 150  # more take too long to compare

# Light.
WINDOWS = (0.4, 0.15, 0.06)  # of the shorter side, widest first: what is wider is paper, not stroke
STROKES_A_WINDOW, NARROWEST = 3.5, 9  # once the strokes are known; NARROWEST is in pixels
MIN_CONTRAST = 0.05  # of the way from black to white; what is fainter is no ink
NOISE_FACTOR = 4.0  # ink is that many standard deviations of the paper's noise
INK_THRESHOLD = 0.42  # of full ink; what is fainter counts as paper

# Lines of ruled paper.
LINE_SIDE = 200  # they are looked for in a picture of about that side
LINE_COVER = 0.8  # of the way from border to border

# Pieces, in shares of the digit's longer side.
GAP = 0.03  # a stroke may be interrupted for that long
NEAR = 0.25  # pieces nearer than that belong together
SPECK, SPECK_AREA = 0.08, 0.03  # shorter pieces, or of less area than that share of its, are dirt
DIGIT_LIKE = 0.5  # a piece of that height is another digit
BESIDE, BELOW = 0.05, 0.25  # if it is that far away
BORDER_GAP = 0.1  # pieces at the picture's border must be that near
RUNS_ALONG = 0.08  # of the picture's shorter side: a digit is not at its border for so long

# Stroke width in pixels of a 20x20 box, by `stroke_width`.
THIN_STROKE, THICK_STROKE, USUAL_STROKE = 1.4, 6.0, 2.5
STROKE_SIDE = 100  # a smaller box is enlarged to this side first

# What Pillow's decoders and its EXIF reader raise for a damaged file.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError,
                  AttributeError, OverflowError, struct.error, zlib.error, MemoryError)


class Digit(NamedTuple):
  """A digit as MNIST's are."""
  image: np.ndarray  # float32 [28, 28] in [0, 1], 0 for paper
  count: int  # separate digit-like pieces that the picture shows; the image is of one


# -- The file ----------------------------------------------------------------------------


def read_bytes(path):
  """Return the content of a regular file of MAX_FILE_BYTES at most."""
  files.require_regular_file(path, MAX_FILE_BYTES)
  with files.failures_named(path), open(path, 'rb') as file:
    return file.read()


def orientation_of(image):
  """Return the EXIF orientation of a Pillow image, 1 to 8; 1 where there is none to be read."""
  try:
    orientation = image.getexif().get(0x0112)
  except DECODER_ERRORS:  # a corrupt block says nothing about the pixels
    return 1
  return orientation if orientation in range(1, 9) else 1


def turn(pixels, orientation):
  """Return pixels [height, width, ...] the way up that an EXIF orientation asks for."""
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return pixels


def decode(image):
  """Return a Pillow image, averaged down to WORK_PIXELS: float32 [height, width, 4] in [0, 1]."""
  factor = math.ceil(math.sqrt(image.width * image.height / WORK_PIXELS))
  if factor > 1:  # a JPEG is decoded to a half, a quarter or an eighth at once
    image.draft(None, (image.width // factor, image.height // factor))
    factor = math.ceil(math.sqrt(image.width * image.height / WORK_PIXELS))
  image.load()
  wide = image.mode.startswith(('I', 'F'))  # 16 bits and more, which convert() would cut off
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


def refuse_costly(image, scans, path):
  """Raise UserError if the pixels of an open Pillow image would take too long to decode."""
  pixels = image.width * image.height
  if pixels > MAX_PIXELS:
    raise UserError(f'{path} has {image.width}x{image.height} pixels: scale it down to '
                    f'{MAX_PIXELS // 1_000_000} million at most')
  # A few kilobytes can hold hundreds of empty scans, each of which costs a pass over all pixels.
  if image.format in ('JPEG', 'MPO') and (scans > MAX_SCANS
                                          or scans * pixels > MAX_SCANNED_PIXELS):
    raise UserError(f'{path} has {scans} JPEG scans: save it again without progressive compression')


def read_picture(path):
  """Return an image file as float32 [height, width, 4] in [0, 1]: red, green, blue, alpha.

  It is the way up that its EXIF orientation asks for, and has about WORK_PIXELS pixels at most.
  Of an animation, the first picture counts.

  Raises:
    UserError: if it is not a regular file or none of FORMATS, if it is damaged, or too large.
    OSError: if the file cannot be read.
  """
  content = read_bytes(path)
  Image.MAX_IMAGE_PIXELS = None  # the bound below is ours
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of Pillow, about EXIF blocks
      with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        refuse_costly(image, content.count(b'\xff\xda'), path)
        orientation = orientation_of(image)
        return turn(decode(image), orientation)
  except Image.UnidentifiedImageError:
    raise UserError(f'{path} is not a {", ".join(FORMATS)} image: convert it') from None
  except DECODER_ERRORS as error:
    raise UserError(f'{path} is damaged ({error}): save it again') from None


# -- Paper, frame, colour and light ------------------------------------------------------


def put_on_paper(rgba):
  """Put the transparent parts of a picture on paper of the shade that shows its ink.

  Args:
    rgba: float32 [height, width, 4] in [0, 1].

  Returns:
    float32 [height, width, 3] in [0, 1].
  """
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


class Edge(NamedTuple):
  """A straight vertical edge in a picture, or a horizontal one in its transpose."""
  place: int  # its column
  begin: int  # its first row
  end: int  # its last row


def long_edges(strong, least):
  """Return the longest Edge in each column of bool [height, width], if of `least` rows or more."""
  gap = max(3, len(strong) // 50)  # ticks interrupt the edges of a plot
  strong = ndimage.binary_closing(np.pad(strong, ((gap, gap), (0, 0))), np.ones([gap, 1]))[gap:-gap]
  row = np.arange(1, len(strong) + 1)[:, None]
  lengths = row - np.maximum.accumulate(np.where(strong, 0, row), axis=0)  # of runs that end here
  ends, lengths = lengths.argmax(0), lengths.max(0)
  return [Edge(x, ends[x] - lengths[x] + 1, ends[x]) for x in np.flatnonzero(lengths >= least)]


def rectangles(columns, rows, tolerance):
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


def crop_to_frame(rgb):
  """Crop a picture to the inside of the frame around its middle: a plot's axes, a drawing area.

  Args:
    rgb: float32 [height, width, 3] in [0, 1].

  Returns:
    float32 [h, w, 3], the picture itself if it has no frame with something in it.
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
  if min(inside.shape[:2]) < IMAGE_SIZE:
    return rgb
  rim = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
  paper = np.median(rim, axis=0)
  is_empty = (np.abs(inside - paper).max(2) > 2 * EDGE).mean() < 0.002
  # What touches its frame in many places is a part of it, as the bar of an angular 8 is.
  touches = (np.abs(rim - paper).max(1) > EDGE).mean() > 0.05
  return rgb if is_empty or touches else inside


def main_colour(rgb):
  """Return a picture along the direction of colour in which its details differ most.

  Black and white have one, and so have red and a green that is as bright.

  Args:
    rgb: float32 [height, width, 3] in [0, 1].

  Returns:
    float32 [height, width] in [0, 1], and whether brighter light makes every value larger.
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


def is_dark_on_light(plane):
  """Return whether the details of float32 [height, width] are darker than what is around."""
  small = Image.fromarray(plane)
  factor = max(1, min(plane.shape) // 32)
  coarse = np.asarray(small.reduce(factor))
  size = max(3, round(0.6 * min(coarse.shape)))
  around = ndimage.median_filter(coarse, size, mode='nearest')
  around = np.asarray(Image.fromarray(around).resize(small.size, Image.Resampling.BILINEAR))
  detail = plane - around
  return float(np.sum(detail ** 3)) <= 0


def flatten_light(plane, window, ratio):
  """Return how much darker each pixel is than the paper around it.

  The paper is what is left when all that is dark and narrower than the window is closed.

  Args:
    plane: float32 [height, width] in [0, 1], dark strokes on light paper.
    window: int, in pixels.
    ratio: bool, whether to measure in shares of the paper's light, which a shadow leaves alike.

  Returns:
    float32 [height, width] up to 1, around 0 for paper, below it where paper is lighter.
  """
  smooth = plane  # small pictures keep their sharp edges
  if min(plane.shape) > 200:
    smooth = ndimage.gaussian_filter(plane, min(plane.shape) / 500)
  paper = ndimage.grey_closing(smooth, (window, window), mode='nearest')
  ink = 1 - plane / np.maximum(paper, 0.1) if ratio else paper - plane
  return ink - max(0, np.median(ink))  # noise makes the paper, a maximum, too light


def noise_of(plane):
  """Return the standard deviation of the noise, told by the differences of neighbours."""
  if plane.shape[1] < 2:
    return 0.
  # Half of all normal numbers lie within 0.6745 deviations; a difference is of two of them.
  return float(np.median(np.abs(np.diff(plane, axis=1)))) / (0.6745 * math.sqrt(2))


def ink_level(ink, floor):
  """Return the strength of full ink: the mean over all above the floor, weighed by its square."""
  values = ink[ink > floor].astype(np.float64)
  return float((values ** 3).sum() / (values ** 2).sum()) if len(values) else 0.


# -- Lines and pieces --------------------------------------------------------------------


def ruled_rows(mask):
  """Return the pixels of straight lines that cross the picture from its left to its right border.

  They may fall or rise by a tenth of the picture's height, as in a photo held askew.

  Args:
    mask: bool [height, width], ink.

  Returns:
    bool [height, width], without the places where strokes cross the lines.
  """
  height, width = mask.shape
  factor = max(1, max(mask.shape) // LINE_SIDE)
  coarse = ndimage.maximum_filter1d(mask, factor, 0)[factor // 2::factor]
  coarse = ndimage.maximum_filter1d(coarse, factor, 1)[:, factor // 2::factor]
  margin = len(coarse) // 10 + 1
  coarse = ndimage.maximum_filter1d(np.pad(coarse, ((margin, margin), (0, 0))), 3, 0)
  rows, columns = np.arange(margin, len(coarse) - margin), np.arange(coarse.shape[1])
  band = np.zeros_like(mask)
  for fall in range(-margin, margin + 1):
    offsets = np.round(fall * (columns / len(columns) - 0.5)).astype(int)
    line = coarse[rows[:, None] + offsets, columns]  # [rows, columns]
    ends = max(1, len(columns) // 20)
    crossing = ((line.mean(1) > LINE_COVER) & (line[:, :ends].mean(1) > 0.5)
                & (line[:, -ends:].mean(1) > 0.5))
    for row in rows[crossing]:
      fine = (row - margin + fall * (np.arange(width) / width - 0.5)) * factor
      for offset in range(-factor, 2 * factor):
        y = np.round(fine + offset).astype(int)
        inside = (y >= 0) & (y < height)
        band[y[inside], np.flatnonzero(inside)] = True
  # A stroke that crosses a line is longer than the line is thick.
  return band & mask & ~ndimage.binary_opening(mask, np.ones([max(4, height // 50), 1]))


def drop_ruled_lines(mask, weak):
  """Return ink without the lines of ruled or squared paper.

  Args:
    mask: bool [height, width], ink.
    weak: bool [height, width], ink and what is half as strong, as pale lines are in places.

  Returns:
    bool [height, width].
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
  def size(self):
    return max(self.bottom - self.top, self.right - self.left)

  def gap(self, other):
    """Return the pixels between two pieces' boxes, 0 if they overlap."""
    return max(0, self.top - other.bottom, other.top - self.bottom,
               self.left - other.right, other.left - self.right)

  def surrounds(self, other):
    """Return whether another piece lies inside this one's box, clear of its sides."""
    return (self.top < other.top and self.bottom > other.bottom
            and self.left < other.left and self.right > other.right)


def find_pieces(mask):
  """Return the connected pieces of bool [height, width], and int32 labels [height, width]."""
  labels, count = ndimage.label(mask, np.ones([3, 3]))
  areas = np.bincount(labels.ravel(), minlength=count + 1)
  border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
  at_border = np.bincount(border, minlength=count + 1)
  boxes = enumerate(ndimage.find_objects(labels), 1)
  return [Piece(label, rows.start, rows.stop, columns.start, columns.stop, int(areas[label]),
                int(at_border[label])) for label, (rows, columns) in boxes], labels


def is_another_digit(piece, digit):
  """Return whether a piece stands beside or below a digit, and is of its height."""
  if (piece.bottom - piece.top < DIGIT_LIKE * (digit.bottom - digit.top)
      or piece.size < DIGIT_LIKE * digit.size or piece.area < 0.2 * digit.area):
    return False
  beside = max(piece.left - digit.right, digit.left - piece.right)
  below = max(piece.top - digit.bottom, digit.top - piece.bottom)
  # A digit broken in two is mostly broken across, and digits stand side by side.
  return beside > BESIDE * digit.size or below > BELOW * digit.size


def main_piece(pieces, height, width):
  """Return the piece most like a digit: large, in the middle, not at the border, not a frame."""
  def score(piece):
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


def choose_pieces(mask):
  """Choose the pieces of ink that make up the digit.

  That is the largest piece, rather in the middle than at the border, and what is near it; not
  a frame around all, not what comes in from the border, not dirt.

  Args:
    mask: bool [height, width], ink.

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


# -- The digit ---------------------------------------------------------------------------


def stroke_width(mask):
  """Return the mean width of the strokes of bool [height, width], in pixels."""
  depth = ndimage.distance_transform_edt(np.pad(mask, 1))
  # Across a stroke of width w, depth rises from 1 to w / 2 and falls: its mean is w / 4 + 1 / 2.
  return max(1., 4 * float(depth[depth > 0].mean()) - 2)


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


def find_strokes(plane, window, ratio):
  """Find the digit's strokes, none of which is wider than a window.

  Args:
    plane, window, ratio: as for `flatten_light`.

  Returns:
    float32 [height, width] up to 1, all ink; and what `choose_pieces` returns.
  """
  ink = flatten_light(plane, window, ratio)
  floor = max(MIN_CONTRAST, NOISE_FACTOR * noise_of(ink))
  threshold = max(INK_THRESHOLD * ink_level(ink, floor), floor)
  mask = drop_ruled_lines(ink > threshold, ink > max(threshold / 2, floor))
  return ink, *choose_pieces(mask)


def find_digit(plane, ratio):
  """Find the digit in dark strokes on light paper.

  Args:
    plane: float32 [height, width] in [0, 1].
    ratio: as for `flatten_light`.

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


def read_digit(path):
  """Return the Digit that an image file shows.

  Raises:
    UserError: as for `read_picture`, or if the picture shows no digit.
    OSError: if the file cannot be read.
  """
  return digit_of(read_picture(path), path)


def digit_of(rgba, name):
  """Return the Digit in float32 [height, width, 4] in [0, 1]; name stands in messages."""
  rgb = crop_to_frame(put_on_paper(rgba))
  if np.ptp(rgb, axis=(0, 1)).max() < MIN_CONTRAST:
    raise UserError(f'{name} shows no digit: all of it is of one shade')
  plane, ratio = main_colour(rgb)
  dark = is_dark_on_light(plane)
  ink, count = find_digit(plane if dark else 1 - plane, ratio and dark)
  if not count:
    raise UserError(f'{name} shows no digit: nothing stands out from its paper')
  return Digit(place(normalise_stroke(crop(ink, 0.2))), count)
