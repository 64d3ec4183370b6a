"""Other ways to use a pixel's neighbours: sparse factorisations over superpixels and with total variation, and guides."""

from __future__ import annotations

import os

import pandas as pd

from pyro_unmix.experiments.ablation import SCENES
from pyro_unmix.experiments.comparison import compare

METHODS = ("sgsnmf", "tv-rsnmf", "start", "mlp", "spacnn")


def run_contexts(
    out: str | os.PathLike, *, seeds: int = 3, jobs: int = 2, smoke: bool = False, progress: bool = True
) -> pd.DataFrame:
    """SGSNMF and TV-RSNMF beside our start, a guide that sees a pixel alone, and one that sees its neighbours.

    On the scenes of the ablation, blind. Arguments, files and errors as in `run_ablation`; the plot is `contexts.png`.
    """
    return compare(out, "contexts", SCENES, METHODS, seeds=seeds, jobs=jobs, smoke=smoke, progress=progress)
