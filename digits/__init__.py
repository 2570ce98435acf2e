"""A picture of a digit, as people make them, becomes a 28x28 digit as MNIST's are.

  digit    the steps, one after another
  frames   the frame around what a picture shows
  paper    transparent parts, colour, light, ruled lines
  pieces   the pieces of ink that make up the digit
  margins  the margin that a digit cut to its box lacks
  strokes  the stroke's width, and the digit's box
"""
