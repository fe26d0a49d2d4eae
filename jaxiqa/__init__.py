"""jaxiqa: build, harden, attack and certify image-quality-assessment models in JAX."""
