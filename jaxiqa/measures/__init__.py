"""Numbers about scores: how well they agree with people, and how far an attack moves them."""
