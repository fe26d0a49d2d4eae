"""Images that are made."""
