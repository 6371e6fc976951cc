"""The BrainWeb data sets: their files, their download, and the pairs made from them."""
