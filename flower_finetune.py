"""Fine-tune a pre-trained Inception-v3 on the output of flower_preprocess.py.

    python flower_finetune.py

Reads --input_file and the pre-trained --ckpt_file (downloaded if it is missing), trains the last
layers, writes flower.ckpt-STEP, model.json and TensorBoard summaries into --model_dir, and
prints the validation accuracy eleven times and the test accuracy at the end. Started again, it
goes on from the newest checkpoint, and ends in the same weights as a run that was never stopped.
What to expect is in RESULTS.md.
"""
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import flower_inference
from flowers import backbone, bottlenecks, evaluation
from flowers.data_file import SPLITS, ProcessedData, load_processed_data
from flowers.photo import IMAGE_SIZE
from support import checkpoints, console
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

# Files.
INPUT_DATA = 'flower_processed_data.npy'
TRAIN_FILE = os.path.join('model-saves', 'inception')  # the folder of the checkpoints
MODEL_NAME = 'flower.ckpt'
CKPT_FILE = os.path.join(TRAIN_FILE, backbone.CKPT_NAME)

# Prefixes, separated by commas, of the variables that are not restored, and of those trained.
CHECKPOINT_EXCLUDE_SCOPES = 'InceptionV3/Logits,InceptionV3/AuxLogits'
TRAINABLE_SCOPE = 'InceptionV3/Logits,InceptionV3/AuxLogits'

# Optimization where the whole network runs at each step: the book's numbers.
LEARNING_RATE = 0.0001
STEPS = 300
BATCH = 32

# Optimization where only the last layer runs, on kept bottlenecks, and a step takes a millisecond.
# RMSProp moves a weight by about the learning rate, whatever its gradient, and so moves a logit in
# proportion to the bottlenecks, which are 30 times larger with one checkpoint than with another.
# Therefore the rate is divided by their mean, and the weights are multiplied by it in the penalty.
# The rate falls, because one large enough to learn in time is unsteady in batches of 32.
# Chosen by cross-validation on some 900 photos, with small and with large bottlenecks; as good as
# logistic regression there.
BOTTLENECK_LEARNING_RATE = 0.002  # of bottlenecks whose mean is 1
BOTTLENECK_LEARNING_RATE_DECAY = 0.01  # factor on it from the first step to the last
BOTTLENECK_WEIGHT_DECAY = 150  # L2 penalty, shared out among the training photos
BOTTLENECK_STEPS = 6000

SEED = 1  # of the new layers' initial weights, of dropout and of the batches of evaluation

# Checkpoints and validations in a run, besides the last: every 30th of 300 steps, as in the book.
REPORTS = 10
MAX_TO_KEEP = 5

FLAGS = console.Flags()
FLAGS.DEFINE_path('input_file', INPUT_DATA, 'The .npy file of flower_preprocess.py.')
FLAGS.DEFINE_path('ckpt_file', CKPT_FILE, 'The pre-trained checkpoint.', for_tensorflow=True)
FLAGS.DEFINE_path('model_dir', TRAIN_FILE, 'Folder of the fine-tuned checkpoints.',
                  for_tensorflow=True)
FLAGS.DEFINE_float(
    'learning_rate', None, f'Learning rate of RMSProp; default: {LEARNING_RATE} where the whole '
    'network runs at each step. On kept bottlenecks, that of the first step, to be divided by '
    f'their mean; default: {BOTTLENECK_LEARNING_RATE}.', 0)
FLAGS.DEFINE_integer(
    'steps', None, f'Steps in all, those of earlier runs included; default: {STEPS} where the '
    f'whole network runs at each step, {BOTTLENECK_STEPS} on kept bottlenecks.', 1)
FLAGS.DEFINE_integer('batch_size', BATCH, 'Photos in a training step.', 1)
FLAGS.DEFINE_string('checkpoint_exclude_scopes', CHECKPOINT_EXCLUDE_SCOPES,
                    'Prefixes of variables not to restore from --ckpt_file, separated by commas.')
FLAGS.DEFINE_string('trainable_scopes', TRAINABLE_SCOPE,
                    'Prefixes of variables to train, separated by commas; InceptionV3 is all.')
FLAGS.DEFINE_enum('batch_norm', 'frozen', ['frozen', 'batch'], 'Batch normalization with the fixed '
                  'statistics of the checkpoint, or with those of each batch, as in the book.')
FLAGS.DEFINE_bool('feature_cache', True, 'Compute what the last layers read, the bottlenecks, once '
                  'for each photo and keep it, where only they are trained and batch normalization '
                  'is frozen.')
FLAGS.DEFINE_integer('seed', SEED, 'Seed of new weights, dropout, and the batches of evaluation.',
                     0, 2**31 - 1)


# -- Which variables ---------------------------------------------------------------------


def _prefixes(scopes: str, variables: list[tf.Variable], flag_name: str) -> tuple[str, ...]:
  """Return the prefixes in a comma-separated string; each must match one of the variables."""
  prefixes = tuple(scope.strip() for scope in scopes.split(',') if scope.strip())
  for prefix in prefixes:
    if not any(variable.op.name.startswith(prefix) for variable in variables):
      raise console.UserError(
          f'--{flag_name}: {prefix!r} begins the name of no variable: give prefixes like '
          'InceptionV3/Logits or InceptionV3/Mixed_7c, separated by commas', console.WRONG_USAGE)
  return prefixes


def get_tuned_variables(checkpoint_exclude_scopes: str = CHECKPOINT_EXCLUDE_SCOPES
                        ) -> list[tf.Variable]:
  """Return the model variables to restore from the pre-trained checkpoint: all but the excluded."""
  variables = flower_inference.model_variables()
  exclusions = _prefixes(checkpoint_exclude_scopes, variables, 'checkpoint_exclude_scopes')
  return [variable for variable in variables if not variable.op.name.startswith(exclusions)]


def get_trainable_variables(trainable_scopes: str = TRAINABLE_SCOPE) -> list[tf.Variable]:
  """Return the variables to train."""
  scopes = _prefixes(trainable_scopes, tf.trainable_variables(), 'trainable_scopes')
  if not scopes:
    raise console.UserError('--trainable_scopes is empty: give one prefix at least',
                            console.WRONG_USAGE)
  return [variable for variable in tf.trainable_variables() if variable.op.name.startswith(scopes)]


# -- The graph ---------------------------------------------------------------------------


class Recipe(NamedTuple):
  """How to train, as far as that depends on what is trained."""
  on_bottlenecks: bool  # whether what the last layer reads stays the same, and is kept
  learning_rate: float
  steps: int


def choose_recipe(options: console.Options) -> Recipe:
  """Return the Recipe for what options train, with its own numbers where they give none."""
  scopes = [scope.strip() for scope in options.trainable_scopes.split(',') if scope.strip()]
  on_bottlenecks = (options.feature_cache and options.batch_norm == 'frozen'
                    and all(map(flower_inference.is_in_head, scopes))
                    and any(map(flower_inference.is_in_last_layer, scopes)))
  learning_rate, steps = ((BOTTLENECK_LEARNING_RATE, BOTTLENECK_STEPS) if on_bottlenecks
                          else (LEARNING_RATE, STEPS))
  return Recipe(on_bottlenecks, learning_rate if options.learning_rate is None
                else options.learning_rate, options.steps or steps)


class Model(NamedTuple):
  """The tensors and operations of a fine-tuning graph."""
  images: tf.Tensor  # uint8 [batch, 299, 299, 3], fed
  bottlenecks: tf.Tensor  # float32 [batch, 2048], may be fed in place of images
  labels: tf.Tensor  # int64 [batch], fed
  logits: tf.Tensor  # float32 [batch, n_classes], without dropout
  cross_entropy: tf.Tensor  # scalar: mean over the batch, in nats, with dropout if there is any
  loss: tf.Tensor  # scalar: cross entropy plus L2 penalties, of the weights before the step
  learning_rate: tf.Tensor  # scalar
  train_step: tf.Operation
  global_step: tf.Variable  # int64, steps done


def build_model(n_classes: int, n_training_examples: int, recipe: Recipe, options: console.Options,
                make_optimizer: Callable[[tf.Tensor], tf.train.Optimizer]
                = tf.train.RMSPropOptimizer) -> Model:
  """Build network, loss and training step."""
  images = tf.placeholder(tf.uint8, [None, IMAGE_SIZE, IMAGE_SIZE, 3], name='input_images')
  scaled = tf.image.convert_image_dtype(images, tf.float32)  # to [0, 1]
  labels = tf.placeholder(tf.int64, [None], name='labels')
  global_step = tf.train.get_or_create_global_step()

  # The book normalizes by the batch in evaluation, too; nothing but training has dropout here.
  by_batch = options.batch_norm == 'batch'
  logits, last_inputs = flower_inference.inference(scaled, n_classes, is_training=by_batch)
  training_logits = logits
  if by_batch:
    # Dropout differs from step to step, and is the same whenever that step is run.
    dropout_seed = tf.stack([tf.constant(options.seed, tf.int64), global_step])
    training_logits = flower_inference.last_layer(tf.nn.experimental.stateless_dropout(
        last_inputs, 1 - flower_inference.DROPOUT_KEEP_PROB, dropout_seed), n_classes)

  # The loss: cross entropy, and the L2 penalties that slim has put into its collection, or the
  # last layer's own.
  with tf.name_scope('loss'):
    cross_entropy = tf.losses.softmax_cross_entropy(
        tf.one_hot(labels, n_classes), training_logits, weights=1.0)
    if recipe.on_bottlenecks:
      mean = tf.reduce_mean(last_inputs)
      penalty = BOTTLENECK_WEIGHT_DECAY / n_training_examples * tf.nn.l2_loss(
          mean * flower_inference.last_weights(n_classes))
    else:
      penalty = tf.losses.get_regularization_loss()
    loss = tf.add(cross_entropy, penalty, name='loss')

  # Unlike the book's, the step changes the named variables only; on bottlenecks not even
  # AuxLogits, which no loss reaches. It waits for the loss, which is to be of the weights before.
  with tf.name_scope('train'), tf.control_dependencies([loss]):
    if recipe.on_bottlenecks:
      learning_rate = tf.train.exponential_decay(
          recipe.learning_rate / mean, global_step, recipe.steps, BOTTLENECK_LEARNING_RATE_DECAY)
    else:
      learning_rate = tf.constant(recipe.learning_rate)
    train_step = make_optimizer(learning_rate).minimize(
        loss, global_step, var_list=get_trainable_variables(options.trainable_scopes))
  return Model(images, last_inputs, labels, logits, cross_entropy, loss, learning_rate, train_step,
               global_step)


# -- Training ----------------------------------------------------------------------------


def check_splits(data: ProcessedData, input_file: str) -> None:
  """Raise UserError if a split is empty."""
  for split in SPLITS:
    if not len(getattr(data, f'{split}_labels')):
      raise console.UserError(f'--input_file={input_file} has no {split} photos: preprocess more '
                              'photos, or with other percentages')


def check_folder(folder: checkpoints.ModelFolder, data: ProcessedData, ckpt_path: str | None,
                 recipe: Recipe, options: console.Options) -> None:
  """Compare what is trained with what the folder's checkpoints are of, and keep it beside them."""
  identity = {'labels': data.labels, 'data_id': data.id,
              **{name: getattr(options, name) for name in (
                  'batch_norm', 'trainable_scopes', 'checkpoint_exclude_scopes', 'seed')}}
  if ckpt_path:  # going on needs no pre-trained checkpoint, so it may be gone
    identity['ckpt_file_digest'] = backbone.checkpoint_digest(ckpt_path)
  folder.check_model(identity, {'learning_rate': recipe.learning_rate, 'steps': recipe.steps,
                                'batch_size': options.batch_size})


def find_pre_trained(options: console.Options) -> str | None:
  """Return the path of the pre-trained checkpoint; None if it is gone, and not needed any more."""
  if (checkpoints.list_checkpoints(options.model_dir, MODEL_NAME)
      and backbone.find_checkpoint(options.ckpt_file, MODEL_NAME) is None):
    return None
  return backbone.get_checkpoint(
      options.ckpt_file, get_tuned_variables(options.checkpoint_exclude_scopes), MODEL_NAME)


def resume(sess: tf.Session, saver: checkpoints.Saver, model: Model, ckpt_path: str | None,
           recipe: Recipe, options: console.Options) -> tuple[str | None, int]:
  """Restore all variables: from the newest checkpoint of an earlier run, if there is one.

  If not, the tuned ones come from the pre-trained checkpoint, and all others start from their
  initial values.

  Returns:
    The path of the checkpoint, and the steps done.
  """
  path = saver.resume(sess)
  if path:
    console.report(f'Going on from {path}.')
  else:
    backbone.load_tuned_variables(
        sess, ckpt_path, get_tuned_variables(options.checkpoint_exclude_scopes))
  steps_done = int(sess.run(model.global_step))
  if steps_done >= recipe.steps:
    print(f'Nothing to train: {steps_done} of {recipe.steps} steps are done; give more with '
          '--steps.')
  return path, steps_done


def make_examples(sess: tf.Session, model: Model, data: ProcessedData, recipe: Recipe,
                  options: console.Options) -> evaluation.Examples:
  """Return the photos, or what the last layer reads of them, as the network is fed with them."""
  photos = evaluation.photos_as_examples(model.images, data)
  if not recipe.on_bottlenecks:
    return photos
  kept = bottlenecks.load_bottlenecks(
      bottlenecks.bottlenecks_path(options.input_file, options.model_dir), sess, model.images,
      model.bottlenecks, flower_inference.backbone_variables(), data)
  return evaluation.Examples(model.bottlenecks, kept, photos.labels)


def validate(sess: tf.Session, model: Model, examples: evaluation.Examples, i: int, recipe: Recipe,
             options: console.Options) -> dict[str, float]:
  """Return the accuracy and the cross entropy of the validation photos after step i, by name."""
  logits = evaluation.predict_logits(sess, model.logits, examples, 'validation', options.seed)
  accuracy, cross_entropy = evaluation.score(logits, examples.labels['validation'])
  evaluation.check_cross_entropy(i, cross_entropy, logits.shape[1], recipe.learning_rate, options)
  return {'validation_accuracy': accuracy, 'validation_cross_entropy': cross_entropy}


def test(sess: tf.Session, model: Model, examples: evaluation.Examples, data: ProcessedData,
         step: int, recipe: Recipe, options: console.Options, summary_writer: SummaryWriter
         ) -> np.ndarray:
  """Report on photos that had no part in training; return their predicted classes, int64 [n]."""
  logits = evaluation.predict_logits(sess, model.logits, examples, 'testing', options.seed)
  predicted = logits.argmax(1)
  evaluation.print_test_report(predicted, data)
  evaluation.print_advice(logits, data, recipe.learning_rate, options)
  evaluation.add_pictures(summary_writer, step, predicted, data)
  return predicted


def finetune(data: ProcessedData, options: console.Options | None = None) -> np.ndarray | None:
  """Fine-tune on data.training_images and report on the testing ones.

  Returns the predicted classes, int64 [n]; None if a signal ended training. Raises UserError if
  data, folder or checkpoint do not fit the options, or the cross entropy shows a failure.
  """
  options = options or FLAGS.options()
  check_splits(data, options.input_file)
  with (checkpoints.ModelFolder(options.model_dir, MODEL_NAME) as folder,
        tf.Graph().as_default(), tf.Session() as sess,
        SummaryWriter(os.path.join(options.model_dir, 'train')) as summary_writer):
    # The network with as many classes as the data has, its loss, and the step that trains.
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    recipe, n_classes = choose_recipe(options), len(data.labels)
    model = build_model(n_classes, len(data.training_labels), recipe, options)

    # Variables from the newest checkpoint of an earlier run, if there is one; or else the tuned
    # ones from the pre-trained checkpoint, and initial values for the others.
    ckpt_path = find_pre_trained(options)
    check_folder(folder, data, ckpt_path, recipe, options)
    saver = checkpoints.Saver(folder, MAX_TO_KEEP, evaluation.DIVERGED_ADVICE)
    path, steps_done = resume(sess, saver, model, ckpt_path, recipe, options)

    examples = make_examples(sess, model, data, recipe, options)
    inputs, labels = examples.inputs['training'], examples.labels['training']
    summary_writer.start(sess.graph, steps_done)
    with console.StopSignals() as stop:  # from here on, a signal lets a step end
      for i in tqdm(range(steps_done, recipe.steps), initial=steps_done, total=recipe.steps,
                    unit='step', disable=None):
        # Simply in order, because preprocessing has shuffled the photos. The last batch of an
        # epoch may be smaller.
        start = i % math.ceil(len(inputs) / options.batch_size) * options.batch_size
        end = min(start + options.batch_size, len(inputs))
        # One step of RMSProp, on the variables to train only.
        _, loss, cross_entropy, learning_rate = sess.run(
            [model.train_step, model.loss, model.cross_entropy, model.learning_rate],
            feed_dict={examples.tensor: inputs[start:end], model.labels: labels[start:end]})
        evaluation.check_cross_entropy(i, cross_entropy, n_classes, recipe.learning_rate, options)
        is_last = i + 1 == recipe.steps or stop.received
        # As often as the book in its run, at steps 0, 30, ..., 270 of 300, and at the last.
        if is_last or i % max(1, recipe.steps // REPORTS) == 0:
          # The loss was that of the weights before the step; these are the ones to be saved.
          scores = validate(sess, model, examples, i, recipe, options)
          path = saver.save(sess, os.path.join(options.model_dir, MODEL_NAME), global_step=i)
          tqdm.write('Step %d: Validation accuracy = %.1f%%' % (
              i, scores['validation_accuracy'] * 100.0))
          summary_writer.add_scalars(i, loss=loss, cross_entropy=cross_entropy,
                                     learning_rate=learning_rate, **scores)
        if is_last:
          break
    predicted = None
    if not stop.received:
      step = int(sess.run(model.global_step)) - 1
      predicted = test(sess, model, examples, data, step, recipe, options, summary_writer)
  checkpoints.report_saved(path, stop.received)
  return predicted


def report_data(data: ProcessedData) -> None:
  """Print how many photos each split has, in the book's words."""
  print('%d training examples, %d validation examples and %d testing example.' % (
      len(data.training_labels), len(data.validation_labels), len(data.testing_labels)))


def main(argv: list[str]) -> None:
  console.refuse_arguments(argv)
  data = load_processed_data(FLAGS.input_file)
  report_data(data)
  finetune(data, FLAGS)


if __name__ == '__main__':
  console.run(main, FLAGS)
