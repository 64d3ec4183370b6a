"""`make bench`: print each ratio with the times it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize

import pyro_unmix as pu
from pyro_unmix.baselines.archetypes import restarts
from pyro_unmix.baselines.fcls import nnls
from pyro_unmix.errors import InputError
from pyro_unmix.numerics import flush_denormals, one_thread
from pyro_unmix.tiles import Tiling


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least wall time of a few repeats."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of one run, which other programs hardly change."""
    began = time.process_time()
    work()
    return time.process_time() - began


def entropic_descent(pixels: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """Archetypes `(k, n_bands)` of `pixels` `(n_pixels, n_bands)` from one start, in all bands and pixels.

    The descent of Zouaoui et al. (2023), IEEE TIP 32: 100 rounds of 5 steps for abundances and 5 for archetypes, as many as our
    own restarts take, in single precision.
    """
    generator = torch.Generator().manual_seed(seed)
    abundances = torch.full((len(pixels), k), 1.0 / k)
    weights = torch.softmax(0.1 * torch.rand(k, len(pixels), generator=generator), dim=1)
    factor = 2.0 ** int(torch.randint(-3, 4, (1,), generator=generator))
    step = factor / float(torch.linalg.matrix_norm(weights @ pixels, 2)) ** 2
    for _ in range(100):
        endmembers = weights @ pixels
        for _ in range(5):
            gradient = (abundances @ endmembers - pixels) @ endmembers.T
            abundances = torch.softmax(abundances.clamp_min(1e-30).log() - step * gradient, dim=1)
        for _ in range(5):
            gradient = abundances.T @ (abundances @ (weights @ pixels) - pixels) @ pixels.T
            weights = torch.softmax(weights.clamp_min(1e-30).log() - step * (k / len(pixels)) ** 0.5 * gradient, dim=1)
    return weights @ pixels


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


def archetypal_restarts() -> tuple[float, float]:
    """Processor time of archetypal analysis from 20 starts at once, against one start after another."""
    pixels = pu.simulate_scene(4, (48, 48), n_bands=100).pixels().astype(float)
    return (cpu_seconds(lambda: restarts(pixels, 4, 20)),
            cpu_seconds(lambda: [restarts(pixels, 4, 1, seed=seed) for seed in range(20)]))


def denormals() -> tuple[float, float]:
    """A product of matrices with denormal numbers taken as zero, against the same product with them."""
    small, ones = torch.full((500, 500), 1e-40), torch.ones(500, 500)

    def flushed() -> None:
        with flush_denormals():
            small @ ones

    return seconds(flushed, repeats=20), seconds(lambda: small @ ones, repeats=20)


def blind_fit() -> tuple[float, float]:
    """Processor time of a blind fit of Samson, against archetypes from 50 starts in all bands and pixels (50/3 of 3 starts)."""
    scene = pu.load_dataset("samson")
    pixels = torch.as_tensor(scene.pixels(), dtype=torch.float32)
    shapes = pixels / pixels.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def plain() -> None:
        for seed in range(3):
            entropic_descent(shapes, 3, seed)

    return cpu_seconds(lambda: pu.fit(pu.UnmixingModel(3), scene, progress=False)), cpu_seconds(plain) * 50 / 3


if __name__ == "__main__":
    with one_thread():
        for work in (encoding, least_squares, archetypal_restarts, denormals, blind_fit):
            try:
                fast, slow = work()
            except InputError as error:
                print(f"{work.__doc__}\n    skipped: {error}")
                continue
            print(f"{work.__doc__}\n    ratio {slow / fast:.1f} ({1e3 * fast:.1f} ms against {1e3 * slow:.1f} ms)")
