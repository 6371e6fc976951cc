"""Pure functions: displacement fields, similarity, regularization, interpolation, metrics, ADAM."""
