"""Pure image operations."""
