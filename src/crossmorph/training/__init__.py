"""Training a hierarchy: configuration, batches, losses, the staged loop, its log."""
