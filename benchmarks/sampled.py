"""`python -m benchmarks.sampled --folder DIR`: what learning from a sample of a file costs in accuracy.

A scene of 1,000,000 pixels and 50 bands (`benchmarks.large`), fitted whole and from `SceneFile.sample`, each in a process of its
own, with two seeds: error of the abundances of all pixels, spectral angle, seconds, and the most memory that was resident.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import xarray as xr

import pyro_unmix as pu
from benchmarks.large import COLS, K, make, measured, truth

WAYS = {"whole": "pu.open_scene({scene!r})", "sample": "pu.open_scene_file({scene!r})"}


def fit(scene: pu.Scene | pu.SceneFile, out: str, seed: int) -> None:
    learned = scene.sample(seed=seed) if isinstance(scene, pu.SceneFile) else scene
    fitted = pu.fit(pu.UnmixingModel(K, brightness="none"), learned, guide="mlp", seed=seed)
    pu.save_run(out, fitted, fitted.posterior(scene) if isinstance(scene, pu.Scene) else scene)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows = round(1_000_000 / COLS)
    scene, table = make(options.folder, "pixels1000000", rows, 50), []
    reference = truth(rows, 50)
    for seed in range(options.seeds):
        for way, opened in WAYS.items():
            out = options.folder / f"run_{way}_{seed}"
            call = f"fit({opened.format(scene=str(scene))}, {str(out)!r}, {seed})"
            imports = "import pyro_unmix as pu; from benchmarks.sampled import fit"
            seconds, memory = measured([sys.executable, "-c", f"{imports}; {call}"])
            summary = xr.load_dataset(out / "summary.nc", engine="h5netcdf")
            found = pu.evaluate(summary, reference.sel(wavelength=summary.wavelength, method="nearest"))
            table.append({"way": way, "seed": seed, "RMSE": found.rmse, "SAD": found.sad, "seconds": seconds, "GB": memory})
            print(pd.DataFrame(table).round(4).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
