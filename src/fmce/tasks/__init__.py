"""One training step for each kind of training."""
