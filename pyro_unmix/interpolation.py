"""Where values lie between the nodes of a table."""

from __future__ import annotations

from torch import Tensor


def cell(value: Tensor, low: float, high: float, n: int) -> tuple[Tensor, Tensor]:
    """Number of the last of `n` even nodes from `low` to `high` before a `value`, and how far it is from there to the next one.

    What lies beyond the nodes is taken for the last of them.
    """
    place = ((value - low) * ((n - 1) / (high - low))).clamp(0.0, n - 1.001)
    node = place.floor()
    return node.long(), place - node
