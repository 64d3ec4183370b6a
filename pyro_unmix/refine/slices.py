"""Slice sampling of one number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def draw_from_slice(log_density: Callable[[float], float], at: float, low: float, high: float) -> float:
    """A draw that leaves the density of `log_density` between `low` and `high` as it is, from the number that is there.

    The interval shrinks towards `at` until it meets the slice: Neal (2003), Annals of Statistics 31, "Slice sampling", figure
    5. For an unbounded density, ends placed at random around `at`, a fixed length apart, do.
    """
    level = log_density(at) + math.log1p(-uniform())
    while log_density(drawn := low + uniform() * (high - low)) < level:
        low, high = (drawn, high) if drawn < at else (low, drawn)
    return drawn


def uniform() -> float:
    """A number from 0 up to 1."""
    return torch.rand((), dtype=torch.float64).item()
