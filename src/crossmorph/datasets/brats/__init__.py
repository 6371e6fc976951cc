"""The BraTS data sets: their files, and the pairs made from them."""
