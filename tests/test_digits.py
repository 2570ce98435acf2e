"""Pictures of digits: each step of digits/digit.py on a small picture, and all of them on files."""
import contextlib
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw
from running import SHARED, run_script
from scipy import ndimage

import mnist_predict
from digits import digit, frames, margins, paper, pieces, strokes
from support.console import UserError

SEVEN = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]  # a line through these points of a square


def line_picture(side, width, points=SEVEN, ink=0, paper=255):
  """Return a Pillow picture of a line drawn through points in [0, 1]."""
  picture = Image.new('L', (side, side), paper)
  ImageDraw.Draw(picture).line([(x * side, y * side) for x, y in points], fill=ink, width=width)
  return picture


def grey(picture):
  """Return a Pillow picture as float32 [height, width] in [0, 1]."""
  return np.asarray(picture.convert('L'), np.float32) / 255


def read(picture, path, **options):
  """Return the Digit of a Pillow picture or an array, by way of a file."""
  picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
  picture.save(path, **options)
  return digit.read_digit(str(path))


def same(image, other, least=0.9):
  """Return whether two digits look alike, whatever their strokes' width: float32 [28, 28]."""
  blurred = [ndimage.gaussian_filter(digit, 1.5).ravel() for digit in (image, other)]
  return np.corrcoef(blurred)[0, 1] > least


@pytest.fixture
def seven():
  """A 7 as it should come out, float32 [28, 28]."""
  return digit.place(strokes.normalise(
      strokes.crop(1 - grey(line_picture(200, 15)), 0.5)))


def test_a_mirrored_digit_does_not_look_alike(seven):
  assert same(seven, seven) and not same(seven, seven[:, ::-1]) and not same(seven, seven.T)


# -- Each step ---------------------------------------------------------------------------


def test_large_pictures_are_averaged_down_and_thin_lines_stay(tmp_path):
  pixels = np.full([3000, 2000], 255, np.uint8)
  pixels[:, 1000] = 0
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  small = digit.read_picture(str(tmp_path / 'a.png'))
  assert small.shape == (750, 500, 4)
  np.testing.assert_allclose(small[:, 250, :3], 0.75, atol=0.01)
  assert (small[:, :250, :3] == 1).all() and (small[:, 251:, :3] == 1).all()


@pytest.mark.parametrize(('ink', 'shade'), [(1, 0), (0, 1)])
def test_transparent_parts_are_paper_of_the_other_shade(ink, shade):
  rgba = np.zeros([10, 10, 4], np.float32)
  rgba[3:6, 3:6] = [ink, ink, ink, 1]
  rgb = paper.put_on_paper(rgba)
  assert (rgb[3:6, 3:6] == ink).all() and (rgb[0] == shade).all()


def test_transparent_margins_join_the_paper_and_an_even_alpha_says_nothing():
  rgba = np.ones([10, 10, 4], np.float32)
  rgba[4:6, 4:6, :3] = 0
  for alpha in (0, 1):
    rgba[..., 3] = alpha
    np.testing.assert_array_equal(paper.put_on_paper(rgba), rgba[..., :3])
  rgba[0] = 0
  assert (paper.put_on_paper(rgba)[0] == 1).all()


@pytest.mark.parametrize(('canvas', 'ink'), [(255, 0), (0, 255)])
def test_a_plot_is_cropped_to_its_axes(canvas, ink):
  picture = Image.new('L', (200, 200), 255)
  draw = ImageDraw.Draw(picture)
  draw.rectangle([30, 20, 180, 170], fill=canvas, outline=0)
  draw.text((5, 90), '15', fill=0)
  draw.line([(90, 60), (120, 60), (100, 130)], fill=ink, width=9)
  rgb = grey(picture)[..., None].repeat(3, 2)
  inside = frames.crop_to_frame(rgb)
  assert 140 < min(inside.shape[:2]) < 152
  assert (inside[[0, -1]] == canvas / 255).all() and (inside[:, [0, -1]] == canvas / 255).all()
  assert (inside == ink / 255).sum() == (rgb[40:160, 50:160] == ink / 255).sum()


def test_a_picture_without_a_frame_is_not_cropped():
  rgb = grey(line_picture(100, 10))[..., None].repeat(3, 2)
  assert frames.crop_to_frame(rgb) is rgb


def test_red_stands_out_from_a_green_that_is_as_bright():
  rgb = np.zeros([40, 40, 3], np.float32) + np.array([0, 140, 0], np.float32) / 255
  rgb[10:30, 18:22] = np.array([200, 40, 40], np.float32) / 255
  plane, ratio = paper.main_colour(rgb)
  assert plane.shape == (40, 40) and not ratio
  assert abs(plane[20, 20] - plane[0, 0]) > 0.5
  plane, ratio = paper.main_colour(np.repeat(rgb[..., :1], 3, 2))
  assert ratio
  np.testing.assert_allclose(plane, rgb[..., 0], atol=1e-6)


@pytest.mark.parametrize('width', [1, 4, 10])
def test_dark_on_light_is_told_from_light_on_dark(width):
  plane = grey(line_picture(100, width))
  assert paper.is_dark_on_light(plane)
  assert not paper.is_dark_on_light(1 - plane)


def test_a_shadow_is_light_and_a_line_across_its_edge_is_ink():
  plane = np.ones([100, 100], np.float32)
  plane[48:52, 20:80] = 0.1
  expected = 1 - plane
  plane[:, 50:] *= 0.5  # the shadow
  np.testing.assert_allclose(paper.flatten_light(plane, 30, True), expected, atol=1e-5)


def test_noise_and_full_ink_are_measured():
  random = np.random.RandomState(0)
  ink = np.abs(random.normal(0, 0.02, [200, 200]))
  ink[90:110, 50:150] = 0.8
  signed = ink * random.choice([-1, 1], ink.shape)
  signed[90:110, 50:150] = 0.8
  assert paper.noise_of(signed) == pytest.approx(0.02, rel=0.1)
  assert paper.ink_level(ink, 0.1) == pytest.approx(0.8, abs=0.01)
  assert paper.ink_level(ink * 0, 0.1) == 0


@pytest.mark.parametrize('tilt', [0, 10])
def test_ruled_lines_are_dropped_and_strokes_that_cross_them_stay(tilt):
  picture = Image.new('1', (200, 200))
  draw = ImageDraw.Draw(picture)
  for y in range(10, 185, 30):
    draw.line([(0, y), (199, y + tilt)], fill=1, width=2)
  draw.line([(100, 45), (100, 155)], fill=1, width=6)
  mask = np.asarray(picture)
  cleaned = paper.drop_ruled_lines(mask, mask)
  assert cleaned[46:155, 99:101].all()
  assert not cleaned[:, :85].any() and not cleaned[:, 115:].any()


def test_a_long_stroke_that_ends_before_the_border_is_not_a_ruled_line():
  mask = np.zeros([200, 200], bool)
  mask[98:102, 12:188] = True
  np.testing.assert_array_equal(paper.drop_ruled_lines(mask, mask), mask)


def test_dirt_and_what_comes_in_from_the_border_is_not_the_digit():
  mask = np.zeros([100, 100], bool)
  mask[30:70, 48:54] = True
  mask[30:34, 58:70] = True  # a bar that does not touch
  kept = mask.copy()
  mask[50, 20] = mask[0:12, 80:100] = True
  found, count, runs_out = pieces.choose_pieces(mask)
  np.testing.assert_array_equal(found, kept)
  assert count == 1 and not runs_out


def test_a_frame_around_all_is_not_the_digit():
  mask = np.zeros([100, 100], bool)
  mask[5:95, 5:95] = True
  mask[7:93, 7:93] = False
  mask[30:70, 48:54] = True
  found, count, _ = pieces.choose_pieces(mask)
  assert found.sum() == 40 * 6 and found[50, 50] and count == 1


def test_separate_digits_are_counted_and_one_is_chosen():
  mask = np.zeros([100, 200], bool)
  mask[30:70, 20:26] = mask[30:70, 100:106] = mask[35:72, 180:186] = True
  found, count, _ = pieces.choose_pieces(mask)
  assert count == 3 and found[50, 102] and found.sum() == 40 * 6
  assert pieces.choose_pieces(np.zeros([9, 9], bool))[1] == 0


@pytest.mark.parametrize('width', [2, 6, 20])
def test_stroke_width_is_measured(width):
  mask = np.zeros([120, 120], bool)
  mask[10:110, 40:40 + width] = True
  assert strokes.stroke_width(mask) == pytest.approx(width, rel=0.2)


def share_of_stroke(box):
  """Return the stroke width of a digit's ink in pixels of a 20x20 box."""
  return strokes.stroke_width(box > 0.5) / max(box.shape) * strokes.BOX_SIZE


@pytest.mark.parametrize('width', [1, 2, 5])
def test_thin_strokes_come_to_the_usual_width(width):
  box = strokes.crop(1 - grey(line_picture(200, width)), 0.5)
  assert share_of_stroke(strokes.normalise(box)) == pytest.approx(
      strokes.USUAL_STROKE, abs=0.6)


def test_very_thick_strokes_become_thinner():
  box = strokes.crop(1 - grey(line_picture(200, 80, [(0.5, 0.1), (0.5, 0.9)])), 0.5)
  assert share_of_stroke(strokes.normalise(box)) < 0.7 * share_of_stroke(box)


def test_strokes_as_mnists_are_left_alone():
  box = strokes.crop(1 - grey(line_picture(200, 20)), 0.5)
  assert strokes.normalise(box) is box


def test_the_box_fills_twenty_pixels_around_its_centre_of_mass():
  box = np.ones([80, 40], np.float32)
  box[40:, 20:] = 0
  placed = digit.place(box)
  rows, columns = np.nonzero(placed > 0.1)
  assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 == 10
  assert abs(np.average(rows, weights=placed[rows, columns]) - 14) <= 0.6
  assert abs(np.average(columns, weights=placed[rows, columns]) - 14) <= 0.6


# -- Files -------------------------------------------------------------------------------


@pytest.mark.parametrize('ending', ['png', 'bmp', 'gif', 'jpg', 'tiff', 'webp'])
@pytest.mark.parametrize(('ink', 'paper'), [(0, 255), (255, 0), (40, 200)])
def test_formats_and_shades_give_one_digit(tmp_path, seven, ending, ink, paper):
  found = read(line_picture(120, 10, ink=ink, paper=paper), tmp_path / f'a.{ending}')
  assert found.image.shape == (28, 28) and found.image.dtype == np.float32
  assert found.image.min() == 0 and 0.95 < found.image.max() <= 1
  assert same(found.image, seven) and found.count == 1


@pytest.mark.parametrize('width', [1, 2, 3, 4])
def test_a_thin_line_in_a_large_picture_is_seen(tmp_path, seven, width):
  assert same(read(line_picture(1000, width), tmp_path / 'a.png').image, seven)


def test_a_shadow_noise_and_dirt_change_nothing(tmp_path, seven):
  random = np.random.RandomState(0)
  plane = grey(line_picture(400, 12)) * 0.8 + 0.05
  plane[:, 200:] *= 0.55
  plane[random.randint(0, 400, 30), random.randint(0, 400, 30)] = 0.1
  pixels = np.clip(255 * plane + random.normal(0, 4, plane.shape), 0, 255).astype(np.uint8)
  assert same(read(pixels, tmp_path / 'a.jpg').image, seven)


def test_white_on_transparent_alpha_0_and_12_bits_in_16(tmp_path, seven):
  ink = 255 - np.asarray(line_picture(120, 10))
  white = np.dstack([np.full([120, 120, 3], 255, np.uint8), ink])
  assert same(read(white, tmp_path / 'white.png').image, seven)
  unseen = np.dstack([255 - ink] * 3 + [0 * ink])
  assert same(read(unseen, tmp_path / 'unseen.bmp').image, seven)
  assert same(read(ink.astype(np.uint16) * 16, tmp_path / 'wide.png').image, seven)


def test_what_is_not_a_picture_ends_in_one_line(tmp_path):
  (tmp_path / 'a.png').write_bytes(b'no picture')
  with pytest.raises(UserError, match='a.png is not a JPEG, PNG'):
    digit.read_digit(str(tmp_path / 'a.png'))


@pytest.mark.parametrize('pixels', [np.full([50, 50], 255, np.uint8), np.zeros([1, 1], np.uint8),
                                    np.zeros([40, 40], np.uint16)])
def test_one_shade_shows_no_digit(tmp_path, pixels):
  with pytest.raises(UserError, match='one shade'):
    read(pixels, tmp_path / 'a.png')


# -- Cut to their box --------------------------------------------------------------------

SHAPES = {'1': [(0.45, 0.1), (0.55, 0.9)], '7': SEVEN, '4': [(0.6, 0.9), (0.6, 0.1), (0.2, 0.6),
                                                              (0.8, 0.6)],
          '0': [(0.5 + 0.3 * np.sin(t), 0.5 + 0.4 * np.cos(t)) for t in np.linspace(0, 6.3, 40)]}


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(('side', 'share'), [(1000, 0.02), (100, 0.2), (20, 0.1)])
@pytest.mark.parametrize(('ink', 'paper'), [(0, 255), (255, 0), (150, 90)])
def test_a_digit_cut_to_its_box_is_read_as_with_a_margin(tmp_path, shape, side, share, ink, paper):
  width = max(1, round(side * share))
  picture = line_picture(side, width, SHAPES[shape], ink, paper)
  box = Image.fromarray(np.uint8(np.asarray(picture) != paper)).getbbox()
  margin = Image.new('L', (2 * side, 2 * side), paper)
  margin.paste(picture, (side // 2, side // 2))
  expected = read(margin, tmp_path / 'margin.png').image
  for sides in ((0, 1, 2, 3), (0, 1), (3,)):  # left, top, right, bottom
    whole = (0, 0, side, side)
    cut = picture.crop([box[k] if k in sides else whole[k] for k in range(4)])
    found = read(cut, tmp_path / 'cut.png')
    assert same(found.image, expected, 0.85) and found.count == 1, sides


@pytest.mark.parametrize(('ink', 'paper'), [(0, 255), (255, 0)])
def test_ink_may_be_the_larger_part_of_its_box(tmp_path, ink, paper):
  picture = line_picture(200, 60, SHAPES['0'], ink, paper)
  cut = picture.crop(Image.fromarray(np.uint8(np.asarray(picture) != paper)).getbbox())
  assert (np.asarray(cut) == ink).mean() > 0.6
  plane, is_dark = margins.add_margin(grey(cut), np.zeros(cut.size[::-1], bool))
  assert max(plane.shape) == 150 and is_dark == (ink == 0) and plane[0, 0] == paper / 255
  found = read(cut, tmp_path / 'a.png').image
  assert found[14, 14] < 0.5 < found[14].max()  # the hole of a 0


def test_a_shadow_at_the_border_is_not_ink(tmp_path, seven):
  plane = grey(line_picture(400, 16)) * 0.8 + 0.1
  plane[:, :150] *= 0.5
  strokes_of_seven = grey(line_picture(400, 16)) < 0.5
  assert margins.add_margin(plane, strokes_of_seven) is None
  assert margins.add_margin(plane, ~strokes_of_seven) is not None
  assert same(read(np.uint8(plane * 255), tmp_path / 'a.png').image, seven)


@pytest.mark.parametrize('size', [(30000, 16), (1, 4_000_000), (1400, 1400)])
def test_pictures_of_dots_take_no_time(tmp_path, size):
  pixels = np.full(size[::-1], 255, np.uint8)
  pixels[::3, ::3] = 0
  start = time.process_time()
  with contextlib.suppress(UserError):
    read(pixels, tmp_path / 'a.png')
  assert time.process_time() - start < 10


@pytest.mark.skipif(not (SHARED / 'digit_photos').is_dir(), reason='needs the photos')
def test_photos_give_digits_of_usual_size_and_stroke():
  paths = sorted((SHARED / 'digit_photos').glob('*/*'))
  assert len(paths) == 33
  for path in paths:
    found = digit.read_digit(str(path))
    rows, columns = np.nonzero(found.image > 0.2)
    assert found.count == 1, path
    assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20, path
    assert 0.04 < found.image.mean() < 0.3, path


# -- Answers -----------------------------------------------------------------------------


def test_an_answer_says_when_it_is_doubtful_and_when_there_are_several_digits():
  row = np.full(10, 0.0002 / 8)
  row[9], row[5] = 0.9988, 0.001
  line = '9 with probability 0.9988 (runner-up 5 with 0.0010)'
  assert mnist_predict.answer(1, row, range(10)) == line
  several = mnist_predict.answer(2, row, range(10))
  assert several.startswith(line + ' - several digits: 2 seen') and 'doubtful' not in several
  row[9], row[5] = mnist_predict.DOUBTFUL_PROBABILITY - 0.001, 0.001
  assert mnist_predict.answer(1, row, 'abcdefghij').endswith(
      '(runner-up f with 0.0010) - doubtful: below 0.95')


def test_every_path_is_answered_in_order_and_each_bad_one_in_a_line(trained_dir, tmp_path):
  line_picture(60, 5).save(tmp_path / 'good.png')
  (tmp_path / 'bad.png').write_bytes(b'no picture')
  names = ['good.png', 'bad.png', 'good.png', 'missing.png']
  result = run_script('mnist_predict.py', '--model_dir', trained_dir, *names, cwd=tmp_path)
  lines = result.stdout.splitlines()
  assert result.returncode == 1 and len(lines) == 2 and lines[0] == lines[1]
  assert lines[0].startswith('good.png: ') and ' with probability ' in lines[0]
  bad, missing = result.stderr.splitlines()
  assert 'bad.png is not a JPEG' in bad and 'missing.png: No such file' in missing


def test_batches_answer_as_one_by_one(trained_dir, tmp_path, monkeypatch, capsys):
  paths = [str(tmp_path / f'{width}.png') for width in range(1, 6)]
  for width, path in enumerate(paths, start=1):
    line_picture(60, width).save(path)
  options = mnist_predict.FLAGS.options(model_dir=trained_dir)
  assert mnist_predict.classify(paths, options) == 0
  together = capsys.readouterr().out
  monkeypatch.setattr(mnist_predict, 'PICTURES_PER_RUN', 2)
  assert mnist_predict.classify(paths, options) == 0
  assert capsys.readouterr().out == together and together.count('\n') == 5
