"""Reports on defenses."""
