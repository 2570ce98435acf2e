"""Fine-tune the whole Inception-v3, as flower_finetune.py, on parameter servers and workers.

    python flower_dist_finetune.py --local_workers=2      # a whole cluster on this machine

    python flower_dist_finetune.py --job_name=ps          # the same, each in a shell of its own
    python flower_dist_finetune.py --job_name=worker --task_index=0
    python flower_dist_finetune.py --job_name=worker --task_index=1

Takes the flags of flower_finetune.py and those of mnist_dist_train.py. Each worker reads its
batches, or with --sync its share of each, from --input_file; worker 0, the chief, restores, saves,
validates and tests. Nothing is kept of what the last layer reads: the whole network runs.
TensorFlow's servers have no password and run what they are sent: private networks only.
"""
import contextlib
import os
import types

import numpy as np

import flower_finetune
from flowers import evaluation
from flowers.data_file import ProcessedData, load_processed_data
from support import checkpoints, clusters, console, launcher
from support.quiet_tensorflow import tf
from support.summaries import SummaryWriter

FLAGS = console.Flags()
launcher.define_flags(FLAGS)
FLAGS.share(flower_finetune.FLAGS,
            *(name for name in flower_finetune.FLAGS if name != 'feature_cache'))
FLAGS.set_default('trainable_scopes', 'InceptionV3')

# In these, all workers must agree with the chief.
SETTINGS = ('batch_size', 'batch_norm', 'trainable_scopes', 'seed')


class SaverHook(clusters.SaverHook):
  """Checks, validates, saves and tests at the chief as flower_finetune.py does."""
  first_step = 0

  def __init__(self, model: flower_finetune.Model, data: ProcessedData,
               recipe: flower_finetune.Recipe, options: console.Options, *args: object):
    super().__init__(*args)
    self._model, self._data, self._recipe, self._options = model, data, recipe, options
    self._examples = evaluation.photos_as_examples(model.images, data)

  def check(self, step: int) -> None:
    evaluation.check_cross_entropy(step, self.values['cross_entropy'], len(self._data.labels),
                                   self._recipe.learning_rate, self._options)

  def report(self, session: tf.Session, step: int) -> tuple[str, dict[str, float]]:
    scores = flower_finetune.validate(session, self._model, self._examples, step, self._recipe,
                                      self._options)
    return 'Step %d: Validation accuracy = %.1f%%' % (
        step, scores['validation_accuracy'] * 100.0), scores

  def conclude(self, session: tf.Session) -> None:
    if not self._steps.member.stop.received:
      flower_finetune.test(session, self._model, self._examples, self._data, self._saved - 1,
                           self._recipe, self._options, self._summary_writer)


def finetune(data: ProcessedData, member: clusters.Member, options: console.Options) -> None:
  """Do this worker's steps; as the chief, also restore, save and validate, and test the result.

  Raises:
    UserError: as flower_finetune.finetune.
  """
  with (checkpoints.ModelFolder(options.model_dir, flower_finetune.MODEL_NAME) if member.is_chief
        else contextlib.nullcontext() as folder,
        SummaryWriter(os.path.join(options.model_dir, 'train')) as summary_writer,
        tf.Graph().as_default(), tf.device(member.device_setter())):
    # The graph of flower_finetune.py, its variables on the parameter servers.
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    recipe = flower_finetune.choose_recipe(options)
    steps = clusters.Steps(member, recipe.steps)
    # The rate is a constant; the tensor that build_model gives waits for the loss of a batch.
    model = flower_finetune.build_model(
        len(data.labels), len(data.training_labels), recipe, options,
        lambda _: steps.optimizer(tf.train.RMSPropOptimizer(recipe.learning_rate)))

    # Only the chief reads and writes checkpoints; the others get its values from the servers.
    hooks, saver, ckpt_path = steps.hooks(), None, None
    if member.is_chief:
      ckpt_path = flower_finetune.find_pre_trained(options)
      flower_finetune.check_folder(folder, data, ckpt_path, recipe, options)
      saver = checkpoints.Saver(folder, flower_finetune.MAX_TO_KEEP, evaluation.DIVERGED_ADVICE)
      hooks.append(SaverHook(
          model, data, recipe, options, steps, saver,
          os.path.join(options.model_dir, flower_finetune.MODEL_NAME),
          max(1, recipe.steps // flower_finetune.REPORTS), summary_writer,
          {'loss': model.loss, 'cross_entropy': model.cross_entropy,
           'learning_rate': model.learning_rate}))

    share = steps.share()
    with tf.train.MonitoredTrainingSession(
        member.target, member.is_chief, hooks=hooks, config=member.config,
        scaffold=steps.scaffold(lambda sess: flower_finetune.resume(
            sess, saver, model, ckpt_path, recipe, options)),
        stop_grace_period_secs=1) as sess:
      while not sess.should_stop():
        # The photos in order, because preprocessing has shuffled them. The last batch of an epoch
        # is filled up from the beginning, so that all workers have equal shares.
        start = (steps.next_step - 1) * options.batch_size
        batch = np.arange(start, start + options.batch_size)[share] % len(data.training_labels)
        sess.run(model.train_step, feed_dict={
            model.images: data.training_images[batch], model.labels: data.training_labels[batch]})


def work(member: clusters.Member) -> int:
  """Be a worker until the training has ended; return the exit status."""
  data = load_processed_data(FLAGS.input_file)
  flower_finetune.report_data(data)
  flower_finetune.check_splits(data, FLAGS.input_file)
  options = types.SimpleNamespace(**FLAGS.flag_values_dict(), feature_cache=False)
  settings = {name: getattr(FLAGS, name) for name in SETTINGS}
  return member.work(lambda: finetune(data, member, options), data_id=data.id,
                     steps=flower_finetune.choose_recipe(options).steps, **settings)


def main(argv: list[str]) -> int:
  console.refuse_arguments(argv)
  return launcher.take_part(__file__, FLAGS, work)


if __name__ == '__main__':
  launcher.run(main, FLAGS)
