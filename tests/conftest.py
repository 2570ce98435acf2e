"""Fixtures that several test files share; what is slow to make is made once."""
import pytest
import support

import flower_preprocess


@pytest.fixture(scope='session')
def mnist_dir(tmp_path_factory):
  """A folder of four small files in the MNIST format: 200 training, 5,000 validation, 60 test images."""
  return support.write_mnist(tmp_path_factory.mktemp('mnist'))


@pytest.fixture(scope='session')
def photos_dir(tmp_path_factory):
  """A folder of three class folders with 8 small photos each."""
  return support.write_photos(tmp_path_factory.mktemp('photos'))


@pytest.fixture(scope='session')
def photos_file(photos_dir, tmp_path_factory):
  """The output of preprocessing `photos_dir`; its splits have 14, 5 and 5 photos or the like, none is empty."""
  path = tmp_path_factory.mktemp('processed') / 'photos.npy'
  flower_preprocess.preprocess(str(photos_dir), str(path), testing_percentage=20, validation_percentage=20, seed=1)
  return path


@pytest.fixture(scope='session')
def trunk_ckpt(tmp_path_factory):
  """A checkpoint of Inception-v3 without its last layers, of random weights, in slim's names."""
  import tensorflow.compat.v1 as tf

  import flower_inference
  path = str(tmp_path_factory.mktemp('trunk') / 'inception_v3.ckpt')
  with tf.Graph().as_default(), tf.Session() as sess:
    tf.set_random_seed(5)
    flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 3, False)
    variables = flower_inference.get_tuned_variables()
    sess.run(tf.global_variables_initializer())
    tf.train.Saver(variables).save(sess, path, write_meta_graph=False, write_state=False)
  return path
