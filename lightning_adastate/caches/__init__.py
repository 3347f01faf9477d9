"""Caches: which content frames stay, and where everything stands in time."""

from lightning_adastate.caches.base import Cache
from lightning_adastate.caches.relativistic import RelativisticCache
from lightning_adastate.caches.sliding import SlidingCache

__all__ = ["Cache", "RelativisticCache", "SlidingCache"]
