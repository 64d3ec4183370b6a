"""Plain words for what the residuals say, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pyro_unmix.diagnostics.calibration import Array
from pyro_unmix.diagnostics.residuals import Checks
from pyro_unmix.errors import InputError

# Where findings begin. `findings` says how they were chosen.
_NOISE_RATIO, _NOISE_RESTATED = 1.1, 2.0
_BAND_CORRELATION, _PIXEL_CORRELATION, _SIGNAL_CORRELATION = 0.1, 0.1, 0.2
_FREED, _SCATTER = 2.0, 0.05
_WORSE = 1.5
_USED = 1e-3
_PURE = 0.5
_LEARNED = 0.9


@dataclass(frozen=True)
class Finding:
    """What was found about a posterior, in one plain sentence, and what to do.

    `name` is "bands correlated", "pixels correlated", "endmember missing", "noise too small", "noise too large",
    "noise restated", "noise depends on signal", "brightness ignored", "abundances off", "endmember not needed" or
    "endmember not identified"; of a transferred guide "noise not as simulated", "pixels not as simulated", "abundances not as
    simulated" or "brightness not as simulated"; of the last finding, "trusted" or "best effort".
    """

    name: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what} {self.advice}"


def findings(checks: Checks, *, noise_restated: float | None = None, endmember_sd: Array | None = None,
             endmember_prior_sd: Array | None = None, names: Sequence[str] | None = None,
             departures: Sequence[Finding] | None = None) -> list[Finding]:
    """What is wrong with an unmixing, what to mend first, and last whether its intervals can be trusted.

    Where findings begin was chosen on simulated scenes with the true endmembers and least-squares abundances, and counted on
    others: 400 correct ones (24 x 24 to 48 x 48 pixels, 50 to 100 bands, 4 and 6 endmembers, 20 to 40 dB, half of them with
    brightness) and 20 of every mistake in each of six such settings. In no correct scene was anything wrong with noise or
    mixture; in one an endmember was not needed, in 20 one was not identified (no pixel was half of it, which was so). On 228 fits
    of right models two were wrong about abundances, and of ten known endmembers some were not needed at 20 dB (8 fits). Every
    mistake was found in every scene: noise three times too small or too large, an endmember left out, brightness of 25 % ignored,
    noise that correlates between bands (.7) or pixels (.6) or grows with the signal. Noise less than 10 % off goes unmentioned.

    Parameters
    ----------
    checks
        From `check_residuals`.
    noise_restated
        How many times as large as it was stated to be the noise is that was learned. None: it was not stated.
    endmember_sd, endmember_prior_sd
        `(K, L)`: standard deviations of the endmembers, after the scene was seen and before. None: not looked at, as where the
        endmembers are held on purpose. An infinite one before: the spectrum is known, and the scene need not show it.
    names
        `(K,)`, of the endmembers.
    departures
        In what the scene differs from simulated ones (`simulator_check`), where a guide learned from these. It takes the place of
        what residuals say of noise and mixture: noise that one simulator's scenes share does not describe each of them.

    Raises
    ------
    InputError
        Standard deviations or names that are not those of `checks`.
    """
    k = len(checks.needed)
    names = [f"endmember {each + 1}" for each in range(k)] if names is None else [str(name) for name in names]
    sds = [np.asarray(each, dtype=np.float64) for each in (endmember_sd, endmember_prior_sd) if each is not None]
    if len(names) != k or (sds and (len(sds) != 2 or sds[0].shape != sds[1].shape or len(sds[0]) != k)):
        raise InputError(f"{k} names, and both or none of two standard deviations ({k}, L)",
                         f"{len(names)} names and shapes {[each.shape for each in sds]}")
    wrong = [*_noise_findings(checks), *_mixture_findings(checks)] if departures is None else list(departures)
    if departures is not None:
        last = _of_simulated(bool(wrong))
    elif wrong:
        last = Finding("best effort", "The residuals are not what the model says they are.",
                       "Intervals are a best effort: mend what is named here first, then look again.")
    else:
        last = Finding("trusted", "The residuals are white and as large as the noise that is claimed.",
                       "Intervals can be trusted, given the endmembers: an error of theirs within the space that they span "
                       "leaves no trace in residuals.")
    return [*wrong, *_restated(noise_restated), *_endmember_findings(checks, names, sds), last]


def _of_simulated(differs: bool) -> Finding:
    if differs:
        return Finding("best effort", "The scene is not like those that the guide was trained on.",
                       "Intervals are a best effort: mend the simulation in what is named here first, then look again.")
    return Finding("trusted", "The scene looks like those that the guide was trained on.",
                   "Intervals can be trusted as far as the simulation can: a material of which there is little, or that looks "
                   "like mixtures of the others or varies like them, goes unnoticed.")


def _noise_findings(checks: Checks) -> Iterator[Finding]:
    if checks.band_correlation > _BAND_CORRELATION:
        yield Finding("bands correlated",
                      f"Residuals of adjacent bands correlate by {checks.band_correlation:.2f}, so that they are worth "
                      f"{checks.effective_bands:.0f} independent bands.",
                      "Intervals are too narrow: use a noise covariance that is smooth over bands.")
    if checks.pixel_correlation > _PIXEL_CORRELATION:
        yield Finding("pixels correlated",
                      f"Residuals of neighbouring pixels correlate by {checks.pixel_correlation:.2f}.",
                      "Pixels are not independent witnesses: do not let the scene move the endmembers freely, and do not average "
                      "intervals over a region as if they were.")
    if checks.structures and not _correlated(checks):
        yield Finding("endmember missing",
                      f"Residuals vary in {checks.structures} direction{'s' * (checks.structures > 1)} that noise cannot make, "
                      f"in the strongest {checks.strongest:.1f} times as much as noise can.",
                      "An endmember is missing or wrong, or a material's spectrum varies: try one endmember more.")
    # What is in a few directions or in the abundances moves one of the two and not the other.
    sizes = checks.noise_ratio, np.sqrt(checks.reduced_chi_square)
    if not _correlated(checks) and (min(sizes) > _NOISE_RATIO or max(sizes) < 1.0 / _NOISE_RATIO):
        small = min(sizes) > 1.0
        yield Finding(f"noise too {'small' if small else 'large'}",
                      f"Residuals are {checks.noise_ratio:.2f} times as large as the noise that is claimed.",
                      f"Intervals are too {'narrow' if small else 'wide'}: multiply the noise by that, or let it be learned.")
    if abs(checks.signal_correlation) > max(_SIGNAL_CORRELATION, 3.0 / np.sqrt(int(checks.chi_square.count()))):
        grows = checks.signal_correlation > 0
        yield Finding("noise depends on signal", f"Residuals are larger in {'bright' if grows else 'dark'} pixels.",
                      f"Intervals are too narrow in {'bright' if grows else 'dark'} pixels and too wide in others: let the noise "
                      "depend on the signal, or look at the map of chi-square.")


def _restated(ratio: float | None) -> Iterator[Finding]:
    if ratio is not None and abs(np.log(ratio)) > np.log(_NOISE_RESTATED):
        yield Finding("noise restated", f"The noise that pixels show is {ratio:.2f} times what it was stated to be.",
                      "Intervals go by what they show: nothing needs to be done, but look where the statement came from.")


def _correlated(checks: Checks) -> bool:
    """Whether residuals err together, so that one direction more than white noise has says nothing about endmembers."""
    return checks.band_correlation > _BAND_CORRELATION or checks.pixel_correlation > _PIXEL_CORRELATION


def _mixture_findings(checks: Checks) -> Iterator[Finding]:
    # In units of noise, and noise that is not white may be that much larger in one direction.
    unit = max(1.0, checks.strongest)
    # A missing endmember makes the others' sum vary too.
    complete = not checks.structures or _correlated(checks)
    if (complete and not checks.with_brightness and checks.brightness_scatter > _SCATTER
            and checks.misfit_least - checks.misfit_freed > _FREED * unit):
        yield Finding("brightness ignored",
                      f"Pixels fit better with a brightness of their own: it varies by {100 * checks.brightness_scatter:.0f} %.",
                      "Abundances are biased, however good the fit: let the model have brightness='pixel'.")
    if checks.misfit - checks.misfit_least > _WORSE * len(checks.needed) * unit:
        yield Finding("abundances off", "Other abundances of the same endmembers fit much better than those given.",
                      "The posterior is in the wrong place: train longer, or refine it.")


def _endmember_findings(checks: Checks, names: list[str], sds: list[np.ndarray]) -> Iterator[Finding]:
    nearest = (checks.angles + np.diag(np.full(len(names), np.inf))).argmin(axis=1)
    for name, needed, near, angles in zip(names, checks.needed, nearest, checks.angles, strict=True):
        if needed < _USED:
            yield Finding("endmember not needed",
                          f"The scene fits as well without {name}, whose nearest is {names[near]}, {angles[near]:.3f} rad away.",
                          "Try one endmember fewer: the abundances of this one, and of its nearest, mean little.")
    learned = sds[0].mean(axis=1) < _LEARNED * sds[1].mean(axis=1) if sds else np.ones(len(names), bool)
    unknown = ~np.isinf(sds[1]).all(axis=1) if sds else np.ones(len(names), bool)
    for name, purity, did in zip(np.compress(unknown, names), checks.purity[unknown], learned[unknown], strict=True):
        reasons = ([] if did else ["its prior was not narrowed"]) + (
            [f"no pixel holds more than {100 * purity:.0f} % of it"] if purity < _PURE else [])
        if reasons:
            yield Finding("endmember not identified", f"The scene does not show {name}: {' and '.join(reasons)}.",
                          "Its spectrum is no better than its prior: give a measured one if there is one.")
