"""Lists of image pairs, and the data sets that are prepared from simulations and public collections."""
