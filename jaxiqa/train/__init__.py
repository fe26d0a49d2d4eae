"""Training: losses, one data-parallel step, checkpoints that resume exactly, and the loop around them."""
