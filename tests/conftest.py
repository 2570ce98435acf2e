"""Fixtures that several test files share; what is slow to make is made once."""
import made_data
import pytest

import mnist_input
import mnist_train


@pytest.fixture(scope='session')
def mnist_dir(tmp_path_factory):
  """A folder of four MNIST files: 200 training, 5,000 validation, 60 test images."""
  return made_data.write_mnist(tmp_path_factory.mktemp('mnist'))


@pytest.fixture(scope='session')
def mnist(mnist_dir):
  """The same, read."""
  return mnist_input.read_data_sets(mnist_dir, one_hot=True)


@pytest.fixture(scope='session')
def trained_dir(mnist, tmp_path_factory):
  """A model folder after 61 training steps, with checkpoints at 1, 21, 41 and 61."""
  model_dir = tmp_path_factory.mktemp('trained')
  mnist_train.train(mnist, mnist_train.FLAGS.options(
      model_dir=model_dir, training_steps=61, save_interval_steps=20, batch_size=50))
  return model_dir


@pytest.fixture(scope='session')
def photos_dir(tmp_path_factory):
  """A folder of three class folders with 8 small photos each."""
  return made_data.write_photos(tmp_path_factory.mktemp('photos'))


@pytest.fixture(scope='session')
def photos_file(photos_dir, tmp_path_factory):
  """The output of preprocessing `photos_dir`; no split is empty."""
  import flower_preprocess
  path = tmp_path_factory.mktemp('processed') / 'photos.npy'
  flower_preprocess.preprocess(flower_preprocess.FLAGS.options(
      input_dir=photos_dir, output_file=path, testing_percentage=25, validation_percentage=25))
  return path


@pytest.fixture(scope='session')
def backbone_ckpt(tmp_path_factory):
  """A checkpoint of Inception-v3 without its last layers, of random weights, in slim's names."""
  from benchmarks import random_backbone
  path = str(tmp_path_factory.mktemp('backbone') / 'inception_v3.ckpt')
  random_backbone.write_random_backbone(path)
  return path
