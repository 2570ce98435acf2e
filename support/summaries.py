"""Summaries for TensorBoard: event files whose failure never ends a run."""
import os
import time

from support import console
from support.quiet_tensorflow import FILE_ERRORS, tf


class SummaryWriter:
  """Writes one event file into a folder; the first failure is said in one line and is the last.

  Not tf.summary.FileWriter, which was tried: it writes in a thread, which on a full disk ends in a
  traceback and then raises RuntimeError in the training; where the folder may not be written, it
  logs an error for each write; and two processes that begin in the same second share its file.
  """

  def __init__(self, folder: str):
    self._folder = folder
    self._path = ''
    self._writer: tf.io.TFRecordWriter | None = None
    self._has_failed = False

  def __enter__(self) -> 'SummaryWriter':
    return self

  def __exit__(self, *exception: object) -> None:
    if self._writer is not None and not self._has_failed:
      self._writer.close()

  def _open(self) -> None:
    os.makedirs(self._folder, exist_ok=True)
    # TensorBoard looks for `tfevents`; what follows tells apart what begins in one second.
    name = f'events.out.tfevents.{time.time():.0f}.{os.getpid()}.{time.time_ns()}'
    self._path = os.path.join(self._folder, name)
    self._writer = tf.io.TFRecordWriter(self._path)
    # TensorBoard reads only files that begin with their version.
    self._writer.write(tf.Event(wall_time=time.time(), file_version='brain.Event:2'
                                ).SerializeToString())

  def add(self, event: tf.Event) -> None:
    """Write an event; it is on the disk when this returns."""
    if self._has_failed:
      return
    try:
      if not os.path.exists(self._path):  # none yet, or a trainer began again in a new folder
        self._open()
      event.wall_time = time.time()
      self._writer.write(event.SerializeToString())
      self._writer.flush()  # a killed run has lost nothing, and its curve ends where it ended
    except (OSError, *FILE_ERRORS) as error:
      self._has_failed = True
      console.warn(f'no summaries are kept in {self._folder}: {console.describe(error)}')

  def start(self, graph: tf.Graph, steps_done: int) -> None:
    """Write the graph, and that what an earlier run wrote of later steps does not count."""
    self.add(tf.Event(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString()))
    self.add(tf.Event(step=steps_done + 1, session_log=tf.SessionLog(status=tf.SessionLog.START)))

  def add_session_log(self, session_log: tf.SessionLog, step: int) -> None:
    """Write what TensorFlow's hooks say of a session at a step."""
    self.add(tf.Event(step=step, session_log=session_log))

  def add_scalars(self, step: int, **values: float) -> None:
    """Write named numbers at a step."""
    self.add(tf.Event(step=step, summary=tf.Summary(value=[
        tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])))

  def add_image(self, step: int, tag: str, png: bytes) -> None:
    """Write a picture, the contents of a PNG file, at a step."""
    image = tf.Summary.Image(encoded_image_string=png)
    self.add(tf.Event(step=step, summary=tf.Summary(
        value=[tf.Summary.Value(tag=tag, image=image)])))
