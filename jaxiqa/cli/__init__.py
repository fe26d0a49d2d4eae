"""The programs of the project; nothing imports them."""
