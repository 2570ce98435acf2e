"""What both families of scripts need, and is not of the book's trade.

  console           flags, one-line errors, exit statuses, stop signals
  files             files that appear whole, downloads, digests, JSON
  pictures          picture files: found, known by content, decoded
  quiet_tensorflow  TensorFlow's import, without its first lines
  checkpoints       found, restored, saved; one trainer a folder
  summaries         event files for TensorBoard
  evaluation        the confusion matrix, and pictures of what was wrong
  saved_models      exports in numbered folders
  clusters          what a cluster needs besides TensorFlow's session
  launcher          one process of a cluster, or all on this machine
"""
