"""What every room may import; it imports nothing of the project."""
