"""A run folder on disk: config, metrics, checkpoints, lock, resume."""
