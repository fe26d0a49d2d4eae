"""What is done with any attack."""
