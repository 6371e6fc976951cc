"""Training data: simulation, augmentation and lists of pairs."""
