"""Building blocks of attacks."""
