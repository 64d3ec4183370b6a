"""Scenes whose truth is known, damaged as sensors damage them: an error, a result that holds, or one that says it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr

import pyro_unmix as pu
from benchmarks.command import Ended, ran

K, SIDE, N_BANDS = 3, 32, 50
CONFIG = "svi_steps = 50\ncalibration_steps = 100\nsampling_steps = 400\ndevice = 'cpu'\n"
# Worse than the clean scene: by this factor, and by this much beside.
_FACTOR, _MARGIN = 1.25, 0.005
Random = np.random.Generator


def clean(image: np.ndarray, random: Random) -> None:
    """Nothing is done to it."""


def nan_bursts(image: np.ndarray, random: Random) -> None:
    for _ in range(12):
        y, x, band = random.integers(0, [SIDE - 3, SIDE - 3, N_BANDS - 8])
        image[y : y + 3, x : x + 3, band : band + 8] = np.nan


def saturated(image: np.ndarray, random: Random) -> None:
    np.minimum(image, 0.6 * image.max(), out=image)


def constant_bands(image: np.ndarray, random: Random) -> None:
    image[:, :, [7, 20, 33]] = image.mean()


def zero_bands(image: np.ndarray, random: Random) -> None:
    image[:, :, [7, 20, 33]] = 0.0


def stripes(image: np.ndarray, random: Random) -> None:
    image += 0.05 * image.mean() * random.standard_normal((SIDE, N_BANDS))


def grey_stripes(image: np.ndarray, random: Random) -> None:
    image += 0.05 * image.mean() * random.standard_normal((SIDE, 1))


def outliers(image: np.ndarray, random: Random) -> None:
    image[random.random((SIDE, SIDE)) < 0.05] = random.uniform(0.0, 2.0, N_BANDS)


def spikes(image: np.ndarray, random: Random) -> None:
    image[random.random(image.shape) < 0.002] *= 5.0


def fill_values(image: np.ndarray, random: Random) -> None:
    image[random.random((SIDE, SIDE)) < 0.05] = -9999.0


def fill_values_in_some_bands(image: np.ndarray, random: Random) -> None:
    image[random.random((SIDE, SIDE)) < 0.05, 30:] = -9999.0


def all_nan(image: np.ndarray, random: Random) -> None:
    image[:] = np.nan


FAULTS: dict[str, Callable[[np.ndarray, Random], None]] = {
    "clean": clean, "NaN in bursts, a tenth of the pixels": nan_bursts, "saturated at 0.6 of the brightest": saturated,
    "three bands constant": constant_bands, "three bands zero": zero_bands, "stripes, another in every band": stripes,
    "stripes, alike in all bands": grey_stripes, "5 % of the pixels are another spectrum": outliers,
    "0.2 % of the values five times as large": spikes, "5 % of the pixels -9999": fill_values,
    "5 % of the pixels -9999 in 20 of 50 bands": fill_values_in_some_bands, "all NaN": all_nan}


def of_data(folder: Path, seed: int) -> Iterator[dict]:
    """A line a fault; RMSE beside that of the clean scene."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "half.toml").write_text(CONFIG)
    reference = np.nan
    for fault, damage in FAULTS.items():
        scene = pu.simulate_scene(K, (SIDE, SIDE), n_bands=N_BANDS, snr_db=30.0, concentration=0.5, seed=seed)
        image = scene.reflectance.values.astype(float)
        damage(image, np.random.default_rng(seed))
        found = fitted(folder, K, **parts(scene) | {"image": image})
        reference = found.get("rmse", np.nan) if fault == "clean" else reference
        yield line(fault, found, reference)
    scene = pu.simulate_scene(K, (SIDE, SIDE), n_bands=N_BANDS, snr_db=30.0, concentration=0.5, seed=seed)
    twice = np.repeat(scene.wavelengths[::2], 2)
    image = scene.reflectance.values
    yield line("every wavelength twice", fitted(folder, K, **parts(scene) | {"wavelengths": twice, "image": image}), reference)
    yield line("more endmembers than bands", fitted(folder, 6, image=image[:, :, :5]))
    yield line("more endmembers than pixels", fitted(folder, 6, image=image[:2, :2]))
    yield line("one pixel", fitted(folder, 2, image=image[:1, :1]))
    yield line("two pixels", fitted(folder, 2, image=image[:1, :2]))
    yield line("one row", fitted(folder, 3, image=image[:1]))
    yield line("all pixels alike", fitted(folder, 3, image=np.broadcast_to(image[:1, :1], image.shape)))


def parts(scene: pu.Scene) -> dict[str, np.ndarray]:
    reference = scene.reference
    assert reference is not None and scene.wavelengths is not None
    return {"wavelengths": scene.wavelengths, **{name: reference[name].values for name in ("abundances", "endmembers")}}


def fitted(folder: Path, k: int, **arrays: np.ndarray) -> dict:
    """How a fit of these arrays ends, and what is known of its result."""
    np.savez(folder / "scene.npz", **arrays)
    done = ran("fit", folder / "scene.npz", "-k", k, "--guide", "mlp", "--config", folder / "half.toml", "--out", folder / "run")
    if done.code != 0:
        return {"done": done}
    summary = xr.load_dataset(folder / "run" / "summary.nc", engine="h5netcdf")
    mean = summary.abundance_mean.transpose("y", "x", "endmember").values
    masked = np.isnan(mean).all(axis=2)
    fits = np.isfinite(arrays["image"]).all(axis=2)
    wrong = []
    if np.isnan(mean[~masked]).any() or not np.allclose(mean[~masked].sum(axis=1), 1.0, rtol=0, atol=1e-6):
        wrong.append("abundances do not sum to one")
    if (masked & fits & ~(arrays["image"] == arrays["image"][:, :, :1]).all(axis=2)).any():
        wrong.append("pixels with data are masked")
    found = {"done": done, "wrong": wrong, "intervals": summary.attrs["intervals"],
             "findings": [text.split(":")[0] for text in summary.attrs["findings"].splitlines()[:-1]],
             "warnings": [text for text in done.err.splitlines() if text.startswith("warning: ")]}
    if "abundances" in arrays:
        told = ran("evaluate", folder / "run" / "summary.nc", folder / "scene.npz", "--json")
        found["rmse"] = json.loads(told.out)["rmse"]
    return found


def line(fault: str, found: dict, reference: float = np.nan) -> dict:
    done: Ended = found["done"]
    if done.code != 0:
        return {"case": fault, "count": 1, "code": done.code, "outcome": f"{done.outcome}: {done.err.splitlines()[-1]}"}
    said = [*found["warnings"], *found["findings"]]
    rmse = found.get("rmse", np.nan)
    verdict = ("result" if np.isnan(rmse) else "holds" if rmse <= _FACTOR * reference + _MARGIN
               else "worse, and says so" if said else "WORSE, UNSAID")
    return {"case": fault, "count": 1, "code": 0, "outcome": "; ".join(
        [verdict, *found["wrong"], f"RMSE {rmse:.4f} (clean {reference:.4f})", f"intervals: {found['intervals']}", *said])}
