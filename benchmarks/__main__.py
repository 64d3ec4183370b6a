"""`make bench`: print each ratio with the times it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize

import pyro_unmix as pu
from pyro_unmix.baselines.fcls import nnls
from pyro_unmix.tiles import Tiling


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least wall time of a few repeats."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def encoding() -> tuple[float, float]:
    """The guide over a tile at once, against one patch with its context for every pixel."""
    scene = pu.simulate_scene(4, (24, 24), n_bands=100)
    _, start = pu.initialize(pu.UnmixingModel(4), scene)
    guide = pu.UnmixingGuide("spacnn").bind(start)
    with torch.no_grad():
        patches = Tiling(scene, 1, guide.halo)
        batch = patches.batch(list(range(len(patches))))
        return seconds(lambda: guide.pixels(pu.whole(scene))), seconds(lambda: guide.pixels(batch))


def least_squares() -> tuple[float, float]:
    """Non-negative least squares of all pixels at once, against one call of SciPy a pixel."""
    scene = pu.simulate_scene(4, (48, 48), n_bands=100)
    pixels, endmembers = scene.pixels().astype(float), scene.reference.endmembers.values.astype(float)
    together = torch.as_tensor(pixels), torch.as_tensor(endmembers)
    return (seconds(lambda: nnls(*together)),
            seconds(lambda: np.stack([optimize.nnls(endmembers.T, pixel)[0] for pixel in pixels])))


if __name__ == "__main__":
    for work in (encoding, least_squares):
        fast, slow = work()
        print(f"{work.__doc__}\n    ratio {slow / fast:.1f} ({1e3 * fast:.1f} ms against {1e3 * slow:.1f} ms)")
