"""Files that appear whole, swept leftovers, downloads, digests and JSON; no TensorFlow.

What is being written has a name of this room's own, which says who writes it:
`.NAME.HOST.PROCESS.TOKEN.tmp`. Such a file or folder is swept once its process is dead, and
nothing else ever is.
"""
import contextlib
import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tarfile
import zlib

import psutil
from tqdm import tqdm

from support.console import UserError, describe

DOWNLOAD_TIMEOUT_SECS = 60  # without a byte; a download as a whole may take longer

# This host, in 8 hexadecimal digits: process ids mean nothing on another one, and a folder may
# be shared between hosts or containers.
_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


# -- Temporary files and folders ---------------------------------------------------------


def _is_running(process_id):
  try:  # a killed process whose parent never asks for its status stays there, as in a container
    return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return False
  except psutil.AccessDenied:
    return True


def _temporary_path(folder, name):
  return os.path.join(folder, f'.{name}.{_HOST}.{os.getpid()}.{secrets.token_hex(4)}.tmp')


def sweep(folder, name):
  """Remove the temporary files and folders for `name` that dead processes of this host left."""
  ours = re.compile(rf'\.{re.escape(name)}\.{_HOST}\.(\d+)\.[0-9a-f]{{8}}\.tmp')
  for entry in os.listdir(folder or '.'):
    match = ours.fullmatch(entry)
    if match and not _is_running(int(match.group(1))):
      remove(os.path.join(folder, entry))


def remove(path):
  """Remove a file or a folder with all it holds, as far as it is there and may be removed."""
  if os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      os.remove(path)


@contextlib.contextmanager
def replace_file(path):
  """Give the path of a temporary file beside path; rename it to path if the block succeeds."""
  folder, name = os.path.split(path)
  temporary_path = _temporary_path(folder, name)
  try:
    sweep(folder, name)
    with open(temporary_path, 'xb'):
      pass
    yield temporary_path
    os.replace(temporary_path, path)
  except OSError as error:
    if error.errno and error.filename in (None, folder or '.', temporary_path):
      raise OSError(error.errno, error.strerror, path) from None  # not the temporary name
    raise
  finally:
    remove(temporary_path)


@contextlib.contextmanager
def failures_named(path):
  """Let a failure of this block that names no file, as that of a bad disk, name path."""
  try:
    yield
  except OSError as error:
    if error.errno and error.filename is None:
      error.filename = path
    raise


@contextlib.contextmanager
def temporary_folder(folder, name):
  """Give a new folder inside folder for the block, and remove it afterwards."""
  sweep(folder, name)
  path = _temporary_path(folder, name)
  os.mkdir(path)
  try:
    yield path
  finally:
    remove(path)


@contextlib.contextmanager
def made_folder(folder):
  """Make folder and its missing parents; if the block fails, remove those that are still empty."""
  made = []
  path = os.path.abspath(folder)
  while not os.path.isdir(path) and path not in made:
    made.append(path)
    path = os.path.dirname(path)
  os.makedirs(folder, exist_ok=True)
  try:
    yield
  except BaseException:
    with contextlib.suppress(OSError):  # not empty: somebody has put something there
      for path in made:
        os.rmdir(path)
    raise


# -- Reading -----------------------------------------------------------------------------


def require_regular_file(path, max_bytes):
  """Raise UserError unless path is a regular file of at most max_bytes; nothing is opened.

  A FIFO or a device would block, or never end.

  Raises:
    OSError: if there is no such file.
  """
  status = os.stat(path)
  if not stat.S_ISREG(status.st_mode):
    kind = 'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'
    raise UserError(f'{path} is {kind}: give a file')
  if status.st_size > max_bytes:
    raise UserError(f'{path} has {status.st_size} bytes: at most {max_bytes} are read')


def digest(chunks):
  """Return the hexadecimal digest of an iterable of bytes-like objects."""
  blake = hashlib.blake2b(digest_size=32)
  for chunk in chunks:
    blake.update(chunk)
  return blake.hexdigest()


def read_json(path, advice='make it again'):
  """Return the object, a dict, in a JSON file.

  Args:
    advice: str, what to do where it does not hold one.

  Raises:
    UserError: if the file is missing or does not hold a JSON object.
    OSError: if it cannot be read.
  """
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except FileNotFoundError:
    raise UserError(f'{path} is missing: it belongs beside the file it describes') from None
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is not a JSON file ({error}): {advice}') from None
  if not isinstance(content, dict):
    raise UserError(f'{path} does not hold a JSON object: {advice}')
  return content


def write_json(path, content):
  """Write a dict as a JSON file that appears whole."""
  with replace_file(path) as temporary_path:
    with open(temporary_path, 'w', encoding='utf-8') as file:
      json.dump(content, file, indent=1)


def is_list_of_names(value):
  """Return whether value is a list of str, none of them empty."""
  return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


# -- Downloads ---------------------------------------------------------------------------


@contextlib.contextmanager
def download(url, folder, advice, sha256=None):
  """Download url into a temporary folder inside folder; give its path until the block ends.

  Args:
    folder: str, where the file is wanted; made if missing.
    advice: str, what to put where by hand, for a machine without network.
    sha256: hexadecimal digest that the file must have, or None where none is published.

  Raises:
    UserError: if the file cannot be had or differs from its digest; the message ends in advice.
  """
  import requests  # here, because it takes a tenth of a second and most runs download nothing

  with made_folder(folder), temporary_folder(folder, 'download') as temporary_dir:
    path = os.path.join(temporary_dir, url.rsplit('/', 1)[-1])
    found = hashlib.sha256()
    try:
      with requests.get(url, stream=True, timeout=DOWNLOAD_TIMEOUT_SECS) as response, \
          failures_named(folder), open(path, 'wb') as file, \
          tqdm(total=int(response.headers.get('Content-Length', 0)) or None, unit='B',
               unit_scale=True, desc=os.path.basename(path), disable=None) as bar:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 20):
          file.write(chunk)
          found.update(chunk)
          bar.update(len(chunk))
    except requests.RequestException as error:
      reason = describe(error) if error.response is not None else type(error).__name__
      raise UserError(f'cannot download {url} ({reason}): {advice}') from None
    if sha256 and found.hexdigest() != sha256:
      raise UserError(f'{url} is not the file it was (its sha256 is {found.hexdigest()}, expected '
                      f'{sha256}): {advice}')
    yield path


def _data_without_links(member, path):
  # Python's own filter lets links stay inside path, and was led out by chains of them
  # (CVE-2025-4517).
  if member.issym() or member.islnk():
    raise tarfile.SpecialFileError(member)
  return tarfile.data_filter(member, path)


def unpack(archive_path, folder):
  """Unpack a gzipped tar archive into folder: plain files and folders only.

  Raises:
    UserError: if it is not a whole archive, or a member is a link, a device, or leads out of
      folder.
  """
  try:
    with tarfile.open(archive_path, 'r:gz') as archive, failures_named(folder):
      archive.extractall(folder, filter=_data_without_links)
  except tarfile.FilterError as error:
    raise UserError(f'{archive_path}: {error}: do not use this archive') from None
  except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{archive_path} is not a whole archive ({type(error).__name__}): '
                    'fetch it again') from None
