"""Convolutions and pooling that XLA computes slowly on CPUs."""
