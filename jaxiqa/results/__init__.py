"""Rows that an evaluation writes and reports read."""
