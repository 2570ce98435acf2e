"""Fine-tune the whole Inception-v3, as flower_finetune.py, on parameter servers and workers.

    python flower_dist_finetune.py --local_workers=2      # a whole cluster on this machine

    python flower_dist_finetune.py --job_name=ps          # the same, each in a shell of its own
    python flower_dist_finetune.py --job_name=worker --task_index=0
    python flower_dist_finetune.py --job_name=worker --task_index=1

Takes the flags of flower_finetune.py and those of mnist_dist_train.py. Each worker reads its
batches, or with --sync its share of each, from --input_file; worker 0, the chief, restores, saves,
validates and tests. Nothing is kept of what the last layer reads: the whole network runs. The
others wait for a chief that has ended before the last step: start it again.
TensorFlow's servers have no password and run what they are sent: private networks only.
"""
import os

# Before TensorFlow is imported: each operation that is cancelled when a worker ends would be a
# warning in the log of the others. A notebook that has imported a script of the suite hands down 1.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'

import time
import types

import numpy as np
from absl import flags

import flower_finetune
from flowers import backbone, bottlenecks, data_file, evaluation
from support import checkpoints, cluster, console, launcher, replicas, summaries, workers
from support.quiet_tensorflow import tf

FLAGS = flags.FlagValues()
cluster.define_flags(FLAGS)
launcher.define_flags(FLAGS)
console.share_flags(FLAGS, flower_finetune.FLAGS,
                    *(name for name in flower_finetune.FLAGS if name != 'feature_cache'))
FLAGS.set_default('trainable_scopes', 'InceptionV3')

# In these, all workers must agree with the chief.
SETTINGS = ('sync', 'batch_size', 'batch_norm', 'trainable_scopes', 'seed')


def options(**changes):
  """Return the options of a run: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


class Replica:
  """A worker's copy of the graph, and a step of it."""

  def __init__(self, data, member, options):
    """Build the graph of flower_finetune.py in the default graph, for the steps of several workers.
    """
    self._inputs, self._labels = data.training_images, data.training_labels
    self._member, self._batch_size = member, options.batch_size
    tf.set_random_seed(options.seed)  # before the first variable, whose initial values it decides
    self.recipe, self.n_classes = choose_recipe(options), len(data.labels)
    self.steps = (replicas.SyncSteps if options.sync else replicas.AsyncSteps)(member)
    self.model = flower_finetune.build_model(
        self.n_classes, len(self._labels), self.recipe, options,
        # The rate is a constant; the tensor that build_model gives waits for the loss of a batch.
        self.steps.wrap(lambda _: tf.train.RMSPropOptimizer(self.recipe.learning_rate)))
    self.steps.add(self.model.global_step, self.model.train_step, self.model.train_step)
    self._results = [self.steps.train_op, self.model.loss, self.model.cross_entropy,
                     self.model.learning_rate]

  def do_step(self, step, *, is_followed):
    """Do a step on its batch, and return this worker's next step.

    The photos come in order, because preprocessing has shuffled them. The last batch of an epoch
    is filled up with the first photos of the next, so that all workers have equal shares.

    Args:
      is_followed: whether there is to be a next step.
    """
    self.steps.wait_for_turn(step)
    batch = np.arange((step - 1) * self._batch_size, step * self._batch_size) % len(self._labels)
    batch = self.steps.share(batch)
    began = time.monotonic()
    _, self.loss, self.cross_entropy, self.learning_rate, *next_step = self._member.run(
        self._results + ([self.steps.next_step] if is_followed else []),
        {self.model.images: self._inputs[batch], self.model.labels: self._labels[batch]})
    self.steps.step_secs = time.monotonic() - began
    return int(next_step[0]) if is_followed else None


def choose_recipe(options):
  """Return the flower_finetune.Recipe, which is that of the whole network."""
  return flower_finetune.choose_recipe(types.SimpleNamespace(
      **{name: getattr(options, name) for name in flower_finetune.FLAGS if name in FLAGS},
      feature_cache=False))


def follow(data, member, options):
  """Be a worker that is not the chief: do steps until the chief has saved the last one."""
  for run in member.runs():
    with run:
      replica = Replica(data, member, options)
      with member.session() as sess:
        replica.steps.start(sess)
        replicas.follow_steps(member, replica.steps, replica.recipe.steps, replica.do_step)
  replicas.print_end(member)


def lead(data, member, options):
  """Be the chief: restore, do steps, save and validate those of all workers, and test the result.

  Raises:
    UserError: as flower_finetune.finetune, or if a parameter server is lost.
  """
  flower_finetune.check_splits(data, options.input_file)
  with (checkpoints.ModelFolder(options.model_dir, flower_finetune.MODEL_NAME) as folder,
        summaries.CurveWriter(os.path.join(options.model_dir, 'train')) as curve_writer,
        member.begin_run()):
    replica = Replica(data, member, options)
    recipe = replica.recipe
    tuned_variables = flower_finetune.get_tuned_variables(options.checkpoint_exclude_scopes)
    ckpt_path = backbone.get_pre_trained(tuned_variables, options,
                                                flower_finetune.MODEL_NAME)
    folder.check_model(flower_finetune.model_identity(data, ckpt_path, options), {
        'learning_rate': recipe.learning_rate, 'steps': recipe.steps,
        'batch_size': options.batch_size})
    saver = checkpoints.Saver(folder, flower_finetune.MAX_TO_KEEP,
                              evaluation.DIVERGED_ADVICE)
    with member.session() as sess:
      # Variables from the newest checkpoint of an earlier run, or else the tuned ones.
      path, steps_done = member.call(
          flower_finetune.resume, sess, saver, replica.model, ckpt_path, tuned_variables)
      examples = bottlenecks.make_examples(sess, replica.model, data, options,
                                                  on_bottlenecks=False)
      worst = 0  # cross entropy at a validation
      if steps_done < recipe.steps:
        replica.steps.start(sess)
        path, worst = lead_steps(replica, examples, member, saver, sess, steps_done, curve_writer,
                                 options)
      if member.stop.received:
        print(f'Stopped by {member.stop.received}; run again to go on. Saved {path}')
        return
      # The result, on photos that had no part in training, nor in choosing how to train.
      predicted = member.call(evaluation.predict_logits, sess, replica.model, examples,
                              'testing', options.seed).argmax(1)
      evaluation.print_test_report(predicted, data)
      evaluation.print_advice(predicted, data, worst, recipe, options)
      evaluation.add_pictures(curve_writer, checkpoints.step_of(path), predicted, data)
  print(console.printable(f'Saved {path}'))


def lead_steps(replica, examples, member, saver, sess, steps_done, curve_writer, options):
  """Do the chief's steps, save and validate those of all.

  Returns:
    (path of the last checkpoint, worst cross entropy at a validation).
  """
  path, worst = None, 0

  def do_step(step, *, is_followed):
    next_step = replica.do_step(step, is_followed=is_followed)
    evaluation.check_cross_entropy(
        step - 1, replica.cross_entropy, replica.n_classes, replica.recipe, options)
    return next_step

  def keep(steps_done):
    nonlocal path, worst
    i = steps_done - 1  # flower_finetune.py counts from 0
    accuracy, cross_entropy = member.call(
        evaluation.validate, sess, replica.model, examples, i, replica.recipe, options)
    worst = max(worst, replica.cross_entropy, cross_entropy)
    path = member.call(saver.save, sess, i)
    print('Step %d: Validation accuracy = %.1f%%' % (i, accuracy * 100.0))
    curve_writer.add_scalars(
        i, loss=replica.loss, cross_entropy=replica.cross_entropy,
        learning_rate=replica.learning_rate, validation_accuracy=accuracy,
        validation_cross_entropy=cross_entropy)

  interval = max(1, replica.recipe.steps // flower_finetune.REPORTS)
  replicas.lead_steps(member, replica.steps, steps_done, interval, replica.recipe.steps, do_step,
                      keep)
  return path, worst


def work(task, options):
  """Be a worker of a cluster until the training has finished."""
  data = data_file.load_processed_data(options.input_file)
  print('%d training examples, %d validation examples and %d testing example.' % (
      len(data.training_labels), len(data.validation_labels), len(data.testing_labels)))
  settings = {name: getattr(options, name) for name in SETTINGS}
  settings.update(steps=choose_recipe(options).steps, data_id=data.id)
  with workers.join(task, settings, options) as member:
    (lead if task.is_chief else follow)(data, member, options)


def main(argv):
  console.refuse_arguments(argv)
  return workers.take_part(__file__, FLAGS, work)


if __name__ == '__main__':
  workers.run(main, FLAGS)
