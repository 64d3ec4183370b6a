"""Which of several models a scene speaks for, and whether it can say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_unmix.diagnostics.findings import Finding
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.fit import Fit
from pyro_unmix.noise_structure import neighbour_correlation
from pyro_unmix.numerics import one_thread, seeded
from pyro_unmix.predictive import log_likelihood
from pyro_unmix.progress import StageProgress
from pyro_unmix.proposal import Proposal, few_of
from pyro_unmix.scene import Scene
from pyro_unmix.sources import shared_by_guide
from pyro_unmix.tiles import Tiling
from pyro_unmix.ways import has_joint_draws, joint_draws

# Pixels to a tile's side.
_TILE = 32
# From fewer draws no tail can be told.
_LEAST_DRAWS = 25
# An integral over a pixel's abundances rests on fewer effective draws than this: its logarithm is off by a third or more.
_EFFECTIVE = 10.0
# Share of pixels with a bad tail, or a bad integral, that is passed over; correlation of neighbours that is.
_FEW, _TOGETHER = 0.05, 0.1


@one_thread()
def compare(fits: Sequence[Fit], scene: Scene, *, names: Sequence[str] | None = None, held_out: np.ndarray | None = None,
            shared_draws: int = 100, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Models by how well each predicts the spectrum of a pixel from all other pixels, best first.

    A pixel is one observation. Its density is that of its whole spectrum, its own abundances and brightness integrated out, given
    a draw of what all pixels share; leave-one-out cross-validation is then over these draws, by Pareto-smoothed importance
    sampling (Vehtari, Gelman and Gabry 2017, Statistics and Computing 27, eq. 10). That is the integrated, or marginal, LOO of
    Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), JMLR 17(103), and Merkle, Furr and Rabe-Hesketh (2019), Psychometrika
    84, eq. 9. Given abundances that the same pixel has fitted, as in `to_arviz(groups=["log_likelihood"])`, the sampling fails,
    and the model with the most freedom in a pixel looks best.

    The integral is importance sampling too (`proposal.Proposal`): draws come from the guide, from a normal on the simplex that a
    first round has found, and a tenth from the prior, so that a guide too sure of itself does no harm.

    Parameters
    ----------
    fits
        Of the same pixels. What pixels share is drawn as `refine` does, jointly where there are exact draws, else from the guide.
    scene
        The one fitted, or, with `held_out`, the one it is a part of.
    names
        Of the models. None: "model 1", ...
    held_out
        `(y, x)`, True where no fit has seen the pixel (mask it before the fit). The score is then that of these pixels, and no
        leave-one-out is needed.
    shared_draws, draws
        Of what pixels share, and of each pixel's abundances. At least 25.
    seed
        Same seed, same table.

    Returns
    -------
    table
        One row a model. `elpd`: sum over pixels of the log predictive density (nats), `se` its standard error; `difference`: by
        how much less than that of the first row, `difference_se` its standard error over pixels; `p_loo`: effective number of
        shared parameters; `bad_khat`: share of pixels whose leave-one-out weights have a tail too heavy for this number of draws;
        `elbo`: the bound of the evidence that SVI ended with (nats a pixel), NaN where it did not get to full weight;
        `doubts`: short names of what speaks against the comparison. With `held_out` p_loo and bad_khat are NaN.
        `attrs["findings"]`: the doubts in plain sentences; they are warned of, too.

    Raises
    ------
    InputError
        No fits, names that are not one each, other bands than the scene, pixels held out that are none or all, too few draws.
    """
    names = [f"model {number + 1}" for number in range(len(fits))] if names is None else [str(name) for name in names]
    if not len(fits) or len(names) != len(fits) or len(set(names)) < len(names):
        raise InputError("fits, and as many names that differ", f"{len(fits)} fits and the names {', '.join(names) or 'none'}")
    if min(shared_draws, draws) < _LEAST_DRAWS:
        raise InputError(f"at least {_LEAST_DRAWS} shared_draws and draws", f"{shared_draws} and {draws}")
    scored, seen = scene.mask.values, scene
    if held_out is not None:
        scored, seen = _split(scene, held_out)
    for fit in fits:
        fit.posterior(scene)  # refuses a scene of other bands
    found = []
    for fit in fits:
        with seeded(seed):
            found.append(_scored(fit, scene, seen, scored, leave_one_out=held_out is None, n_shared=shared_draws, n_draws=draws))
    order = np.argsort([-each.elpd.sum() for each in found], kind="stable")
    best = found[order[0]]
    rows, sentences = {}, []
    for number in order:
        name, fit, score = names[number], fits[number], found[number]
        behind = best.elpd - score.elpd
        doubts = [*_doubts_of_fit(fit, seen, leave_one_out=held_out is None), *score.doubts(),
                  *_doubts_of_difference(behind, scored)]
        rows[name] = score.row() | {"difference": behind.sum(), "difference_se": _standard_error(behind), "elbo": _elbo(fit),
                                    "doubts": ", ".join(doubt.name for doubt in doubts)}
        sentences += [f"{name}: {doubt}" for doubt in doubts]
    table = pd.DataFrame.from_dict(rows, orient="index")[
        ["elpd", "se", "difference", "difference_se", "p_loo", "bad_khat", "elbo", "doubts"]]
    table.attrs["findings"] = sentences
    if sentences:
        warnings.warn("the comparison is in doubt. " + " ".join(sentences), UnmixWarning, stacklevel=3)
    return table


@dataclass(frozen=True)
class _Score:
    """Of each of n pixels: log predictive density, that with the pixel itself seen, tail index (None where the pixel was held
    out) and effective draws of the integral over its abundances."""

    elpd: np.ndarray
    seen: np.ndarray
    khat: np.ndarray | None
    effective: np.ndarray
    worst_khat: float

    @property
    def bad(self) -> float:
        return math.nan if self.khat is None else float((self.khat > self.worst_khat).mean())

    def row(self) -> dict[str, float]:
        p_loo = math.nan if self.khat is None else float((self.seen - self.elpd).sum())
        return {"elpd": self.elpd.sum(), "se": _standard_error(self.elpd), "p_loo": p_loo, "bad_khat": self.bad}

    def doubts(self) -> Iterator[Finding]:
        if self.bad > _FEW:
            yield Finding("heavy tails", f"Of {100 * self.bad:.0f} % of the pixels leave-one-out rests on a few draws: k-hat is "
                          f"above {self.worst_khat:.2f}.", "Ask for more shared draws, or hold pixels out.")
        lost = float((self.effective < _EFFECTIVE).mean())
        if lost > _FEW:
            yield Finding("integral not reached", f"The guide misses the posterior of {100 * lost:.0f} % of the pixels.",
                          "Ask for more draws, or train the guide longer.")


def _scored(fit: Fit, scene: Scene, seen: Scene, scored: np.ndarray, *, leave_one_out: bool, n_shared: int,
            n_draws: int) -> _Score:
    log_evidence, effective = marginal_log_likelihood(fit, scene, seen, n_shared, n_draws)
    log_evidence, effective = log_evidence[:, scored[scene.mask.values]], effective[scored[scene.mask.values]]
    with_it = np.logaddexp.reduce(log_evidence, axis=0) - math.log(n_shared)
    # The sample size a tail index needs: Vehtari et al. (2024), JMLR 25(72), eq. 13.
    worst = min(1.0 - 1.0 / math.log10(n_shared), 0.7)
    if not leave_one_out:
        return _Score(with_it, with_it, None, effective, worst)
    from pyro_unmix.arviz import loo  # ArviZ takes seconds to import

    elpd, khat = loo(log_evidence)
    return _Score(elpd, with_it, khat, effective, worst)


@torch.no_grad()
def marginal_log_likelihood(fit: Fit, scene: Scene, seen: Scene, n_shared: int, n_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """log p(y_n | shared draw s), abundances and brightness of the pixel integrated out by `n_draws` draws.

    What pixels share is drawn given the scene `seen`. Random numbers are those of torch's generator.

    Returns
    -------
    log_evidence
        `(n_shared, n_pixels)`, pixels of `scene` in use row by row.
    effective
        `(n_pixels,)`: number of effective draws of the integral, mean over shared draws.
    """
    model, k = fit.model, fit.model.n_endmembers
    concentration = brightness_scale = None
    if has_joint_draws(fit):
        shared = joint_draws(fit, seen, n_shared, StageProgress(False))
        endmembers, noise_scale, concentration = shared.endmembers, shared.noise_scale, shared.concentration.double()
        brightness_scale = shared.brightness_scale
    else:
        endmembers, noise_scale = shared_by_guide(fit, n_shared)

    def log_target(pixels: Tensor, s: int, abundances: Tensor, brightness: Tensor | None) -> Tensor:
        """Log of prior times likelihood given shared draw s, `(n_draws, n)`."""
        prior = model.abundances(k) if concentration is None else dist.Dirichlet(concentration[s])
        found = prior.log_prob(abundances)
        if brightness is not None:
            light = model.brightness.prior() if brightness_scale is None else dist.LogNormal(
                torch.zeros_like(brightness_scale[s]), brightness_scale[s])
            found = found + light.log_prob(brightness)
        return found + log_likelihood(model, pixels, endmembers[s].double(), noise_scale[s].double(), abundances, brightness)

    rows, cols, _ = scene.shape
    evidence, effective = np.zeros((n_shared, rows, cols)), np.zeros((rows, cols))
    tiling = Tiling(scene, _TILE, fit.guide.halo)
    for number in range(len(tiling)):
        tiles = tiling.batch([number])
        row, col = (index.numpy() for index in tiling.rows_and_columns(tiles, [number]))
        pixels = tiles.pixels().double()
        proposal = Proposal.of(model, *fit.guide.pixels(tiles), [partial(log_target, pixels, s) for s in few_of(n_shared)])
        abundances, brightness, log_density = proposal.sample(n_draws)
        for s in range(n_shared):
            log_weights = log_target(pixels, s, abundances, brightness) - log_density
            log_weights = log_weights.nan_to_num(nan=-1e300, posinf=-1e300, neginf=-1e300)
            evidence[s, row, col] = (log_weights.logsumexp(dim=0) - math.log(n_draws)).numpy()
            effective[row, col] += (1.0 / log_weights.softmax(dim=0).square().sum(dim=0)).numpy() / n_shared
    use = scene.mask.values
    return evidence[:, use], effective[use]


def _doubts_of_fit(fit: Fit, seen: Scene, *, leave_one_out: bool) -> Iterator[Finding]:
    if not fit.scene_digest:
        yield Finding("pixels unknown", "It is not known which pixels this fit has seen.",
                      "See to it that all fits have seen the same.")
    elif fit.scene_digest != seen.digest():
        yield Finding("other pixels", "It was fitted to other pixels, or other spectra of them, than those compared on.",
                      "Fit all models to one scene and one mask; what is to be scored and not seen goes into held_out.")
    if fit.model.evidence == 0 and leave_one_out:
        yield Finding("prior from the scene", "The scene made the prior of its endmembers: every pixel has helped to place the "
                      "endmembers that it is then predicted with, and leaving it out of the likelihood does not take that back.",
                      "The score is too high, most so of the model with the most endmembers: give an endmember prior, or hold "
                      "pixels out.")
    if not fit.calibrated:
        yield Finding("not calibrated", "The guide was not trained on simulated scenes to the end, and is too sure.",
                      "Fit with calibration steps.")
    yield from (finding for finding in fit.posterior(seen).findings() if finding.name == "pixels correlated")


def _doubts_of_difference(behind: np.ndarray, scored: np.ndarray) -> Iterator[Finding]:
    if len(behind) > 1 and behind.std() > 0:
        together = neighbour_correlation((behind - behind.mean())[:, None], scored)
        if together > _TOGETHER:
            yield Finding("difference correlated", f"What neighbours say of the difference correlates by {together:.2f}.",
                          "They are fewer witnesses than pixels: its standard error is too small.")


def _elbo(fit: Fit) -> float:
    """Mean of the last window of SVI at full weight, a pixel."""
    losses = fit.history["elbo_loss"].dropna().to_numpy(dtype=float)[fit.config.kl_warmup_steps:]
    return float(-losses[-fit.config.window:].mean()) if len(losses) else math.nan


def _standard_error(values: np.ndarray) -> float:
    return math.sqrt(len(values)) * float(values.std())


def _split(scene: Scene, held_out: np.ndarray) -> tuple[np.ndarray, Scene]:
    """The pixels to be scored `(y, x)`, and the scene without them."""
    held_out = np.asarray(held_out)
    if held_out.shape != scene.shape[:2] or held_out.dtype != bool:
        raise InputError(f"held_out of True and False, shape {scene.shape[:2]}", f"{held_out.dtype}, shape {held_out.shape}")
    scored = held_out & scene.mask.values
    if not scored.any() or scored.sum() == scene.n_pixels:
        raise InputError("some pixels in use held out, and some not", f"{scored.sum()} of {scene.n_pixels}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmixWarning)  # the scene has warned already
        return scored, Scene(scene.reflectance, mask=scene.mask.values & ~held_out, name=scene.name)
