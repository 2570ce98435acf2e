"""Train the last layer on features of any network, beside what else can be learned from them.

    python -m benchmarks.flower_limit --features=features.npy --names=names.txt
    python -m benchmarks.flower_limit --input_file=flower_processed_data.npy

The first takes features, float32 [n, 2048], computed elsewhere, such as those of Google's own
network, and a text file of the photos' names in their order, daisy/x.jpg, which are split as
flower_preprocess.py splits them. The second takes the bottlenecks that flower_finetune.py keeps
beside --input_file. Prints the accuracy on validation and test photos of the suite's own last
layer, trained by flower_finetune.py as it stands, once for each seed; of logistic regression, whose
penalty is chosen on the validation photos; and of the recipe of TensorFlow's retrain.py: gradient
descent at 0.01 in batches of 100 for 4,000 steps, without a penalty. Needs
benchmarks/requirements.txt.
"""
import argparse
import contextlib
import os
import pathlib
import tempfile
from unittest import mock

import numpy as np
from sklearn.linear_model import LogisticRegression

import flower_finetune
import flower_preprocess
from benchmarks import random_backbone, recording
from flowers import bottlenecks, data_file, evaluation, folders
from flowers.data_file import SPLITS

PENALTIES = 10.0 ** np.arange(-4, 4.1, 0.5)  # scikit-learn's C, of features whose mean is 1
RETRAIN_RATE, RETRAIN_BATCH, RETRAIN_STEPS = 0.01, 100, 4000


def split_names(names):
  """Return ProcessedData without images of photos' names, and their order in it."""
  percentages = flower_preprocess.VALIDATION_PERCENTAGE, flower_preprocess.TEST_PERCENTAGE
  places = []
  for place, name in enumerate(names):
    chance, order = folders.draw(flower_preprocess.SEED, name)
    places.append((SPLITS.index(folders.drawn_split(chance, *percentages)), order, place))
  places.sort()
  order = [place for *_, place in places]
  labels = sorted({name.split('/')[0] for name in names})
  classes = np.array([labels.index(names[place].split('/')[0]) for place in order])
  ends = np.cumsum([sum(split == k for split, *_ in places) for k in range(len(SPLITS))])
  # Images of one pixel that takes no memory: nothing looks at them.
  parts = [part for of_split in np.split(classes, ends[:-1])
           for part in (np.broadcast_to(np.uint8(0), [len(of_split), 299, 299, 3]), of_split)]
  return data_file.ProcessedData(*parts, labels, [names[place] for place in order], 'given'), order


def read_features(args):
  """Return ProcessedData and the features of its photos, in its order."""
  if args.features:
    names = args.names.read_text(encoding='utf-8').split('\n')
    data, order = split_names([name for name in names if name])
    return data, np.load(args.features)[order]
  data = data_file.load_processed_data(args.input_file)
  with np.load(bottlenecks.bottlenecks_path(args.input_file, '')) as kept:
    return data, kept['bottlenecks']


def train_last_layer(data, inputs, seed, folder):
  """Return the validation and test accuracy of flower_finetune.py on features."""
  def given_examples(sess, model, data, recipe, options):
    labels = {split: getattr(data, f'{split}_labels') for split in SPLITS}
    return evaluation.Examples(model.bottlenecks, inputs, labels)

  options = flower_finetune.FLAGS.options(
      ckpt_file=os.path.join(folder, 'backbone.ckpt'), seed=seed,
      model_dir=os.path.join(folder, f'model-{seed}'))
  with mock.patch.object(flower_finetune, 'make_examples', given_examples), \
      open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
    predicted = flower_finetune.finetune(data, options)
  curves = recording.read_curves(pathlib.Path(options.model_dir, 'train'))
  return curves['validation_accuracy'][-1][1], np.mean(predicted == data.testing_labels)


def fit_logistic_regression(inputs, labels):
  """Return the validation and test accuracy with the best penalty on validation."""
  train = inputs['training'], labels['training']
  fitted = [LogisticRegression(C=penalty, max_iter=10000).fit(*train) for penalty in PENALTIES]
  scores = [each.score(inputs['validation'], labels['validation']) for each in fitted]
  best = int(np.argmax(scores))  # of equals the first, the smallest C
  return scores[best], fitted[best].score(inputs['testing'], labels['testing'])


def retrain(inputs, labels, seed):
  """Return the validation and test accuracy of retrain.py's recipe, on the features' own scale."""
  random = np.random.RandomState(seed)
  one_hot = np.eye(labels['training'].max() + 1)
  weights = random.normal(0, 0.001, [inputs['training'].shape[1], len(one_hot)])
  biases = np.zeros(len(one_hot))
  for _ in range(RETRAIN_STEPS):
    batch = random.randint(len(inputs['training']), size=RETRAIN_BATCH)
    rows, wanted = inputs['training'][batch], one_hot[labels['training'][batch]]
    logits = rows @ weights + biases
    odds = np.exp(logits - logits.max(1, keepdims=True))
    gradient = (odds / odds.sum(1, keepdims=True) - wanted) / RETRAIN_BATCH
    weights -= RETRAIN_RATE * rows.T @ gradient
    biases -= RETRAIN_RATE * gradient.sum(0)
  return tuple(np.mean((inputs[split] @ weights + biases).argmax(1) == labels[split])
               for split in ('validation', 'testing'))


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--features', type=pathlib.Path, help='.npy file of features')
  parser.add_argument('--names', type=pathlib.Path, help='their photos, a name on each line')
  parser.add_argument('--input_file', default='flower_processed_data.npy',
                      help='the .npy file of flower_preprocess.py')
  parser.add_argument('--seeds', default='1,2,3', help='seeds, separated by commas')
  parser.add_argument('--record', help='name of a record in benchmarks/recorded')
  args = parser.parse_args()
  data, features = read_features(args)
  labels = {split: getattr(data, f'{split}_labels') for split in SPLITS}
  counts = [len(labels[split]) for split in SPLITS]
  inputs = dict(zip(SPLITS, np.split(features, np.cumsum(counts)[:-1]), strict=True))
  scaled = {split: rows / features.mean() for split, rows in inputs.items()}
  print('%d training examples, %d validation examples and %d testing example.' % tuple(counts))
  print('| last layer | seed | validation | test |\n|---|---|---|---|')
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    random_backbone.write_random_backbone(os.path.join(folder, 'backbone.ckpt'))
    for seed in map(int, args.seeds.split(',')):
      rows.append(['this suite', seed, *train_last_layer(data, inputs, seed, folder)])
  rows.append(['logistic regression', '', *fit_logistic_regression(scaled, labels)])
  rows.append(["retrain.py's recipe", 1, *retrain(inputs, labels, 1)])
  for name, seed, validation, test in rows:
    print(f'| {name} | {seed} | {100 * validation:.1f} % | {100 * test:.1f} % |')
  if args.record:
    recording.write_record(args.record, examples=counts, rows=rows)


if __name__ == '__main__':
  main()
