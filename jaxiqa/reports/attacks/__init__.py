"""Reports on attacks."""
