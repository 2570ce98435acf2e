"""Fit a logistic regression to kept bottlenecks: what a last layer can learn from them at best.

    python -m benchmarks.flower_limit --input_file=flower_processed_data.npy

Reads the bottlenecks that flower_finetune.py keeps beside --input_file. The weight of the penalty
is chosen on the validation photos; the test photos are answered once, with the chosen one. Needs
benchmarks/requirements.txt.
"""
import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression

from flowers import bottlenecks, data_file

PENALTIES = 10.0 ** np.arange(-4, 4.1, 0.5)  # scikit-learn's C, of bottlenecks whose mean is 1


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--input_file', default='flower_processed_data.npy',
                      help='the .npy file of flower_preprocess.py')
  parser.add_argument('--model_dir', default='model-saves/inception',
                      help='where bottlenecks are kept if not beside --input_file')
  args = parser.parse_args()
  data = data_file.load_processed_data(args.input_file)
  rows = np.load(bottlenecks.bottlenecks_path(args.input_file, args.model_dir))
  labels = [getattr(data, f'{split}_labels') for split in data_file.SPLITS]
  ends = np.cumsum([len(part) for part in labels])
  train, validation, test = np.split(rows / rows.mean(), ends[:-1])
  scored = []
  for penalty in PENALTIES:
    fitted = LogisticRegression(C=penalty, max_iter=10000).fit(train, labels[0])
    accuracy = fitted.score(validation, labels[1])
    scored.append((accuracy, fitted))
    print(f'C = {penalty:.3g}: validation accuracy = {100 * accuracy:.1f}%', flush=True)
  accuracy, fitted = max(scored, key=lambda each: each[0])  # of equals the first, the smallest C
  right = (fitted.predict(test) == labels[2]).sum()
  print(f'C = {fitted.C:.3g}: validation accuracy = {100 * accuracy:.1f}%, '
        f'test accuracy = {100 * right / len(test):.1f}% ({right} of {len(test)})')


if __name__ == '__main__':
  main()
