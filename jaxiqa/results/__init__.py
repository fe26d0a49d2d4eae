"""The rows that an evaluation writes and reports read."""
