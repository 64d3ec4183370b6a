"""Three abundances in a triangle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from pyro_unmix.plot.frame import BLUE

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
_STEPS = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
_WHOLE = 0.7  # a part this large is shown as the whole
_GREY = "0.35"


@dataclass(frozen=True)
class Ternary:
    """The part of the triangle where abundance k is at least `low[k]`.

    It is a triangle itself, and its side, what is left to share out, is `n_steps` times `step`.
    """

    low: np.ndarray
    step: float

    @classmethod
    def around(cls, abundances: np.ndarray) -> Ternary:
        """The part that holds all of `(n, 3)`, about five steps wide."""
        least = np.clip(abundances.min(axis=0), 0.0, 1.0)
        side = 1.0 - least.sum()
        if side > _WHOLE:
            return cls(np.zeros(3), float(_STEPS[-1]))
        step = _STEPS[np.searchsorted(_STEPS, side / 5)]
        return cls(np.floor(least / step + 1e-9) * step, float(step))

    @property
    def side(self) -> float:
        return float(1.0 - self.low.sum())

    @property
    def n_steps(self) -> int:
        return round(self.side / self.step)

    def project(self, abundances: np.ndarray) -> np.ndarray:
        """Positions `(..., 2)` of abundances `(..., 3)`."""
        return (abundances - self.low) / self.side @ CORNERS

    def frame(self, axis: Axes, names: list[str]) -> None:
        """Outline, grid, and names: an abundance is read along the side that has its name."""
        axis.set_axis_off()
        axis.set(aspect="equal", xlim=(-0.15, 1.15), ylim=(-0.17, 0.98))
        axis.fill(*CORNERS.T, fc="none", ec=_GREY, lw=1.0, zorder=1)
        decimals = max(0, int(np.ceil(-np.log10(self.step) - 1e-9)))
        for k, name in enumerate(names):
            start, end, other = CORNERS[k - 1], CORNERS[k], CORNERS[k - 2]
            for j in range(self.n_steps + 1):
                share = j / self.n_steps
                here, across = start + share * (end - start), other + share * (end - other)
                axis.plot(*np.transpose([here + 0.02 * (start - other), across]), color="0.85", lw=0.6, zorder=0.5)
                axis.annotate(f"{self.low[k] + j * self.step:.{decimals}f}", here + 0.055 * (start - other), ha="center",
                              va="center", fontsize=8, color=_GREY)
            middle, (right, up) = (start + end) / 2, end - start
            angle = np.degrees(np.arctan2(up, right))
            words = f"{name} →" if right > 0 else f"← {name}"
            axis.annotate(words, middle + 0.14 * np.array([up, -right]), ha="center", va="center", fontsize=9,
                          rotation=angle if right > 0 else angle + 180, rotation_mode="anchor")
        if self.side < 1.0 - 1e-9:
            self._place(axis)

    def _place(self, axis: Axes) -> None:
        """A small triangle of all mixtures, and in it the part that is shown."""
        small = axis.inset_axes((0.8, 0.76, 0.2, 0.2), aspect="equal")
        small.set_axis_off()
        small.fill(*CORNERS.T, fc="none", ec=_GREY, lw=0.8)
        small.fill(*(self.low @ CORNERS + self.side * CORNERS).T, fc=BLUE, ec=BLUE, lw=1.0)
        small.set_title("the part shown,\namong all mixtures", fontsize=7, color=_GREY)
