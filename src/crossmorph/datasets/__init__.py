"""Lists of image pairs, and the data sets made of simulations and public collections."""
