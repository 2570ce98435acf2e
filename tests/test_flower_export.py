"""flower_export.py: its decoder beside prediction's, and TensorFlow's own clients of its result."""
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import running
from PIL import Image

import flower_export
import flower_predict
from flowers import photo
from support import console
from support.quiet_tensorflow import tf

SAVED_MODEL_CLI = shutil.which('saved_model_cli', path=sysconfig.get_path('scripts'))

CLIENT = '''
import importlib.util, pathlib, sys
import numpy as np
import tensorflow as tf

assert importlib.util.find_spec('flowers.data_file') is None, 'the suite is on the path'
saved_model_dir, photos_dir, answers_path = sys.argv[1:]
photos = [path.read_bytes() for path in sorted(pathlib.Path(photos_dir).iterdir())]
model = tf.saved_model.load(saved_model_dir)
serve = model.signatures['serving_default']
batch = serve(photos_bytes=tf.constant(photos))
singly = [serve(photos_bytes=tf.constant([photo])) for photo in photos]
try:
  serve(photos_bytes=tf.constant([photos[0], b'no photo']))
  problem = ''
except tf.errors.InvalidArgumentError as error:
  problem = str(error)
labels, = (asset.asset_path.numpy().decode() for asset in model.asset_paths)
np.savez(answers_path, problem=problem,
         classes=[name.decode() for name in batch['classes'].numpy()],
         probabilities=batch['probabilities'],
         singly=np.concatenate([answer['probabilities'] for answer in singly]),
         labels=np.array(pathlib.Path(labels).read_text(encoding='utf-8').splitlines()))
'''


def call(*command, cwd):
  """Run a program outside the suite; return its standard output."""
  result = subprocess.run([os.fspath(part) for part in command], cwd=cwd, text=True,
                          capture_output=True, timeout=120)
  assert result.returncode == 0, result.stderr
  return result.stdout


def picture(mode='RGB', width=50, height=40):
  """Return a smooth picture in which each corner differs."""
  small = np.random.RandomState(3).randint(0, 256, (4, 5, 4)).astype(np.uint8)
  return Image.fromarray(small, 'RGBA').resize((width, height), Image.BICUBIC).convert(mode)


def encode(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def exif(order, orientation, magic=42, table=8, kind=3):
  """Return EXIF's bytes: the width, the orientation, and the date's place."""
  sign = {b'II': '<', b'MM': '>'}[order]
  value = (struct.pack(sign + 'HH', orientation, 0) if kind == 3  # SHORT, or LONG
           else struct.pack(sign + 'I', orientation))
  return b''.join([b'Exif\0\0', order, struct.pack(sign + 'HI', magic, table),
                   struct.pack(sign + 'H', 3), struct.pack(sign + 'HHII', 0x0100, 4, 1, 50),
                   struct.pack(sign + 'HHI', 0x0112, kind, 1), value,
                   struct.pack(sign + 'HHII', 0x0132, 2, 20, 0), struct.pack(sign + 'I', 0)])


def turned(data):
  return encode(picture(), 'JPEG', exif=data)


ORIENTED = {f'{order.decode()}-{value}': turned(exif(order, value))
            for order in (b'II', b'MM') for value in range(10)}
ODD_EXIF = {
    'cut-short': turned(exif(b'MM', 6)[:34]),
    'table-outside': turned(exif(b'MM', 6, table=0xFFFFFFF0)),
    'of-another-kind': turned(exif(b'II', 6, magic=43)),
    'after-a-profile': encode(picture(), 'JPEG', exif=exif(b'II', 8), icc_profile=b'p' * 150_000),
    'of-four-bytes': turned(exif(b'MM', 6, kind=4)),
    'filled-up': turned(exif(b'II', 6)).replace(b'\xff\xe1', b'\xff\xff\xff\xe1', 1),
    'in-a-comment': encode(picture(), 'JPEG', comment=exif(b'II', 8)),
}
KINDS = {
    'grey.jpg': encode(picture('L'), 'JPEG'),
    'cmyk.jpg': encode(picture('CMYK'), 'JPEG'),
    'progressive.jpg': encode(picture(), 'JPEG', progressive=True),
    'large.jpg': encode(picture(width=700, height=500), 'JPEG'),
    'colour.png': encode(picture(), 'PNG'),
    'grey.png': encode(picture('L'), 'PNG'),
    'palette.png': encode(picture('P'), 'PNG'),
    'transparent.png': encode(picture('RGBA'), 'PNG'),
    'grey-transparent.png': encode(picture('LA'), 'PNG'),
    'transparent-colour.png': encode(picture('P'), 'PNG', transparency=3),
    'all-transparent.png': encode(
        Image.merge('RGBA', [*picture().split(), Image.new('L', (50, 40))]), 'PNG'),
    'picture.gif': encode(picture(), 'GIF'),
    'commented.gif': encode(picture(), 'GIF', comment=b'c' * 600),
    'animation.gif': encode(picture(), 'GIF', save_all=True, append_images=[picture('L')]),
    'picture.bmp': encode(picture(), 'BMP'),
}
GIF = KINDS['picture.gif']
REFUSED = {
    'GIF photo that is transparent': [
        encode(picture('P'), 'GIF', transparency=3),
        encode(picture('P'), 'GIF', transparency=3, comment=b'c' * 300),
        GIF[:6] + struct.pack('<HH', 51, 41) + GIF[10:]],
    'PNG photo not of 8 bits': [encode(picture('1'), 'PNG'),
                                encode(picture().quantize(16), 'PNG', bits=4),
                                encode(Image.fromarray(np.full((9, 9), 999, np.uint16)), 'PNG')],
    'Not a JPEG': [encode(picture('P'), 'BMP'), encode(picture(), 'TIFF'),
                   encode(picture(), 'WEBP'), b'', b'BM', b'text'],
    'JPEG': [ORIENTED['II-1'][:-200]],
}


# -- The decoder -------------------------------------------------------------------------


@pytest.fixture(scope='module')
def decode():
  """A function from a list of photos' contents to float32 [n, 299, 299, 3] in [0, 1]."""
  with tf.Graph().as_default(), tf.Session() as sess:
    photos = tf.placeholder(tf.string, [None])
    yield sess.make_callable(flower_export.decode_photos(photos), [photos])


@pytest.mark.parametrize('photos', [ORIENTED, ODD_EXIF, KINDS], ids=['oriented', 'odd', 'kinds'])
def test_decodes_as_prediction_does(decode, photos):
  with photo.PhotoDecoder() as decoder:
    for name, found in zip(photos, decode(list(photos.values())), strict=True):
      np.testing.assert_allclose(found, decoder.decode(photos[name]), atol=1e-6, err_msg=name)


def test_orientations_differ(decode):
  images = decode([ORIENTED[f'II-{value}'] for value in range(1, 9)])
  assert min(np.abs(a - b).mean() for k, a in enumerate(images) for b in images[:k]) > 0.02


@pytest.mark.parametrize('message', REFUSED)
def test_refuses_what_tensorflow_shows_wrongly_or_not_at_all(decode, message):
  for contents in REFUSED[message]:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
      decode([KINDS['picture.gif'], contents])


def test_looks_at_a_bounded_number_of_segments(decode):
  def after_comments(count):
    contents = ORIENTED['II-6']
    return contents[:2] + b'\xff\xfe\0\2' * count + contents[2:]

  near, far = decode([after_comments(count) for count in (20, flower_export.MAX_SEGMENTS)])
  upright, as_stored = decode([ORIENTED['II-6'], ORIENTED['II-1']])
  np.testing.assert_array_equal(near, upright)
  np.testing.assert_array_equal(far, as_stored)


# -- Clients -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def photos(photos_dir, tmp_path_factory):
  """A folder of photos of all kinds."""
  folder = tmp_path_factory.mktemp('kinds')
  for name, contents in {**KINDS, 'II-6.jpg': ORIENTED['II-6'],
                         'MM-3.jpg': ORIENTED['MM-3']}.items():
    (folder / name).write_bytes(contents)
  shutil.copy(photos_dir / 'daisy' / '000.jpg', folder)
  return folder


@pytest.fixture(scope='module')
def model_dir(photos_file, backbone_ckpt, tmp_path_factory):
  """The model of one training step on random features, with names as some folders have."""
  folder = tmp_path_factory.mktemp('model')
  result = running.run_script('flower_finetune.py', '--input_file', photos_file, '--ckpt_file',
                              backbone_ckpt, '--model_dir', folder, '--steps=1', '--batch_size=4')
  assert result.returncode == 0, result.stderr
  path = folder / 'model.json'
  model = json.loads(path.read_text())
  path.write_text(json.dumps({**model, 'labels': ['wild\nflower', 'rosé', '郁金香']}))
  return folder


def test_clients_give_the_answers_of_prediction(model_dir, photos, tmp_path):
  result = running.run_script('flower_export.py', '--model_dir', model_dir,
                              '--export_dir', tmp_path / 'exports')
  assert (result.returncode, result.stderr) == (0, '')
  saved_model_dir = tmp_path / 'exports' / '1'
  assert result.stdout == f'Exported {model_dir / "flower.ckpt-0"} to {saved_model_dir}\n'
  paths = sorted(photos.iterdir())
  with flower_predict.open_model(str(model_dir)) as (labels, predict):
    expected = predict(np.stack([image for _, image, _ in photo.read_photos(paths)]))
  names = ['wild\\nflower', 'rosé', '郁金香']  # as prediction prints them
  assert [console.printable(label) for label in labels] == names
  assert np.ptp(expected, 0).max() > 1e-3  # different photos, different answers

  # A process without the suite: in one batch, one at a time, and what is not a photo.
  call(sys.executable, '-I', '-c', CLIENT, saved_model_dir, photos, 'answers.npz', cwd=tmp_path)
  with np.load(tmp_path / 'answers.npz') as answers:
    np.testing.assert_allclose(answers['probabilities'], expected, atol=1e-5)
    np.testing.assert_allclose(answers['singly'], expected, atol=1e-5)
    assert list(answers['classes']) == [names[k] for k in expected.argmax(1)]
    assert list(answers['labels']) == names
    assert 'Not a JPEG, PNG or GIF photo, nor a BMP one of 24 bits' in str(answers['problem'])

  # TensorFlow's own command line.
  signature = ('--dir', saved_model_dir, '--tag_set', 'serve', '--signature_def', 'serving_default')
  lines = [line.strip() for line in call(SAVED_MODEL_CLI, 'show', *signature,
                                         cwd=tmp_path).splitlines()]
  assert [line for line in lines if line.startswith(('inputs', 'outputs', 'dtype', 'shape'))] == [
      "inputs['photos_bytes'] tensor_info:", 'dtype: DT_STRING', 'shape: (-1)',
      "outputs['classes'] tensor_info:", 'dtype: DT_STRING', 'shape: (-1)',
      "outputs['probabilities'] tensor_info:", 'dtype: DT_FLOAT', 'shape: (-1, 3)']
  np.save(tmp_path / 'photos.npy', np.array([path.read_bytes() for path in paths[:3]]))
  call(SAVED_MODEL_CLI, 'run', *signature, '--inputs', 'photos_bytes=photos.npy',
       '--outdir', tmp_path, cwd=tmp_path)
  np.testing.assert_allclose(np.load(tmp_path / 'probabilities.npy'), expected[:3], atol=1e-5)


# -- Bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(('model', 'message'), [
    (None, ' holds no model: run flower_finetune.py first'),
    ({'labels': ['a', 'b'], 'batch_norm': 'batch'}, ' was trained with --batch_norm=batch, so '),
    ({'labels': ['a', 'b'], 'batch_norm': 'frozen'}, ' holds no checkpoint: '),
], ids=['no-model', 'batch-statistics', 'no-checkpoint'])
def test_models_that_cannot_be_exported(tmp_path, model, message):
  if model:
    (tmp_path / 'model.json').write_text(json.dumps(model))
  before = os.listdir(tmp_path)
  result = running.run_script('flower_export.py', '--model_dir', tmp_path,
                              '--export_dir', tmp_path / 'exports')
  assert (result.returncode, result.stdout) == (1, '')
  assert result.stderr.startswith(f'flower_export.py: error: --model_dir={tmp_path}{message}')
  assert result.stderr.count('\n') == 1
  assert os.listdir(tmp_path) == before
