"""Draw the pictures of the documents from the recorded runs.

    python -m benchmarks.pictures

Reads benchmarks/recorded/ and writes docs/*.png: the validation accuracy of the MNIST settings by
step, with the points of the book's readers; the loss of the book's run beside the recorded one; the
first filters and the wrong digits; and the flowers. Needs benchmarks/requirements.txt.
"""
import argparse
import collections

import numpy as np
from matplotlib import pyplot
from PIL import Image

import mnist_input
from benchmarks import recording

PICTURES = recording.ROOT / 'docs'
COLOURS = 64  # of a file: what a line drawing needs

# What the book prints of its run without dropout: step, loss on the training batch.
BOOK_LOSS = ((1, 5.957), (1001, 0.6647), (2001, 0.6700), (3001, 0.6385), (4001, 0.7430),
             (5001, 0.6383))
# What readers report of the book's code without dropout: step, validation accuracy.
READERS_ACCURACY = ((6001, 0.9826), (29001, 0.9898), (30000, 0.9914))
# What the book prints of its flower run, and a reader's of the last layers alone, in percent.
BOOK_FLOWERS = ((0, 18.6), (30, 28.1), (60, 61.2), (90, 83.1), (120, 87.9), (180, 91.1),
                (299, 91.7))
READERS_FLOWERS = (299, 68.4)

NAMES = {'book': 'without dropout (the book)', 'default': 'default',
         'best': 'the best flags', 'augment': 'with --augment'}


def read_runs(setting):
  """Return the records of a setting, one for each seed."""
  return [recording.read_record(path.stem)
          for path in sorted(recording.RECORDED.glob(f'{setting}-*.json'))]


def save(figure, name, colours=COLOURS):
  """Write a figure as a PNG of few colours."""
  PICTURES.mkdir(exist_ok=True)
  figure.canvas.draw()
  pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
  Image.fromarray(pixels).quantize(colours).save(PICTURES / f'{name}.png', optimize=True)
  pyplot.close(figure)


def draw_accuracy():
  """Draw the validation accuracy by step: the mean over the seeds, and their range."""
  figure, axes = pyplot.subplots(figsize=(7, 4), layout='tight')
  for setting, label in NAMES.items():
    runs = read_runs(setting)
    points = collections.defaultdict(list)
    for run in runs:
      for step, accuracy in run['validation']:
        points[step].append(100 * accuracy)
    # Without the steps at which a run was stopped and gone on with.
    steps = [step for step in sorted(points) if step % 1000 in (0, 1)]
    values = np.array([points[step] for step in steps])  # [steps, seeds]
    line, = axes.plot(steps, values.mean(1),
                      label=f'{label}, {len(runs)} seed{"s" * (len(runs) > 1)}')
    axes.fill_between(steps, values.min(1), values.max(1), color=line.get_color(), alpha=0.2, lw=0)
  axes.plot(*zip(*((step, 100 * value) for step, value in READERS_ACCURACY), strict=True), 'k*',
            label="readers of the book")
  axes.set(ylim=(96.5, 99.7), xlabel='training steps', ylabel='validation accuracy, %',
           title='MNIST, 5,000 validation images')
  axes.grid(alpha=0.3)
  axes.legend(loc='lower right')
  save(figure, 'mnist_accuracy')


def draw_loss():
  """Draw the loss on the training batch beside the book's."""
  training = read_runs('book')[0]['training']
  figure, axes = pyplot.subplots(figsize=(7, 3.5), layout='tight')
  for tag, label in (('loss', 'here: loss on the training batch'),
                     ('cross_entropy', 'here: its cross entropy')):
    points = [point for point in training[tag] if point[0] <= 6001]
    axes.plot(*zip(*points, strict=True), lw=1, label=label)
  penalty = [(step, loss - entropy) for (step, loss), (_, entropy) in zip(
      training['loss'], training['cross_entropy'], strict=True) if step <= 6001]
  axes.plot(*zip(*penalty, strict=True), lw=1, label='here: its L2 penalty')
  axes.plot(*zip(*BOOK_LOSS, strict=True), 'k*', label='the book prints')
  axes.set(yscale='log', xlabel='training steps', ylabel='nats',
           title='MNIST without dropout: loss on the training batch')
  axes.grid(alpha=0.3)
  axes.legend(loc='upper right', ncol=2)
  save(figure, 'mnist_loss')


def draw_digits():
  """Draw the first convolution's filters and the wrong test digits of the default run."""
  run = next(run for run in read_runs('default') if 'wrong' in run)
  images = mnist_input.read_data_sets(mnist_input.DATA_DIR).test.images.reshape(-1, 28, 28)
  figure = pyplot.figure(figsize=(7, 4.6))
  filters, wrong = figure.subfigures(1, 2, width_ratios=[1, 1.6])
  filters.suptitle('32 filters of 5x5', fontsize=10)
  for axes, weights in zip(filters.subplots(8, 4).flat, run['filters'], strict=True):
    axes.imshow(weights, 'gray')
    axes.set_axis_off()
  count = round(len(images) * (1 - run['test']))
  wrong.suptitle(f'the first {len(run["wrong"])} of {count} wrong test digits: label and answer',
                 fontsize=10)
  for axes, (k, label, answer) in zip(wrong.subplots(5, 8).flat, run['wrong'], strict=True):
    axes.imshow(images[k], 'gray_r')
    axes.set_title(f'{label}:{answer}', fontsize=8, pad=2)
    axes.set_axis_off()
  save(figure, 'mnist_digits', colours=16)


def draw_flowers():
  """Draw the validation accuracy of the flower runs beside the book's, and the test accuracy."""
  figure, (curves, bars) = pyplot.subplots(1, 2, figsize=(9, 3.8), width_ratios=[1.5, 1],
                                          layout='tight')
  runs = {'default': 'default: last layer', 'default-x30': 'default, features x30',
          'second-stage': 'then every layer', 'book': "the book's run"}
  found = [(label, recording.read_record(f'flowers-{name}')) for name, label in runs.items()]
  found = [(label, record) for label, record in found if record]
  for label, record in found:
    last = record['validation'][-1][0] or 1
    curves.plot([100 * step / last for step, _ in record['validation']],
                [100 * value for _, value in record['validation']], label=label)
  curves.plot([100 * step / 299 for step, _ in BOOK_FLOWERS], [value for _, value in BOOK_FLOWERS],
              'k*', label="the book, Google's checkpoint")
  curves.plot([100], READERS_FLOWERS[1], 'k^', label='a reader, last layers alone')
  curves.set(xlabel='% of the steps', ylabel='validation accuracy, %', ylim=(0, 100))
  curves.grid(alpha=0.3)
  curves.legend(fontsize=7)
  google = [row[-1] for row in recording.read_record('flowers-google')['rows'] if row[1]][:3]
  tests = {"Google's own features": np.mean(google),
           **{label: record['test'] for label, record in found}}
  values = [100 * test for test in tests.values()]
  bars.barh(list(tests), values)
  bars.invert_yaxis()
  for place, value in enumerate(values):
    bars.text(value + 1, place, f'{value:.1f}', va='center', fontsize=8)
  bars.axvline(20, color='k', lw=1, ls=':')  # one class of five has so many
  bars.set(xlim=(0, 100), xlabel='test accuracy, %; dotted: guessing')
  bars.tick_params('y', labelsize=7)
  save(figure, 'flowers')


def main():
  argparse.ArgumentParser(description=__doc__,
                          formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
  pyplot.switch_backend('Agg')  # draws into files, needs no screen
  draw_accuracy()
  draw_loss()
  draw_digits()
  draw_flowers()
  for path in sorted(PICTURES.glob('*.png')):
    print(f'{path.relative_to(recording.ROOT)}: {path.stat().st_size:,} bytes')


if __name__ == '__main__':
  main()
