"""A picture of a digit, as people make them, becomes a 28x28 digit as MNIST's are: see digit."""
