"""Every script meets wrong flags and bad files: it ends with one line that names them, and leaves nothing.

Status 2 is wrong usage, 1 a failure of a file. Each case runs a script in a folder of its own,
with relative paths and without network. The last tests are about files made to do harm.
"""
import contextlib
import gzip
import io
import json
import os
import pathlib
import pickle
import struct
import tarfile
import types
import zlib

import script_support

import numpy as np
import pytest
import support
from PIL import Image

import flower_finetune
import flower_preprocess
import mnist_eval
import mnist_input

tf = script_support.tf

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist_input.SHA256

# Nothing listens on this port, so that a download fails at once, with or without a network.
NO_NETWORK = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'), 'http://127.0.0.1:9')
NO_NETWORK |= {'no_proxy': '', 'NO_PROXY': ''}

# What a trainer that failed may leave: its lock, and the scalars of steps that it did.
MAY_STAY = ('train.lock', 'events.out.tfevents')

ROOT_IGNORES_MODES = pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0,
                                        reason='permissions do not stop root, nor apply where there is none')


def snapshot(folder):
  """Return {path: (size, time of the last change)} of all files below folder, links as links."""
  paths = [pathlib.Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
  return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


def case(name, script, args, status, *texts, build=None, lines=1, marks=()):
  """Return a row of the table.

  Args:
    name: str, of the test.
    script: str, without .py.
    args: list of str.
    status: int, the exit status due.
    texts: str, what standard error must hold.
    build: function of (tmp_path, getfixturevalue) that makes the files; None: there are none.
    lines: int, how many lines there must be, where several are documented.
    marks: pytest's.
  """
  return pytest.param(script + '.py', args, status, texts, build, lines, id=f'{script}: {name}', marks=marks)


def usage(script, *flags, args=()):
  """Return a row for each flag with a wrong value; the line must hold both."""
  return [case(flag, script, [flag, *args], 2, flag.split('=')[0], flag.split('=')[1] or 'give')
          for flag in flags]


def unknown(script, *flags, args=()):
  """Return a row for each flag that there is not; the line must hold its name."""
  return [case(flag, script, [flag, *args], 2, flag.lstrip('-').split('=')[0], '--help') for flag in flags]


# -- Files that are not as they should be ------------------------------------------------


def file(name, content=b''):
  """A file with the content, in folders that are made."""
  def build(tmp, get):
    (tmp / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp / name).write_bytes(content)
  return build


def folder(name):
  return lambda tmp, get: (tmp / name).mkdir(parents=True)


def link_loop(name):
  def build(tmp, get):
    (tmp / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp / name).symlink_to(pathlib.Path(name).name)
  return build


def both(*builders):
  def build(tmp, get):
    for each in builders:
      each(tmp, get)
  return build


def good_mnist(tmp, get):
  """data: a whole set, enough for training."""
  (tmp / 'data').symlink_to(get('mnist_dir'), target_is_directory=True)


def mnist_with(name, change):
  """data: a small set in which one file is changed; change(bytes) is the new content, None: no file."""
  def build(tmp, get):
    path = support.write_mnist(tmp / 'data', train=40, test=5) / name
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
      path.write_bytes(content)
  return build


def inside(change):
  """A change of what a gzip file holds."""
  return lambda packed: gzip.compress(change(gzip.decompress(packed)), 1, mtime=0)


def swapped_mnist(tmp, get):
  data = support.write_mnist(tmp / 'data', train=40, test=5)
  (data / TRAIN_IMAGES).rename(tmp / 'images')
  (data / TRAIN_LABELS).rename(data / TRAIN_IMAGES)
  (tmp / 'images').rename(data / TRAIN_LABELS)


def folder_for_mnist_file(tmp, get):
  (support.write_mnist(tmp / 'data', train=40, test=5) / TEST_LABELS).unlink()
  (tmp / 'data' / TEST_LABELS).mkdir()


def png(width, height, rows=b''):
  """A PNG file, 8 bits of grey, whose header declares a size that rows need not have."""
  def chunk(kind, content):
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
          + chunk(b'IEND', b''))


def picture(kind, size=(40, 30), background=255):
  """An image file, bytes, of a dark stroke on paper."""
  pixels = np.full(size[::-1], background, np.uint8)
  pixels[size[1] // 4:-size[1] // 4, size[0] // 3:size[0] // 2] = 0
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind)
  return buffer.getvalue()


def jpeg_declaring(width, height):
  """A JPEG file whose frame header declares another size than it has."""
  content = bytearray(picture('JPEG'))
  frame = content.index(b'\xff\xc0')
  content[frame + 5:frame + 9] = struct.pack('>HH', height, width)
  return bytes(content)


def photos(*paths, content=None):
  """Photos in class folders."""
  return both(*(file(path, picture('JPEG') if content is None else content) for path in paths))


two_photos = photos('photos/daisy/a.jpg', 'photos/rose/b.jpg')

RECORDS = np.zeros(3, flower_preprocess.RECORD)
RECORDS['label'] = [0, 1, 0]
RECORDS['split'] = flower_preprocess.SPLITS
NAMES = {'labels': ['daisy', 'rose'], 'files': ['daisy/a.jpg', 'rose/b.jpg', 'daisy/c.jpg'],
         'counts': dict.fromkeys(flower_preprocess.SPLITS, 1)}


def npy(array):
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def npz(array):
  buffer = io.BytesIO()
  np.savez(buffer, array)
  return buffer.getvalue()


def npy_header(text):
  """A .npy file of three records with another header."""
  text = text.ljust(245).encode() + b'\n'
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text + RECORDS.tobytes()


def changed_records(**fields):
  records = RECORDS.copy()
  for name, value in fields.items():
    records[name] = value
  return records


def flower_data(content=None, names=NAMES, **changes):
  """data.npy and data.json; content: bytes of the first; names: dict, bytes, or None for no file."""
  def build(tmp, get):
    (tmp / 'data.npy').write_bytes(npy(RECORDS) if content is None else content)
    if names is not None:
      (tmp / 'data.json').write_bytes(names if isinstance(names, bytes) else
                                      json.dumps({**names, **changes}).encode())
  return build


def write_checkpoint(path, **values):
  """Write arrays as a checkpoint; / in their names is spelt __ here."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = {name.replace('__', '/'): tf.Variable(value) for name, value in values.items()}
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(variables).save(sess, str(path), write_meta_graph=False, write_state=False)


def other_network(path):
  """A whole checkpoint of variables that no network here has."""
  return lambda tmp, get: write_checkpoint(tmp / path, other__weight=np.zeros([3, 4], np.float32))


def damaged_checkpoint(path, suffix, change):
  """A checkpoint in one of whose files the content is changed."""
  def build(tmp, get):
    other_network(path)(tmp, get)
    (damaged,) = (tmp / path).parent.glob(f'{pathlib.Path(path).name}{suffix}*')
    damaged.write_bytes(change(damaged.read_bytes()))
  return build


def garbage(old):
  return np.random.RandomState(0).bytes(len(old))


def digits_checkpoint(damage=None):
  """model/mnist.ckpt-7: a whole checkpoint for evaluation; damage(path of its data file) comes after."""
  def build(tmp, get):
    path = tmp / 'model' / 'mnist.ckpt-7'
    path.parent.mkdir()
    with tf.Graph().as_default(), tf.Session() as sess:
      graph = mnist_eval.build_evaluation_graph()
      sess.run(tf.global_variables_initializer())
      graph.saver.save(sess, str(path), write_meta_graph=False, write_state=False)
    if damage:
      damage(path.with_name(path.name + '.data-00000-of-00001'))
  return build


def flip_a_byte(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 255
  path.write_bytes(content)


def state_file(text):
  return file('model/checkpoint', text if isinstance(text, bytes) else text.encode())


def model_json(**changes):
  model = {'labels': NAMES['labels'], 'batch_norm': 'frozen', **changes}
  return file('model/model.json', json.dumps(model).encode())


def read_only(name):
  return lambda tmp, get: (tmp / name).chmod(0o500)


def unreadable(name):
  return lambda tmp, get: (tmp / name).chmod(0)


TRAIN = ['--data_dir=data', '--model_dir=model', '--training_steps=2', '--batch_size=10']
EVAL = ['--data_dir=data', '--model_dir=model', '--run_once']
PREPROCESS = ['--input_dir=photos', '--output_file=out.npy']
FINETUNE = ['--input_file=data.npy', '--ckpt_file=some.ckpt', '--model_dir=model', '--steps=2']
PREDICT = ['--model_dir=model', 'a.jpg']
CUT_PHOTO = picture('JPEG', (300, 200))[:-900]
PNG_FILE = picture('PNG')

FLAG_CASES = [
    *usage('mnist_train', '--batch_size=0', '--batch_size=-1', '--batch_size=many', '--batch_size=1.5',
           '--batch_size=', '--learning_rate_base=nan', '--learning_rate_base=inf', '--learning_rate_base=1e+39',
           '--learning_rate_base=-0.1', '--learning_rate_base=fast', '--learning_rate_decay=1.1',
           '--learning_rate_decay=nan', '--learning_rate_decay=-1', '--regularization_rate=-1',
           '--regularization_rate=nan', '--regularization_rate=inf', '--training_steps=0', '--training_steps=-5',
           '--training_steps=1e3', '--moving_average_decay=2', '--moving_average_decay=nan',
           '--save_interval_steps=0', '--max_to_keep=0', '--max_to_keep=-1', '--seed=-1', '--seed=2147483648',
           '--seed=x', args=TRAIN[:2]),
    *usage('mnist_eval', '--split=train', '--split=', '--split=Test', '--eval_interval_secs=-1',
           '--eval_interval_secs=nan', '--eval_interval_secs=inf', '--timeout_secs=-1', '--timeout_secs=nan',
           '--timeout_secs=soon', '--min_accuracy=1.5', '--min_accuracy=-0.1', '--min_accuracy=nan',
           '--confusion_matrix=perhaps', args=EVAL),
    *usage('flower_preprocess', '--validation_percentage=-1', '--validation_percentage=100',
           '--validation_percentage=ten', '--testing_percentage=10.5', '--testing_percentage=-10', '--seed=-1',
           '--seed=99999999999', '--output_file=out', '--output_file=out.npz', '--output_file=',
           args=['--input_dir=photos']),
    *usage('flower_finetune', '--learning_rate=nan', '--learning_rate=inf', '--learning_rate=1e+39',
           '--learning_rate=-1', '--steps=0', '--steps=-300', '--batch_size=0', '--batch_size=x', '--seed=-1',
           '--batch_norm=none', '--batch_norm=', '--feature_cache=perhaps', args=FINETUNE[:3]),
    *usage('flower_predict', '--top_k=0', '--top_k=-1', '--top_k=all', args=['a.jpg']),
    *unknown('mnist_train', '--learning_rate=0.1', '--batchsize=10', '--no_such_flag', '-x', args=TRAIN),
    *unknown('mnist_eval', '--runonce', '--norun_onc', args=EVAL),
    *unknown('mnist_predict', '--modeldir=x', '--top_k=3', args=['a.png']),
    *unknown('flower_preprocess', '--test_percentage=10', args=['--input_dir=photos']),
    *unknown('flower_finetune', '--trainable_scope=InceptionV3', args=FINETUNE),
    *unknown('flower_predict', '--model=x', args=['a.jpg']),
    case('missing flag file', 'mnist_train', ['--flagfile=missing'], 2, 'missing'),
    *[case('stray argument', script, ['extra.txt'], 2, 'extra.txt', '--')
      for script in ('mnist_train', 'mnist_eval', 'flower_preprocess', 'flower_finetune')],
    case('value without its flag', 'mnist_train', ['--batch_size=10', '20'], 2, '20'),
    case('flag without its value', 'mnist_train', ['--batch_size'], 2, 'batch_size'),
    case('no image', 'mnist_predict', [], 2, 'IMAGE'),
    case('no photo', 'flower_predict', ['--top_k=1'], 2, 'PHOTO'),
    *[case(' '.join(shares), 'flower_preprocess', shares, 2, *shares)
      for shares in [['--validation_percentage=60', '--testing_percentage=50'],
                     ['--validation_percentage=50', '--testing_percentage=50']]],
    case('batch above the training set', 'mnist_train', [*TRAIN, '--batch_size=201'], 2, '--batch_size=201', '200',
         build=good_mnist),
    case('unknown scope to train', 'flower_finetune', [*FINETUNE, '--trainable_scopes=InceptionV3/Logit,Incept_7'],
         2, '--trainable_scopes', 'Incept_7', build=flower_data()),
    case('no scope to train', 'flower_finetune', [*FINETUNE, '--trainable_scopes='], 2, '--trainable_scopes',
         build=flower_data()),
    case('unknown scope to exclude', 'flower_finetune', [*FINETUNE, '--checkpoint_exclude_scopes=Logits'], 2,
         '--checkpoint_exclude_scopes', 'Logits', build=flower_data()),
]

IDX_CASES = [
    *[case(f'without {name}', script, TRAIN[:2], 1, f'data/{name}', 'missing', '--data_dir',
           build=mnist_with(name, lambda old: None))
      for script, name in [('mnist_train', TRAIN_IMAGES), ('mnist_train', TRAIN_LABELS),
                           ('mnist_eval', TEST_IMAGES), ('mnist_eval', TEST_LABELS)]],
    case('other files only', 'mnist_train', TRAIN, 1, TRAIN_IMAGES, 'missing', build=file('data/notes.txt', b'x')),
    case('empty file', 'mnist_train', TRAIN, 1, f'data/{TRAIN_LABELS}', 'cut short',
         build=mnist_with(TRAIN_LABELS, lambda old: b'')),
    case('not gzip', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', 'not gzip',
         build=mnist_with(TRAIN_IMAGES, gzip.decompress)),
    case('text', 'mnist_eval', EVAL, 1, f'data/{TRAIN_IMAGES}', 'not gzip',
         build=mnist_with(TRAIN_IMAGES, lambda old: b'<html>404</html>\n')),
    case('cut gzip', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', 'cut short',
         build=mnist_with(TRAIN_IMAGES, lambda old: old[:1000])),
    case('gzip cut in its header', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', 'cut short',
         build=mnist_with(TRAIN_IMAGES, lambda old: old[:5])),
    case('gzip with a wrong byte', 'mnist_train', TRAIN, 1, f'data/{TEST_IMAGES}', 'damaged',
         build=mnist_with(TEST_IMAGES, lambda old: old[:-900] + bytes([old[-900] ^ 255]) + old[-899:])),
    case('gzip with a wrong checksum', 'mnist_train', TRAIN, 1, f'data/{TEST_LABELS}', 'damaged',
         build=mnist_with(TEST_LABELS, lambda old: old[:-8] + b'\0' * 8)),
    case('cut content', 'mnist_train', TRAIN, 1, f'data/{TEST_IMAGES}', '3920', '3910', 'cut short',
         build=mnist_with(TEST_IMAGES, inside(lambda old: old[:-10]))),
    case('content cut in its header', 'mnist_eval', EVAL, 1, f'data/{TEST_IMAGES}', '7', '16',
         build=mnist_with(TEST_IMAGES, inside(lambda old: old[:7]))),
    case('wrong magic number', 'mnist_train', TRAIN, 1, f'data/{TRAIN_LABELS}', '2050', '2049',
         build=mnist_with(TRAIN_LABELS, inside(lambda old: struct.pack('>I', 2050) + old[4:]))),
    case('images and labels swapped', 'mnist_eval', EVAL, 1, f'data/{TRAIN_IMAGES}', '2049', '2051',
         build=swapped_mnist),
    case('too long', 'mnist_train', TRAIN, 1, f'data/{TRAIN_LABELS}', 'too long', '40',
         build=mnist_with(TRAIN_LABELS, inside(lambda old: old + b'\0'))),
    case('two gzip files in one', 'mnist_train', TRAIN, 1, f'data/{TRAIN_LABELS}', 'too long',
         build=mnist_with(TRAIN_LABELS, lambda old: old + old)),
    case('label above 9', 'mnist_train', TRAIN, 1, f'data/{TRAIN_LABELS}', 'label 10', 'position 39',
         build=mnist_with(TRAIN_LABELS, inside(lambda old: old[:-1] + b'\n'))),
    case('counts differ', 'mnist_train', TRAIN, 1, f'data/{TEST_IMAGES}', f'data/{TEST_LABELS}', '5 images',
         '4 labels',
         build=mnist_with(TEST_LABELS, lambda old: gzip.compress(support.idx_labels(np.zeros(4, 'u1'))))),
    case('no images', 'mnist_eval', EVAL, 1, f'data/{TEST_IMAGES}', '0 images',
         build=both(mnist_with(TEST_LABELS, lambda old: gzip.compress(support.idx_labels(np.zeros(0, 'u1')))),
                    file(f'data/{TEST_IMAGES}', gzip.compress(support.idx_images(np.zeros([0, 28, 28], 'u1')))))),
    case('not 28x28', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', '32x30', '28x28',
         build=mnist_with(TRAIN_IMAGES,
                          lambda old: gzip.compress(support.idx_images(np.zeros([4, 32, 30], np.uint8))))),
    case('absurd count', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', '4294967295',
         build=mnist_with(TRAIN_IMAGES, inside(lambda old: old[:4] + b'\xff' * 4 + old[8:]))),
    case('absurd size', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', '4294967295x4294967295',
         build=mnist_with(TRAIN_IMAGES, inside(lambda old: old[:8] + b'\xff' * 8 + old[16:]))),
    case('folder in place of a file', 'mnist_train', TRAIN, 1, f'data/{TEST_LABELS}', 'directory',
         build=folder_for_mnist_file),
    case('fewer examples than validation takes', 'mnist_train', TRAIN, 1, 'data', '5000', '40 ',
         build=lambda tmp, get: support.write_mnist(tmp / 'data', train=40, test=5)),
    *[case('file for a data folder', script, args, 1, '--data_dir=data', build=file('data', b'x'))
      for script, args in [('mnist_train', TRAIN), ('mnist_eval', EVAL)]],
    case('no name of a data folder', 'mnist_train', ['--data_dir='], 1, '--data_dir'),
    case('file for a model folder', 'mnist_train', TRAIN, 1, '--model_dir=model',
         build=both(good_mnist, file('model', b'x'))),
    case('no name of a model folder', 'mnist_train', [*TRAIN, '--model_dir='], 1, '--model_dir', build=good_mnist),
    case('folder for a lock', 'mnist_train', TRAIN, 1, 'model/train.lock',
         build=both(good_mnist, folder('model/train.lock'))),
    case('unreadable file', 'mnist_train', TRAIN, 1, f'data/{TRAIN_IMAGES}', 'Permission',
         build=both(mnist_with(TRAIN_IMAGES, bytes), unreadable(f'data/{TRAIN_IMAGES}')),
         marks=ROOT_IGNORES_MODES),
    case('model folder without write permission', 'mnist_train', TRAIN, 1, 'model', 'Permission',
         build=both(good_mnist, folder('model'), read_only('model')), marks=ROOT_IGNORES_MODES),
    *[case('nothing to fetch from', script, args, 1, mnist_input.MIRROR + TRAIN_IMAGES, TEST_LABELS,
           '--data_dir=data', build=folder('data'))
      for script, args in [('mnist_train', TRAIN), ('mnist_eval', EVAL)]],
]

IMAGE_CASES = [
    *[case(name, 'mnist_predict', ['a.png'], 1, 'a.png', *texts, build=build) for name, texts, build in [
        ('missing', ['No such file'], None),
        ('empty', [], file('a.png')),
        ('text', ['PNG'], file('a.png', b'not a picture\n')),
        ('cut PNG', ['damaged'], file('a.png', PNG_FILE[:-30])),
        ('PNG cut in its header', [], file('a.png', PNG_FILE[:20])),
        ('PNG without pixels', ['damaged'], file('a.png', png(30, 30))),
        ('cut JPEG', ['damaged'], file('a.png', CUT_PHOTO)),
        ('cut GIF', [], file('a.png', picture('GIF')[:60])),
        ('cut BMP', ['damaged'], file('a.png', picture('BMP')[:-300])),
        ('TIFF', ['PNG'], file('a.png', picture('TIFF'))),
        ('folder', ['directory'], folder('a.png')),
        ('link loop', [], link_loop('a.png')),
        ('all white', ['one shade'], file('a.png', picture('PNG', background=0))),
        ('one pixel', ['one shade'], file('a.png', png(1, 1, b'\0\0'))),
        ('huge', ['30000x30000', '100 million'], file('a.png', png(30000, 30000))),
        ('huge JPEG', ['65000x65000'], file('a.png', jpeg_declaring(65000, 65000))),
        ('without width', [], file('a.png', png(0, 5, b'\0' * 5))),
        ('without height', [], file('a.png', png(5, 0))),
        ('GIF without size', [], file('a.png', b'GIF89a\0\0\0\0\0\0\0,\0\0\0\0\0\0\0\0\0\2\2\x4c\1\0;')),
        ('BMP without size', [], file('a.png', b'BM' + struct.pack('<IIIIiiHHIIIIII', 54, 0, 54, 40, 0, 0, 1, 24,
                                                                     0, 0, 0, 0, 0, 0)))]],
    case('odd name', 'mnist_predict', ['no\nsuch \x1b[31m花.png'], 1, 'no\\nsuch', '\\x1b', '花.png'),
    case('undecodable name', 'mnist_predict', [os.fsdecode(b'caf\xe9.png')], 1, 'caf\\udce9.png'),
    case('image without a model', 'mnist_predict', ['--model_dir=model', 'a.png'], 1, '--model_dir=model',
         'mnist_train.py', build=file('a.png', PNG_FILE)),
    case('unreadable image', 'mnist_predict', ['a.png'], 1, 'a.png', 'Permission',
         build=both(file('a.png', PNG_FILE), unreadable('a.png')), marks=ROOT_IGNORES_MODES),
    *[case(name, 'flower_predict', PREDICT, 1, 'a.jpg', *texts, build=both(model_json(), build))
      for name, texts, build in [
        ('missing', ['No such file'], folder('x')),
        ('empty', ['empty'], file('a.jpg')),
        ('text', ['JPEG'], file('a.jpg', b'not a picture\n')),
        ('PNG', ['JPEG'], file('a.jpg', PNG_FILE)),
        ('cut', ['cut short'], file('a.jpg', CUT_PHOTO)),
        ('cut in its header', [], file('a.jpg', CUT_PHOTO[:30])),
        ('folder', ['directory'], folder('a.jpg')),
        ('link loop', [], link_loop('a.jpg')),
        ('huge', ['60000x50000'], file('a.jpg', jpeg_declaring(60000, 50000))),
        ('without size', [], file('a.jpg', jpeg_declaring(0, 0)))]],
]

PHOTO_CASES = [
    case('no input folder', 'flower_preprocess', PREPROCESS, 1, '--input_dir=photos'),
    case('input folder without name', 'flower_preprocess', [*PREPROCESS, '--input_dir='], 1, '--input_dir='),
    case('file for an input folder', 'flower_preprocess', PREPROCESS, 1, '--input_dir=photos',
         build=file('photos', b'x')),
    case('empty input folder', 'flower_preprocess', PREPROCESS, 1, '--input_dir=photos', '0 folders',
         build=folder('photos')),
    case('photos without class folders', 'flower_preprocess', PREPROCESS, 1, '--input_dir=photos', '0 folders',
         build=photos('photos/a.jpg')),
    case('one class', 'flower_preprocess', PREPROCESS, 1, '--input_dir=photos', '1 folders',
         build=photos('photos/rose/a.jpg', 'photos/rose/b.jpg')),
    case('no photos', 'flower_preprocess', PREPROCESS, 1, 'photos/daisy', 'photos/rose', '--input_dir=photos',
         build=both(folder('photos/daisy'), file('photos/rose/a.txt')), lines=3),
    case('link loop for a class folder', 'flower_preprocess', PREPROCESS, 1, '--input_dir=photos', '1 folders',
         build=both(photos('photos/rose/a.jpg'), link_loop('photos/loop'))),
    case('too many classes', 'flower_preprocess', PREPROCESS, 1, '1001 folders', '1000',
         build=photos(*(f'photos/{k:04d}/a.jpg' for k in range(1001)), content=b'')),
    case('all photos broken', 'flower_preprocess', PREPROCESS, 1, 'daisy/a.jpg', 'is empty', 'daisy/b.jpg',
         'no JPEG', 'rose/c.jpg', 'cut short', 'rose/d.jpg', '40000x30000', 'rose/e.jpg', '--input_dir=photos',
         build=both(file('photos/daisy/a.jpg'), file('photos/daisy/b.jpg', PNG_FILE),
                    file('photos/rose/c.jpg', CUT_PHOTO), file('photos/rose/d.jpg', jpeg_declaring(40000, 30000)),
                    link_loop('photos/rose/e.jpg')), lines=6),
    case('broken photos with odd names', 'flower_preprocess', PREPROCESS, 1, 'new\\nline', '花.jpg', 'photos',
         build=both(file('photos/new\nline/a.jpg'), file('photos/玫瑰/花.jpg')), lines=3),
    case('output in no folder', 'flower_preprocess', [PREPROCESS[0], '--output_file=none/out.npy'], 1,
         'none/out.', build=two_photos),
    case('folder for the output', 'flower_preprocess', PREPROCESS, 1, 'out.npy',
         build=both(two_photos, folder('out.npy'))),
    case('folder for the names', 'flower_preprocess', PREPROCESS, 1, 'out.json',
         build=both(two_photos, folder('out.json'))),
    case('output folder without write permission', 'flower_preprocess',
         [PREPROCESS[0], '--output_file=sub/out.npy'], 1, 'sub/out.', 'Permission',
         build=both(two_photos, folder('sub'), read_only('sub')), marks=ROOT_IGNORES_MODES),
    case('nothing to fetch from', 'flower_preprocess', ['--input_dir=flower_photos'], 1,
         flower_preprocess.ARCHIVE_URL, '--input_dir=flower_photos'),
]

DATA_FILE_CASES = [
    case(name, 'flower_finetune', FINETUNE, 1, *texts, build=build) for name, texts, build in [
        ('no data file', ['data.npy'], None),
        ('folder for a data file', ['data.npy'], folder('data.npy')),
        ('empty', ['data.npy'], flower_data(b'')),
        ('text', ['data.npy'], flower_data(b'not an array\n')),
        ('pickled array', ['data.npy', 'flower_preprocess.py'], flower_data(npy(np.array([{}, 1], object)))),
        ('pickle', ['data.npy'], flower_data(pickle.dumps([1, 2]))),
        ('.npz', ['data.npy'], flower_data(npz(RECORDS))),
        ('floats', ['data.npy', 'float64', '(4,)'], flower_data(npy(np.zeros(4)))),
        ('2-D', ['data.npy', '(3, 1)'], flower_data(npy(RECORDS[:, None]))),
        ('0-D', ['data.npy', '()'], flower_data(npy(RECORDS[0]))),
        ('cut short', ['data.npy'], flower_data(npy(RECORDS)[:-1])),
        ('cut in its header', ['data.npy'], flower_data(npy(RECORDS)[:60])),
        ('header alone', ['data.npy'], flower_data(npy(RECORDS)[:128])),
        ('absurd count', ['data.npy'], flower_data(npy_header(
            repr({'descr': RECORDS.dtype.descr, 'fortran_order': False, 'shape': (10**15,)})))),
        ('count beyond 64 bits', ['data.npy'], flower_data(npy_header(
            repr({'descr': RECORDS.dtype.descr, 'fortran_order': False, 'shape': (10**30,)})))),
        ('negative count', ['data.npy'], flower_data(npy_header(
            repr({'descr': RECORDS.dtype.descr, 'fortran_order': False, 'shape': (-1,)})))),
        ('header of Python 2', ['data.npy'], flower_data(npy_header(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }"))),
        ('header nested too deep', ['data.npy'], flower_data(npy_header('-' * 5000 + '1'))),
        ('labels beyond the classes', ['data.npy', '2 classes'],
         flower_data(npy(changed_records(label=[0, 2, 1])))),
        ('negative labels', ['data.npy', '2 classes'], flower_data(npy(changed_records(label=[0, -1, 1])))),
        ('other splits', ['data.npy', 'data.json'], flower_data(npy(changed_records(split=['training'] * 3)))),
        ('no names', ['data.json', 'missing'], flower_data(names=None)),
        ('folder for names', ['data.json'], both(flower_data(names=None), folder('data.json'))),
        ('empty names', ['data.json'], flower_data(names=b'')),
        ('names no JSON', ['data.json'], flower_data(names=b'{"labels": [')),
        ('names no UTF-8', ['data.json'], flower_data(names=b'{"labels": ["\xff\xfe"]}')),
        ('names nested too deep', ['data.json'], flower_data(names=b'[' * 100_000)),
        ('names a list', ['data.json', 'object'], flower_data(names=b'["daisy", "rose"]')),
        ('names an empty object', ['data.json', '"labels"'], flower_data(names=b'{}')),
        ('labels no list', ['data.json', '"labels"'], flower_data(labels='daisy')),
        ('labels no names', ['data.json', '"labels"'], flower_data(labels=['daisy', 7])),
        ('one label', ['data.json', '"labels"'], flower_data(labels=['daisy'])),
        ('a label twice', ['data.json', '"labels"'], flower_data(labels=['daisy', 'daisy'])),
        ('files no list', ['data.json', '"files"'], flower_data(files={'a': 1})),
        ('counts no object', ['data.json', '"counts"'], flower_data(counts=[1, 1, 1])),
        ('counts of other splits', ['data.json', '"counts"'], flower_data(counts={'train': 3})),
        ('counts no numbers', ['data.json', '"counts"'],
         flower_data(counts={'training': '1', 'validation': 1, 'testing': 1})),
        ('negative counts', ['data.json', '"counts"'],
         flower_data(counts={'training': 4, 'validation': 0, 'testing': -1})),
        ('counts of fewer files', ['data.json', '"counts"', '3 files'],
         flower_data(counts={'training': 1, 'validation': 0, 'testing': 1})),
        ('names of another run', ['data.npy', 'data.json'],
         flower_data(counts={'training': 1, 'validation': 2, 'testing': 0})),
        *[(f'no {split} photos', ['--input_file=data.npy', f'no {split} photos'],
           flower_data(npy(changed_records(split=[first, first, last])), counts={split: 0, first: 2, last: 1}))
          for split, first, last in [('training', 'validation', 'testing'), ('validation', 'training', 'testing'),
                                     ('testing', 'training', 'validation')]],
        ('no photos at all', ['--input_file=data.npy', 'no training photos'],
         flower_data(npy(RECORDS[:0]), files=[], counts=dict.fromkeys(flower_preprocess.SPLITS, 0)))]
]

CHECKPOINT_CASES = [
    *[case('of another network', script, args, 1, 'model/mnist.ckpt-7', 'another network',
           build=both(good_mnist, file('a.png', PNG_FILE), other_network('model/mnist.ckpt-7')))
      for script, args in [('mnist_train', TRAIN), ('mnist_eval', EVAL),
                           ('mnist_predict', ['--model_dir=model', 'a.png'])]],
    # A damaged checkpoint has a line of its own: an older one may still be whole.
    *[case(f'{name} of a checkpoint', script, args, 1, 'model/mnist.ckpt-7', 'skipped', 'none of the 1', lines=2,
           build=both(good_mnist, file('a.png', PNG_FILE), build))
      for script, args in [('mnist_train', TRAIN), ('mnist_predict', ['--model_dir=model', 'a.png'])]
      for name, build in [
          ('empty index', damaged_checkpoint('model/mnist.ckpt-7', '.index', lambda old: b'')),
          ('garbage index', damaged_checkpoint('model/mnist.ckpt-7', '.index', garbage)),
          ('text index', file('model/mnist.ckpt-7.index', b'not an index\n' * 30)),
          ('folder index', folder('model/mnist.ckpt-7.index')),
          ('state file', state_file('model_checkpoint_path: "mnist.ckpt-7"\n'
                                    'all_model_checkpoint_paths: "mnist.ckpt-7"\n'))]],
    *[case(f'{name} of a checkpoint', 'mnist_predict', ['--model_dir=model', 'a.png'], 1, 'model/mnist.ckpt-7',
           'skipped', reason, 'none of the 1', lines=2,
           build=both(file('a.png', PNG_FILE), digits_checkpoint(damage)))
      for name, reason, damage in [('cut data', 'less bytes', lambda path: os.truncate(path, 3_000_000)),
                                   ('empty data', 'less bytes', lambda path: os.truncate(path, 0)),
                                   ('no data', 'No such file', os.remove),
                                   ('wrong byte', 'Checksum', flip_a_byte)]],
    case('cut data of a checkpoint', 'mnist_eval', EVAL, 1, 'model/mnist.ckpt-7', 'skipped',
         build=both(good_mnist, digits_checkpoint(lambda path: os.truncate(path, 3_000_000)))),
    case('file for the scalars', 'mnist_eval', EVAL, 1, 'model/eval_validation',
         build=both(good_mnist, digits_checkpoint(), file('model/eval_validation'))),
    case('file for the scalars', 'mnist_train', TRAIN, 1, 'model/train',
         build=both(good_mnist, file('model/train'))),
    case('model folder without write permission', 'mnist_eval', EVAL, 1, 'model', 'Permission',
         build=both(good_mnist, digits_checkpoint(), read_only('model')), marks=ROOT_IGNORES_MODES),
    case('garbage index of a checkpoint', 'mnist_eval', EVAL, 1, 'model/mnist.ckpt-7', 'skipped',
         build=both(good_mnist, damaged_checkpoint('model/mnist.ckpt-7', '.index', garbage))),
    *[case(f'{name} for a state file', 'mnist_predict', ['--model_dir=model', 'a.png'], 1, '--model_dir=model',
           'no checkpoint', build=both(file('a.png', PNG_FILE), build))
      for name, build in [('text', state_file('not a state file\n')), ('nothing', state_file('')),
                          ('bytes', state_file(bytes(range(128, 256)))), ('folder', folder('model/checkpoint'))]],
    case('file for a model folder', 'mnist_predict', ['--model_dir=model', 'a.png'], 1, '--model_dir=model',
         build=both(file('a.png', PNG_FILE), file('model', b'x'))),

    *[case(name, 'flower_predict', PREDICT, 1, *texts, build=both(file('a.jpg', picture('JPEG')), build))
      for name, texts, build in [
          ('no model folder', ['--model_dir=model', 'flower_finetune.py'], folder('x')),
          ('file for a model folder', ['--model_dir=model'], file('model')),
          ('no model.json', ['--model_dir=model'], file('model/flower.ckpt-0.index')),
          ('folder for model.json', ['model/model.json'], folder('model/model.json')),
          ('model.json no JSON', ['model/model.json'], file('model/model.json', b'{"labels":')),
          ('model.json a list', ['model/model.json', 'object'], file('model/model.json', b'[]')),
          ('model.json without labels', ['model/model.json', '"labels"'], model_json(labels=None)),
          ('model.json with one label', ['model/model.json', '"labels"'], model_json(labels=['rose'])),
          ('model of batch statistics', ['--model_dir=model', '--batch_norm=batch'],
           model_json(batch_norm='batch')),
          ('checkpoint of another network', ['model/flower.ckpt-7', 'another network'],
           both(model_json(), other_network('model/flower.ckpt-7')))]],

    case('pre-trained checkpoint missing', 'flower_finetune', FINETUNE, 1, '--ckpt_file=some.ckpt',
         build=flower_data()),
    case('nothing to fetch from', 'flower_finetune', [*FINETUNE, '--ckpt_file=inception_v3.ckpt'], 1,
         flower_finetune.CKPT_URL, '--ckpt_file=inception_v3.ckpt', build=flower_data()),
    case('pre-trained checkpoint of text', 'flower_finetune', FINETUNE, 1, 'some.ckpt',
         build=both(flower_data(), file('some.ckpt', b'not a checkpoint\n'))),
    case('pre-trained checkpoint of other classes', 'flower_finetune', [*FINETUNE, '--checkpoint_exclude_scopes='],
         1, '--ckpt_file=some.ckpt', 'Logits/Conv2d_1c_1x1/biases', '[1001]', '[2]', '--checkpoint_exclude_scopes',
         build=both(flower_data(), lambda tmp, get: write_checkpoint(
             tmp / 'some.ckpt', InceptionV3__Logits__Conv2d_1c_1x1__biases=np.zeros(1001, np.float32)))),
    case('model folder of other classes', 'flower_finetune', FINETUNE, 1, '--model_dir=model', 'labels', 'tulip',
         build=both(flower_data(), other_network('model/flower.ckpt-0'), model_json(labels=['daisy', 'tulip']))),
]


@pytest.mark.parametrize(('script', 'args', 'status', 'texts', 'build', 'lines'), [
    *FLAG_CASES, *IDX_CASES, *IMAGE_CASES, *PHOTO_CASES, *DATA_FILE_CASES, *CHECKPOINT_CASES])
def test_bad_input_ends_in_its_status_and_line(script, args, status, texts, build, lines, tmp_path, request):
  if build:
    build(tmp_path, request.getfixturevalue)
  before = snapshot(tmp_path)
  result = support.run_script(script, *args, cwd=tmp_path, env=NO_NETWORK)
  said = f'status {result.returncode}: {result.stderr}'
  assert result.returncode == status, said
  assert 'Traceback' not in result.stderr, said
  assert len(result.stderr.splitlines()) == lines, said
  assert all(line.startswith(f'{script}: ') for line in result.stderr.splitlines()), said
  for text in texts:
    assert text in result.stderr, f'{text!r} is not in: {said}'
  after = snapshot(tmp_path)
  assert {path: after.get(path) for path in before} == before  # what was there is as it was
  assert [path.name for path in after if path not in before and not path.name.startswith(MAY_STAY)] == []


# -- More than one line, and bad files that are not the end ------------------------------


@pytest.mark.parametrize(('script', 'args', 'names'), [
    ('mnist_predict.py', [], ['missing.png', 'empty.png', 'text.png']),
    ('flower_predict.py', ['--model_dir=model'], ['missing.jpg', 'empty.jpg', 'text.jpg'])])
def test_a_line_for_each_bad_file(script, args, names, tmp_path):
  both(model_json(), file(names[1]), file(names[2], b'text'))(tmp_path, None)
  result = support.run_script(script, *args, *names, cwd=tmp_path)
  assert result.returncode == 1 and result.stdout == ''
  lines = result.stderr.splitlines()
  assert len(lines) == 3
  for name, line in zip(names, lines, strict=True):
    assert line.startswith(f'{script}: error: {name}')


def test_bad_photos_are_skipped_with_a_line_each(tmp_path):
  both(two_photos, file('photos/rose/c.jpg', CUT_PHOTO), file('photos/daisy/d.jpg'))(tmp_path, None)
  result = support.run_script('flower_preprocess.py', *PREPROCESS, cwd=tmp_path)
  assert result.returncode == 0 and 'Skipped 2 files.' in result.stdout
  first, second = sorted(result.stderr.splitlines())
  assert 'skipped: photos/daisy/d.jpg' in first and 'skipped: photos/rose/c.jpg' in second
  assert json.loads((tmp_path / 'out.json').read_text())['files'].count('rose/c.jpg') == 0
  assert sorted(path.name for path in tmp_path.iterdir()) == ['out.json', 'out.npy', 'photos']


def test_odd_class_names_work(tmp_path):
  classes = ['new\nline', 'two words', "quote's", '玫瑰']
  if os.name == 'posix':
    classes.append(os.fsdecode(b'caf\xe9'))  # no UTF-8
  try:
    support.write_photos(tmp_path / 'photos', classes, count=2)
  except OSError:
    pytest.skip('this file system does not take such names')
  result = support.run_script('flower_preprocess.py', *PREPROCESS, cwd=tmp_path)
  assert (result.returncode, result.stderr) == (0, '')
  assert {'new\\nline: 2 photos', 'two words: 2 photos', '玫瑰: 2 photos'} <= set(result.stdout.splitlines())
  data = flower_preprocess.load_processed_data(str(tmp_path / 'out.npy'))
  assert data.labels == sorted(classes)
  assert sorted(data.files) == sorted(f'{name}/{k:03d}.jpg' for name in classes for k in range(2))


def test_a_state_file_of_garbage_hides_no_checkpoint(tmp_path):
  both(other_network('model/mnist.ckpt-7'), state_file(bytes(range(128, 256))))(tmp_path, None)
  paths = script_support.named_checkpoints(str(tmp_path / 'model'), 'mnist.ckpt')
  assert paths == [str(tmp_path / 'model' / 'mnist.ckpt-7')]


@pytest.mark.parametrize('build', [
    file('some.ckpt'), folder('some.ckpt'), file('some.ckpt', garbage(b' ' * 500)), folder('x'),
    other_network('some.ckpt'), damaged_checkpoint('some.ckpt', '.index', lambda old: b''),
    damaged_checkpoint('some.ckpt', '.index', garbage),
], ids=['empty', 'folder', 'garbage', 'missing', 'other network', 'empty index', 'garbage index'])
def test_bad_pre_trained_checkpoints(build, tmp_path):
  # Called directly, because the script would build Inception-v3 for each.
  build(tmp_path, None)
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = [tf.Variable(tf.zeros([2]), name='InceptionV3/some')]
    with pytest.raises(script_support.UserError, match='some.ckpt') as caught:
      flower_finetune.load_tuned_variables(sess, str(tmp_path / 'some.ckpt'), variables)
  assert len(str(caught.value).splitlines()) == 1


def test_pre_trained_checkpoint_with_a_wrong_byte(tmp_path):
  def flip(old):
    return bytes([old[0] ^ 255]) + old[1:]
  damaged_checkpoint('some.ckpt', '.data', flip)(tmp_path, None)
  with tf.Graph().as_default(), tf.Session() as sess:
    variables = [tf.Variable(tf.zeros([3, 4]), name='other/weight')]
    with pytest.raises(script_support.UserError, match='some.ckpt is damaged'):
      flower_finetune.load_tuned_variables(sess, str(tmp_path / 'some.ckpt'), variables)


@pytest.mark.parametrize('content', [None, b'', b'{"labels":', b'[]', b'{}', b'{"labels": ["daisy", "rose"]}',
                                     b'{"labels": ["daisy", "rose"], "batch_norm": "batch"}',
                                     b'{"labels": ["rose", "daisy"], "batch_norm": "frozen"}'])
def test_checkpoints_beside_a_wrong_model_json_are_not_trained_on(content, tmp_path):
  model = tmp_path / 'model'
  other_network('model/flower.ckpt-0')(tmp_path, None)
  if content is not None:
    (model / 'model.json').write_bytes(content)
  before = snapshot(tmp_path)
  with pytest.raises(script_support.UserError, match='model') as caught:
    flower_finetune.check_model_dir({'labels': ['daisy', 'rose'], 'batch_norm': 'frozen'}, str(model))
  assert len(str(caught.value).splitlines()) == 1
  assert snapshot(tmp_path) == before


def tar_gz(**files):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


@pytest.mark.parametrize('content', [
    b'', b'<html>Please log in</html>', tar_gz(other=b'x'), tar_gz(other=garbage(b' ' * 5000))[:3000],
    tar_gz(**{'inception_v3.ckpt': b'not a checkpoint'})], ids=['empty', 'text', 'other files', 'cut', 'other'])
def test_a_download_that_is_not_the_checkpoint(content, tmp_path, monkeypatch):
  archive = tmp_path / 'download' / 'archive.tar.gz'
  archive.parent.mkdir()
  archive.write_bytes(content)
  monkeypatch.setattr(script_support, 'download', lambda *args, **kwargs: contextlib.nullcontext(str(archive)))
  with pytest.raises(script_support.UserError, match=r'inception_v3') as caught:
    flower_finetune.fetch_checkpoint(str(tmp_path / 'inception_v3.ckpt'), [])
  assert len(str(caught.value).splitlines()) == 1
  assert [path.name for path in tmp_path.iterdir()] == ['download']


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
  """A loss is that of the weights before its step, and tells nothing of those that are saved."""
  flower_data()(tmp_path, None)
  # Features of 100, so that this rate times the gradient is above what a float32 holds.
  write_checkpoint(tmp_path / 'some.ckpt', InceptionV3__Mixed_7c__Branch_0__Conv2d_0a_1x1__BatchNorm__beta=np.full(
      320, 100, np.float32))
  result = support.run_script('flower_finetune.py', *FINETUNE, '--learning_rate=3e38', cwd=tmp_path)
  for path in script_support.named_checkpoints(str(tmp_path / 'model'), 'flower.ckpt'):
    assert np.isfinite(tf.train.load_variable(path, 'InceptionV3/Logits/Conv2d_1c_1x1/weights')).all(), path
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1 and '3e+38' in result.stderr


# -- Files made to do harm ---------------------------------------------------------------


class Harm:
  """Unpickled, it makes a folder."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize('pack', [lambda harm: npy(np.array([harm], object)), pickle.dumps,
                                  lambda harm: npz(np.array([harm], object))], ids=['npy', 'pickle', 'npz'])
def test_data_files_are_never_unpickled(pack, tmp_path):
  content = pack(Harm(tmp_path / 'harm'))
  flower_data(content)(tmp_path, None)
  result = support.run_script('flower_finetune.py', *FINETUNE, cwd=tmp_path)
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1 and 'data.npy' in result.stderr
  assert not (tmp_path / 'harm').exists()
  loaded = np.load(tmp_path / 'data.npy', allow_pickle=True)  # what a careless reader would do
  if isinstance(loaded, np.lib.npyio.NpzFile):
    loaded['arr_0']
    loaded.close()
  assert (tmp_path / 'harm').exists()


def damaged_deflate(harm):
  """An .npz whose compressed key is no deflate stream."""
  del harm
  buffer = io.BytesIO()
  np.savez_compressed(buffer, key=np.array('x' * 500))
  content = bytearray(buffer.getvalue())
  start = content.index(b'key.npy') + len(b'key.npy')
  content[start + 20:start + 40] = b'\xff' * 20
  return bytes(content)


@pytest.mark.parametrize('pack', [
    lambda harm: {'key': np.array(harm, object)}, lambda harm: {'key': 'x', 'training': np.array([harm], object)},
    pickle.dumps, damaged_deflate, lambda harm: b'', lambda harm: b'PK\3\4garbage',
], ids=['pickled key', 'pickled features', 'pickle', 'damaged', 'empty', 'garbage'])
def test_a_planted_feature_file_is_made_anew_and_not_unpickled(pack, tmp_path, monkeypatch):
  planted = pack(Harm(tmp_path / 'harm'))
  path = tmp_path / flower_finetune.FEATURES_NAME
  if isinstance(planted, bytes):
    path.write_bytes(planted)
  else:
    np.savez(path, **planted)
  # Without the network: its part here is the features' values alone.
  features = np.arange(6, dtype=np.float32).reshape(3, 1, 1, 2)
  monkeypatch.setattr(flower_finetune, 'run_batches', lambda *args: features)
  images = RECORDS['image'][:1]
  data = flower_preprocess.ProcessedData(*[images, None] * 3, labels=None, files=None)
  graph = types.SimpleNamespace(pre_logits=None, images=None)
  options = flower_finetune.Options(model_dir=str(tmp_path))
  with tf.Graph().as_default(), tf.Session() as sess:
    trunk = [tf.constant(1.0, name='InceptionV3/trunk')]
    monkeypatch.setattr(flower_finetune.flower_inference, 'model_variables', lambda: trunk)
    found = flower_finetune.load_features(sess, graph, data, options, 'digest')
  assert not (tmp_path / 'harm').exists()
  np.testing.assert_array_equal(found['training'], features)
  with np.load(path, allow_pickle=False) as stored:
    assert sorted(stored) == sorted(['key', *flower_preprocess.SPLITS])
    np.testing.assert_array_equal(stored['testing'], features)
  assert [each.name for each in tmp_path.iterdir()] == [path.name]


def member(name, kind=tarfile.REGTYPE, target=''):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, target
  info.size = 4 if kind == tarfile.REGTYPE else 0
  return info


@pytest.mark.parametrize('members', [
    [member('../evil')], [member('good/../../evil')], [member('..\\evil')], [member('{}/abs')], [member('\\abs')],
    [member('C:evil')], [member('C:\\evil')], [member('link', tarfile.SYMTYPE, '../outside/evil')],
    [member('link', tarfile.SYMTYPE, '../outside'), member('link/evil')],
    [member('link', tarfile.LNKTYPE, '../outside/secret')], [member('pipe', tarfile.FIFOTYPE)],
    [member('device', tarfile.CHRTYPE)], [member('../evil', tarfile.DIRTYPE)],
], ids=lambda members: ' '.join(f'{each.name}-{each.type.decode()}' for each in members))
def test_archives_cannot_write_outside_their_folder(members, tmp_path):
  (tmp_path / 'outside').mkdir()
  (tmp_path / 'outside' / 'secret').write_text('secret')
  with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
    for info in [member('good/file'), *members]:
      info.name = info.name.format(tmp_path)
      archive.addfile(info, io.BytesIO(b'evil'))
  before = snapshot(tmp_path)
  with tarfile.open(tmp_path / 'a.tar') as archive, pytest.raises(script_support.UserError) as caught:
    script_support.unpack(archive, str(tmp_path / 'into'))
  assert repr(members[0].name) in str(caught.value) and 'a.tar' in str(caught.value)
  written = [path.relative_to(tmp_path).as_posix() for path in snapshot(tmp_path) if path not in before]
  assert written == ['into/good/file']  # which came before, and is what it seems
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.tar', 'into', 'outside']


def test_a_plain_archive_is_unpacked(tmp_path):
  with tarfile.open(tmp_path / 'a.tgz', 'w:gz') as archive:
    for info in [member('photos', tarfile.DIRTYPE), member('photos/a'), member('./photos/b c')]:
      archive.addfile(info, io.BytesIO(b'good'))
  with tarfile.open(tmp_path / 'a.tgz') as archive:
    script_support.unpack(archive, str(tmp_path / 'into'))
  assert sorted(path.name for path in (tmp_path / 'into' / 'photos').iterdir()) == ['a', 'b c']
  assert (tmp_path / 'into' / 'photos' / 'a').read_bytes() == b'good'
