"""Files that appear whole, downloads, digests and JSON; no TensorFlow.

What is being written to NAME is `.NAME.tmp` beside it, and is renamed when it is whole. Whoever
writes holds `.NAME.lock`, so that what a killed process left there is nobody's: it is replaced.
"""
import contextlib
import gzip
import hashlib
import json
import logging
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator

import filelock

from support.console import UserError, describe, report

DOWNLOAD_TIMEOUT_SECS = 60  # without a byte; a download as a whole may take longer
CHUNK_BYTES = 1 << 20  # read or received at a time


# -- Writing -----------------------------------------------------------------------------


def _beside(path: str, ending: str) -> str:
  folder, name = os.path.split(path)
  return os.path.join(folder, f'.{name}.{ending}')


def temporary_path(path: str) -> str:
  """Return where what will be at path, which is no link, is being written."""
  return _beside(path, 'tmp')


def remove(path: str) -> None:
  """Remove a file or a folder with all it holds, as far as it is there and may be removed."""
  if os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      os.remove(path)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
  """Be the only process that writes to path; wait, and say so, while another one does."""
  lock = filelock.FileLock(_beside(os.path.realpath(path), 'lock'))
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    report(f'Waiting for another process that writes {path}.')
    lock.acquire()
  try:
    yield
  finally:
    lock.release()


@contextlib.contextmanager
def replace_file(path: str, is_needed: Callable[[], bool] = lambda: False) -> Iterator[str]:
  """Give the path of a temporary file beside path; rename it to path if the block succeeds.

  Args:
    is_needed: whether the temporary file stays where that fails, because of what the block did.
  """
  path = os.path.realpath(path)  # a link stays one
  being_written = temporary_path(path)
  try:
    with open(being_written, 'wb'):  # fails here where the folder cannot be written
      pass
    yield being_written
    os.replace(being_written, path)
  except OSError as error:
    if error.errno and error.filename in (None, being_written):  # None: of a full disk
      raise OSError(error.errno, error.strerror, path) from None  # not the temporary name
    raise
  finally:
    if not is_needed():
      remove(being_written)


@contextlib.contextmanager
def temporary_folder(path: str) -> Iterator[str]:
  """Give a new folder beside path, to be renamed or emptied by the block; it is removed afterwards.

  The folder that it is in is made if it is missing.
  """
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  with locked(path):
    folder = temporary_path(os.path.realpath(path))
    remove(folder)
    os.mkdir(folder)
    try:
      yield folder
    finally:
      remove(folder)


# -- Reading -----------------------------------------------------------------------------


def digest(chunks: Iterable[bytes]) -> str:
  """Return the hexadecimal digest, 64 digits, of bytes or buffers one after another."""
  blake = hashlib.blake2b(digest_size=32)
  for chunk in chunks:
    blake.update(chunk)
  return blake.hexdigest()


def read_json(path: str, advice: str) -> dict:
  """Return the object in a JSON file; raise UserError, with advice, if there is none."""
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except FileNotFoundError:
    raise UserError(f'{path} is missing: {advice}') from None
  except ValueError as error:
    raise UserError(f'{path} is not a JSON file ({error}): {advice}') from None
  if not isinstance(content, dict):
    raise UserError(f'{path} does not hold a JSON object: {advice}')
  return content


def write_json(path: str, content: dict) -> None:
  """Write a JSON file that appears whole; the caller is the only one that writes it."""
  with replace_file(path) as being_written, open(being_written, 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=1)


# -- Downloads ---------------------------------------------------------------------------


def download(url: str, folder: str, advice: str, sha256: str | None = None) -> str:
  """Download url into a folder and return the path of the file.

  Args:
    folder: a temporary one, since a killed download leaves a part there.
    advice: what to put where by hand, for a machine without network; it ends the UserError of a
      file that cannot be had or differs from its digest.
    sha256: in hexadecimal digits; None where none is published.
  """
  import pooch  # here: it and requests take a fifth of a second, and most runs download nothing
  import requests

  pooch.get_logger().setLevel(logging.WARNING)
  downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK_BYTES,
                                    timeout=DOWNLOAD_TIMEOUT_SECS)
  try:
    return pooch.retrieve(url, sha256, url.rsplit('/', 1)[-1], folder, downloader=downloader)
  except requests.RequestException as error:
    reason = describe(error) if error.response is not None else type(error).__name__
    raise UserError(f'cannot download {url} ({reason}): {advice}') from None
  except ValueError:  # pooch's, of another digest
    raise UserError(f'{url} is not the file it was, with the sha256 {sha256}: {advice}') from None


def _data_without_links(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
  # Python's own filter lets links stay inside path, and was led out by chains of them
  # (CVE-2025-4517).
  if member.issym() or member.islnk():
    raise tarfile.SpecialFileError(member)
  return tarfile.data_filter(member, path)


def unpack(archive_path: str, folder: str) -> None:
  """Unpack a gzipped tar archive into a folder: plain files and folders only, or UserError.

  Not pooch's Untar, which before Python 3.12 lets members lead out of the folder.
  """
  try:
    with tarfile.open(archive_path, 'r:gz') as archive:
      archive.extractall(folder, filter=_data_without_links)
  except tarfile.FilterError as error:
    raise UserError(f'{archive_path}: {error}: do not use this archive') from None
  except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{archive_path} is not a whole archive ({type(error).__name__}): '
                    'fetch it again') from None
