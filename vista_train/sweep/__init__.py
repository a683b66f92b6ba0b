"""A learning-rate sweep: short runs of one recipe, on the very same samples, that differ in their rate alone."""
