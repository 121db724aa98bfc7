"""A run's files: checkpoints, the log, its configuration, the lock."""
