"""What the programs that record runs share: scripts run to their end, curves, and the records."""
import json
import os
import pathlib
import platform
import subprocess
import sys
import threading
import time

from support import files
from support.quiet_tensorflow import tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDED = ROOT / 'benchmarks' / 'recorded'
POLL_SECS = 0.1  # from one look at a script's memory to the next


def run_script(script, *flags, threads=None):
  """Run a script, with so many threads of TensorFlow or its own number.

  Returns:
    (what it has printed, seconds, {'anonymous' or 'mapped': most bytes of its memory}); the last
    is empty where it cannot be seen, outside of Linux.
  """
  environment = dict(os.environ)
  if threads:
    environment.update(dict.fromkeys(['TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS'],
                                     str(threads)))
  start, memory = time.perf_counter(), {}
  with subprocess.Popen([sys.executable, ROOT / script, *flags], cwd=ROOT, env=environment,
                        stdout=subprocess.PIPE, text=True) as process:
    watch = threading.Thread(target=watch_memory, args=(process, memory))
    watch.start()
    printed = process.stdout.read()
    process.wait()
    watch.join()
  if process.returncode:
    raise SystemExit(f'{script} {" ".join(flags)} ended with status {process.returncode}')
  return printed, time.perf_counter() - start, memory


def watch_memory(process, memory):
  """Keep the most bytes of a process's memory in a dict until it ends."""
  while process.poll() is None:
    try:
      status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
    except OSError:
      return
    for line in status.splitlines():
      name, _, value = line.partition(':')
      kind = {'RssAnon': 'anonymous', 'RssFile': 'mapped'}.get(name)
      if kind:
        memory[kind] = max(memory.get(kind, 0), 1024 * int(value.split()[0]))
    time.sleep(POLL_SECS)


def read_curves(folder):
  """Return {tag: [[step, value], ...]} of the event files in a folder, each step once."""
  curves = {}
  for path in sorted(folder.glob('events.*')):
    for event in tf.train.summary_iterator(str(path)):
      for value in event.summary.value:
        if value.HasField('simple_value'):
          curves.setdefault(value.tag, {})[event.step] = float(f'{value.simple_value:.6g}')
  return {tag: sorted(map(list, points.items())) for tag, points in curves.items()}


def read_record(name):
  """Return the dict that was recorded under a name, empty if there is none."""
  path = RECORDED / f'{name}.json'
  return json.loads(path.read_text()) if path.exists() else {}


def write_record(name, **content):
  """Keep what is known of a run, and what it was made with, under a name."""
  content = {**read_record(name), **content, 'python': platform.python_version(),
             'tensorflow': tf.VERSION, 'machine': f'{platform.system()} {platform.machine()}'}
  with files.replace_file(str(RECORDED / f'{name}.json')) as temporary_path:
    pathlib.Path(temporary_path).write_text(json.dumps(content) + '\n')
