"""Curves for TensorBoard: event files that never collide, and never end a run."""
import os
import time

from support import console
from support.quiet_tensorflow import FILE_ERRORS, raised_errors_held_back, tf


class CurveWriter:
  """Writes event files into a folder, like `tf.summary.FileWriter`, whose place it takes.

  That one names its file by the second alone, so that two processes may share one; writes
  behind the program's back, so that a full disk is told in the log for ever, or not at all;
  and goes on into a deleted file. Here the first failure is said in one line and is the last: the
  run goes on without summaries.
  """

  def __init__(self, folder):
    self._folder = folder
    self._path = self._writer = None
    self._failed = False

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def _open(self):
    os.makedirs(self._folder, exist_ok=True)
    name = f'events.out.tfevents.{time.time_ns() // 10**9:010d}.{os.getpid()}.{time.time_ns()}'
    self._path = os.path.join(self._folder, name)
    with open(self._path, 'xb'):  # TensorFlow would open an existing one, too
      pass
    self._writer = tf.io.TFRecordWriter(os.fsencode(self._path))
    self._write(tf.Event(wall_time=time.time(), file_version='brain.Event:2'))

  def _write(self, event):
    self._writer.write(event.SerializeToString())

  def add(self, event):
    """Write a tf.Event; it is on the disk when this returns."""
    if self._failed:
      return
    try:
      with raised_errors_held_back():
        if self._path is None or not os.path.exists(self._path):  # the folder may be a new one
          self._open()
        event.wall_time = time.time()
        self._write(event)
        self._writer.flush()
    except (OSError, *FILE_ERRORS) as error:
      self._failed = True
      console.warn(f'no curves are kept in {self._folder}: {console.describe(error)}')

  def add_graph(self, graph):
    """Write a tf.Graph, for TensorBoard's GRAPHS page."""
    self.add(tf.Event(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString()))

  def add_scalars(self, step, **values):
    """Write named floats at a step."""
    self.add(tf.Event(step=step, summary=tf.Summary(value=[
        tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])))

  def add_image(self, step, tag, png, height, width, channels):
    """Write a picture, the bytes of a PNG, at a step."""
    image = tf.Summary.Image(height=height, width=width, colorspace=channels,
                             encoded_image_string=png)
    self.add(tf.Event(step=step, summary=tf.Summary(
        value=[tf.Summary.Value(tag=tag, image=image)])))

  def close(self):
    """Close the event file."""
    if self._writer is not None:
      try:
        with raised_errors_held_back():
          self._writer.close()
      except FILE_ERRORS:  # said already, or at once with the write that failed
        pass
      self._writer = None
