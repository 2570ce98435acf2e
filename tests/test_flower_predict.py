"""flower_predict.py: answers of a model folder alone, photo by photo."""
import json
import os
import re
import shutil

import numpy as np
import pytest
import running

import flower_finetune
import flower_predict
from flowers import data_file
from support.console import UserError


@pytest.fixture(scope='module')
def model_dir(photos_file, backbone_ckpt, tmp_path_factory):
  """A model folder after 5 steps on bottlenecks; predicted.npy there has the tested answers."""
  folder = tmp_path_factory.mktemp('model')
  predicted = flower_finetune.finetune(
      data_file.load_processed_data(str(photos_file)),
      flower_finetune.FLAGS.options(input_file=photos_file, ckpt_file=backbone_ckpt,
                                    model_dir=folder, steps=5, batch_size=4))
  np.save(folder / 'predicted.npy', predicted)
  return folder


def test_answers_equal_those_of_finetuning_photo_by_photo(
    photos_dir, photos_file, model_dir, tmp_path):
  data = data_file.load_processed_data(str(photos_file))
  paths = [photos_dir / name for name in data.files[-len(data.testing_labels):]]
  elsewhere = tmp_path / '别处'  # the model folder alone is enough, wherever it is
  shutil.copytree(model_dir, elsewhere)
  result = running.run_script('flower_predict.py', '--model_dir', elsewhere, '--top_k=2',
                              *paths, paths[0])
  assert (result.returncode, result.stderr) == (0, '')
  answers = re.findall(r'^(.*): (\S+) ([01]\.\d{4}), (\S+) (0\.\d{4})$', result.stdout, re.M)
  assert [path for path, *_ in answers] == [str(path) for path in [*paths, paths[0]]]
  assert answers[-1] == answers[0]  # each photo as often as it is given
  expected = [data.labels[label] for label in np.load(model_dir / 'predicted.npy')]
  assert [first for _, first, *_ in answers[:-1]] == expected
  assert all(float(first) >= float(second) for _, _, first, _, second in answers)


def test_a_photo_is_answered_alone_as_among_others(photos_file, model_dir):
  data = data_file.load_processed_data(str(photos_file))
  with flower_predict.open_model(str(model_dir)) as (labels, predict):
    together, alone = predict(data.testing_images), predict(data.testing_images[:1])
  assert labels == data.labels == ['daisy', 'rose', 'tulip']
  np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(alone[0], together[0], rtol=1e-3, atol=1e-5)


def test_each_bad_file_has_its_line_and_the_others_are_answered(
    photos_dir, model_dir, tmp_path, monkeypatch, capsys):
  good = sorted((photos_dir / 'rose').iterdir())[:3]
  fifo, text, missing = (tmp_path / name for name in ('fifo', 'text.jpg', 'missing.jpg'))
  os.mkfifo(fifo)
  text.write_text('not a photo')
  given = [str(path) for path in (good[0], fifo, text, good[1], missing, '/dev/zero', good[2])]
  monkeypatch.setattr(flower_predict, 'PHOTOS_PER_RUN', 2)  # memory is bounded by that many
  failures = flower_predict.classify(given, flower_predict.FLAGS.options(model_dir=model_dir))
  said = capsys.readouterr()
  assert [line.split(': ')[0] for line in said.out.splitlines()] == [str(path) for path in good]
  errors = said.err.splitlines()
  assert failures == len(errors) == 4
  for error, path in zip(errors, (fifo, text, missing, '/dev/zero'), strict=True):
    assert f'error: {path}' in error


def test_models_that_cannot_answer_are_refused(model_dir, tmp_path):
  with pytest.raises(UserError, match='holds no model of flower_finetune.py: run it first'):
    flower_predict.read_labels(str(tmp_path))
  model = json.loads((model_dir / 'model.json').read_text())
  (tmp_path / 'model.json').write_text(json.dumps({**model, 'batch_norm': 'batch'}))
  with pytest.raises(UserError, match='--batch_norm=batch.*--batch_norm=frozen'):
    flower_predict.read_labels(str(tmp_path))
  (tmp_path / 'model.json').write_text(json.dumps(model))
  with (pytest.raises(UserError, match='holds no checkpoint flower.ckpt-STEP: train first'),
        flower_predict.open_model(str(tmp_path))):
    pass


def test_status_and_usage(model_dir):
  result = running.run_script('flower_predict.py', '--model_dir', model_dir)
  assert result.returncode == 2 and 'no photo given' in result.stderr
  result = running.run_script('flower_predict.py', '--model_dir', model_dir, 'missing.jpg')
  assert result.returncode == 1 and result.stderr.count('\n') == 1
