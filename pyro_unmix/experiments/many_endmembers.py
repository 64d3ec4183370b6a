"""How far the number of endmembers can go: 3 to 20 of a simulation, and the 12 minerals of Cuprite."""

from __future__ import annotations

import os
from functools import partial

import pandas as pd

from pyro_unmix.benchmark.scenes import Entry
from pyro_unmix.experiments.ablation import SCENES as ABLATION_SCENES
from pyro_unmix.experiments.comparison import compare
from pyro_unmix.simulate import simulate_scene

METHODS = ("vca", "start", "spacnn")
# Concentration 1 / K and some pure pixels: where K is large, every endmember is still to be seen.
SCENES = [
    *(Entry(f"k{k}", "simulated", "absorption bands", partial(
        simulate_scene, k, (64, 64), n_bands=100, snr_db=30.0, concentration=1.0 / k, pure_share=0.1, seed=k))
      for k in (3, 5, 8, 12, 16, 20)),
    *(entry for entry in ABLATION_SCENES if entry.name == "cuprite"),
]


def run_many_endmembers(
    out: str | os.PathLike, *, seeds: int = 3, jobs: int = 2, smoke: bool = False, progress: bool = True
) -> pd.DataFrame:
    """VCA, our start and our fit on scenes of more and more endmembers, blind.

    Arguments, files and errors as in `run_ablation`; the plot is `many-endmembers.png`.
    """
    return compare(out, "many-endmembers", SCENES, METHODS, seeds=seeds, jobs=jobs, smoke=smoke, progress=progress)
