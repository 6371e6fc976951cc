"""Transforms in millimetres: displacement fields, affine maps, their algebra and their files."""
