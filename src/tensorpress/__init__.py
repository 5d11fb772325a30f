"""TensorPress: the codec layer for neural networks."""
