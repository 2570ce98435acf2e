"""Inception-v3 of random weights, in place of Google's checkpoint: as fast, and at hand."""
import flower_finetune
import flower_inference
from support.quiet_tensorflow import tf

SEED = 5


def write_random_backbone(path):
  """Write a checkpoint of the network without its last layers, of random weights, to path."""
  with tf.Graph().as_default(), tf.Session() as sess:
    tf.set_random_seed(SEED)
    flower_inference.inference(tf.placeholder(tf.float32, [None, 299, 299, 3]), 2, False)
    variables = flower_finetune.get_tuned_variables()
    sess.run(tf.variables_initializer(variables))
    tf.train.Saver(variables).save(sess, str(path), write_meta_graph=False, write_state=False)
