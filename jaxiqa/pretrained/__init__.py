"""Published weight files: download, read, and convert to parameters."""
