"""Full and read-only disks, missing permissions, vanishing folders, and downloads."""
import contextlib
import hashlib
import io
import os
import pathlib
import shutil
import signal
import socket
import tarfile
import threading
import time

import kills
import made_data
import numpy as np
import pytest
import running
import spoiling

import mnist_input
from flowers import backbone, data_file
from support import files
from support.console import UserError

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='disks and processes as POSIX has them')


def mnist_args(digits_dir, model_dir, *more):
  return (f'--data_dir={digits_dir}', f'--model_dir={model_dir}', '--validation_size=50', *more)


TRAIN = ('--batch_size=20', '--save_interval_steps=5', '--training_steps=30')
EVAL = ('--run_once', '--split=test')


def photos_args(photos_dir, output):
  return f'--input_dir={photos_dir}', f'--output_file={output}'


def finetune_args(photos_file, backbone_ckpt, model_dir, *more):
  return (f'--input_file={photos_file}', f'--ckpt_file={backbone_ckpt}', f'--model_dir={model_dir}',
          '--batch_size=4', '--steps=20', *more)


# -- Full and read-only disks ------------------------------------------------------------


def test_disk_full_at_a_later_checkpoint(digits_dir, tmp_path):
  with spoiling.small_disk(tmp_path / 'disk', 34) as disk:  # 13.4 MB a checkpoint: two fit
    folder = disk / 'model'
    args = mnist_args(digits_dir, folder, *TRAIN)
    for _ in range(2):  # going on where there is still no room fails in the same way
      result = running.run_script('mnist_train.py', *args)
      assert 'cannot save step 11' in spoiling.one_line(result) and 'make room' in result.stderr
      assert kills.temporary_files(folder) == []
      assert kills.named_steps(folder) == [1, 6] and list(kills.steps_of_files(folder)) == [1, 6]
      for step in (1, 6):
        kills.read_whole(folder / f'mnist.ckpt-{step}')
    spoiling.remount(disk, 'size=60m')
    result = running.run_script('mnist_train.py', *args, '--training_steps=12')
    assert (result.returncode, result.stderr) == (0, ''), result
    assert 'mnist.ckpt-6, after 6' in result.stdout
    kills.check_at_end(folder, 'mnist.ckpt')


def test_disk_full_or_read_only_from_the_start(digits_dir, saved_dir, tmp_path):
  with spoiling.small_disk(tmp_path / 'disk', 42) as disk:
    folder = pathlib.Path(shutil.copytree(saved_dir, disk / 'model'))
    for name in ('train', 'eval_test'):
      shutil.rmtree(folder / name, ignore_errors=True)
    before = spoiling.contents(folder)
    for spoil, reason in ((spoiling.fill, 'No space left'),
                          (lambda disk: spoiling.remount(disk, 'ro'), 'Read-only file system')):
      spoil(disk)
      result = running.run_script('mnist_train.py', *mnist_args(digits_dir, folder, *TRAIN))
      line = spoiling.one_line(result)
      assert reason in line and str(folder) in line and 'standard output' not in line
      # Cron: an evaluation that can keep no summary says so, and answers.
      result = running.run_script('mnist_eval.py', *mnist_args(digits_dir, folder, *EVAL))
      assert 'After 8 training step(s), test accuracy = ' in result.stdout
      line = spoiling.one_line(result, status=0)
      assert reason in line and 'no summaries are kept' in line
      assert spoiling.contents(folder) == before


def test_disk_full_or_read_only_for_photos(photos_dir, photos_file, tmp_path):
  with spoiling.small_disk(tmp_path / 'disk', 8) as disk:  # room for one output of 6.4 MB
    for path in (photos_file, photos_file.with_suffix('.json')):
      shutil.copy(path, disk)
    before = spoiling.contents(disk)
    args = photos_args(photos_dir, disk / photos_file.name)
    result = running.run_script('flower_preprocess.py', *args)
    assert f'{disk / photos_file.name}: No space left' in spoiling.one_line(result)
    assert {**spoiling.contents(disk), **before} == spoiling.contents(disk)
    assert data_file.load_processed_data(disk / photos_file.name).id
    spoiling.remount(disk, 'ro')
    result = running.run_script('flower_preprocess.py', *args)
    assert 'Read-only file system' in spoiling.one_line(result)


# -- Permissions -------------------------------------------------------------------------


def test_missing_permission(digits_dir, model_dir, photos_dir, photos_file, tmp_path,
                            permissions_count):
  secret, fixed = tmp_path / 'secret', tmp_path / 'fixed'
  secret.mkdir(mode=0o000)
  fixed.mkdir(mode=0o555)
  before = spoiling.contents(model_dir)
  model_dir.chmod(0o555)
  try:
    for script, *args in (
        ('mnist_train.py', *mnist_args(digits_dir, model_dir, *TRAIN)),
        ('mnist_train.py', *mnist_args(secret, tmp_path / 'other')),
        ('mnist_eval.py', *mnist_args(digits_dir, secret, *EVAL)),
        ('flower_preprocess.py', *photos_args(photos_dir, fixed / 'o.npy')),
        ('flower_preprocess.py', *photos_args(secret, tmp_path / 'o.npy')),
        ('flower_finetune.py', *finetune_args(photos_file, 'missing.ckpt', fixed))):
      line = spoiling.one_line(running.run_script(script, *args))
      assert 'ermission denied' in line and ': error: ' in line
    # Cron: an evaluator of another user's folder answers, and says that it keeps no summary.
    result = running.run_script('mnist_eval.py', *mnist_args(digits_dir, model_dir, *EVAL))
    assert 'After 8 training step(s), test accuracy = ' in result.stdout
    assert 'no summaries are kept' in spoiling.one_line(result, status=0)
  finally:
    for folder in (model_dir, secret, fixed):
      folder.chmod(0o755)
  assert spoiling.contents(model_dir) == before
  assert os.listdir(secret) == os.listdir(fixed) == []
  assert not (tmp_path / 'o.npy').exists() and not (tmp_path / 'other').exists()


LOCK = '.photos.npy.lock'


# -- Stopped preprocessing ---------------------------------------------------------------


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_stopped_preprocessing_leaves_nothing_half_written(number, photos_dir, tmp_path):
  many = made_data.write_photos(tmp_path / 'photos', count=60)
  output = tmp_path / 'out' / 'photos.npy'
  output.parent.mkdir()
  with running.Started('flower_preprocess.py', *photos_args(many, output)) as started:
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 3_000_000 for path in output.parent.iterdir()):
      assert started.status is None and time.monotonic() < deadline, started.errors
      time.sleep(0.001)
    started.signal(number)
    assert started.end() == (130 if number == signal.SIGTERM else -number)
    left = os.listdir(output.parent)
    assert not output.exists() and not output.with_suffix('.json').exists()
    if number == signal.SIGTERM:
      assert started.errors == ['flower_preprocess.py: interrupted'] and left == [LOCK]
  # The next run replaces what a killed one left.
  result = running.run_script('flower_preprocess.py', *photos_args(photos_dir, output))
  assert (result.returncode, result.stderr) == (0, '')
  assert sorted(os.listdir(output.parent)) == [LOCK, 'photos.json', 'photos.npy']


def test_two_preprocessings_of_one_output_take_turns(photos_dir, tmp_path):
  output = tmp_path / 'photos.npy'
  with files.locked(str(output)):
    with running.Started('flower_preprocess.py', *photos_args(photos_dir, output)) as second:
      second.wait_for(f'^Waiting for another process that writes {output}')
      assert not output.exists()
      with files.replace_file(str(output)) as path:
        pathlib.Path(path).write_text('of the first')
      output.unlink()
      second.signal(signal.SIGTERM)
      assert second.end() == 130


# -- Downloads ---------------------------------------------------------------------------


@contextlib.contextmanager
def mirror(answer, monkeypatch):
  """A web server for mnist_input that gives answer(connection) to each request."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    def serve():
      with contextlib.suppress(OSError):
        while True:
          connection, _ = server.accept()
          with connection:
            connection.recv(10_000)
            answer(connection)
    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(mnist_input, 'MIRROR', f'http://127.0.0.1:{server.getsockname()[1]}/')
    yield


def send(connection, content, claimed=None):
  connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n'
                     % (len(content) if claimed is None else claimed) + content)


@pytest.mark.parametrize(('content', 'claimed', 'reason'), [
    (b'<html>', None, 'is not the file it was'), (b'x' * 10, 1000, 'cannot download')],
    ids=['another file', 'cut short'])
def test_a_download_that_fails_leaves_nothing(content, claimed, reason, tmp_path, monkeypatch,
                                              capfd):
  with mirror(lambda connection: send(connection, content, claimed), monkeypatch):
    with pytest.raises(UserError, match=f'{reason}.*elsewhere and put them into') as caught:
      mnist_input.read_data_sets(str(tmp_path / 'a'))
  assert len(str(caught.value).splitlines()) == 1
  assert os.listdir(tmp_path / 'a') == ['.download.lock'] and capfd.readouterr().err == ''


def test_a_killed_download_leaves_a_folder_that_is_filled_the_next_time(digits_dir, tmp_path,
                                                                        monkeypatch):
  folder = tmp_path / 'data'
  left = folder / '.download.tmp'
  left.mkdir(parents=True)
  (left / 'train-images-idx3-ubyte.gz').write_bytes(b'half')
  served = spoiling.contents(digits_dir)
  monkeypatch.setattr(mnist_input, 'SHA256', {
      name: hashlib.sha256(content).hexdigest() for name, content in served.items()})
  names = iter(served)
  with mirror(lambda connection: send(connection, served[next(names)]), monkeypatch):
    assert mnist_input.read_data_sets(str(folder), validation_size=50).train.num_examples == 200
  assert spoiling.contents(folder) == {**served, '.download.lock': b''} and not left.exists()


def tar_gz(members):
  """Return a .tar.gz, bytes, of {name or TarInfo: content}."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as archive:
    for info, content in members:
      info = info if isinstance(info, tarfile.TarInfo) else tarfile.TarInfo(info)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


def member(name, kind=tarfile.REGTYPE, target=''):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, target
  return info, b'evil' if kind == tarfile.REGTYPE else b''


@pytest.mark.parametrize('members', [
    [member('../evil')], [member('good/../../evil')], [member('../evil', tarfile.DIRTYPE)],
    [member('link', tarfile.SYMTYPE, '../outside'), member('link/evil')],
    [member('link', tarfile.LNKTYPE, '../outside/secret')], [member('pipe', tarfile.FIFOTYPE)],
    [member('device', tarfile.CHRTYPE)]], ids=lambda members: members[0][0].name)
def test_archives_cannot_write_outside_their_folder(members, tmp_path):
  (tmp_path / 'outside').mkdir()
  (tmp_path / 'outside' / 'secret').write_text('secret')
  archive = tmp_path / 'a.tar.gz'
  archive.write_bytes(tar_gz([member('good/file'), *members]))
  before = spoiling.snapshot(tmp_path)
  with pytest.raises(UserError, match=r'a\.tar\.gz.*do not use this archive') as caught:
    files.unpack(str(archive), str(tmp_path / 'into'))
  assert members[0][0].name.split('/')[-1] in str(caught.value)
  after = spoiling.snapshot(tmp_path)
  assert {path: after[path] for path in before} == before
  assert after.keys() - before.keys() == {tmp_path / 'into' / 'good' / 'file'}
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.tar.gz', 'into', 'outside']


GARBAGE = np.random.RandomState(0).bytes(5000)


@pytest.mark.parametrize('content', [
    b'', b'<html>Please log in</html>', tar_gz([('other', b'x')]), tar_gz([('o', GARBAGE)])[:3000],
    tar_gz([('o', GARBAGE)])[:-8] + bytes(8), tar_gz([('inception_v3.ckpt', b'not a checkpoint')])],
    ids=['empty', 'text', 'other files', 'cut', 'wrong checksum', 'not a checkpoint'])
def test_a_download_that_is_not_the_checkpoint(content, tmp_path, monkeypatch):
  def download(url, folder, advice):
    (pathlib.Path(folder) / 'archive.tar.gz').write_bytes(content)
    return f'{folder}/archive.tar.gz'

  monkeypatch.setattr(files, 'download', download)
  with pytest.raises(UserError) as caught:
    backbone.fetch_checkpoint(str(tmp_path / 'inception_v3.ckpt'), [])
  assert len(str(caught.value).splitlines()) == 1
  assert os.listdir(tmp_path) == ['.inception_v3.ckpt.lock']
