"""Train a guide on simulated minerals and let it map a real scene that it has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from pyro_unmix.benchmark.tables import markdown
from pyro_unmix.datasets import load_dataset
from pyro_unmix.errors import InputError
from pyro_unmix.experiments.minerals import (
    BRIGHTNESS,
    HELD_OUT,
    LIBRARY_SD,
    forward_seconds,
    least_squares_of,
    minerals_on,
    scores,
    train,
)
from pyro_unmix.fit import Fit
from pyro_unmix.io import open_scene
from pyro_unmix.io.files import atomic_path, make_folder
from pyro_unmix.metrics import spectral_angle
from pyro_unmix.plot.maps import compare_maps
from pyro_unmix.run_folder import save_run
from pyro_unmix.scene import Scene

# What the maps show, where it is among the minerals.
SHOWN = ("Alunite", "Kaolinite_1", "Kaolinite_2", "Montmorillonite", "Muscovite", "Chalcedony")
# A mineral is present where its mean abundance by least squares is this, and dominant in a pixel where it is more than half.
PRESENT, DOMINANT = 0.01, 0.5


def run_transfer(out: Path, scene: str = "cuprite_crop", *, minerals: list[str] | None = None, guide: str = "spacnn",
                 steps: int = 1000, mse_weight: float = 0.0, scenes: int = 4, seed: int = 0, side: int = 48,
                 progress: bool = True) -> pd.DataFrame:
    """Train on the Cuprite recipe on the bands of a real scene, test on scenes held out, and map the real one in a forward pass.

    Writes the run folder of `fit` (the summary is that of the real scene), `holdout.csv` (one row a simulated scene),
    `minerals.csv` (one row a mineral), `table.md`, `maps.png` and `experiment.json` into `out`. Least squares with the library's
    spectra is what the maps are compared to: nobody knows the abundances of the real scene.

    Parameters
    ----------
    scene
        A benchmark scene by name, or a file, with wavelengths.
    minerals
        Names of the recipe. None: all.
    steps, side
        Scenes of side x side pixels to train on.
    scenes
        Held out.

    Raises
    ------
    InputError
        A scene without wavelengths or with bands the library does not have, or an unknown mineral.
    """
    real = open_scene(scene) if Path(scene).exists() else load_dataset(scene)
    if real.wavelengths is None:
        raise InputError(f"a scene with wavelengths to simulate on, '{scene}'", "none", "give them when the scene is made")
    make_folder(out)
    make = minerals_on(real.wavelengths, minerals, side=side)
    fit = train(make, guide=guide, steps=steps, mse_weight=mse_weight, seed=seed, progress=progress)
    holdout = pd.DataFrame([{"scene": number, **scores(fit, make(HELD_OUT + number))} for number in range(scenes)])
    posterior = fit.posterior(real)
    save_run(out, fit, posterior)

    summary = posterior.summary()
    found = summary.abundance_mean
    squares = found.copy(data=np.full(found.shape, np.nan))
    squares.values[real.mask.values] = least_squares_of(fit, real)
    table = _minerals(fit, real, found, squares)
    for name, frame in (("holdout", holdout), ("minerals", table)):
        with atomic_path(out / f"{name}.csv") as path:
            frame.to_csv(path, index=False)
    agreement = _agreement(found, squares)
    with atomic_path(out / "table.md") as path:
        findings = [str(each) for each in posterior.findings()]
        path.write_text(_text(holdout, table, agreement, forward_seconds(fit, real), findings))
    shown = [name for name in SHOWN if name in (fit.names or [])]
    rows = {"guide, mean": found, "guide,\nstandard deviation": summary.abundance_sd, "least squares": squares}
    with atomic_path(out / "maps.png") as path:
        compare_maps({label: maps.sel(endmember=shown) for label, maps in rows.items()}).savefig(path, format="png", dpi=110)
    with atomic_path(out / "experiment.json") as path:
        settings = {"scene": scene, "recipe": "cuprite", "minerals": fit.names, "brightness": BRIGHTNESS, "departure": LIBRARY_SD,
                    "guide": guide, "steps": steps, "mse_weight": mse_weight, "held out": scenes, "seed": seed, "side": side}
        path.write_text(json.dumps(settings, indent=2) + "\n")
    return holdout


def _minerals(fit: Fit, scene: Scene, found: xr.DataArray, squares: xr.DataArray) -> pd.DataFrame:
    reference = None if scene.reference is None else scene.reference.endmembers
    rows = []
    for k, name in enumerate(fit.names or []):
        ours, theirs = found.values[..., k].ravel(), squares.values[..., k].ravel()
        use = np.isfinite(theirs)
        varies = ours[use].std() > 0 and theirs[use].std() > 0
        row = {"mineral": name, "mean": ours[use].mean(), "least_squares_mean": theirs[use].mean(),
               "correlation": np.corrcoef(ours[use], theirs[use])[0, 1] if varies else np.nan}
        if reference is not None and name in reference.endmember.values:
            spectrum = fit.guide.endmembers.loc()[k].detach().double().numpy()
            row["sad"] = float(spectral_angle(spectrum, reference.sel(endmember=name).values.astype(np.float64)))
        rows.append(row)
    return pd.DataFrame(rows)


def _agreement(found: xr.DataArray, squares: xr.DataArray) -> tuple[float, float, int]:
    """Share of pixels whose largest abundance is of the same mineral, of all and of those that one dominates, and how many these
    are."""
    use = np.isfinite(squares.values).all(axis=-1)
    ours, theirs = found.values[use], squares.values[use]
    same, clear = ours.argmax(axis=1) == theirs.argmax(axis=1), theirs.max(axis=1) > DOMINANT
    return float(same.mean()), float(same[clear].mean()) if clear.any() else float("nan"), int(clear.sum())


def _text(holdout: pd.DataFrame, minerals: pd.DataFrame, agreement: tuple[float, float, int], forward: float,
          findings: list[str]) -> str:
    means = holdout.mean(numeric_only=True)
    of_fcls, of_nnls = means.rmse / means.fcls_rmse, means.rmse / means.nnls_rmse
    same, clear, n_clear = agreement
    lines = [f"Held out, {len(holdout)} scenes: RMSE {means.rmse:.4f}, {of_fcls:.2f} of FCLS ({means.fcls_rmse:.4f}) and "
             f"{of_nnls:.2f} of NNLS divided by its sum ({means.nnls_rmse:.4f}), both with the library's spectra. 90 % intervals "
             f"hold {means.cover_90:.3f} of all abundances, {means.cover_90_there:.3f} of those that are there; 50 % "
             f"{means.cover_50:.3f} and {means.cover_50_there:.3f}.", "",
             f"Real scene: a forward pass takes {forward:.2f} s. The largest abundance is that of least squares in {same:.2f} of "
             f"the pixels, in {clear:.2f} of the {n_clear} that a mineral dominates."]
    if "sad" in minerals:
        present = minerals[minerals.least_squares_mean > PRESENT]
        lines[-1] += f" Mean angle to the reference, minerals that are present: {present.sad.mean():.3f} rad."
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
             for row in minerals.itertuples(index=False)]
    lines += ["", *markdown(list(minerals.columns), cells)]
    return "\n".join([*lines, "", *(f"- {finding}" for finding in findings)]) + "\n"
