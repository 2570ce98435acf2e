"""flower_export.py: what TensorFlow's own clients make of its SavedModel, beside prediction."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import running
from PIL import Image

import flower_predict
from flowers import photo
from support import console
from support.quiet_tensorflow import tf

CLIENT = '''
import importlib.util, pathlib, sys, warnings
import numpy as np
import tensorflow as tf

assert importlib.util.find_spec('flower_export') is None, 'the suite is on the path'
saved_model_dir, photos_dir, images_path, answers_path = sys.argv[1:]
photos = [path.read_bytes() for path in sorted(pathlib.Path(photos_dir).iterdir())]
images = np.load(images_path)
model = tf.saved_model.load(saved_model_dir)
serve, serve_images = model.signatures['serving_default'], model.signatures['images']
batch = serve(photos_bytes=tf.constant(photos))
singly = [serve(photos_bytes=tf.constant([photo])) for photo in photos]
empty = serve(photos_bytes=tf.constant([], tf.string))
try:
  serve(photos_bytes=tf.constant([photos[0], b'no photo']))
  problem = ''
except tf.errors.InvalidArgumentError as error:
  problem = str(error)
labels, = (asset.asset_path.numpy().decode() for asset in model.asset_paths)
lite = tf.lite.TFLiteConverter.from_saved_model(
    saved_model_dir, signature_keys=['images']).convert()
with warnings.catch_warnings():
  warnings.simplefilter('ignore')  # that this interpreter will go into a package of its own
  interpreter = tf.lite.Interpreter(model_content=lite)
runner = interpreter.get_signature_runner('images')
np.savez(answers_path, problem=problem,
         classes=[name.decode() for name in batch['classes'].numpy()],
         probabilities=batch['probabilities'],
         singly=np.concatenate([answer['probabilities'] for answer in singly]),
         empty=[len(empty['classes']), *empty['probabilities'].shape],
         of_images=serve_images(images=tf.constant(images))['probabilities'],
         lite=np.concatenate([runner(images=image[None])['probabilities'] for image in images]),
         no_images=serve_images(images=tf.zeros([0, 299, 299, 3]))['probabilities'].shape,
         labels=np.array(pathlib.Path(labels).read_text(encoding='utf-8').splitlines()))
'''


@pytest.fixture(scope='module')
def photos(photos_dir, tmp_path_factory):
  """A folder of upright photos of the kinds that clients send."""
  folder = tmp_path_factory.mktemp('kinds')
  small = np.random.RandomState(3).randint(0, 256, (4, 5, 3)).astype(np.uint8)
  picture = Image.fromarray(small).resize((400, 310), Image.BICUBIC)
  for name in ('a.jpg', 'b.png', 'c.gif', 'd.bmp'):
    picture.save(folder / name)
  picture.convert('L').save(folder / 'grey.jpg')
  picture.convert('L').save(folder / 'grey.png')
  shutil.copy(photos_dir / 'daisy' / '000.jpg', folder / 'e.jpg')
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
  with photo.PhotoDecoder() as decoder:
    images = np.stack([decoder.image(str(path)) for path in sorted(photos.iterdir())])
  with flower_predict.open_model(str(model_dir)) as (labels, predict):
    expected = predict(images)
  names = ['wild\\nflower', 'rosé', '郁金香']  # as prediction prints them
  assert [console.printable(label) for label in labels] == names
  assert np.ptp(expected, 0).max() > 1e-3  # different photos, different answers

  # A process without the suite: in one batch, one at a time, none, and what is not a photo.
  np.save(tmp_path / 'images.npy', images / np.float32(255))
  client = subprocess.run(
      [sys.executable, '-I', '-c', CLIENT, saved_model_dir, photos, 'images.npy', 'answers.npz'],
      cwd=tmp_path, text=True, capture_output=True, timeout=240)
  assert client.returncode == 0, client.stderr
  with np.load(tmp_path / 'answers.npz') as answers:
    # TensorFlow decodes JPEG files faster than exactly; all else it decodes as prediction does.
    exact = [path.suffix != '.jpg' for path in sorted(photos.iterdir())]
    for key in ('probabilities', 'singly'):
      np.testing.assert_allclose(answers[key], expected, atol=5e-3, err_msg=key)
      np.testing.assert_allclose(answers[key][exact], expected[exact], atol=1e-4, err_msg=key)
    for key in ('of_images', 'lite'):
      np.testing.assert_allclose(answers[key], expected, atol=1e-4, err_msg=key)
    assert list(answers['classes']) == [names[k] for k in expected.argmax(1)]
    assert list(answers['labels']) == names
    assert list(answers['empty']) == [0, 0, 3] and list(answers['no_images']) == [0, 3]
    assert 'Unknown image file format' in str(answers['problem'])


def test_signatures_for_command_line_tools(model_dir, tmp_path):
  running.run_script('flower_export.py', '--model_dir', model_dir, '--export_dir', tmp_path)
  with tf.Graph().as_default(), tf.Session() as sess:
    signatures = tf.saved_model.load(sess, ['serve'], str(tmp_path / '1')).signature_def
  shapes = {(name, tensor): [dim.size for dim in info.tensor_shape.dim]
            for name, signature in signatures.items()
            for tensor, info in (*signature.inputs.items(), *signature.outputs.items())}
  assert shapes == {
      ('serving_default', 'photos_bytes'): [-1], ('serving_default', 'classes'): [-1],
      ('serving_default', 'probabilities'): [-1, 3],
      ('images', 'images'): [-1, 299, 299, 3], ('images', 'probabilities'): [-1, 3]}


@pytest.mark.parametrize(('model', 'message'), [
    (None, ' holds no model of flower_finetune.py: '),
    ({'labels': ['a', 'b'], 'batch_norm': 'batch'}, ' holds a model of --batch_norm=batch, '),
    ({'labels': ['a', 'b'], 'batch_norm': 'frozen'}, ' holds no checkpoint flower.ckpt-STEP: '),
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
