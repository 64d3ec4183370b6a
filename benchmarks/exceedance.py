"""How far is P(abundance > t) of the report from the posterior's own? `python -m benchmarks.exceedance`.

A report has five quantiles of each abundance, its mean and its standard deviation. From them, for thresholds from .02 to .95: the
way of the page (`report/posterior.js`) and two others, against `Posterior.exceedance`. Counted are all values of which the
posterior says between .01 and .99. It takes a few minutes; Samson is left out where it is not at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

import pyro_unmix as pu

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
THRESHOLDS = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def by_angle(quantiles: np.ndarray, threshold: float) -> np.ndarray:
    """From quantiles `(5, n)`: normal scores piecewise linear in arcsin sqrt(abundance), as `exceedance` in posterior.js."""
    angles, angle = np.arcsin(np.sqrt(quantiles)), np.arcsin(np.sqrt(threshold))
    scores = stats.norm.ppf(LEVELS)
    j = np.clip((quantiles < threshold).sum(axis=0) - 1, 0, len(LEVELS) - 2)
    start, end = (np.take_along_axis(angles, at[None], axis=0)[0] for at in (j, j + 1))
    slope = (scores[j + 1] - scores[j]) / np.maximum(end - start, 1e-9)
    return stats.norm.sf(scores[j] + (angle - start) * slope)


def by_moments(mean: np.ndarray, sd: np.ndarray, threshold: float) -> np.ndarray:
    """A Beta distribution of the same mean and standard deviation."""
    mean, sd = np.clip(mean, 1e-6, 1 - 1e-6), np.maximum(sd, 1e-6)
    precision = np.maximum(mean * (1 - mean) / sd**2 - 1, 1e-3)
    return stats.beta.sf(threshold, mean * precision, (1 - mean) * precision)


def by_lines(quantiles: np.ndarray, threshold: float) -> np.ndarray:
    """The distribution function piecewise linear in the abundance, from 0 at 0 to 1 at 1."""
    known = np.concatenate([[0.0], LEVELS, [1.0]])
    return np.array([1 - np.interp(threshold, [0.0, *each, 1.0], known) for each in quantiles.T])


def errors(mean: np.ndarray, sd: np.ndarray, quantiles: np.ndarray,
           exceedance: Callable[[float], np.ndarray]) -> dict[str, np.ndarray]:
    """By way: absolute errors where the answer is open. Of n abundances, `exceedance` as the posterior has it, `(n,)`."""
    found: dict[str, list[np.ndarray]] = {"angle": [], "Beta by moments": [], "lines": []}
    for threshold in THRESHOLDS:
        right = exceedance(threshold)
        is_open = (right > 0.01) & (right < 0.99)  # False where masked
        q = quantiles[:, is_open]
        ways = by_angle(q, threshold), by_moments(mean[is_open], sd[is_open], threshold), by_lines(q, threshold)
        for errors_of_way, values in zip(found.values(), ways, strict=True):
            errors_of_way.append(np.abs(values - right[is_open]))
    return {way: np.concatenate(parts) for way, parts in found.items()}


def errors_of(posterior) -> dict[str, np.ndarray]:
    summary = posterior.summary()
    mean, sd, quantiles = (summary[f"abundance_{name}"].values.astype(float) for name in ("mean", "sd", "quantile"))
    return errors(mean.ravel(), sd.ravel(), quantiles.reshape(len(LEVELS), -1), lambda t: posterior.exceedance(t).values.ravel())


def main() -> None:
    example = pu.simulate.example_scene()
    fit = pu.fit(pu.UnmixingModel(example.reference.sizes["endmember"]), example, seed=0, progress=False)
    cases = {"bundled scene, guide": fit.posterior(example), "bundled scene, refined": pu.refine(fit, example, progress=False)}
    try:
        samson = pu.load_dataset("samson")
        fit = pu.fit(pu.UnmixingModel(3), samson, seed=0, progress=False)
        cases["Samson, guide"] = fit.posterior(samson)
    except pu.InputError as error:
        print(error)
    for name, posterior in cases.items():
        for way, values in errors_of(posterior).items():
            print(f"{name}, {way}: median {np.median(values):.4f}, largest {values.max():.3f}, of {len(values)}")


if __name__ == "__main__":
    main()
