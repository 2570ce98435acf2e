"""Export a checkpoint of mnist_train.py as a SavedModel, for use without this suite.

    python mnist_export.py

Reads the newest whole checkpoint of --model_dir, its moving averages as in evaluation, and writes
--export_dir/1, on the next run 2, and so on, which TensorFlow Serving, saved_model_cli,
tf.saved_model.load and the converter to TensorFlow Lite read. The model takes

    images         float32 [n, 28, 28, 1] in [0, 1], white digits on black as MNIST's are

and returns

    classes        int64 [n], the digits
    probabilities  float32 [n, 10], of the digits 0 to 9
"""
import os

from absl import flags

import mnist_eval
import mnist_train
from support import console, saved_models
from support.quiet_tensorflow import tf

EXPORT_DIR = os.path.join('exports', 'mnist')

FLAGS = flags.FlagValues()
console.share_flags(FLAGS, mnist_train.FLAGS, 'model_dir')
console.DEFINE_path('export_dir', EXPORT_DIR, 'Folder of the numbered SavedModels.', FLAGS)


def options(**changes):
  """Return the options of an export: the flags' defaults, changed by name."""
  return console.options(FLAGS, **changes)


def export(options):
  """Export the newest whole checkpoint, with the moving averages in place of the variables.

  Args:
    options: what `options` returns.

  Returns:
    The paths (of the checkpoint, of the SavedModel).

  Raises:
    UserError: if there is no whole checkpoint, or the export cannot be written.
  """
  with saved_models.new_graph() as sess:
    graph = mnist_eval.build_evaluation_graph()
    outputs = {'classes': tf.argmax(graph.y, 1),  # int64 [n]
               'probabilities': tf.nn.softmax(graph.y)}  # [n, 10]
    checkpoint_path = mnist_eval.restore_model(sess, graph, options.model_dir)
    return checkpoint_path, saved_models.export(sess, options.export_dir, {'images': graph.x},
                                                outputs)


def main(argv):
  console.refuse_arguments(argv)
  checkpoint_path, saved_model_dir = export(FLAGS)
  print(console.printable(f'Exported {checkpoint_path} to {saved_model_dir}'))


if __name__ == '__main__':
  console.run(main, FLAGS)
