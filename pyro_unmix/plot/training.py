"""How training went."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import BLUE, subplots


def loss(history: pd.DataFrame) -> Figure:
    """Training loss by step, one panel for each stage: light every step, dark a running median.

    `history` has columns `step`, `elbo_loss` (negative ELBO for each pixel) and perhaps `stage`. The vertical scale
    leaves out the steepest first steps, and says so.

    Raises
    ------
    InputError
        A column is missing, or no loss is finite.
    """
    if missing := {"step", "elbo_loss"} - set(history.columns):
        raise InputError("a history with columns step and elbo_loss", f"no {' or '.join(sorted(missing))}")
    history = history[np.isfinite(history.elbo_loss)]
    if history.empty:
        raise InputError("a history with a finite loss", "none")
    stages = list(history.groupby("stage", sort=False)) if "stage" in history else [("", history)]
    figure, axes = subplots(1, len(stages), (max(4.2 * len(stages), 6.5), 3.2))
    for axis, (stage, part) in zip(axes.flat, stages, strict=True):
        window = max(len(part) // 50, 1)
        smooth = part.elbo_loss.rolling(2 * window + 1, center=True, min_periods=1).median()
        axis.plot(part.step, part.elbo_loss, color=BLUE, lw=0.6, alpha=0.35, label="every step")
        axis.plot(part.step, smooth, color=BLUE, lw=1.6, label="running median")
        low, high = part.elbo_loss.min(), np.quantile(part.elbo_loss, 0.9)
        high += 0.5 * max(high - low, 1e-3 * abs(high), 1e-9)
        if (hidden := int((part.elbo_loss > high).sum())):
            axis.set_ylim(low - 0.05 * (high - low), high)
            axis.annotate(f"{hidden} steps lie above the frame", (0.5, 0.97), xycoords="axes fraction", ha="center",
                          va="top", fontsize=8, color="0.35")
        axis.set_title(str(stage).replace("_", " "), fontsize=10)
        axis.set_xlabel("step")
    axes.flat[0].set_ylabel("loss (negative ELBO per pixel)")
    axes.flat[-1].legend(fontsize=8, frameon=False, loc="center right")
    return figure
