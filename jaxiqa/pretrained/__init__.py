"""Other people's weight files: fetch, read, map."""
