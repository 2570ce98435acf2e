"""Preprocessing: folders of photos as people have them, and what becomes of each file."""
import json
import os
import re
import shutil

import made_data
import numpy as np
import pytest
import running
from PIL import Image

import flower_preprocess
from flowers import data_file, photo
from support import pictures
from support.console import UserError
from support.quiet_tensorflow import tf

FILES = ['.photos.npy.lock', 'photos.json', 'photos.npy']  # of an output


@pytest.fixture
def output(tmp_path):
  """The path of a data file that is not there yet, in a folder of its own."""
  (tmp_path / 'out').mkdir()
  return tmp_path / 'out' / 'photos.npy'


def preprocess(input_dir, output, **changes):
  """Preprocess a folder and return the ProcessedData."""
  flower_preprocess.preprocess(flower_preprocess.FLAGS.options(
      input_dir=input_dir, output_file=output, **changes))
  return data_file.load_processed_data(output)


def splits_of(input_dir, testing_percentage=20, validation_percentage=30, seed=1):
  """Return {name: split} of the photos of a folder."""
  found = flower_preprocess.create_image_lists(
      input_dir, testing_percentage, validation_percentage, seed)
  return {photo.name: photo.split for photo in found.photos}


def skipped_files(standard_error):
  """Return the names of the files that a run named as left out."""
  return [os.path.basename(path) for path in
          re.findall(r'^[\w.]+: skipped: (\D\S+) ', standard_error, re.M)]


# -- The usual folder --------------------------------------------------------------------


def test_command_reports_and_writes_the_pair_of_files(photos_dir, output):
  result = running.run_script('flower_preprocess.py', '--input_dir', photos_dir,
                              '--output_file', output)
  assert (result.returncode, result.stderr) == (0, '')
  lines = result.stdout.splitlines()
  assert lines[:3] == ['daisy: 8 photos', 'rose: 8 photos', 'tulip: 8 photos']
  data = data_file.load_processed_data(output)
  counts = [len(labels) for labels in (data.training_labels, data.validation_labels,
                                       data.testing_labels)]
  assert lines[-3:] == [
      'Skipped 0 files.',
      '%d training examples, %d validation examples and %d testing example.' % tuple(counts),
      f'Saved {output} and {output.with_suffix(".json")}']
  assert sum(counts) == 24 and data.labels == ['daisy', 'rose', 'tulip']
  assert sorted(os.listdir(output.parent)) == FILES


def test_each_image_is_the_photo_of_its_name_and_class(photos_dir, output):
  data = preprocess(photos_dir, output)
  images = np.concatenate([data.training_images, data.validation_images, data.testing_images])
  labels = np.concatenate([data.training_labels, data.validation_labels, data.testing_labels])
  assert images.dtype == np.uint8
  with photo.PhotoDecoder() as decoder:
    for name, image in zip(data.files, images, strict=True):
      np.testing.assert_array_equal(image, decoder.image(str(photos_dir / name)))
  assert [data.labels[label] for label in labels] == [name.split('/')[0] for name in data.files]


def test_same_photos_give_the_same_id_and_other_photos_another(photos_dir, output, tmp_path):
  first = preprocess(photos_dir, output).id
  assert preprocess(photos_dir, output).id == first
  assert preprocess(photos_dir, output, seed=2).id != first
  shutil.copytree(photos_dir, tmp_path / 'other')
  shutil.copy(tmp_path / 'other' / 'rose' / '000.jpg', tmp_path / 'other' / 'rose' / '001.jpg')
  assert preprocess(tmp_path / 'other', output).id != first


# -- The split ---------------------------------------------------------------------------


def test_split_follows_the_percentages_and_repeats_with_its_seed(tmp_path):
  for label in ('daisy', 'rose'):
    (tmp_path / label).mkdir()
    for k in range(500):
      (tmp_path / label / f'{k}.gif').write_bytes(b'GIF8')
  splits = splits_of(tmp_path)
  assert splits == splits_of(tmp_path) != splits_of(tmp_path, seed=2)
  found = list(splits.values())
  assert found == sorted(found, key=data_file.SPLITS.index)  # in the order of the file
  # Four standard deviations of 1,000 draws.
  assert abs(found.count('validation') - 300) < 58 and abs(found.count('testing') - 200) < 51
  assert set(splits_of(tmp_path, 0, 0).values()) == {'training'}


def test_each_split_is_a_mix_of_the_classes(tmp_path):
  made_data.write_photos(tmp_path, count=40)
  splits = splits_of(tmp_path)
  for split in data_file.SPLITS:
    names = [name for name in splits if splits[name] == split]
    assert names != sorted(names) and len({name.split('/')[0] for name in names[:10]}) == 3


def test_one_photo_more_moves_no_other(photos_dir, tmp_path):
  folder = shutil.copytree(photos_dir, tmp_path / 'photos')
  before = splits_of(folder)
  shutil.copy(folder / 'rose' / '000.jpg', folder / 'rose' / '0000 first of all.jpg')
  after = splits_of(folder)
  del after['rose/0000 first of all.jpg']
  assert list(after.items()) == list(before.items())  # nor their order


def write_split(folder, **splits):
  for split, count in splits.items():
    made_data.write_photos(folder / split, count=count, seed=count)
  return folder


def test_a_folder_that_is_split_already_keeps_its_split(tmp_path, output, capsys):
  folder = write_split(tmp_path / 'photos', Train=5, val=2, test=3)
  data = preprocess(folder, output)
  assert data.labels == ['daisy', 'rose', 'tulip']
  assert [len(labels) for labels in (data.training_labels, data.validation_labels,
                                     data.testing_labels)] == [15, 6, 9]
  assert [name.split('/')[0] for name in data.files] == ['Train'] * 15 + ['val'] * 6 + ['test'] * 9
  assert 'Split as the folders are: training, validation, testing.' in capsys.readouterr().out


def test_a_split_without_a_folder_is_drawn_from_the_training_photos(tmp_path, output, capsys):
  folder = write_split(tmp_path / 'photos', train=12, test=3)
  data = preprocess(folder, output, validation_percentage=30)
  assert len(data.testing_labels) == 9
  assert 0 < len(data.validation_labels) < 36
  assert 'validation photos are drawn from the training ones' in capsys.readouterr().out


# -- Every file counted ------------------------------------------------------------------


@pytest.fixture
def odd_folder(tmp_path):
  """A folder with photos and other files of many kinds, and the names of the photos."""
  folder = made_data.write_photos(tmp_path / 'photos', classes=('玫瑰', 'tall [tree]*'), count=2)
  rose = folder / '玫瑰'
  image = Image.open(rose / '000.jpg')
  for name, kind in (('no ending', 'PNG'), ('a.jfif', 'JPEG'), ('b.JPE', 'JPEG'), ('c.bmp', 'BMP'),
                     ('d.gif', 'GIF'), ('png.jpg', 'PNG'), ('e.webp', 'WEBP')):
    image.save(rose / name, kind)
  (rose / 'more' / 'deeper').mkdir(parents=True)
  image.save(rose / 'more' / 'deeper' / 'f.jpg')
  whole = (rose / '000.jpg').read_bytes()
  (rose / 'cut.jpg').write_bytes(whole[:-100])
  (rose / 'empty.jpg').touch()
  (rose / 'text.jpg').write_text('not a photo')
  (rose / 'more' / 'notes.txt').write_text('not a photo')
  for name in ('.hidden.jpg', '._000.jpg', 'Thumbs.db', '.DS_Store'):
    (rose / name).write_bytes(whole)
  (folder / 'LICENSE.txt').write_text('beside the classes')
  (folder / 'lost.jpg').write_bytes(whole)
  (folder / 'empty class').mkdir()
  roses = ('000.jpg', '001.jpg', 'no ending', 'a.jfif', 'b.JPE', 'c.bmp', 'd.gif', 'png.jpg',
           'e.webp', 'more/deeper/f.jpg')
  trees = ('000.jpg', '001.jpg')
  return folder, {f'玫瑰/{name}' for name in roses} | {f'tall [tree]*/{name}' for name in trees}


def test_every_file_is_read_by_its_content_or_named_with_why(odd_folder, output):
  folder, photos = odd_folder
  result = running.run_script('flower_preprocess.py', '--input_dir', folder,
                              '--output_file', output)
  assert result.returncode == 0
  data = data_file.load_processed_data(output)
  assert len(data.files) == len(photos) and set(data.files) == photos
  assert sorted(skipped_files(result.stderr)) == sorted(
      ['cut.jpg', 'empty.jpg', 'text.jpg', 'notes.txt'])
  assert f'skipped: 1 photos in {folder}, which is in no class folder' in result.stderr
  assert 'empty class has no photo that can be read: it is not a class' in result.stderr
  assert len(result.stderr.splitlines()) == 6
  assert {'玫瑰: 10 photos', 'tall [tree]*: 2 photos', 'Skipped 5 files.'} <= set(
      result.stdout.splitlines())


def test_a_class_whose_photos_are_all_damaged_is_not_a_class(photos_dir, output, tmp_path, capsys):
  folder = shutil.copytree(photos_dir, tmp_path / 'photos')
  for path in (folder / 'rose').iterdir():
    path.write_bytes(path.read_bytes()[:-200])
  data = preprocess(folder, output)
  assert data.labels == ['daisy', 'tulip'] and len(data.files) == 16
  labels = np.concatenate([data.training_labels, data.validation_labels, data.testing_labels])
  assert set(labels) == {0, 1}
  assert 'rose has no photo that can be read' in capsys.readouterr().err


def test_a_class_without_photos_in_a_split_is_said(tmp_path, output, capsys):
  folder = write_split(tmp_path / 'photos', train=3, val=2, test=2)
  shutil.rmtree(folder / 'train' / 'rose')
  shutil.rmtree(folder / 'test' / 'tulip')
  assert preprocess(folder, output).labels == ['daisy', 'rose', 'tulip']
  lines = capsys.readouterr().out.splitlines()
  assert 'No training photos: rose.' in lines and 'No testing photos: tulip.' in lines


@pytest.mark.parametrize('layout', [
    'training_set/{}|test_set/{}', 'training_set/training_set/{}|test_set/test_set/{}',
    'seg_train/seg_train/{}|seg_test/seg_test/{}|seg_pred/seg_pred',
    'train_images/{}|val_images/{}', 'Train/{}|Valid/{}|Test/{}', 'train/{}|dev/{}',
    '训练集/{}|验证集/{}|测试集/{}',
    '{}/train|{}/test', 'train/train/{}|test/{}', 'TrainImages/{}|TestImages2/{}'])
def test_splits_under_other_names(layout, tmp_path, output, capsys):
  sides = layout.split('|')
  for number, side in enumerate(sides, start=1):
    for label in ('bus', 'train'):
      made_data.write_photos((tmp_path / 'photos' / side.format(label)).parent, count=2,
                             classes=[side.format(label).rsplit('/', 1)[-1]], seed=number)
  data = preprocess(tmp_path / 'photos', output, validation_percentage=0, testing_percentage=0)
  assert data.labels == ['bus', 'train']
  counts = [len(labels) for labels in (data.training_labels, data.validation_labels,
                                       data.testing_labels)]
  has_validation = 'val' in layout.lower() or 'dev' in layout or '验证' in layout
  has_test = 'test' in layout.lower() or '测试' in layout
  assert counts == [4, 4 * has_validation, 4 * has_test]
  said = capsys.readouterr()
  assert 'Split as the folders are: training' in said.out
  assert ('skipped: 2 photos in' in said.err and 'seg_pred' in said.err) == ('seg_pred' in layout)


@pytest.mark.parametrize(('layout', 'message'), [
    ('train|test', 'is split into test, train, with 0 class folders'),
    ('data/train/{}|data/test/{}', 'give --input_dir=.*data')])
def test_splits_that_cannot_be_taken_are_refused(layout, message, tmp_path):
  for side in layout.split('|'):
    for label in ('bus', 'car') if '{}' in side else ('',):
      made_data.write_photos(tmp_path / os.path.dirname(side.format(label)), count=1,
                             classes=[os.path.basename(side.format(label))])
  with pytest.raises(UserError, match=message):
    splits_of(tmp_path)


def test_a_folder_of_train_alone_is_no_split(tmp_path):
  made_data.write_photos(tmp_path, classes=['bus', 'train'], count=3)
  assert set(splits_of(tmp_path, 0, 0)) == {f'{label}/00{k}.jpg' for label in ('bus', 'train')
                                            for k in range(3)}


def test_classes_that_differ_in_case_are_named(tmp_path, output, capsys):
  made_data.write_photos(tmp_path / 'photos', classes=['Cats', 'cats', 'dogs'], count=3)
  preprocess(tmp_path / 'photos', output)
  assert capsys.readouterr().err.splitlines()[0].endswith(
      'Cats and cats are classes apart: give their folders one name if they are the same')


@pytest.mark.skipif(os.name != 'posix', reason='links need rights on Windows')
def test_a_link_between_class_folders_moves_no_photo(tmp_path):
  made_data.write_photos(tmp_path, classes=['daisy', 'roses'], count=2)
  os.symlink('../roses', tmp_path / 'daisy' / 'link')
  made_data.write_photos(tmp_path / 'roses', classes=['@eaDir'], count=2)
  found = flower_preprocess.create_image_lists(tmp_path, 0, 0, 1)
  assert {each.name: each.label for each in found.photos} == {
      f'{label}/00{k}.jpg': label for label in ('daisy', 'roses') for k in range(2)}
  assert [why for _, why in found.skipped] == ['is a link to a folder that is read already']


@pytest.mark.skipif(os.name != 'posix', reason='links need rights on Windows')
def test_links_are_followed_once(photos_dir, tmp_path):
  folder = shutil.copytree(photos_dir, tmp_path / 'photos')
  shutil.move(folder / 'rose', tmp_path / 'elsewhere')
  os.symlink(tmp_path / 'elsewhere', folder / 'rose')
  os.symlink(folder, folder / 'daisy' / 'loop')
  os.symlink('nowhere', folder / 'daisy' / 'broken.jpg')
  os.mkfifo(folder / 'daisy' / 'fifo.jpg')
  found = flower_preprocess.create_image_lists(folder, 10, 10, 1)
  assert {photo.name for photo in found.photos} == {
      f'{label}/{k:03d}.jpg' for label in ('daisy', 'rose', 'tulip') for k in range(8)}
  assert [(os.path.relpath(path, folder), why) for path, why in found.skipped] == [
      ('daisy/broken.jpg', 'is a link that leads nowhere'),
      ('daisy/fifo.jpg', 'is not a regular file'),
      ('daisy/loop', 'is a link to a folder that is read already')]


@pytest.mark.skipif(os.name != 'posix', reason='names are text on Windows')
def test_names_outside_the_encoding_work(photos_dir, output, tmp_path):
  folder = tmp_path / 'photos'
  for source, name in (('daisy', os.fsdecode(b'caf\xe9')), ('rose', 'new\nline'),
                       ('tulip', 'back\\slash')):
    try:
      shutil.copytree(photos_dir / source, folder / name)
    except OSError:
      pytest.skip('this file system does not take such names')
  result = running.run_script('flower_preprocess.py', '--input_dir', folder,
                              '--output_file', output)
  assert (result.returncode, result.stderr) == (0, '')
  assert {'new\\nline: 8 photos', 'back\\slash: 8 photos'} <= set(result.stdout.splitlines())
  data = data_file.load_processed_data(output)
  assert data.labels == sorted(os.listdir(folder)) and len(data.files) == 24


# -- Folders that are not it -------------------------------------------------------------


def test_a_folder_too_high_or_too_low_is_refused_with_the_right_one(photos_dir, tmp_path):
  (tmp_path / 'data').mkdir()
  folder = shutil.copytree(photos_dir, tmp_path / 'data' / 'flowers')
  with pytest.raises(UserError) as error:
    splits_of(tmp_path)
  advice = f'--input_dir={folder}'
  assert str(error.value).endswith(advice) and len(splits_of(folder)) == 24  # it works
  with pytest.raises(UserError, match='8 photos itself') as error:
    splits_of(folder / 'rose')
  assert str(error.value).endswith(advice)


@pytest.mark.parametrize(('classes', 'message'), [
    ([], 'holds no photo'), (['rose'], '1 class folders'),
    ([f'{k:04d}' for k in range(1001)], '1001 class folders')])
def test_too_few_or_too_many_classes_are_refused(tmp_path, classes, message):
  for name in classes:
    (tmp_path / name).mkdir()
    (tmp_path / name / 'a.gif').write_bytes(b'GIF8')
  with pytest.raises(UserError, match=message):
    splits_of(tmp_path)


# -- Failures ----------------------------------------------------------------------------


@pytest.fixture
def written(photos_dir, output):
  """The output of an earlier run, with a check that it is still there and nothing else is."""
  before = preprocess(photos_dir, output).id

  def check():
    assert sorted(os.listdir(output.parent)) == FILES
    assert data_file.load_processed_data(output).id == before
  yield check
  check()


@pytest.mark.parametrize('failure', ['vanishes', 'interrupted'])
def test_a_failure_while_reading_keeps_the_output_before(
    photos_dir, output, written, tmp_path, monkeypatch, failure):
  folder = shutil.copytree(photos_dir, tmp_path / 'photos')
  read_file = pictures.read_file

  def failing(path):
    if os.path.basename(path) == '005.jpg':
      if failure == 'interrupted':
        raise KeyboardInterrupt
      shutil.rmtree(folder, ignore_errors=True)
    return read_file(path)

  monkeypatch.setattr(pictures, 'read_file', failing)
  with pytest.raises(FileNotFoundError if failure == 'vanishes' else KeyboardInterrupt):
    preprocess(folder, output)


def test_mostly_damaged_photos_keep_the_output_before(photos_dir, output, written, tmp_path):
  folder = shutil.copytree(photos_dir, tmp_path / 'photos')
  for path in folder.glob('*/00[0-4].jpg'):
    path.write_bytes(b'\0' * 1000)  # as a failing disk leaves them
  with pytest.raises(UserError, match='15 of 24 photos cannot be read .*daisy.000.jpg'):
    preprocess(folder, output)


def test_other_files_beside_each_photo_are_not_damaged_photos(photos_dir, output, tmp_path):
  folder = shutil.copytree(photos_dir, tmp_path / 'photos')
  for path in folder.glob('*/*.jpg'):
    for ending in ('.txt', '.xml'):
      path.with_suffix(ending).write_text('the outline of a flower')
  assert len(preprocess(folder, output).files) == 24


@pytest.mark.parametrize(('name', 'content'), [
    ('photos.json', '{"name": "my notes"}'), ('photos.json', 'not JSON'), ('photos.npy', 'mine')])
def test_a_file_of_somebody_else_is_never_replaced(photos_dir, output, name, content):
  (output.parent / name).write_text(content)
  with pytest.raises(UserError, match='would be replaced and is not of flower_preprocess.py'):
    preprocess(photos_dir, output)
  assert os.listdir(output.parent) == [name]
  assert (output.parent / name).read_text() == content


@pytest.mark.parametrize('args', [
    ['--output_file=out.npz'], ['--output_file=none/out.npy'], ['--seed=-1'],
    ['--validation_percentage=50', '--testing_percentage=50'], ['--input_dir=missing'],
    ['--input_dir=gs://photos']])
def test_wrong_options_end_in_one_line(photos_dir, tmp_path, args):
  result = running.run_script('flower_preprocess.py', f'--input_dir={photos_dir}', *args,
                              cwd=tmp_path)
  assert result.returncode in (1, 2) and result.stdout == ''
  assert len(result.stderr.splitlines()) == 1 and args[0].split('=')[0] in result.stderr
  assert os.listdir(tmp_path) == []


def test_missing_flower_photos_cannot_be_fetched_without_network(tmp_path):
  proxies = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY'), 'http://127.0.0.1:9')
  result = running.run_script('flower_preprocess.py', cwd=tmp_path,
                              env={**proxies, 'no_proxy': '', 'NO_PROXY': ''})
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
  assert flower_preprocess.ARCHIVE_URL in result.stderr
  assert '--input_dir=flower_photos' in result.stderr
  assert os.listdir(tmp_path) == ['.flower_photos.lock']


# -- Real data ---------------------------------------------------------------------------


@pytest.mark.skipif(not (running.SHARED / 'flower_photos_sample').is_dir(),
                    reason='needs the real photos')
def test_real_photos_are_preprocessed_as_the_book_does(tmp_path, output):
  folder = tmp_path / 'photos'
  for name in ('daisy', 'tulips'):
    (folder / name).mkdir(parents=True)
    for path in sorted((running.SHARED / 'flower_photos_sample' / name).iterdir())[:3]:
      shutil.copy(path, folder / name)
  data = preprocess(folder, output, validation_percentage=0, testing_percentage=0)
  with tf.Graph().as_default(), tf.Session() as sess:
    for image, name in zip(data.training_images, data.files, strict=True):
      decoded = tf.image.decode_jpeg((folder / name).read_bytes(), channels=3,
                                     dct_method='INTEGER_ACCURATE')
      scaled = tf.image.resize_images(tf.image.convert_image_dtype(decoded, tf.float32), [299, 299])
      np.testing.assert_allclose(image, 255 * sess.run(scaled), atol=0.51, err_msg=name)
  assert json.loads(output.with_suffix('.json').read_text())['labels'] == ['daisy', 'tulips']
