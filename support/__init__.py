"""What is not of the book's trade: the console, files,
TensorFlow's import, checkpoints, summaries."""
