"""What do neighbours tell? `python -m benchmarks.spatial --out FILE.csv` fits noisy scenes with a spatial prior and without.

Maps that are smooth (K = 3, correlation length 8; K = 4, length 6), a mosaic of 25 patches, and rough fields of exponential
correlation; 48 x 48 pixels, 100 bands, 15 dB, known endmembers, default steps, `spacnn`. Edges are the tenth of the pixels that
differ most from a neighbour. A run that is stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

import pyro_unmix as pu
from benchmarks.grid import medians, run
from pyro_unmix.priors import Dirichlet, FixedEndmembers, SpatialDirichlet
from pyro_unmix.simulate import absorption_spectra

SIDE, N_BANDS, SNR_DB = 48, 100, 15.0
_PATCHES, _ROUGHNESS = 25, 6.0


def smooth(k: int, length: float) -> Callable[[int], pu.Scene]:
    return lambda seed: pu.simulate_scene(k, (SIDE, SIDE), n_bands=N_BANDS, snr_db=SNR_DB, correlation_length=length, seed=seed)


def mosaic(seed: int, k: int = 4) -> pu.Scene:
    random = np.random.default_rng(seed)
    points = random.uniform(0, SIDE, (_PATCHES, 2))
    rows, cols = np.mgrid[:SIDE, :SIDE]
    nearest = ((rows[..., None] - points[:, 0]) ** 2 + (cols[..., None] - points[:, 1]) ** 2).argmin(axis=-1)
    return noisy(random.dirichlet(np.ones(k), _PATCHES)[nearest], random)


def rough(seed: int, k: int = 4) -> pu.Scene:
    """The softmax of fields that no class of ours draws."""
    random, side = np.random.default_rng(seed), 128
    apart = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side) * side] * 2, indexing="ij"))
    waves = np.sqrt(np.maximum(np.fft.fft2(np.exp(-apart / _ROUGHNESS)).real, 0.0))
    fields = np.fft.ifft2(waves * np.fft.fft2(random.standard_normal((k, side, side)))).real[:, :SIDE, :SIDE]
    weights = np.exp(1.5 * np.moveaxis(fields, 0, -1))
    return noisy(weights / weights.sum(axis=-1, keepdims=True), random)


def noisy(abundances: np.ndarray, random: np.random.Generator) -> pu.Scene:
    wavelengths = np.linspace(400.0, 2500.0, N_BANDS)
    endmembers = absorption_spectra(abundances.shape[-1], wavelengths, random)
    signal = abundances @ endmembers
    noise = np.sqrt(np.mean(signal**2) / 10 ** (SNR_DB / 10)) * random.standard_normal(signal.shape)
    return pu.Scene(signal + noise, wavelengths=wavelengths, abundances=abundances, endmembers=endmembers)


SCENES: dict[str, Callable[[int], pu.Scene]] = {
    "smooth, K 3": smooth(3, 8.0), "smooth, K 4": smooth(4, 6.0), "mosaic": mosaic, "rough": rough}
PRIORS: dict[str, Callable[[], Dirichlet]] = {"independent": lambda: Dirichlet(1.0, learned=True), "spatial": SpatialDirichlet}


def edges(abundances: np.ndarray) -> np.ndarray:
    """`(rows, cols)`: where a pixel differs most from a neighbour."""
    steps = np.zeros(abundances.shape[:2])
    for axis in (0, 1):
        step = np.abs(np.diff(abundances, axis=axis)).max(axis=-1)
        for side in ((0, 1), (1, 0)):
            steps = np.maximum(steps, np.pad(step, [side if own == axis else (0, 0) for own in (0, 1)]))
    return steps >= max(np.quantile(steps, 0.9), 1e-6)


def one(name: str, prior: str, seed: int) -> dict:
    scene = SCENES[name](seed)
    assert scene.reference is not None
    truth = scene.reference.abundances.values
    model = pu.UnmixingModel(truth.shape[-1], abundances=PRIORS[prior](),
                             endmembers=FixedEndmembers(scene.reference.endmembers.values))
    fit = pu.fit(model, scene, seed=seed, progress=False)
    summary = fit.posterior(scene).summary()
    squares = (summary.abundance_mean.values - truth) ** 2
    low, *_, high = summary.abundance_quantile.values
    return {"rmse": float(np.sqrt(squares.mean())), "edge_rmse": float(np.sqrt(squares[edges(truth)].mean())),
            "holds_90": float(np.mean((low <= truth) & (truth <= high))), "width": float(np.mean(high - low)),
            "seconds": sum(fit.seconds.values())}


def main() -> None:
    print(medians(run(__doc__, ("scene", "prior"), product(SCENES, PRIORS), one, seeds=5), "scene", "prior"))


if __name__ == "__main__":
    main()
