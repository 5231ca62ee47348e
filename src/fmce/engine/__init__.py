"""Training loop, checkpoints, seeds, device: knows nothing of what is trained."""
