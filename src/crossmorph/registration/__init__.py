"""Two images in, a transform out: initial alignment, the hierarchy, instance optimisation."""
