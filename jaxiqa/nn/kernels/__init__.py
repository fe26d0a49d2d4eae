"""Products that XLA is slow at on CPUs."""
