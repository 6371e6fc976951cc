"""Other registration methods and CycleGAN, for comparison."""
