"""Measures of scores: their agreement with human scores, and how far an attack moves them."""
