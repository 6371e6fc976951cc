"""Mathematics without state: displacement fields, similarity, regularization, interpolation, metrics, ADAM."""
