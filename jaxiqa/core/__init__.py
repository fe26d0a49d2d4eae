"""Foundations that every package of jaxiqa may import; they import no other package of jaxiqa."""
