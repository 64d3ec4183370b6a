"""What a user should know before trusting a run.

Each warning is one small function that looks at the numbers and returns a sentence, or None where there is nothing to say, or
where the findings of the posterior, which the summary brings along, say it already.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from pyro_unmix.metrics import spectral_angle
from pyro_unmix.report.run import KHAT, Totals


def find_warnings(summary: xr.Dataset, totals: Totals, history: pd.DataFrame, config: dict) -> list[str]:
    """What a user should know before trusting this run: sentences, most serious first."""
    found = (still_falling(history), poor_fit(totals), *alike(summary), *nearly_absent(summary, totals),
             mostly_masked(totals), vague(totals), weights_failed(summary, totals), uncalibrated(summary, config))
    return [sentence for sentence in found if sentence]


def still_falling(history: pd.DataFrame, least: float = 0.5) -> str | None:
    """Median loss of the last tenth of the last stage below that of the tenth before by `least` nats, beyond noise."""
    losses = losses_of(history)
    if "stage" in losses and len(losses):
        losses = losses[losses.stage == losses.stage.iloc[-1]]
    tenth = len(losses) // 10
    if tenth < 2:
        return None
    before, last = (losses.elbo_loss.iloc[part].to_numpy() for part in (slice(-2 * tenth, -tenth), slice(-tenth, None)))
    drop = np.median(before) - np.median(last)
    noise = 1.25 * np.sqrt((before.var() + last.var()) / tenth)  # standard error of a difference of medians
    if drop < max(least, 4 * noise):
        return None
    return (f"Training had not finished: over its last tenth the loss still fell by {drop:.1f} per pixel. "
            "Train for more steps, or raise the learning rate.")


def poor_fit(totals: Totals, least: float = 0.95) -> str | None:
    """Less than `least` of the energy (squared reflectance) of the scene in the reconstruction."""
    share = totals.explained
    if share >= least:
        return None
    return (f"The mixtures explain only {percent(share)} of the energy of the scene (less than {percent(least)}). "
            "Try more endmembers, allow brightness to vary from pixel to pixel, or check for bad bands.")


def alike(summary: xr.Dataset, least: float = 0.05) -> list[str]:
    """Pairs of endmembers less than `least` rad apart, of which no finding says that the scene can do without one."""
    told = summary.attrs.get("findings", "")
    spectra = summary.endmember_mean.transpose("endmember", "wavelength").values
    named = zip(summary.endmember.values, spectra, strict=True)
    angles = ((a, b, spectral_angle(one, other)) for (a, one), (b, other) in combinations(named, 2))
    return [f"'{a}' and '{b}' have nearly the same spectrum ({angle:.3f} rad apart): what belongs to which is not "
            "known. Add their abundances, or fit with fewer endmembers." for a, b, angle in angles if angle < least
            and not any(f"without {one}, whose nearest is {other}," in told for one, other in ((a, b), (b, a)))]


def nearly_absent(summary: xr.Dataset, totals: Totals, least: float = 0.1) -> list[str]:
    """Endmembers that fill no pixel to at least the share `least`, and that no finding calls not shown by the scene."""
    told = summary.attrs.get("findings", "")
    return [f"'{name}' is almost absent: no pixel holds more than {percent(value)} of it, so its spectrum is a guess. "
            "Fit with fewer endmembers." for name, value in zip(summary.endmember.values, totals.largest, strict=True)
            if value < least and f"does not show {name}:" not in told]


def mostly_masked(totals: Totals, most: float = 0.2) -> str | None:
    """More than the share `most` of the pixels masked."""
    share = 1.0 - totals.used / totals.pixels
    if share <= most:
        return None
    return (f"{percent(share)} of the pixels are masked and have no result. "
            "Check the mask and the fill values of the scene.")


def vague(totals: Totals, most: float = 0.8) -> str | None:
    """Mean sd of the abundances more than `most` of what Dirichlet(1), all mixtures alike likely, has by itself."""
    k = len(totals.sd)
    prior = np.sqrt((k - 1) / (k**2 * (k + 1)))
    sd = float(totals.sd.mean())
    if sd <= most * prior:
        return None
    return (f"The scene tells little about the abundances: their standard deviation is {sd:.2f} on average, and would "
            f"be {prior:.2f} without any data. Check that the noise is not overestimated; fit with fewer endmembers.")


def weights_failed(summary: xr.Dataset, totals: Totals, most: float = 0.1) -> str | None:
    """More than the share `most` of the pixels with a k-hat above 0.7."""
    share = totals.weights_failed
    if share is None or share <= most:
        return None
    advice = "Train longer" if summary.attrs.get("refined") == "re-weighted" else "Refine with more draws"
    return (f"In {percent(share)} of the pixels the weights of the draws failed (k-hat above {KHAT}): their intervals cannot "
            f"be trusted. {advice}.")


def uncalibrated(summary: xr.Dataset, config: dict) -> str | None:
    """Neither the findings nor the run say that intervals were calibrated."""
    if "findings" in summary.attrs or config.get("calibrated") is True:
        return None
    return ("The intervals come from a guide trained by the ELBO and are expected to be too narrow. "
            "Read the maps of standard deviation as relative, not as error bars.")


def losses_of(history: pd.DataFrame) -> pd.DataFrame:
    """The steps with a finite loss; none where the run kept no such column."""
    if not {"step", "elbo_loss"} <= set(history.columns):
        return history.iloc[:0]
    return history[np.isfinite(history.elbo_loss.astype(float))]  # a file without rows has columns of no type


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"
