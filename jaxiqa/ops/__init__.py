"""Pure image operations: images in, images or one number per image out; jit-able and differentiable."""
