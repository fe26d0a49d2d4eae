"""Pure image operations: images in, images or one number per image out; jit-able and differentiable.

Number types: the result has the type to which JAX promotes those of the arrays. Half precision is computed in float32
and rounded once, at the end; float64 is float64 throughout. All have derivatives in both modes and of second order.
"""
