"""How a guide that was trained on simulated minerals degrades where scenes are not what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pyro_unmix.benchmark.tables import markdown
from pyro_unmix.datasets import load_dataset
from pyro_unmix.experiments.minerals import HELD_OUT, minerals_on, scores, train
from pyro_unmix.fit import Fit
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.plot.sensitivity import sensitivity
from pyro_unmix.recipes import CUPRITE_MINERALS
from pyro_unmix.scene import Scene

# What is shifted, and to what.
SHIFTS: dict[str, dict[str, dict]] = {
    "none": {"as trained": {}},
    "snr_db": {f"{value:g} dB": {"snr_db": value} for value in (40.0, 25.0, 20.0)},
    "concentration": {f"{value:g}": {"concentration": value} for value in (0.1, 0.5, 1.0)},
    "correlation_length": {f"{value:g} pixels": {"correlation_length": value} for value in (0.0, 2.0, 8.0)},
    "variability": {f"{value:g}": {"variability": value} for value in (0.0, 0.5)},
    "departure": {f"{value:g}": {"departure": value} for value in (0.0, 0.1)},
    "brightness": {f"{value:g}": {"brightness": value} for value in (0.0, 0.6)},
}
# Left out of what a guide is trained on, in turn of what it is asked about.
MINERAL = "Alunite"


def run_sensitivity(out: Path, *, guide: str = "spacnn", steps: int = 1000, scenes: int = 4, seed: int = 0, side: int = 48,
                    progress: bool = True) -> pd.DataFrame:
    """Train one guide on all minerals and one without a mineral, and ask both about scenes of every shift.

    Writes `sensitivity.csv` (one row a scene), `table.md` (means), `sensitivity.png` and `config.json` into `out`.

    Parameters
    ----------
    steps, side
        Scenes of side x side pixels to train on.
    scenes
        Of every shift.
    """
    make_folder(out)
    wavelengths = load_dataset("cuprite_crop").wavelengths
    make = minerals_on(wavelengths, side=side)
    fit = train(make, guide=guide, steps=steps, seed=seed, progress=progress)
    rows: list[dict] = []

    def ask(shift: str, value: str, asked: Fit, source: Callable[..., Scene], options: dict) -> None:
        for number in range(scenes):
            scene = source(HELD_OUT + number, **options)
            found = "; ".join(each.name for each in asked.posterior(scene).findings() if each.name != "endmember not identified")
            rows.append({"shift": shift, "value": value, "scene": number, **scores(asked, scene), "findings": found})
        with atomic_path(out / "sensitivity.csv") as path:
            pd.DataFrame(rows).to_csv(path, index=False)

    for shift, values in SHIFTS.items():
        for value, options in values.items():
            ask(shift, value, fit, make, options)
    others = [mineral for mineral in CUPRITE_MINERALS if mineral != MINERAL]
    fewer = minerals_on(wavelengths, others, side=side)
    ask("wrong mineral", f"no {MINERAL} there", fit, fewer, {})
    ask("missing mineral", f"{MINERAL} unknown", train(fewer, guide=guide, steps=steps, seed=seed, progress=progress), make, {})

    table = pd.DataFrame(rows)
    with atomic_path(out / "table.md") as path:
        path.write_text(_table(table))
    with atomic_path(out / "sensitivity.png") as path:
        sensitivity(table).savefig(path, format="png", dpi=120)
    with atomic_path(out / "config.json") as path:
        path.write_text(json.dumps({"guide": guide, "steps": steps, "scenes": scenes, "seed": seed, "side": side,
                                    "recipe": "cuprite", "shifts": SHIFTS}, indent=2) + "\n")
    return table


def _table(table: pd.DataFrame) -> str:
    head = ["shift", "value", "RMSE", "of FCLS", "of NNLS", "90 % hold", "of what is there", "50 % hold", "findings (scenes)"]
    rows = []
    for (shift, value), part in table.groupby(["shift", "value"], sort=False):
        counts = pd.Series([name for found in part.findings for name in found.split("; ")]).value_counts()
        errors = [f"{part[name].mean():.4f}" for name in ("rmse", "fcls_rmse", "nnls_rmse")]
        covers = [f"{part[name].mean():.3f}" for name in ("cover_90", "cover_90_there", "cover_50")]
        rows.append([shift, value, *errors, *covers, ", ".join(f"{name} {count}" for name, count in counts.items())])
    return "\n".join(markdown(head, rows)) + "\n"
