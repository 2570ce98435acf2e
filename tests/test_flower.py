"""The flower half: preprocessing, Inception-v3, fine-tuning and prediction, on photos that the tests write."""
import json
import os
import re
import shutil
import subprocess
import sys

import script_support

import numpy as np
import pytest
import support
from PIL import Image

import flower_finetune
import flower_inference
import flower_predict
import flower_preprocess

tf = script_support.tf

HEAD = ('InceptionV3/Logits/', 'InceptionV3/AuxLogits/')


# -- Preprocessing -----------------------------------------------------------------------


def seeds_image(path):
  """A photo as the book's loop makes it: new operations for one photo, floats before resizing."""
  with tf.Graph().as_default(), tf.Session() as sess:
    image = tf.image.decode_jpeg(tf.io.read_file(os.fsencode(path)), channels=3)
    image = tf.image.convert_image_dtype(image, dtype=tf.float32)
    return sess.run(tf.image.resize_images(image, [299, 299]))


def write_odd_photos(folder):
  """Write photos of each kind that decodes and each kind that does not; return the names of the first."""
  support.write_photos(folder, classes=('玫瑰', 'tall tree'), count=2)
  random = np.random.RandomState(1)
  pixels = np.repeat(np.repeat(random.randint(0, 255, (12, 15, 3)).astype(np.uint8), 20, 0), 20, 1)
  rose = folder / '玫瑰'
  Image.fromarray(pixels).convert('L').save(rose / 'grey.JPG')
  Image.fromarray(pixels).convert('CMYK').save(rose / 'cmyk.JPEG')
  Image.fromarray(pixels).save(rose / '前进.Jpeg', progressive=True)
  Image.fromarray(pixels[:299, :299]).resize((299, 299)).save(rose / 'already 299.jpg')
  whole = (rose / '000.jpg').read_bytes()
  (rose / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
  (rose / 'empty.jpg').write_bytes(b'')
  (rose / 'text.jpg').write_text('no photo')
  Image.fromarray(pixels).save(rose / 'png.jpg', format='PNG')
  header = bytearray(whole)
  frame = header.index(b'\xff\xc0')
  header[frame + 5:frame + 9] = bytes([20000 >> 8, 20000 & 255] * 2)  # height and width
  (rose / 'huge.jpg').write_bytes(header)
  (rose / 'notes.txt').write_text('not a photo')
  (folder / 'LICENSE.txt').write_text('beside the classes')
  (folder / '.hidden').mkdir()
  roses = ('000.jpg', '001.jpg', 'grey.JPG', 'cmyk.JPEG', '前进.Jpeg', 'already 299.jpg')
  return {'玫瑰/' + name for name in roses} | {'tall tree/000.jpg', 'tall tree/001.jpg'}


def test_every_readable_photo_once_and_equal_to_resize_images(tmp_path):
  folder = tmp_path / 'photos'
  good = write_odd_photos(folder)
  result = support.run_script('flower_preprocess.py', '--input_dir', folder, '--output_file', tmp_path / 'out.npy')
  assert result.returncode == 0
  # TensorFlow's own decoder may complain of the cut one, too.
  skipped = [line for line in result.stderr.splitlines() if line.startswith('flower_preprocess.py: skipped: ')]
  for name in ('cut', 'empty', 'text', 'png', 'huge'):
    assert sum(f'{name}.jpg' in line for line in skipped) == 1
  assert len(skipped) == 5 and 'Skipped 5 files.' in result.stdout
  assert '玫瑰: 6 photos' in result.stdout and 'tall tree: 2 photos' in result.stdout
  data = flower_preprocess.load_processed_data(str(tmp_path / 'out.npy'))
  assert data.labels == ['tall tree', '玫瑰']
  assert set(data.files) == good and len(data.files) == len(good)
  images = np.concatenate([data.training_images, data.validation_images, data.testing_images])
  labels = np.concatenate([data.training_labels, data.validation_labels, data.testing_labels])
  assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
  for image, label, file in zip(images, labels, data.files, strict=True):
    np.testing.assert_allclose(image, seeds_image(folder / file), atol=1e-6, err_msg=file)
    assert data.labels[label] == file.split('/')[0]


def test_output_is_one_plain_structured_array(photos_file):
  records = np.load(photos_file, allow_pickle=False)
  assert records.dtype == flower_preprocess.RECORD and records.dtype.names == ('image', 'label', 'split')
  splits = records['split'].tolist()
  assert splits == sorted(splits, key=['training', 'validation', 'testing'].index)
  names = json.loads(photos_file.with_suffix('.json').read_text(encoding='utf-8'))
  assert names['labels'] == ['daisy', 'rose', 'tulip'] and names['seed'] == 1
  assert names['counts'] == {split: splits.count(split) for split in flower_preprocess.SPLITS}
  assert len(names['files']) == len(records) == 24


def test_split_is_by_chance_per_photo_and_repeats_with_its_seed(photos_dir):
  def splits(seed, testing=20, validation=30):
    _, photos, _ = flower_preprocess.create_image_lists(str(photos_dir), testing, validation, seed)
    return photos
  assert splits(1) == splits(1) != splits(2)
  chances = np.random.RandomState(1).randint(100, size=24)  # of the photos in the order of their names
  photos = sorted(splits(1))
  assert [photo.split for photo in photos] == [
      'validation' if chance < 30 else 'testing' if chance < 50 else 'training' for chance in chances]
  training = [photo for photo in splits(1) if photo.split == 'training']
  assert training != sorted(training)  # shuffled
  assert {photo.split for photo in splits(1, 0, 0)} == {'training'}


def test_loaded_arrays_are_memory_mapped(photos_file):
  data = flower_preprocess.load_processed_data(str(photos_file))
  assert isinstance(data.training_images, np.memmap) and data.training_images.base is not None
  assert len(data.training_images) + len(data.validation_images) + len(data.testing_images) == 24
  assert data.training_labels.dtype == np.int64


def test_killed_run_leaves_nothing_and_an_older_output_stays(photos_dir, tmp_path, monkeypatch):
  output = tmp_path / 'out.npy'
  flower_preprocess.preprocess(str(photos_dir), str(output))
  before = output.read_bytes()

  def interrupted(paths):
    yield np.array([0]), np.zeros([1, 299, 299, 3], np.float32)
    raise KeyboardInterrupt

  monkeypatch.setattr(flower_preprocess, 'decoded_photos', interrupted)
  with pytest.raises(KeyboardInterrupt):
    flower_preprocess.preprocess(str(photos_dir), str(output))
  assert output.read_bytes() == before
  assert sorted(path.name for path in tmp_path.iterdir()) == ['out.json', 'out.npy']


# -- Network -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def five_class_graph():
  """The graph of the book's five classes, built once: (graph, logits)."""
  with tf.Graph().as_default() as graph:
    logits, _ = flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 5, False)
  return graph, logits


def test_variables_are_those_of_googles_checkpoint(five_class_graph):
  graph, logits = five_class_graph
  with graph.as_default():
    shapes = {v.op.name: v.shape.as_list() for v in flower_inference.model_variables()}
    trainable = tf.trainable_variables()
  assert len(shapes) == 388 and logits.shape.as_list() == [None, 5]
  # Names and shapes from Google's inception_v3_2016_08_28 checkpoint.
  for name, shape in (('Conv2d_1a_3x3/weights', [3, 3, 3, 32]), ('Conv2d_1a_3x3/BatchNorm/moving_variance', [32]),
                      ('Mixed_6b/Branch_1/Conv2d_0b_1x7/weights', [1, 7, 128, 128]),
                      ('Mixed_7c/Branch_2/Conv2d_0c_1x3/BatchNorm/beta', [384]),
                      ('AuxLogits/Conv2d_2a_5x5/weights', [5, 5, 128, 768]),
                      ('Logits/Conv2d_1c_1x1/weights', [1, 1, 2048, 5]), ('Logits/Conv2d_1c_1x1/biases', [5])):
    assert shapes['InceptionV3/' + name] == shape
  assert not any('moving' in v.op.name for v in trainable)


def test_scopes_choose_variables(five_class_graph):
  graph, _ = five_class_graph
  with graph.as_default():
    everything = flower_inference.model_variables()
    tuned = flower_inference.get_tuned_variables()
    assert len(tuned) == 376 and not any(v.op.name.startswith(HEAD) for v in tuned)
    assert len(flower_inference.get_tuned_variables('')) == 388
    trained = flower_inference.get_trainable_variables()
    assert trained and all(v.op.name.startswith(HEAD) for v in trained) and flower_inference.only_head(trained)
    assert set(flower_inference.get_trainable_variables('InceptionV3')) == set(tf.trainable_variables())
    twice = flower_inference.get_trainable_variables('InceptionV3/Logits, InceptionV3/Logits/Conv2d_1c_1x1')
    assert len(twice) == 2  # each variable once
    assert len(everything) == 388
    for choose in (flower_inference.get_tuned_variables, flower_inference.get_trainable_variables):
      with pytest.raises(script_support.UsageError, match='InceptionV4'):
        choose('InceptionV3/Logits,InceptionV4')
    with pytest.raises(script_support.UsageError, match='empty'):
      flower_inference.get_trainable_variables('')


@pytest.mark.parametrize(('cure', 'error'), [('tensor', 'AttributeError'), ('updates', 'ModuleNotFoundError')])
def test_tf_slim_still_needs_the_cures(cure, error):
  """Fails when a newer tf-slim or TensorFlow can do without: take the cure out of flower_inference then."""
  code = f'''
import script_support
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import ops
if {cure!r} == 'updates' and not hasattr(ops, 'Tensor'):
  ops.Tensor = tf.Tensor
import tf_slim
from tf_slim.nets import inception_v3
updates = 'other' if {cure!r} == 'tensor' else tf.GraphKeys.UPDATE_OPS
with tf_slim.arg_scope(inception_v3.inception_v3_arg_scope(updates_collections=updates)):
  inception_v3.inception_v3(tf.placeholder(tf.float32, [None, 299, 299, 3]), num_classes=5)
'''
  result = subprocess.run([sys.executable, '-c', code], cwd=support.ROOT, capture_output=True, text=True,
                          timeout=120)
  assert result.returncode == 1 and result.stderr.strip().splitlines()[-1].startswith(error)


# -- Fine-tuning -------------------------------------------------------------------------


def options(model_dir, trunk_ckpt, **changes):
  return flower_finetune.Options(ckpt_file=str(trunk_ckpt), model_dir=str(model_dir),
                                 **{'steps': 20, 'batch_size': 4, 'learning_rate': 0.01, **changes})


def run_finetuning(photos_file, chosen):
  data = flower_preprocess.load_processed_data(str(photos_file))
  return flower_finetune.finetune(data, script_support.file_digest(str(photos_file)), chosen)


def values(checkpoint_path):
  return {name: tf.train.load_variable(checkpoint_path, name)
          for name, _ in tf.train.list_variables(checkpoint_path)}


@pytest.fixture(scope='module')
def cached_run(photos_file, trunk_ckpt, tmp_path_factory):
  """A default run of 20 steps: (model folder, predicted classes of the test photos)."""
  model_dir = tmp_path_factory.mktemp('cached')
  return model_dir, run_finetuning(photos_file, options(model_dir, trunk_ckpt))


def scalars(model_dir):
  return {(value.tag, event.step): value.simple_value for path in sorted((model_dir / 'train').glob('events*'))
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value}


def test_cache_and_trunk_give_the_same_loss_and_weights(photos_file, trunk_ckpt, cached_run, tmp_path):
  run_finetuning(photos_file, options(tmp_path, trunk_ckpt, feature_cache=False))
  assert not (tmp_path / 'features.npz').exists()
  cached, through_trunk = (values(f'{folder}/flower.ckpt-19') for folder in (cached_run[0], tmp_path))
  assert cached.keys() == through_trunk.keys()
  for name in cached:
    np.testing.assert_allclose(cached[name], through_trunk[name], rtol=1e-4, atol=1e-4, err_msg=name)
  losses = scalars(tmp_path)
  assert {tag for tag, _ in losses} == {'loss', 'cross_entropy', 'validation_accuracy'}
  for key, loss in scalars(cached_run[0]).items():
    assert loss == pytest.approx(losses[key], abs=1e-4)


def test_only_the_named_scopes_change(trunk_ckpt, cached_run):
  before, after = values(trunk_ckpt), values(f'{cached_run[0]}/flower.ckpt-19')
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value, err_msg=name)  # bit-identical
  first = values(f'{cached_run[0]}/flower.ckpt-0')
  # On AuxLogits acts only its L2 penalty, as in the book, whose loss leaves it out.
  for name, least in (('Logits/Conv2d_1c_1x1/weights', 1e-4), ('Logits/Conv2d_1c_1x1/biases', 1e-4),
                      ('AuxLogits/Conv2d_2b_1x1/weights', 1e-9)):
    assert np.abs(after['InceptionV3/' + name] - first['InceptionV3/' + name]).max() > least


def test_reported_lines(photos_file, trunk_ckpt, cached_run, tmp_path):
  model_dir = tmp_path / 'model'
  shutil.copytree(cached_run[0], model_dir)
  result = support.run_script('flower_finetune.py', '--input_file', photos_file, '--ckpt_file', trunk_ckpt,
                              '--model_dir', model_dir, '--steps=40', '--batch_size=4', '--learning_rate=0.01')
  assert result.returncode == 0 and result.stderr == ''
  data = flower_preprocess.load_processed_data(str(photos_file))
  counts = [len(labels) for labels in (data.training_labels, data.validation_labels, data.testing_labels)]
  lines = result.stdout.splitlines()
  assert lines[0] == '%d training examples, %d validation examples and %d testing example.' % tuple(counts)
  assert f'Going on from {model_dir}/flower.ckpt-19.' in lines
  assert f'Features of all photos from {model_dir}/features.npz.' in lines  # of the first run
  assert re.findall(r'Step (\d+): Validation accuracy = \d+\.\d%', result.stdout) == ['30', '39']
  final = float(re.search(r'^Final test accuracy = (\d+\.\d)%$', result.stdout, re.M)[1])
  right, of = map(int, re.search(r'^(\d+) of (\d+) test photos are right', result.stdout, re.M).groups())
  assert of == counts[2] and final == pytest.approx(100 * right / of, abs=0.05)
  assert len(re.findall(r'^  wrong: ', result.stdout, re.M)) == of - right
  assert lines[-1] == f'Saved {model_dir}/flower.ckpt-39'


def test_restored_variables_are_counted_and_the_missing_named(photos_file, trunk_ckpt, tmp_path):
  with tf.Graph().as_default(), tf.Session() as sess:
    kept = {name: tf.Variable(value) for name, value in values(trunk_ckpt).items()
            if 'Mixed_7c/Branch_0' not in name}
    sess.run(tf.global_variables_initializer())
    partial = tf.train.Saver(kept).save(sess, str(tmp_path / 'partial.ckpt'), write_meta_graph=False)
  result = support.run_script('flower_finetune.py', '--input_file', photos_file, '--ckpt_file', partial,
                              '--model_dir', tmp_path / 'model', '--steps=1')
  assert result.returncode == 0
  assert f'Loading tuned variables from {partial}' in result.stdout
  assert '372 of 376 variables restored.' in result.stdout
  named = re.findall(r'Not in the checkpoint, starts anew: (.*)', result.stdout)
  assert len(named) == 4 and all('Mixed_7c/Branch_0' in name for name in named)


def test_old_format_of_googles_file_is_read(photos_file, trunk_ckpt, tmp_path):
  """Google's checkpoint is one file in the first format of TensorFlow's checkpoints."""
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = {name: tf.Variable(value) for name, value in values(trunk_ckpt).items()}
    sess.run(tf.global_variables_initializer())
    old = str(tmp_path / 'inception_v3.ckpt')
    tf.train.Saver(variables, write_version=tf.train.SaverDef.V1).save(sess, old, write_meta_graph=False)
  assert os.path.isfile(old)
  result = support.run_script('flower_finetune.py', '--input_file', photos_file, '--ckpt_file', old,
                              '--model_dir', tmp_path / 'model', '--steps=1')
  assert result.returncode == 0 and '376 of 376 variables restored.' in result.stdout


@pytest.mark.parametrize('change', ['photos', 'checkpoint', 'damage'])
def test_features_of_something_else_are_computed_anew(photos_file, trunk_ckpt, cached_run, tmp_path, change):
  model_dir = tmp_path / 'model'
  model_dir.mkdir()
  shutil.copy(cached_run[0] / 'features.npz', model_dir)
  data_digest = script_support.file_digest(str(photos_file))
  if change == 'photos':
    data_digest = script_support.digest([b'other photos'])
  if change == 'damage':
    with open(model_dir / 'features.npz', 'r+b') as file:
      file.truncate(3000)
  data = flower_preprocess.load_processed_data(str(photos_file))
  chosen = options(model_dir, trunk_ckpt)
  with tf.Graph().as_default(), tf.Session() as sess:
    graph = flower_finetune.build_finetuning_graph(3, chosen)
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(flower_inference.get_tuned_variables()).restore(sess, trunk_ckpt)
    if change == 'checkpoint':
      first = flower_inference.model_variables()[0]
      sess.run(first.assign(first * 1.5))
    features = flower_finetune.load_features(sess, graph, data, chosen, data_digest)
    expected = flower_finetune.run_batches(sess, graph.pre_logits, graph.images, data.training_images)
    np.testing.assert_allclose(features['training'], expected, rtol=1e-4, atol=1e-4)
  with np.load(model_dir / 'features.npz') as new, np.load(cached_run[0] / 'features.npz') as old:
    assert (str(new['key']) == str(old['key'])) == (change == 'damage')


def test_batches_come_in_order_and_the_last_is_smaller(photos_file, trunk_ckpt, tmp_path, monkeypatch):
  seen = []
  session_run = tf.Session.run

  def recording_run(self, fetches, feed_dict=None, **kwargs):
    if isinstance(fetches, list) and len(fetches) == 2 and isinstance(fetches[0], tf.Operation):
      seen.append(max(feed_dict.values(), key=lambda value: np.ndim(value)))
    return session_run(self, fetches, feed_dict, **kwargs)

  monkeypatch.setattr(tf.Session, 'run', recording_run)
  run_finetuning(photos_file, options(tmp_path, trunk_ckpt, steps=5))
  with np.load(tmp_path / 'features.npz') as stored:
    training = stored['training']
  np.testing.assert_array_equal(np.concatenate(seen)[:len(training)], training)
  assert [len(batch) for batch in seen[:3]] == [4, 4, len(training) - 8]
  np.testing.assert_array_equal(seen[3], training[:4])  # the next epoch, in the same order


def test_everything_trains_with_batch_statistics_as_in_the_book(photos_file, trunk_ckpt, tmp_path):
  run_finetuning(photos_file, options(tmp_path, trunk_ckpt, steps=1, batch_norm='batch',
                                      trainable_scopes='InceptionV3', learning_rate=0.001))
  before, after = values(trunk_ckpt), values(f'{tmp_path}/flower.ckpt-0')
  assert np.abs(after['InceptionV3/Conv2d_1a_3x3/weights'] - before['InceptionV3/Conv2d_1a_3x3/weights']).max() > 0
  # As in the book, the moving statistics are never updated.
  moving = 'InceptionV3/Conv2d_1a_3x3/BatchNorm/moving_mean'
  np.testing.assert_array_equal(after[moving], before[moving])
  result = support.run_script('flower_predict.py', 'photo.jpg', '--model_dir', tmp_path)
  assert result.returncode == 1 and '--batch_norm=batch' in result.stderr


def test_second_stage_starts_from_the_first(photos_file, cached_run, tmp_path, capsys):
  first = f'{cached_run[0]}/flower.ckpt-19'
  run_finetuning(photos_file, options(tmp_path, first, steps=1, checkpoint_exclude_scopes='', learning_rate=1e-4,
                                      trainable_scopes='InceptionV3'))
  assert '388 of 388 variables restored.' in capsys.readouterr().out
  before, after = values(first), values(f'{tmp_path}/flower.ckpt-0')
  change = {name: np.abs(after[name] - before[name]).max() for name in before if name.startswith('InceptionV3')
            and not name.endswith(('RMSProp', 'RMSProp_1'))}
  assert change['InceptionV3/Conv2d_1a_3x3/weights'] > 0 and change['InceptionV3/Logits/Conv2d_1c_1x1/biases'] > 0
  assert all(change[name] == 0 for name in change if 'moving_' in name)


# -- Prediction --------------------------------------------------------------------------


def test_prediction_agrees_with_the_reported_test_photo_by_photo(photos_dir, photos_file, cached_run, tmp_path):
  model_dir = tmp_path / 'elsewhere'  # the model folder alone is enough, wherever it is
  shutil.copytree(cached_run[0], model_dir)
  data = flower_preprocess.load_processed_data(str(photos_file))
  files = [photos_dir / file for file in data.files[-len(data.testing_labels):]]
  reported = [data.labels[label] for label in cached_run[1]]
  result = support.run_script('flower_predict.py', '--model_dir', model_dir, '--top_k=2', *files)
  assert result.returncode == 0 and result.stderr == ''
  answers = re.findall(r'\.jpg: (\S+) ([01]\.\d{4}), (\S+) (0\.\d{4})$', result.stdout, re.M)
  assert [first for first, *_ in answers] == reported
  assert all(float(first) >= float(second) for _, first, _, second in answers)
  photos, problems = flower_predict.read_photos([str(path) for path in files])
  assert not problems
  with flower_predict.open_model(str(model_dir)) as (labels, predict):
    assert labels == data.labels
    together = predict(np.stack(list(photos.values())))
    alone = predict(next(iter(photos.values()))[None])
  np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(alone[0], together[0], rtol=1e-3, atol=1e-5)


# -- Real data ---------------------------------------------------------------------------


@pytest.mark.skipif(not (support.SHARED / 'flower_photos_sample').is_dir(), reason='needs the 300 real photos')
def test_real_photos_are_read_as_the_book_does(tmp_path):
  folder = tmp_path / 'photos'
  for name in ('daisy', 'tulips'):
    (folder / name).mkdir(parents=True)
    for path in sorted((support.SHARED / 'flower_photos_sample' / name).iterdir())[:3]:
      shutil.copy(path, folder / name)
  flower_preprocess.preprocess(str(folder), str(tmp_path / 'out.npy'), 0, 0)
  data = flower_preprocess.load_processed_data(str(tmp_path / 'out.npy'))
  assert len(data.files) == 6
  for image, file in zip(data.training_images, data.files, strict=True):
    np.testing.assert_allclose(image, seeds_image(folder / file), atol=1e-6, err_msg=file)
