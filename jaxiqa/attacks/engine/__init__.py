"""What attacks are made of."""
