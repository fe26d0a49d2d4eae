"""Command-line programs; no other package imports them."""
