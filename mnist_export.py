"""Export a checkpoint of mnist_train.py as a SavedModel, for use without this suite.

    python mnist_export.py

Reads the newest whole checkpoint of --model_dir, its moving averages as in evaluation, and writes
--export_dir/1, on the next run 2, and so on, which TensorFlow Serving, saved_model_cli,
tf.saved_model.load and the converter to TensorFlow Lite read. The model takes

    images         float32 [n, 28, 28, 1] in [0, 1], white digits on black as MNIST's are

and returns

    classes        int64 [n], the labels: the digits
    probabilities  float32 [n, 10], of the labels in their order: of the digits 0 to 9
"""
import os

import mnist_eval
import mnist_train
from support import console, saved_models
from support.quiet_tensorflow import tf

EXPORT_DIR = os.path.join('exports', 'mnist')

FLAGS = console.Flags()
FLAGS.share(mnist_train.FLAGS, 'model_dir')
FLAGS.DEFINE_path('export_dir', EXPORT_DIR, 'Folder of the numbered SavedModels.',
                  for_tensorflow=True)


def export(options: console.Options | None = None) -> tuple[str, str]:
  """Export the newest checkpoint, with the moving averages in place of the variables.

  Returns:
    The paths of the checkpoint and of the SavedModel.

  Raises:
    UserError: if there is no checkpoint that can be used, or the export cannot be written.
  """
  options = options or FLAGS.options()
  with saved_models.new_graph() as sess:
    # The averages are in the variables themselves, so that a client needs to know nothing of them.
    graph, labels, checkpoint_path = mnist_eval.restore_model(sess, options.model_dir)
    outputs = {'classes': tf.gather(tf.constant(labels, tf.int64), tf.argmax(graph.y, 1)),  # [n]
               'probabilities': tf.nn.softmax(graph.y)}  # [n, labels]
    signature = saved_models.Signature({'images': graph.x}, outputs)
    return checkpoint_path, saved_models.export(
        sess, options.export_dir, {saved_models.SERVING_DEFAULT: signature})


def main(argv: list[str]) -> None:
  console.refuse_arguments(argv)
  checkpoint_path, saved_model_dir = export(FLAGS)
  console.report(f'Exported {checkpoint_path} to {saved_model_dir}')


if __name__ == '__main__':
  console.run(main, FLAGS)
