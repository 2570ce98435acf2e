"""flower_finetune.py: what is restored and trained, checkpoints, exact resume, and the result."""
import math
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import running

import flower_finetune
from flowers import backbone, bottlenecks, data_file, evaluation
from support import checkpoints
from support.console import UserError
from support.quiet_tensorflow import tf

HEAD = ('InceptionV3/Logits/', 'InceptionV3/AuxLogits/')
LAST = 'InceptionV3/Logits/Conv2d_1c_1x1'


class Interrupted(Exception):
  """What the tests let a run end with, in place of a kill."""


@pytest.fixture(scope='module')
def data(photos_file):
  return data_file.load_processed_data(str(photos_file))


@pytest.fixture(scope='module')
def options(photos_file, backbone_ckpt):
  """A function that makes options of short runs in a model folder."""
  def make(model_dir, **changes):
    return flower_finetune.FLAGS.options(**{
        'input_file': photos_file, 'ckpt_file': backbone_ckpt, 'model_dir': model_dir, 'steps': 20,
        'batch_size': 4, **changes})
  return make


@pytest.fixture(scope='module')
def batches_of_default_run():
  """What the network is fed with in the training steps of `default_run`."""
  return []


@pytest.fixture(scope='module')
def default_run(data, options, tmp_path_factory, batches_of_default_run):
  """A run of 20 steps on bottlenecks: (model folder, predicted classes of the test photos)."""
  run = tf.Session.run

  def recording_run(self, fetches, feed_dict=None, **others):
    if isinstance(fetches, list) and feed_dict and not isinstance(fetches[-1], tf.Operation):
      batches_of_default_run.append(max(feed_dict.values(), key=np.ndim))
    return run(self, fetches, feed_dict, **others)

  model_dir = tmp_path_factory.mktemp('default')
  with pytest.MonkeyPatch.context() as patches:
    patches.setattr(tf.Session, 'run', recording_run)
    predicted = flower_finetune.finetune(data, options(model_dir))
  return model_dir, predicted


@pytest.fixture(scope='module')
def graph():
  """The graph of a run of three classes on bottlenecks."""
  with tf.Graph().as_default() as graph:
    chosen = flower_finetune.FLAGS.options()
    flower_finetune.build_model(3, 14, flower_finetune.choose_recipe(chosen), chosen)
  return graph


def read_tensors(path):
  reader = tf.train.load_checkpoint(str(path))
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_tensors(path, other_path):
  found, expected = read_tensors(path), read_tensors(other_path)
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)  # bit by bit


def read_events(folder):
  return [event for path in sorted(folder.glob('events*'))
          for event in tf.train.summary_iterator(str(path))]


# -- Which variables, and how they are trained -------------------------------------------


def test_scopes_choose_variables(graph):
  with graph.as_default():
    tuned = flower_finetune.get_tuned_variables()
    assert len(tuned) == 376 and not any(v.op.name.startswith(HEAD) for v in tuned)
    assert len(flower_finetune.get_tuned_variables('')) == 388
    trained = flower_finetune.get_trainable_variables()
    assert trained and all(v.op.name.startswith(HEAD) for v in trained)
    assert (set(flower_finetune.get_trainable_variables('InceptionV3'))
            == set(tf.trainable_variables()))
    twice = flower_finetune.get_trainable_variables(
        'InceptionV3/Logits, InceptionV3/Logits/Conv2d_1c_1x1')
    assert len(twice) == 2  # each variable once
    for choose in (flower_finetune.get_tuned_variables, flower_finetune.get_trainable_variables):
      with pytest.raises(UserError, match='InceptionV4'):
        choose('InceptionV3/Logits,InceptionV4')
    with pytest.raises(UserError, match='empty'):
      flower_finetune.get_trainable_variables('')


@pytest.mark.parametrize(('changes', 'on_bottlenecks'), [
    ({}, True), ({'trainable_scopes': ' InceptionV3/Logits/Conv2d_1c_1x1 '}, True),
    ({'trainable_scopes': 'InceptionV3'}, False), ({'batch_norm': 'batch'}, False),
    ({'trainable_scopes': 'InceptionV3/Mixed_7c,InceptionV3/Logits'}, False),
    ({'feature_cache': False}, False), ({'trainable_scopes': 'InceptionV3/AuxLogits'}, False)])
def test_what_is_trained_decides_learning_rate_and_steps(changes, on_bottlenecks):
  recipe = flower_finetune.choose_recipe(flower_finetune.FLAGS.options(**changes))
  assert recipe == ((True, 0.002, 6000) if on_bottlenecks else (False, 0.0001, 300))
  changes = {**changes, 'learning_rate': 0.5, 'steps': 7}
  assert flower_finetune.choose_recipe(
      flower_finetune.FLAGS.options(**changes)) == (on_bottlenecks, 0.5, 7)


def test_help_has_both_defaults():
  text = ' '.join(running.run_script('flower_finetune.py', '--help').stdout.split())
  assert '0.0001 where the whole network runs' in text and 'default: 0.002.' in text
  assert '300 where the whole network runs at each step, 6000 on kept bottlenecks' in text


def test_rate_and_penalty_fit_the_size_of_bottlenecks(graph):
  """Steps against numpy, with bottlenecks of two sizes that have the same logits."""
  rows = np.random.RandomState(0).rand(6, 2048).astype(np.float32)
  start = np.random.RandomState(1).randn(1, 1, 2048, 3).astype(np.float32) / 100
  l2 = 150 / 14 * np.square(rows.mean() * start).sum() / 2  # of 14 training photos
  with graph.as_default(), tf.Session() as sess:
    initialize = tf.global_variables_initializer()
    weights = next(v for v in tf.global_variables() if v.op.name == LAST + '/weights')
    for scale in (1, 30):
      sess.run(initialize)
      weights.load(start / scale, sess)
      for step in range(3):
        rate, loss, cross_entropy, _ = sess.run(
            ['train/ExponentialDecay:0', 'loss/loss:0', 'loss/softmax_cross_entropy_loss/value:0',
             'train/RMSProp'],
            {'bottlenecks:0': rows * scale, 'labels:0': [0, 1, 2, 0, 1, 2]})
        assert rate * scale * rows.mean() == pytest.approx(0.002 * 0.01 ** (step / 6000), rel=1e-4)
        if step == 0:
          assert loss - cross_entropy == pytest.approx(l2, rel=1e-4)


# -- The pre-trained checkpoint ----------------------------------------------------------


def test_a_checkpoint_is_found_by_each_of_its_names(backbone_ckpt, default_run, tmp_path):
  def find(name):
    return backbone.find_checkpoint(name, flower_finetune.MODEL_NAME)

  plain = str(backbone_ckpt)
  for name in (plain, plain + '.index', plain + '.data-00000-of-00001',
               os.path.dirname(plain)):
    assert find(name) == plain
  # Of an earlier fine-tuning, the newest.
  assert find(str(default_run[0])) == str(default_run[0] / 'flower.ckpt-19')
  assert find(str(tmp_path / 'missing')) is None
  with pytest.raises(UserError, match='a folder with 0 checkpoints: give the path of one'):
    find(str(tmp_path))


@pytest.mark.parametrize('name', ['model.h5', 'model.pth', 'inception_v3_2016_08_28.tar.gz'])
def test_other_formats_are_refused_in_one_line(tmp_path, name):
  for content in (b'', b'content of another program' * 1000):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match='give inception_v3.ckpt, unpacked from') as raised:
      backbone.get_checkpoint(str(tmp_path / name), [], 'flower.ckpt')
    assert name in str(raised.value) and '\n' not in str(raised.value)


def test_what_the_checkpoint_has_not_is_named(data, options, backbone_ckpt, tmp_path, capsys):
  """With a checkpoint in the format of Google's file, which is one file."""
  folder = tmp_path / '模型'
  folder.mkdir()
  with tf.Graph().as_default(), tf.Session() as sess:
    kept = {name: tf.Variable(value) for name, value in read_tensors(backbone_ckpt).items()
            if 'Mixed_7c/Branch_0' not in name}
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(kept, write_version=tf.train.SaverDef.V1).save(
        sess, str(tmp_path / 'inception_v3.ckpt'), write_meta_graph=False)
  partial = shutil.move(tmp_path / 'inception_v3.ckpt', folder / 'inception_v3.ckpt')
  flower_finetune.finetune(data, options(folder / 'model', ckpt_file=folder, steps=1,
                                         feature_cache=False))
  said = capsys.readouterr().out
  assert f'Loading tuned variables from {partial}\n372 of 376 variables restored.\n' in said
  named = re.findall('Not in the checkpoint, starts from its initial value: (.*)', said)
  assert len(named) == 4 and all('Mixed_7c/Branch_0' in name for name in named)
  assert not list(folder.glob('model/*.np?'))  # no bottlenecks, as the whole network was run
  assert (folder / 'model/flower.ckpt-0.index').exists()


# -- A run -------------------------------------------------------------------------------


def test_printed_lines_and_files(photos_file, data, options, default_run, tmp_path):
  model_dir = tmp_path / 'model'
  shutil.copytree(default_run[0], model_dir)
  result = running.run_script(
      'flower_finetune.py', '--input_file', photos_file, '--ckpt_file', tmp_path / 'gone',
      '--model_dir', model_dir, '--steps=40', '--batch_size=4')
  assert (result.returncode, result.stderr) == (0, '')
  lines = result.stdout.splitlines()
  counts = [len(getattr(data, f'{split}_labels')) for split in data_file.SPLITS]
  assert lines[0] == ('%d training examples, %d validation examples and %d testing example.'
                      % tuple(counts))
  kept = photos_file.with_name('photos.bottlenecks.npz')
  assert lines[1:4] == ['Going on with steps 40, after 20 before.',
                        f'Going on from {model_dir}/flower.ckpt-19.',
                        f'Bottlenecks of all 24 photos from {kept}.']
  assert re.findall(r'Step (\d+): Validation accuracy = \d+\.\d%\n', result.stdout) == [
      '20', '24', '28', '32', '36', '39']
  final = float(re.search(r'^Final test accuracy = (\d+\.\d)%$', result.stdout, re.M)[1])
  right, of = map(int, re.search(r'^(\d+) of (\d+) test photos are right:$', result.stdout,
                                 re.M).groups())
  assert of == counts[2] and final == pytest.approx(100 * right / of, abs=0.05)
  assert len(re.findall(r'^  wrong: ', result.stdout, re.M)) == of - right
  assert 'true \\ predicted' in result.stdout and 'Most often confused: ' in result.stdout
  assert lines[-1] == f'Saved {model_dir}/flower.ckpt-39'
  assert {path.name for path in model_dir.iterdir()} == {
      'checkpoint', 'model.json', 'train', 'train.lock',
      *(f'flower.ckpt-{step}{suffix}' for step in (24, 28, 32, 36, 39)
        for suffix in checkpoints.SUFFIXES)}
  with np.load(kept) as arrays:
    assert arrays['bottlenecks'].shape == (24, 2048)
    assert arrays['bottlenecks'].dtype == np.float32


def test_only_the_last_layer_changes_on_bottlenecks(backbone_ckpt, default_run):
  before = read_tensors(backbone_ckpt)
  first, last = (read_tensors(default_run[0] / f'flower.ckpt-{step}') for step in (12, 19))
  for name, value in before.items():
    np.testing.assert_array_equal(last[name], value, err_msg=name)
  changed = {name for name in last if not np.array_equal(first[name], last[name])}
  assert changed == {'global_step', *(
      LAST + name + slot for name in ('/weights', '/biases')
      for slot in ('', '/RMSProp', '/RMSProp_1'))}


def test_summaries_pictures_and_graph_go_to_tensorboard(data, default_run):
  events = read_events(default_run[0] / 'train')
  values = [(value, event.step) for event in events for value in event.summary.value]
  steps = {*range(0, 20, 2), 19}
  assert {(value.tag, step) for value, step in values} == {
      ('wrong_photos', 19), ('confusion_matrix', 19), *(
      (tag, step) for tag in ('loss', 'cross_entropy', 'learning_rate', 'validation_accuracy',
                              'validation_cross_entropy')
      for step in steps)}
  picture = next(value.image for value, _ in values if value.tag == 'wrong_photos')
  with tf.Graph().as_default(), tf.Session() as sess:
    shown = sess.run(tf.io.decode_png(picture.encoded_image_string))
  assert shown.shape == (5 * 99, 5 * 99, 3)
  graph = tf.GraphDef.FromString(next(event.graph_def for event in events if event.graph_def))
  assert {node.name.split('/')[0] for node in graph.node} >= {
      'input_images', 'labels', 'InceptionV3', 'bottlenecks', 'logits', 'loss', 'train'}


def test_import_meta_graph_as_in_the_books_chapter_5(data, default_run):
  path = str(default_run[0] / 'flower.ckpt-19')
  with tf.Graph().as_default(), tf.Session() as sess:
    tf.train.import_meta_graph(path + '.meta').restore(sess, path)
    logits = sess.run('logits:0', {'input_images:0': data.testing_images})
    assert sess.run('global_step:0') == 20
  np.testing.assert_array_equal(logits.argmax(1), default_run[1])


def test_second_stage_trains_everything_from_the_first(
    data, options, default_run, tmp_path, capsys):
  first = default_run[0] / 'flower.ckpt-19'
  flower_finetune.finetune(data, options(
      tmp_path, ckpt_file=first, checkpoint_exclude_scopes='', trainable_scopes='InceptionV3',
      steps=1))
  assert '388 of 388 variables restored.' in capsys.readouterr().out
  before, after = read_tensors(first), read_tensors(tmp_path / 'flower.ckpt-0')
  model = {name for name in before if name.startswith('InceptionV3') and 'RMSProp' not in name}
  changed = {name for name in model if not np.array_equal(before[name], after[name])}
  # As in the book, the moving statistics are those of the checkpoint for ever. On AuxLogits acts
  # nothing but its penalty, too small to be seen after one step.
  assert changed == {name for name in model if 'moving_' not in name and 'AuxLogits' not in name}


# -- Batches -----------------------------------------------------------------------------


class BatchNormalizingSession:
  """A network that tells three classes by one number, set off from the mean of the batch."""

  def __init__(self):
    self.batches = []

  def run(self, logits, feed):
    batch, = feed.values()
    self.batches.append(len(batch))
    centred = (batch - batch.mean()) / batch.std()
    return -np.square(centred - [-1.2, 0, 1.2])  # [batch, 3]


def test_each_evaluated_batch_is_a_mix_of_the_classes():
  """Whatever the order of the file; batches in that order would hold one class each."""
  random = np.random.RandomState(0)
  labels = np.repeat([0, 1, 2], 111)  # 333 photos in the order of their classes
  photos = (labels + 0.1 * random.randn(333))[:, None]
  answer = np.zeros([1, 3])  # in place of the tensor
  accuracies = []
  for order in (np.arange(333), random.permutation(333)):
    sess = BatchNormalizingSession()
    examples = evaluation.Examples('photos', {'testing': photos[order]}, {})
    logits, again = (evaluation.predict_logits(sess, answer, examples, 'testing', seed=1)
                     for _ in range(2))
    np.testing.assert_array_equal(logits, again)  # the same mix each time
    accuracies.append(evaluation.score(logits, labels[order])[0])
    assert sum(sess.batches) == 2 * 333 and set(sess.batches) <= {30, 31}  # none left over
  assert min(accuracies) > 0.9 and abs(accuracies[0] - accuracies[1]) < 0.05
  in_order = [sess.run(None, {0: photos[k:k + 32]}).argmax(1) for k in range(0, 333, 32)]
  assert np.mean(np.concatenate(in_order) == labels) < 0.6


def test_training_batches_come_in_order_and_the_last_is_smaller(
    data, photos_file, default_run, batches_of_default_run):
  with np.load(photos_file.with_name('photos.bottlenecks.npz')) as kept:
    training = kept['bottlenecks'][:len(data.training_labels)]
  an_epoch = -(-len(training) // 4)
  assert [len(batch) for batch in batches_of_default_run] == [
      min(4, len(training) - 4 * (i % an_epoch)) for i in range(20)]
  rows = np.concatenate(batches_of_default_run)
  np.testing.assert_array_equal(rows, np.tile(training, [20, 1])[:len(rows)])


# -- Going on ----------------------------------------------------------------------------


def interrupt_before_saving(step, monkeypatch):
  """Let the next runs end like killed ones, after a step and before its checkpoint."""
  save = checkpoints.Saver.save

  def save_or_end(self, sess, path, global_step):
    if global_step == step:
      raise Interrupted
    return save(self, sess, path, global_step)

  monkeypatch.setattr(checkpoints.Saver, 'save', save_or_end)


def test_a_resumed_run_ends_in_the_same_bits_on_bottlenecks(
    data, options, default_run, tmp_path, monkeypatch):
  with monkeypatch.context() as patches, pytest.raises(Interrupted):
    interrupt_before_saving(10, patches)
    flower_finetune.finetune(data, options(tmp_path))
  flower_finetune.finetune(data, options(tmp_path))
  assert_same_tensors(tmp_path / 'flower.ckpt-19', default_run[0] / 'flower.ckpt-19')


def test_a_resumed_run_ends_in_the_same_bits_with_batch_statistics(
    data, options, tmp_path, monkeypatch, capsys):
  chosen = {'batch_norm': 'batch', 'steps': 2,
            'trainable_scopes': 'InceptionV3/Mixed_7c/Branch_3,InceptionV3/Logits'}
  flower_finetune.finetune(data, options(tmp_path / 'whole', **chosen))
  with monkeypatch.context() as patches, pytest.raises(Interrupted):
    interrupt_before_saving(1, patches)
    flower_finetune.finetune(data, options(tmp_path / 'parts', **chosen))
  flower_finetune.finetune(data, options(tmp_path / 'parts', **chosen))
  assert f'Going on from {tmp_path}/parts/flower.ckpt-0.' in capsys.readouterr().out
  assert_same_tensors(tmp_path / 'parts/flower.ckpt-1', tmp_path / 'whole/flower.ckpt-1')


def test_a_change_of_mind_is_refused(data, options, default_run, backbone_ckpt, tmp_path):
  model_dir = tmp_path / 'model'
  shutil.copytree(default_run[0], model_dir)
  other_ckpt = str(default_run[0] / 'flower.ckpt-12')  # its index is another one's
  for changes, other_data, name in (
      ({'ckpt_file': other_ckpt}, data, 'ckpt_file_digest'), ({'seed': 2}, data, 'seed'),
      ({}, data._replace(id='other'), 'data_id'), ({'batch_norm': 'batch'}, data, 'batch_norm'),
      ({'trainable_scopes': 'InceptionV3'}, data, 'trainable_scopes'),
      ({'checkpoint_exclude_scopes': ''}, data, 'checkpoint_exclude_scopes')):
    chosen = options(model_dir, **changes)
    with checkpoints.ModelFolder(str(model_dir), flower_finetune.MODEL_NAME) as folder:
      with pytest.raises(UserError, match=f'holds checkpoints with {name} .*: choose another'):
        flower_finetune.check_folder(folder, other_data, chosen.ckpt_file,
                                     flower_finetune.choose_recipe(chosen), chosen)


def test_cross_entropy_and_accuracy():
  logits = np.float32([[1000, 0], [0, math.log(3)], [0, 0]])
  accuracy, cross_entropy = evaluation.score(logits, np.array([0, 0, 1]))
  assert accuracy == pytest.approx(1 / 3)
  assert cross_entropy == pytest.approx((0 + math.log(4) + math.log(2)) / 3)


# -- The result --------------------------------------------------------------------------


def report(labels, predicted, capsys, size=1.0):
  """Return what is printed of test photos of three classes, 'c' without any in training."""
  data = SimpleNamespace(labels=['a', 'b', 'c'], testing_labels=np.array(labels),
                         files=[f'x/{k}.jpg' for k in range(100 + len(labels))])
  options = flower_finetune.FLAGS.options(model_dir='here')
  evaluation.print_test_report(np.array(predicted), data)
  evaluation.print_advice(size * np.eye(3)[predicted], data, 0.002, options)
  return capsys.readouterr().out.splitlines()


def test_the_result_by_class(capsys):
  lines = report([0, 0, 1, 1], [0, 0, 1, 0], capsys)
  assert lines[:5] == ['Final test accuracy = 75.0%', '3 of 4 test photos are right:',
                       '  a: 2 of 2', '  b: 1 of 2', '  c: no test photo']
  assert lines[-1] == '  wrong: x/103.jpg taken for a'
  lines = report([0] * 40 + [1] * 60, [0] * 70 + [1] * 30, capsys)
  assert sum(line.startswith('  wrong: ') for line in lines) == 25
  assert lines[-1] == '  and 5 more'


def test_a_result_no_better_than_one_answer_for_all_gets_advice(capsys):
  labels = [0, 1, 1, 1, 2]
  assert 'no better' not in str(report(labels, [0, 1, 1, 1, 0], capsys))
  for predicted in ([1, 1, 1, 1, 1], [0, 0, 1, 1, 0]):
    said = report(labels, predicted, capsys)[-1]
    assert said == ('This is no better than to answer b for every photo (3 of 5): give more '
                    '--steps, or a larger --learning_rate than 0.002.')
  said = report(labels, [1, 1, 1, 1, 1], capsys, size=50)[-1]
  assert said.endswith(f'{evaluation.DIVERGED_ADVICE} than 0.002 and here.')


def test_a_cross_entropy_gone_wrong_is_not_saved_and_the_advice_helps(data, options, tmp_path):
  with pytest.raises(UserError, match='which is not saved: ' + evaluation.DIVERGED_ADVICE):
    flower_finetune.finetune(data, options(tmp_path / 'ruined', learning_rate=1e6))
  assert checkpoints.list_checkpoints(str(tmp_path / 'ruined'), 'flower.ckpt') == []
  # "... give a smaller --learning_rate and another --model_dir".
  flower_finetune.finetune(data, options(tmp_path / 'other', learning_rate=0.01))
  assert (tmp_path / 'other/flower.ckpt-19.index').exists()


def test_an_empty_split_is_refused_before_training(data):
  with pytest.raises(UserError, match='no testing photos'):
    flower_finetune.check_splits(data._replace(testing_labels=data.testing_labels[:0]), 'file.npy')


# -- Bottlenecks -------------------------------------------------------------------------


class BackboneSession:
  """A network whose bottlenecks are made of a photo's first pixel and of one weight."""

  def __init__(self, weight):
    self.weight, self.photos = weight, 0

  def run(self, fetches, feed=None):
    if feed is None:
      return [np.full([2, 2], self.weight, np.float32)]
    photos, = feed.values()
    self.photos += len(photos)
    return np.repeat(np.float32(photos[:, 0, 0, :1]) * self.weight, 2048, axis=1)


def load_bottlenecks(path, data, weight=2.0):
  """Load them with BackboneSession, check them, and return whether they were computed."""
  sess = BackboneSession(weight)
  with tf.Graph().as_default():
    rows = bottlenecks.load_bottlenecks(str(path), sess, 'images', 'bottlenecks', [], data)
  expected = np.concatenate([getattr(data, f'{split}_images')[:, 0, 0, 0] * np.float32(weight)
                             for split in data_file.SPLITS])
  np.testing.assert_array_equal(np.concatenate(list(rows.values()))[:, 7], expected)
  return sess.photos == len(data.files)


def test_bottlenecks_are_kept_and_those_of_something_else_computed_again(data, tmp_path, capsys):
  path = tmp_path / 'photos.bottlenecks.npz'
  assert load_bottlenecks(path, data) and not load_bottlenecks(path, data)
  assert load_bottlenecks(path, data._replace(id='other'))
  assert load_bottlenecks(path, data._replace(id='other'), weight=3.0)
  assert capsys.readouterr().out.count('of other photos or weights: computed again') == 2


def changed_byte(path):
  content = bytearray(path.read_bytes())
  content[5000] ^= 1
  path.write_bytes(content)


DAMAGES = {
    'byte': changed_byte, 'empty': lambda path: path.write_bytes(b''),
    'cut': lambda path: path.write_bytes(path.read_bytes()[:-100]),
    'text': lambda path: path.write_text('notes of somebody else'),
    'array': lambda path: path.write_bytes(b'\x93NUMPY' + path.read_bytes()),
    'other archive': lambda path: np.savez(path, notes=1)}


@pytest.mark.parametrize('damage', DAMAGES)
def test_what_is_not_kept_bottlenecks_is_refused_and_stays(damage, data, tmp_path):
  path = tmp_path / 'photos.bottlenecks.npz'
  load_bottlenecks(path, data)
  DAMAGES[damage](path)
  before = path.read_bytes()
  with pytest.raises(UserError, match='photos.bottlenecks.npz does not hold kept bottlenecks'):
    load_bottlenecks(path, data)
  assert path.read_bytes() == before
  path.unlink()  # "... move it away, or delete it"
  assert load_bottlenecks(path, data) and not load_bottlenecks(path, data)


@pytest.mark.parametrize(('weight', 'text'), [(np.nan, 'not finite'), (0, 'zeros')])
def test_bottlenecks_that_nothing_can_learn_from_are_refused(weight, text, data, tmp_path):
  with pytest.raises(UserError, match='--ckpt_file: .*' + text):
    load_bottlenecks(tmp_path / 'photos.bottlenecks.npz', data, weight=weight)


def test_bottlenecks_are_kept_beside_the_data_if_possible(tmp_path, monkeypatch):
  input_file = str(tmp_path / 'photos.npy')
  path = bottlenecks.bottlenecks_path(input_file, 'model')
  assert path == str(tmp_path / 'photos.bottlenecks.npz')
  monkeypatch.setattr(os, 'access', lambda *_: False)
  assert bottlenecks.bottlenecks_path(input_file, 'model') == os.path.join(
      'model', 'photos.bottlenecks.npz')
