"""Fine-tune a pre-trained Inception-v3 on the output of flower_preprocess.py.

    python flower_finetune.py

Reads --input_file and the pre-trained --ckpt_file (downloaded if it is missing), trains the
last layers, writes flower.ckpt-STEP, model.json and TensorBoard scalars into --model_dir,
and prints the validation accuracy every 30 steps and the test accuracy at the end. Started
again, it goes on from the newest checkpoint. What to expect is in README.md.
"""
import contextlib
import json
import math
import os
import tarfile
import zipfile
import zlib
from typing import NamedTuple

import script_support  # first: it imports TensorFlow quietly

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags
from tqdm import tqdm

import flower_inference
import flower_preprocess

FLAGS = flags.FLAGS

# Files.
INPUT_DATA = flower_preprocess.OUTPUT_FILE
TRAIN_FILE = os.path.join('model-saves', 'inception')  # the folder of the checkpoints
MODEL_NAME = 'flower.ckpt'
CKPT_FILE = os.path.join('model-saves', 'inception', 'inception_v3.ckpt')
MODEL_FILE = 'model.json'  # class names and batch normalisation, for flower_predict.py
FEATURES_NAME = 'features.npz'
CKPT_URL = 'http://download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz'

# Optimisation.
LEARNING_RATE = 0.0001
STEPS = 300
BATCH = 32
SEED = 1  # of the new layers' initial weights and of dropout

REPORT_INTERVAL_STEPS = 30  # from one checkpoint and validation line to the next
EVAL_BATCH = 32  # photos in one run without training


def define_flags():
  """Define a flag for each constant that a user may choose."""
  flags.DEFINE_string('input_file', INPUT_DATA, 'The .npy file of flower_preprocess.py.')
  flags.DEFINE_string('ckpt_file', CKPT_FILE, 'The pre-trained checkpoint.')
  flags.DEFINE_string('model_dir', TRAIN_FILE, 'Folder of the fine-tuned checkpoints.')
  flags.DEFINE_float('learning_rate', LEARNING_RATE, 'Learning rate of RMSProp.', lower_bound=0)
  flags.DEFINE_integer('steps', STEPS, 'Steps in all, those of earlier runs included.', lower_bound=1)
  flags.DEFINE_integer('batch_size', BATCH, 'Photos in a training step.', lower_bound=1)
  flags.DEFINE_string('checkpoint_exclude_scopes', flower_inference.CHECKPOINT_EXCLUDE_SCOPES,
                      'Prefixes of variables not to restore from --ckpt_file, separated by commas.')
  flags.DEFINE_string('trainable_scopes', flower_inference.TRAINABLE_SCOPE,
                      'Prefixes of variables to train, separated by commas; InceptionV3 is all.')
  flags.DEFINE_enum('batch_norm', 'frozen', ['frozen', 'batch'], 'Batch normalisation with the fixed statistics '
                    'of the checkpoint, or with those of each batch, as in the book.')
  flags.DEFINE_bool('feature_cache', True, 'Compute what the last layers read once for each photo, '
                    'where only they are trained and batch normalisation is frozen.')
  flags.DEFINE_integer('seed', SEED, 'Seed of new weights and dropout.', lower_bound=0, upper_bound=2**31 - 1)


class Options(NamedTuple):
  """What steers a run, with the flags' meanings and defaults."""
  ckpt_file: str = CKPT_FILE
  model_dir: str = TRAIN_FILE
  learning_rate: float = LEARNING_RATE
  steps: int = STEPS
  batch_size: int = BATCH
  checkpoint_exclude_scopes: str = flower_inference.CHECKPOINT_EXCLUDE_SCOPES
  trainable_scopes: str = flower_inference.TRAINABLE_SCOPE
  batch_norm: str = 'frozen'
  feature_cache: bool = True
  seed: int = SEED


class FinetuningGraph(NamedTuple):
  """The tensors, operations and variables of a fine-tuning graph."""
  images: tf.Tensor  # float32 [batch, 299, 299, 3] in [0, 1], fed
  pre_logits: tf.Tensor  # float32 [batch, 1, 1, 2048], may be fed in place of images
  labels: tf.Tensor  # int64 [batch], fed
  logits: tf.Tensor  # float32 [batch, n_classes]
  cross_entropy: tf.Tensor  # scalar: mean over the batch, in nats
  penalty: tf.Tensor  # scalar: L2 penalties of all weights
  train_step: tf.Operation
  global_step: tf.Variable  # int64, steps done
  trained: list  # the variables that train_step changes
  weights_finite: tf.Tensor  # bool: none of them is infinite or not a number


class Examples(NamedTuple):
  """The data in the form in which the graph is fed."""
  tensor: tf.Tensor  # what the inputs are fed to: images or pre_logits
  inputs: dict  # {split: array [n, ...]}
  labels: dict  # {split: int64 [n]}


def build_finetuning_graph(n_classes, options):
  """Build network, loss and training step.

  Args:
    n_classes: int.
    options: Options.

  Returns:
    FinetuningGraph.

  Raises:
    script_support.UsageError: if options.trainable_scopes match no variable.
  """
  images = tf.placeholder(tf.float32, [None, flower_inference.IMAGE_SIZE, flower_inference.IMAGE_SIZE, 3],
                          name='input_images')
  labels = tf.placeholder(tf.int64, [None], name='labels')
  logits, pre_logits = flower_inference.inference(images, n_classes, options.batch_norm == 'batch')
  trained = flower_inference.get_trainable_variables(options.trainable_scopes)
  cross_entropy = tf.losses.softmax_cross_entropy(tf.one_hot(labels, n_classes), logits, weights=1.0)
  penalty = tf.losses.get_regularization_loss()  # slim has added them to its collection
  global_step = tf.train.get_or_create_global_step()
  train_step = tf.train.RMSPropOptimizer(options.learning_rate).minimize(
      cross_entropy + penalty, global_step, var_list=trained)
  return FinetuningGraph(images, pre_logits, labels, logits, cross_entropy, penalty, train_step, global_step,
                         trained, script_support.all_finite(trained))


# -- The pre-trained checkpoint ----------------------------------------------------------


def fetch_checkpoint(ckpt_file, variables):
  """Download Google's checkpoint, which has no published digest, and check its variables.

  Raises:
    script_support.UserError: if it cannot be had or is not of this network.
  """
  folder = os.path.dirname(ckpt_file) or '.'
  cure = f'fetch it elsewhere and unpack it, so that inception_v3.ckpt is at --ckpt_file={ckpt_file}'
  with script_support.download(CKPT_URL, folder, cure) as archive_path:
    try:
      with tarfile.open(archive_path) as archive:
        script_support.unpack(archive, os.path.dirname(archive_path))
    except (tarfile.TarError, EOFError, zlib.error) as error:
      raise script_support.UserError(f'{CKPT_URL} is no whole archive ({type(error).__name__}): {cure}') from None
    unpacked = os.path.join(os.path.dirname(archive_path), os.path.basename(CKPT_FILE))
    shapes = script_support.checkpoint_shapes(unpacked)
    for variable in variables:
      if shapes.get(variable.op.name) != variable.shape.as_list():
        raise script_support.UserError(f'{CKPT_URL} does not hold {variable.op.name} of shape '
                                       f'{variable.shape.as_list()}: it is not the checkpoint it was')
    os.replace(unpacked, ckpt_file)


def load_tuned_variables(sess, ckpt_file, variables):
  """Restore variables from a pre-trained checkpoint, and say which it does not have.

  Args:
    sess: session in which the variables were initialized.
    ckpt_file: str, the checkpoint.
    variables: list of the variables to restore.

  Raises:
    script_support.UserError: if the checkpoint is missing or damaged, has none of the
      variables, or has one of another shape.
  """
  if not os.path.isfile(ckpt_file) and not tf.train.checkpoint_exists(ckpt_file):
    if os.path.basename(ckpt_file) != os.path.basename(CKPT_FILE) or os.path.exists(ckpt_file):
      raise script_support.UserError(f'--ckpt_file={ckpt_file} is no checkpoint: give its path without '
                                     '.index or .data-00000-of-00001')
    fetch_checkpoint(ckpt_file, variables)
  print('Loading tuned variables from %s' % ckpt_file)
  shapes = script_support.checkpoint_shapes(ckpt_file)
  found = [variable for variable in variables if variable.op.name in shapes]
  for variable in found:
    shape, expected = shapes[variable.op.name], variable.shape.as_list()
    if shape != expected:
      raise script_support.UserError(f'--ckpt_file={ckpt_file}: {variable.op.name} has shape {shape}, expected '
                                     f'{expected}: add its prefix to --checkpoint_exclude_scopes')
  if not found:
    raise script_support.UserError(f'--ckpt_file={ckpt_file} has none of the {len(variables)} variables to '
                                   'restore: give a checkpoint of Inception-v3 in slim\'s names')
  try:
    with script_support.log_lines_held_back(script_support.RAISED_TOO):
      tf.train.Saver(found).restore(sess, ckpt_file)
  except (ValueError, *script_support.FILE_ERRORS) as error:
    raise script_support.UserError(f'--ckpt_file={ckpt_file} is damaged '
                                   f'({script_support.describe(error)}): fetch it again') from None
  print(f'{len(found)} of {len(variables)} variables restored.')
  for variable in variables:
    if variable.op.name not in shapes:
      print(f'Not in the checkpoint, starts anew: {variable.op.name}')


# -- Features ----------------------------------------------------------------------------


def run_batches(sess, tensor, fed_tensor, inputs, bar=None):
  """Return the rows of tensor for all inputs, in batches that take each once."""
  rows = []
  for start in range(0, len(inputs), EVAL_BATCH):
    batch = inputs[start:start + EVAL_BATCH]
    rows.append(sess.run(tensor, {fed_tensor: batch}))
    if bar is not None:
      bar.update(len(batch))
  return np.concatenate(rows)


def load_features(sess, graph, data, options, data_digest):
  """Return PreLogits of every photo, from the model folder if they were computed before.

  They are kept under a key of the photos and of the network's weights as restored; under
  another key they are computed anew.

  Args:
    sess: session whose variables are restored.
    graph: FinetuningGraph.
    data: flower_preprocess.ProcessedData.
    options: Options.
    data_digest: str, digest of the data file.

  Returns:
    {split: float32 [n, 1, 1, 2048]}.
  """
  path = os.path.join(options.model_dir, FEATURES_NAME)
  trunk = [variable for variable in flower_inference.model_variables()
           if not flower_inference.only_head([variable])]
  key = script_support.digest([data_digest.encode()] + [value.tobytes() for value in sess.run(trunk)])
  # A file that is missing, damaged or of something else is made anew.
  with contextlib.suppress(FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile,
                           zlib.error, NotImplementedError):
    with np.load(path, allow_pickle=False) as stored:
      if str(stored['key']) == key:
        print(f'Features of all photos from {path}.')
        return {split: stored[split] for split in flower_preprocess.SPLITS}
  images = {split: getattr(data, f'{split}_images') for split in flower_preprocess.SPLITS}
  with tqdm(total=sum(map(len, images.values())), unit='photo', desc='Features', disable=None) as bar:
    features = {split: run_batches(sess, graph.pre_logits, graph.images, images[split], bar) for split in images}
  with script_support.replace_file(path) as temporary_path, open(temporary_path, 'wb') as file:
    np.savez(file, key=key, **features)
  return features


def make_examples(sess, graph, data, options, data_digest):
  """Return Examples: features where they stay the same, photos where they do not."""
  labels = {split: getattr(data, f'{split}_labels') for split in flower_preprocess.SPLITS}
  if options.feature_cache and options.batch_norm == 'frozen' and flower_inference.only_head(graph.trained):
    return Examples(graph.pre_logits, load_features(sess, graph, data, options, data_digest), labels)
  inputs = {split: getattr(data, f'{split}_images') for split in flower_preprocess.SPLITS}
  return Examples(graph.images, inputs, labels)


# -- Training ----------------------------------------------------------------------------


def predict_labels(sess, graph, examples, split):
  """Return the predicted classes of a split, int64 [n]."""
  return run_batches(sess, graph.logits, examples.tensor, examples.inputs[split]).argmax(1)


def train_steps(sess, graph, examples, saver, options, steps_done):
  """Train on the batches in their order; save and validate every 30 steps, at the last and on a signal.

  Returns:
    The name of the signal that ended training, or None.

  Raises:
    script_support.UserError: if the loss is not finite; that step is not saved.
  """
  inputs, labels = examples.inputs['training'], examples.labels['training']
  batches_an_epoch = math.ceil(len(inputs) / options.batch_size)
  writer = script_support.open_writer(os.path.join(options.model_dir, 'train'))
  with script_support.StopSignals() as stop, writer, \
      tqdm(total=options.steps, initial=steps_done, unit='step', disable=None) as bar:
    for i in range(steps_done, options.steps):
      # In order: preprocessing has shuffled them. The last batch of an epoch may be smaller.
      start = i % batches_an_epoch * options.batch_size
      _, cross_entropy = sess.run([graph.train_step, graph.cross_entropy], {
          examples.tensor: inputs[start:start + options.batch_size],
          graph.labels: labels[start:start + options.batch_size]})
      bar.update()
      if not math.isfinite(cross_entropy):
        raise script_support.UserError(f'the cross entropy is {cross_entropy:g} at step {i}, which is not saved: '
                                       f'give less than --learning_rate={options.learning_rate:g}')
      report = i % REPORT_INTERVAL_STEPS == 0 or i + 1 == options.steps or stop.received
      if report and not sess.run(graph.weights_finite):
        raise script_support.UserError(f'not all weights are finite at step {i}, which is not saved: '
                                       f'give less than --learning_rate={options.learning_rate:g}')
      if report:
        correct = predict_labels(sess, graph, examples, 'validation') == examples.labels['validation']
        accuracy = float(np.mean(correct))
        script_support.save_checkpoint(sess, saver, options.model_dir, MODEL_NAME, i)
        bar.write('Step %d: Validation accuracy = %.1f%%' % (i, accuracy * 100.0))
        # The penalty of 22 million weights, only here and after the step: it hardly changes in one.
        script_support.write_scalars(writer, i, validation_accuracy=accuracy, cross_entropy=cross_entropy,
                                     loss=cross_entropy + sess.run(graph.penalty))
      if stop.received:
        return stop.received
  return None


def print_test_report(predicted, data):
  """Print the test accuracy, a table by class, and the photos that were taken for others."""
  correct = predicted == data.testing_labels
  print('Final test accuracy = %.1f%%' % (np.mean(correct) * 100))
  print(f'{int(correct.sum())} of {len(correct)} test photos are right:')
  for label, name in enumerate(data.labels):
    of_class = data.testing_labels == label
    print(f'  {script_support.printable(name)}: {int(correct[of_class].sum())} of {int(of_class.sum())}')
  test_files = data.files[len(data.files) - len(predicted):]
  for file, true, wrong in zip(test_files, data.testing_labels, predicted, strict=True):
    if true != wrong:
      print(f'  wrong: {script_support.printable(file)} taken for '
            f'{script_support.printable(data.labels[wrong])}')


def check_model_dir(model, model_dir):
  """Raise script_support.UserError if the folder's checkpoints are of other classes or batch normalisation."""
  if script_support.named_checkpoints(model_dir, MODEL_NAME):
    stored = script_support.read_json(os.path.join(model_dir, MODEL_FILE))
    for key, value in model.items():
      if stored.get(key) != value:
        raise script_support.UserError(f'--model_dir={model_dir} holds checkpoints with {key} '
                                       f'{stored.get(key)}, not {value}: choose another folder')


def write_model(model, model_dir):
  """Leave in the model folder what a prediction needs beside a checkpoint."""
  path = os.path.join(model_dir, MODEL_FILE)
  with script_support.replace_file(path) as temporary_path, open(temporary_path, 'w', encoding='utf-8') as file:
    json.dump(model, file, indent=1)


def finetune(data, data_digest, options=Options()):
  """Fine-tune on data.training_images and report on the testing ones.

  Args:
    data: flower_preprocess.ProcessedData.
    data_digest: str, digest of its file, part of the key of the features.
    options: Options.

  Returns:
    int64 [n], the predicted classes of the testing images; None if a signal ended training.

  Raises:
    script_support.UserError: see `load_tuned_variables`, `check_model_dir`, `train_steps`.
  """
  with script_support.folder_lock(options.model_dir), tf.Graph().as_default():
    tf.set_random_seed(options.seed)
    graph = build_finetuning_graph(len(data.labels), options)
    tuned_variables = flower_inference.get_tuned_variables(options.checkpoint_exclude_scopes)
    model = {'labels': data.labels, 'batch_norm': options.batch_norm}
    check_model_dir(model, options.model_dir)
    variables = tf.global_variables()
    saver = tf.train.Saver(variables, save_relative_paths=True)
    with tf.Session() as sess:
      # Order matters: what is loaded must not be initialized afterwards.
      sess.run(tf.global_variables_initializer())
      path = script_support.resume(sess, saver, {variable.op.name: variable for variable in variables},
                                   options.model_dir, MODEL_NAME)
      if path:
        print(f'Going on from {path}.')
      else:
        load_tuned_variables(sess, options.ckpt_file, tuned_variables)
      write_model(model, options.model_dir)
      steps_done = int(sess.run(graph.global_step))
      examples = make_examples(sess, graph, data, options, data_digest)
      if steps_done >= options.steps:
        print(f'Nothing to train: {steps_done} of {options.steps} steps are done; give more with --steps.')
      signal_name = train_steps(sess, graph, examples, saver, options, steps_done)
      if signal_name:
        print(f'Stopped by {signal_name}; run again to go on from {options.model_dir}.')
        return None
      predicted = predict_labels(sess, graph, examples, 'testing')
      print_test_report(predicted, data)
      print(f'Saved {script_support.named_checkpoints(options.model_dir, MODEL_NAME)[-1]}')
      return predicted


def main(argv):
  script_support.refuse_arguments(argv)
  data = flower_preprocess.load_processed_data(FLAGS.input_file)
  print('%d training examples, %d validation examples and %d testing example.' % (
      len(data.training_labels), len(data.validation_labels), len(data.testing_labels)))
  for split in flower_preprocess.SPLITS:
    if not len(getattr(data, f'{split}_labels')):
      raise script_support.UserError(f'--input_file={FLAGS.input_file} has no {split} photos: preprocess more '
                                     'photos, or with other percentages or another --seed')
  options = Options(**{name: FLAGS[name].value for name in Options._fields})
  finetune(data, script_support.file_digest(FLAGS.input_file), options)


if __name__ == '__main__':
  script_support.run(main, define_flags)
