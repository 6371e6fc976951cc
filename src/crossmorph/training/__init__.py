"""Training of a hierarchy: configuration, batches, losses, the stages, validation, checkpoints and the log."""
