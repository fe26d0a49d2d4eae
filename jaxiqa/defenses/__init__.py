"""Defenses of a metric, and the wrappers through which adaptive attacks see them."""

from jaxiqa.defenses.adaptive import bpda, eot

__all__ = ["bpda", "eot"]
