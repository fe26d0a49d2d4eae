"""Wrappers that work with any attack."""
