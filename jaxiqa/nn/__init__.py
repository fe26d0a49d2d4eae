"""Parts for building networks."""
