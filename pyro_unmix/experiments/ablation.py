"""Encoder against encoder and head against head: MLP-LDVAE, CNN-LDVAE, SpACNN-LDVAE, and what became of them here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import xarray as xr

from pyro_unmix import paper
from pyro_unmix.benchmark.methods import without_reference
from pyro_unmix.benchmark.scenes import SCENES as BENCHMARK_SCENES
from pyro_unmix.benchmark.scenes import Entry, count_of
from pyro_unmix.experiments.run import FEW_STEPS, Task, chosen, figures, run_experiment, scenes_of, timed
from pyro_unmix.experiments.split import Split, split
from pyro_unmix.fit import FitConfig, fit
from pyro_unmix.guide import ENCODERS, UnmixingGuide
from pyro_unmix.metrics import Evaluation, evaluate
from pyro_unmix.model import UnmixingModel
from pyro_unmix.recipes import cuprite, ontech
from pyro_unmix.scene import Scene

SCENES = [
    *(entry for entry in BENCHMARK_SCENES if entry.name in ("samson", "urban_crop_4")),
    Entry("cuprite", "simulated", "USGS spectra", partial(cuprite, shape=(64, 64), seed=0)),
    Entry("ontech", "simulated", "USGS spectra", partial(ontech, shape=(64, 64), seed=0)),
]
MODES = ("blind", "supervised")
# Columns or rows between labelled and scored pixels, the same for all encoders: as far as the widest of them looks.
GAP = max(8, *(UnmixingGuide(encoder).halo for encoder in ENCODERS))
_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Training:
    """How a head is trained: settings of `fit`, and where there are labels the weight of their squared error."""

    config: FitConfig
    mse_weight: float


HEADS = {
    "auto": Training(FitConfig(), mse_weight=0.0),
    "softmax": Training(paper.CONFIG, mse_weight=paper.MSE_WEIGHT),
}


@dataclass(frozen=True)
class AblationTask(Task):
    """One fit, and how it is scored."""

    mode: str
    encoder: str
    head: str

    def row(self) -> dict:
        return {"scene": self.entry.name, "mode": self.mode, "encoder": self.encoder, "head": self.head, "seed": self.seed}


def run_ablation(
    out: str | os.PathLike,
    *,
    scenes: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    seeds: int = 3,
    jobs: int = 2,
    smoke: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Every encoder with every head on every scene, blind and supervised.

    Blind, a fit sees no reference. Supervised, it is given the abundances of one third of the scene. Both are scored on the same
    pixels, which lie farther from all labelled ones than any encoder looks (`experiments.split`). Writes `results.csv`,
    `table.md`, `ablation.png` and `config.json` into `out`; killed, it goes on when called again with the same arguments.

    Parameters
    ----------
    scenes, modes, encoders, heads
        Names; None: all. A scene whose data are missing is left out, unless it was named.
    seeds
        How many: 0, 1, ...
    jobs
        Runs at once, a core each.
    smoke
        Try it: a few steps on a few pixels, one seed and, if none is named, one scene. The figures mean nothing.

    Returns
    -------
    results
        One row a run: what `results.csv` holds.

    Raises
    ------
    InputError
        An unknown name, a named scene without data, or a folder that holds another experiment.
    """
    modes, encoders = chosen(modes, MODES, "modes"), chosen(encoders, ENCODERS, "encoders")
    heads = chosen(heads, HEADS, "heads")
    found = scenes_of(SCENES, scenes, smoke)
    splits = {entry.name: str(split_of(scene)) for entry, scene in found.items()}
    plan = [AblationTask(entry, seed, smoke, mode, encoder, head) for seed, entry, mode, encoder, head in
            product(range(1 if smoke else seeds), found, modes, encoders, heads)]
    training = {head: _training(head, smoke) for head in heads}
    return run_experiment(
        out, "ablation", measure, plan, found, jobs=jobs, timeout=_TIMEOUT, progress=progress,
        config={"modes": modes, "encoders": encoders, "heads": {head: asdict(how) for head, how in training.items()},
                "split": splits},
        notes=[*(f"{name}: {text}, in both modes." for name, text in splits.items()),
               *(f"head {head}: {how.config.svi_steps} steps of SVI, {how.config.calibration_steps} of calibration, mse_weight "
                 f"{how.mse_weight:g} where there are labels." for head, how in training.items()),
               "Supervised, labels fix the amplitude that abundances refer to, and nothing is matched; blind, it is matched to "
               "that of the reference."],
        lines=["scene", "mode"], colour="encoder", hollow="head")


def measure(task: AblationTask) -> dict:
    """The figures of one fit."""
    scene = task.scene()
    reference, parts, how = scene.reference, split_of(scene), _training(task.head, task.smoke)
    assert reference is not None  # looked at before
    known: dict = {"labels": parts.labels(reference.abundances), "mse_weight": how.mse_weight,
                   "names": [str(name) for name in reference.endmember.values]} if task.mode == "supervised" else {}
    bare = without_reference(scene)
    model, guide = UnmixingModel(count_of(scene)), UnmixingGuide(task.encoder, head=task.head)
    summary, seconds = timed(lambda: fit(model, bare, guide=guide, seed=task.seed, config=how.config, progress=False,
                                         **known).posterior(bare).summary())
    return figures(score(summary, reference, parts, labelled=bool(known)), seconds)


def split_of(scene: Scene) -> Split:
    """Which pixels of a scene are labelled and which are scored, whatever the encoder."""
    assert scene.reference is not None
    return split(scene.reference.abundances, GAP)


def score(summary: xr.Dataset, reference: xr.Dataset, parts: Split, *, labelled: bool) -> Evaluation:
    """`evaluate` on the pixels that are to be scored.

    What learned from labels speaks in their amplitude already, whatever that of the reference's spectra: these are brought to the
    norm of the ones found, so that nothing is left to be matched.
    """
    rows, cols = parts.test
    if labelled:
        own, theirs = (np.sqrt((spectra**2).sum("wavelength")) for spectra in (summary.endmember_mean, reference.endmembers))
        reference = reference.assign(endmembers=reference.endmembers * (own / theirs))
    return evaluate(summary.isel(y=rows, x=cols), reference.isel(y=rows, x=cols))


def _training(head: str, smoke: bool) -> Training:
    how = HEADS[head]
    calibrates = how.config.calibration_steps > 0
    return how if not smoke else replace(how, config=FEW_STEPS if calibrates else replace(FEW_STEPS, calibration_steps=0))
