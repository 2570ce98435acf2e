"""The scripts in a notebook: a real kernel runs them, twice, pasted, and in a thread."""
import re
import textwrap

import made_data
import nbformat
import pytest
import running
from nbclient import NotebookClient


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A working folder with small data."""
  folder = tmp_path_factory.mktemp('notebook')
  made_data.write_mnist(folder / 'data' / 'mnist')
  return folder


def run_cells(folder, *cells):
  """Run cells in one kernel, which starts in folder; return (text, error names) of each."""
  notebook = nbformat.v4.new_notebook(
      cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells])
  NotebookClient(notebook, timeout=300, kernel_name='python3', allow_errors=True,
                 resources={'metadata': {'path': str(folder)}}).execute()
  return [(''.join(output.get('text', '') for output in cell.outputs),
           [output.ename for output in cell.outputs if output.output_type == 'error'])
          for cell in notebook.cells]


def test_scripts_run_in_one_kernel(folder):
  train = running.ROOT / 'mnist_train.py'
  cells = run_cells(
      folder,
      f'%run {train} --training_steps=20 --batch_size=20',
      f'%run {train} --training_steps=20 --batch_size=20',
      f'%run {running.ROOT / "mnist_eval.py"} --run_once',
      f'%run {train} --batch_size=0',
      # A script pasted into a cell: its arguments are the kernel's own. Steps are done already.
      f'import sys; sys.path.insert(0, {str(running.ROOT)!r})',
      train.read_text().replace('TRAINING_STEPS = 20000', 'TRAINING_STEPS = 2'),
      """
      import threading, mnist_eval, mnist_input, mnist_train
      mnist = mnist_input.read_data_sets('data/mnist', one_hot=True)
      options = mnist_train.FLAGS.options(training_steps=3, batch_size=20, model_dir='in_a_thread')
      thread = threading.Thread(target=mnist_train.train, args=(mnist, options))
      thread.start(); thread.join()
      options = mnist_eval.FLAGS.options(model_dir='in_a_thread', run_once=True)
      result = []
      thread = threading.Thread(target=lambda: result.append(mnist_eval.evaluate(mnist, options)))
      thread.start(); thread.join()
      print(result)
      """,
      """
      import contextlib, io
      with contextlib.redirect_stdout(io.StringIO()) as replaced:
        mnist_train.train(mnist, mnist_train.FLAGS.options(training_steps=4, batch_size=20,
                                                     model_dir='in_a_thread'))
      print(replaced.getvalue().splitlines()[-1])
      """)
  texts, errors = zip(*cells, strict=True)
  assert errors == ([], [], [], ['SystemExit'], [], [], [], [])
  assert 'After 20 training step(s), loss on training batch is' in texts[0]
  assert 'Nothing to do: 20 of 20' in texts[1]
  assert 'After 20 training step(s), validation accuracy' in texts[2]
  assert 'error: flag --batch_size=0' in texts[3]
  assert 'Nothing to do: 20 of 2' in texts[5]
  assert 'validation accuracy = ' in texts[6] and texts[6].rstrip().endswith(']')
  assert texts[7] == 'Saved in_a_thread/mnist.ckpt-4\n'


def test_the_cell_of_the_readme_trains_evaluates_and_predicts(folder):
  made_data.draw_stroke(folder / 'digit.png')
  _, cell = re.findall(r'^```python\n(.*?)^```', (running.ROOT / 'README.md').read_text('utf-8'),
                       re.M | re.S)
  (_, errors), (text, more_errors) = run_cells(
      folder, f'import sys; sys.path.insert(0, {str(running.ROOT)!r})',
      cell.replace('training_steps=1000', 'training_steps=2'))
  assert errors == more_errors == []
  for line in ('After 2 training step(s), loss on', 'After 2 training step(s), validation accuracy',
               'digit.png: '):
    assert line in text
