"""Training: losses, a data-parallel step, checkpoints with exact resume, and the training loop."""
