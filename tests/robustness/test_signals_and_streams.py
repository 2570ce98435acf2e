"""Stop signals, and standard streams that are closed, full or gone."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import kills
import pytest
import running

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='signals and streams as POSIX has them')

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
MNIST_LINE = r'^After (\d+) training step'


def train_args(digits_dir, model_dir, *more):
  return (f'--data_dir={digits_dir}', f'--model_dir={model_dir}', '--validation_size=50',
          '--batch_size=20', *more)


def eval_args(digits_dir, model_dir, *more):
  return (f'--data_dir={digits_dir}', f'--model_dir={model_dir}', '--validation_size=50',
          '--split=test', *more)


# -- Signals -----------------------------------------------------------------------------


@pytest.mark.parametrize('number', STOP_SIGNALS)
def test_stopped_training_saves_and_goes_on(number, digits_dir, tmp_path):
  folder = tmp_path / 'model'
  args = train_args(digits_dir, folder, '--save_interval_steps=1000')
  with running.Started('mnist_train.py', *args, '--training_steps=1000000') as started:
    started.wait_for(MNIST_LINE)
    started.signal(number)
    assert started.end() == 0 and started.errors == []
    last = started.lines[-1]
  match = re.fullmatch(rf'Stopped by {number.name}; run again to go on\. Saved (.*-(\d+))', last)
  path, step = match.group(1), int(match.group(2))
  assert kills.named_steps(folder)[-1] == step and path == str(folder / f'mnist.ckpt-{step}')
  assert int(kills.read_whole(path)['global_step']) == step
  result = running.run_script('mnist_train.py', *args, f'--training_steps={step + 1}')
  assert (result.returncode, result.stderr) == (0, '')
  assert f'Going on from {path}, after {step} training step(s).' in result.stdout
  kills.check_at_end(folder, 'mnist.ckpt')


@pytest.mark.parametrize('number', STOP_SIGNALS)
def test_stopped_polling_ends_well(number, digits_dir, saved_dir, tmp_path):
  with running.Started('mnist_eval.py', *eval_args(digits_dir, saved_dir)) as started:
    started.wait_for(r'^After 8 training step\(s\), test accuracy')
    started.signal(number)  # in the middle of the ten seconds between two looks
    assert started.end() == 0 and started.errors == []
    assert started.lines[-1] == 'Stopped by a signal.'


@pytest.mark.parametrize('number', STOP_SIGNALS)
def test_an_interrupted_single_evaluation_says_so(number, mnist_dir, saved_dir):
  # While it reads the data, builds the graph, or scores 5,000 images.
  args = [f'--data_dir={mnist_dir}', f'--model_dir={saved_dir}', '--run_once']
  with running.Started('mnist_eval.py', *args, env={'TF_NUM_INTRAOP_THREADS': '1'}) as started:
    started.wait_for('^5000 validation images')
    started.signal(number)
    assert (started.end(), started.errors[-1:]) == (130, ['mnist_eval.py: interrupted'])


def test_an_ignored_interrupt_stays_ignored(digits_dir, tmp_path):
  args = train_args(digits_dir, tmp_path / 'model', '--training_steps=1000000')
  with running.Started('mnist_train.py', *args, ignored=signal.SIGINT) as started:
    started.wait_for(MNIST_LINE)
    started.signal(signal.SIGINT)
    time.sleep(1)
    assert started.status is None
    started.signal(signal.SIGTERM)
    assert started.end() == 0 and 'Stopped by SIGTERM' in started.lines[-1]


# -- Streams -----------------------------------------------------------------------------


def shell(command, **env):
  """Run a shell command in the project's folder, PY being Python."""
  return subprocess.run(['bash', '-o', 'pipefail', '-c', command.replace('PY', sys.executable)],
                        cwd=running.ROOT, capture_output=True, text=True, timeout=300,
                        env={**os.environ, **env})


@pytest.mark.parametrize(('redirection', 'status'), [
    ('<&- >&- 2>&-', 0), ('2>&-', 0), ('| true', 1)])
def test_closed_streams(redirection, status, digits_dir, model_dir):
  args = ' '.join(eval_args(digits_dir, model_dir, '--run_once'))
  result = shell(f'PY mnist_eval.py {args} {redirection}')
  assert (result.returncode, result.stderr) == (status, '')
  assert (model_dir / 'eval_test').exists() or status
  if redirection == '2>&-':
    assert 'After 8 training step(s), test accuracy' in result.stdout


def test_full_streams(digits_dir, saved_dir):
  args = eval_args(digits_dir, saved_dir, '--run_once')
  with running.Started('mnist_eval.py', *args, stdout='/dev/full') as started:
    assert started.end() == 1
    assert started.errors == ['mnist_eval.py: error: standard output: No space left on device']
  # What cannot be said does not change the status.
  with running.Started('mnist_eval.py', *args, stderr='/dev/full') as started:
    assert started.end() == 0
  assert shell('PY mnist_train.py --seed=x 2> /dev/full').returncode == 2


def test_a_step_is_saved_before_its_line_fails(digits_dir, tmp_path):
  out = tmp_path / 'out'
  os.mkfifo(out)
  args = train_args(digits_dir, tmp_path / 'model', '--training_steps=1000000')
  with running.Started('mnist_train.py', *args, '--save_interval_steps=5', stdout=out) as started:
    with open(out) as reader:  # as `| head -2`, which leaves after the line of step 1
      lines = [reader.readline(), reader.readline()]
    assert started.end() == 1 and started.errors == []
  assert re.match(MNIST_LINE, lines[1]).group(1) == '1'
  assert kills.named_steps(tmp_path / 'model')[:2] == [1, 6]
  kills.check_at_end(tmp_path / 'model', 'mnist.ckpt')

def test_another_failure_is_not_called_standard_output(digits_dir, tmp_path):
  code = ('import sys; from support import console\n'
          'def main(argv): raise OSError("the certificate file is missing")\n'
          'console.run(main, console.Flags())')
  result = subprocess.run([sys.executable, '-c', code], cwd=running.ROOT, capture_output=True,
                          text=True, timeout=60)
  assert (result.returncode, result.stderr) == (1, '-c: error: the certificate file is missing\n')


# -- What TensorFlow logs ----------------------------------------------------------------


IMPORT = 'from support.quiet_tensorflow import tf; import sys; sys.stderr.write("end\\n")'


def import_tensorflow(**env):
  return subprocess.run([sys.executable, '-c', IMPORT], cwd=running.ROOT, capture_output=True,
                        text=True, timeout=120, env={**os.environ, **env})


def test_information_is_dropped_and_what_ends_the_process_is_seen():
  assert import_tensorflow().stderr == 'end\n'
  assert 'oneDNN' in import_tensorflow(TF_CPP_MIN_LOG_LEVEL='0').stderr
  aborted = import_tensorflow(TF_XLA_FLAGS='--bogus')
  assert aborted.returncode != 0 and '--bogus' in aborted.stderr and 'end' not in aborted.stderr


@pytest.mark.skipif(not sys.platform.startswith('linux') or not shutil.which('gcc'),
                    reason='needs gcc, to make a driver')
@pytest.mark.parametrize(('status', 'is_seen'), [(100, False), (999, True)],
                         ids=['no device', 'a failure'])
def test_a_gpu_driver_without_a_device_is_no_news(status, is_seen, tmp_path):
  (tmp_path / 'cuda.c').write_text(f"""
int cuInit(unsigned flags) {{ return {status}; }}
int cuGetErrorName(int error, const char **name) {{
  *name = error == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN"; return 0; }}
int cuGetErrorString(int error, const char **text) {{ *text = "text"; return 0; }}
int cuDriverGetVersion(int *version) {{ *version = 12080; return 0; }}
""")
  subprocess.run(['gcc', '-shared', '-fPIC', '-o', tmp_path / 'libcuda.so.1', tmp_path / 'cuda.c'],
                 check=True)
  lines = import_tensorflow(LD_LIBRARY_PATH=str(tmp_path)).stderr.splitlines()
  assert lines[-1] == 'end' and (len(lines) > 1) == is_seen, lines
