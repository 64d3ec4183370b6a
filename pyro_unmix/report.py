"""One self-contained HTML page about a run, in plain language: first whether to trust it.

`write_report` reads `summary.nc`, `history.csv` and `config.json` of the folder that `fit` wrote. Each warning is one
small function that looks at the numbers and returns a sentence, or None where there is nothing to say, or where the
findings of the posterior, which the summary brings along, say it already.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
from html import escape
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix import plot
from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path
from pyro_unmix.io.summary_files import read_summary
from pyro_unmix.metrics import Evaluation, spectral_angle

_KHAT = 0.7  # above it, weights cannot be trusted: `arviz.khat`
FILES = {
    "summary.nc": "abundances, endmembers and their uncertainty (NetCDF; open with xarray)",
    "config.json": "every setting of the run, and what it took",
    "weights.pt": "the trained guide, for <code>pyro-unmix predict</code>",
    "history.csv": "the training loss, step by step",
    "draws.nc": "draws from the posterior (open with ArviZ)",
    "report.html": "this page",
}


def write_report(folder: str | os.PathLike) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises
    ------
    InputError
        One of the three files is missing or cannot be read.
    """
    folder = Path(folder)
    summary, history, config = _read(folder)
    page = _page(folder, summary, history, config)
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "report.html"


def find_warnings(summary: xr.Dataset, history: pd.DataFrame, config: dict) -> list[str]:
    """What a user should know before trusting this run: sentences, most serious first."""
    found = (still_falling(history), poor_fit(summary), *alike(summary), *nearly_absent(summary),
             mostly_masked(summary), vague(summary), weights_failed(summary), uncalibrated(summary, config))
    return [sentence for sentence in found if sentence]


def still_falling(history: pd.DataFrame, least: float = 0.5) -> str | None:
    """Median loss of the last tenth of the last stage below that of the tenth before by `least` nats, beyond noise."""
    losses = _losses(history)
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


def poor_fit(summary: xr.Dataset, least: float = 0.95) -> str | None:
    """Less than `least` of the energy (squared reflectance) of the scene in the reconstruction."""
    share = explained_energy(summary)
    if share >= least:
        return None
    return (f"The mixtures explain only {_percent(share)} of the energy of the scene (less than {_percent(least)}). "
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


def nearly_absent(summary: xr.Dataset, least: float = 0.1) -> list[str]:
    """Endmembers that fill no pixel to at least the share `least`, and that no finding calls not shown by the scene."""
    told = summary.attrs.get("findings", "")
    largest = summary.abundance_mean.max(("y", "x"))
    return [f"'{name}' is almost absent: no pixel holds more than {_percent(value)} of it, so its spectrum is a guess. "
            "Fit with fewer endmembers." for name, value in zip(summary.endmember.values, largest.values, strict=True)
            if value < least and f"does not show {name}:" not in told]


def mostly_masked(summary: xr.Dataset, most: float = 0.2) -> str | None:
    """More than the share `most` of the pixels masked."""
    share = float(summary.abundance_mean.isnull().any("endmember").mean())
    if share <= most:
        return None
    return (f"{_percent(share)} of the pixels are masked and have no result. "
            "Check the mask and the fill values of the scene.")


def vague(summary: xr.Dataset, most: float = 0.8) -> str | None:
    """Mean sd of the abundances more than `most` of what Dirichlet(1), all mixtures alike likely, has by itself."""
    k = summary.sizes["endmember"]
    prior = np.sqrt((k - 1) / (k**2 * (k + 1)))
    sd = float(summary.abundance_sd.mean())
    if sd <= most * prior:
        return None
    return (f"The scene tells little about the abundances: their standard deviation is {sd:.2f} on average, and would "
            f"be {prior:.2f} without any data. Check that the noise is not overestimated; fit with fewer endmembers.")


def weights_failed(summary: xr.Dataset, most: float = 0.1) -> str | None:
    """More than the share `most` of the pixels with a k-hat above 0.7."""
    if "khat" not in summary:
        return None
    share = float((summary.khat > _KHAT).sum() / summary.khat.notnull().sum())
    if share <= most:
        return None
    advice = "Train longer" if summary.attrs.get("refined") == "re-weighted" else "Refine with more draws"
    return (f"In {_percent(share)} of the pixels the weights of the draws failed (k-hat above {_KHAT}): their intervals cannot "
            f"be trusted. {advice}.")


def uncalibrated(summary: xr.Dataset, config: dict) -> str | None:
    """Neither the findings nor the run say that intervals were calibrated."""
    if "findings" in summary.attrs or config.get("calibrated") is True:
        return None
    return ("The intervals come from a guide trained by the ELBO and are expected to be too narrow. "
            "Read the maps of standard deviation as relative, not as error bars.")


def explained_energy(summary: xr.Dataset) -> float:
    """Share of the squared reflectance of the pixels in use that the mean reconstruction holds, residuals the rest."""
    spectra = summary.endmember_mean.transpose("endmember", "wavelength").values
    abundances = summary.abundance_mean.transpose("y", "x", "endmember").values
    fitted = np.einsum("yxk,kl,yxl->yx", abundances, spectra @ spectra.T / spectra.shape[1], abundances, optimize=True)
    if "brightness_mean" in summary:
        fitted = fitted * summary.brightness_mean.transpose("y", "x").values ** 2
    left = summary.reconstruction_rmse.transpose("y", "x").values ** 2
    return float(np.nansum(fitted) / np.nansum(fitted + left))


def _read(folder: Path) -> tuple[xr.Dataset, pd.DataFrame, dict]:
    names = ("summary.nc", "history.csv", "config.json")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError("a run folder with summary.nc, history.csv and config.json",
                         f"no {', '.join(missing)} in '{folder}'", "give the folder that `pyro-unmix fit` wrote")
    try:
        # The quantiles are the bulk of the file and not drawn.
        summary = read_summary(folder / "summary.nc", without="abundance_quantile")
        return summary, pd.read_csv(folder / "history.csv"), json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:  # what HDF5, pandas and json raise for a damaged file
        raise InputError("a run folder whose files can be read", f"'{folder}': {error}", "run the fit again") from error


def _page(folder: Path, summary: xr.Dataset, history: pd.DataFrame, config: dict) -> str:
    names = ", ".join(map(str, summary.endmember.values))
    found = find_warnings(summary, history, config)
    scene = str(config.get("scene", "scene"))
    sections = [
        ("Can the intervals be trusted?", _trust(summary)),
        ("What was done", _what_was_done(summary, config)),
        ("Warnings", _list(found) if found else "<p class='good'>None: every other check of this run passed.</p>"),
        ("Abundances", _picture(
            plot.abundance_maps(summary), f"Maps of mean abundance and standard deviation of {names}",
            "How much of each endmember is in each pixel (above; 0 none, 1 nothing else), and the standard deviation "
            "of that number (below). All maps of one kind have the same scale. Grey pixels are masked.")
            + _abundance_table(summary)),
        ("Endmembers", _picture(
            plot.endmembers(summary), f"Spectra of {names} with their 90 % intervals",
            "The spectrum of each endmember and the band that should hold it with 90 % probability. In grey, for "
            "comparison, the other endmembers.")),
        ("Where to be careful", _picture(
            plot.uncertainty(summary), "Maps of total abundance uncertainty and of reconstruction error",
            "Left: all uncertainty of a pixel's abundances in one number. Right: how far the pixel is from its best "
            "mixture. A patch that stands out on the right holds something that is not among the endmembers.")),
        ("Convergence", _picture(
            plot.loss(history), "Training loss by step",
            "The loss should have become level. It can be negative; only its change means something.")
            if len(_losses(history)) else "<p>No training loss was recorded.</p>"),
        ("How to read this", _HOW_TO_READ),
        ("Files in this folder", _files(folder)),
    ]
    if isinstance(config.get("evaluation"), dict):
        sections.insert(3, ("Against the reference", _evaluation(config["evaluation"])))
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    details = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return (f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<title>Unmixing of {escape(scene)}</title><style>{_STYLE}</style></head><body><main>"
            f"<h1>Unmixing of {escape(scene)}</h1>{body}"
            f"<details><summary>All settings of this run</summary><pre>{details}</pre></details>"
            "</main></body></html>\n")


def _trust(summary: xr.Dataset) -> str:
    """The verdict of the findings, how the posterior was made, and what was found with what to do."""
    if not {"intervals", "findings"} <= set(summary.attrs):
        return "<p>Not known: this summary does not say. Fit again, or ask <code>post.findings()</code>.</p>"
    *found, last = summary.attrs["findings"].split("\n")
    trusted = summary.attrs["intervals"] == "trusted"
    answer = "Yes, as far as the scene can tell." if trusted else "Not fully: they are a best effort."
    page = f"<p class='{'good' if trusted else 'doubt'}'><strong>{answer}</strong> {escape(last)}</p>"
    if summary.attrs.get("refined") in _REFINED:
        page += f"<p>{_REFINED[summary.attrs['refined']]}</p>"
    if found:
        page += f"<p>{'Apart from that' if trusted else 'What was found'}, and what to do:</p>{_list(found)}"
    return page


def _list(sentences: list[str]) -> str:
    return "<ul class='warnings'>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _what_was_done(summary: xr.Dataset, config: dict) -> str:
    used = int(summary.abundance_mean.notnull().all("endmember").sum())
    band = summary.wavelength
    spectrum = f"{band.size} bands"
    if band.attrs.get("units", "nm") == "nm":
        spectrum += f" from {float(band.min()):.0f} to {float(band.max()):.0f} nm"
    seconds = {k: v for k, v in (config.get("seconds") or {}).items() if isinstance(v, (int, float))}
    rows = {
        "Scene": config.get("scene"),
        "Size": f"{summary.sizes['y']} × {summary.sizes['x']} pixels ({used} in use), {spectrum}",
        "Endmembers": summary.sizes["endmember"],
        "Energy explained": _percent(explained_energy(summary)),
        "Guide": (config.get("guide") or {}).get("class"),
        "Seed": config.get("seed"),
        "Time": ", ".join(f"{k.replace('_', ' ')} {v:.1f} s" for k, v in seconds.items())
                + f"; together {sum(seconds.values()):.1f} s" if seconds else None,
        "Program": f"pyro_unmix {config['version']}" if "version" in config else None,
    }
    return _table([(f"<th scope='row'>{escape(k)}</th>", f"<td>{escape(str('not recorded' if v is None else v))}</td>")
                   for k, v in rows.items()])


def _abundance_table(summary: xr.Dataset) -> str:
    head = "".join(f"<th scope='col'>{t}</th>" for t in ("Endmember", "Mean abundance", "Largest", "Mean sd"))
    mean, sd, pixels = summary.abundance_mean, summary.abundance_sd, ("y", "x")
    columns = (mean.mean(pixels), mean.max(pixels), sd.mean(pixels))
    return _table([(head,)] + [(f"<th scope='row'>{escape(str(n))}</th>", *(f"<td>{float(v):.3f}</td>" for v in values))
                               for n, *values in zip(summary.endmember.values, *columns, strict=True)])


def _evaluation(figures: dict) -> str:
    known = {field.name for field in dataclasses.fields(Evaluation)}
    evaluation = Evaluation(**{key: value for key, value in figures.items() if key in known})
    return f"<pre>{escape(evaluation.table())}</pre>"


def _files(folder: Path) -> str:
    return "<ul>" + "".join(f"<li><code>{name}</code>: {what}</li>" for name, what in FILES.items()
                            if name == "report.html" or (folder / name).is_file()) + "</ul>"


def _table(rows: list[tuple[str, ...]]) -> str:
    return "<div class='scroll'><table>" + "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows) + "</table></div>"


def _picture(figure: Figure, alternative: str, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)  # finer than it is shown, for screens that can
    width = round(96 * figure.get_figwidth())
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = f"<img alt='{escape(alternative)}' width='{width}' src='data:image/png;base64,{data}'>"
    return f"<figure><div class='scroll'>{image}</div><figcaption>{escape(caption)}</figcaption></figure>"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _losses(history: pd.DataFrame) -> pd.DataFrame:
    """The steps with a finite loss; none where the run kept no such column."""
    if not {"step", "elbo_loss"} <= set(history.columns):
        return history.iloc[:0]
    return history[np.isfinite(history.elbo_loss.astype(float))]  # a file without rows has columns of no type


_REFINED = {
    "exact": "The posterior was refined: abundances were drawn from the exact posterior of every pixel, given draws of "
             "endmembers and noise from theirs.",
    "cut": "The posterior was refined: the noise errs together over bands or pixels, so abundances were drawn by a bootstrap of "
           "the residuals, given endmembers that the single pixels do not move (a cut posterior).",
    "re-weighted": "The posterior was refined: draws of the guide were weighted towards the exact posterior, given the guide's "
                   "endmembers.",
}

_HOW_TO_READ = """
<p><strong>Abundances</strong> are the shares of the materials in a pixel: none negative, together 1. The mean is the
best single answer. A share of 0.40 with a standard deviation of 0.05 reads: probably between 0.32 and 0.48. The 90 %
interval itself, which need not be symmetric, is in <code>summary.nc</code> as <code>abundance_quantile</code>.</p>
<p><strong>Shares depend on how bright the pure materials are.</strong> They belong to the endmembers as drawn on this
page. A reference whose endmembers have another amplitude has other shares for the same pixel;
<code>pyro-unmix evaluate</code> takes this into account.</p>
<p><strong>Endmembers</strong> found without a library have numbers, not names: the program does not know which material
it is.</p>
<p><strong>Intervals</strong> hold for the model that was fitted. They cannot know of a material that is missing from
it, or of mixing of another kind. The map of the reconstruction error shows the pixels where that is likely. On simulated
scenes with white noise, calibrated intervals held the truth nearly as often as they say, and somewhat less often where few
pixels are pure; where noise errs together over bands or pixels, expect less.</p>
"""

_STYLE = """
body { margin: 0; background: #fff; color: #1b1b1b; font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.2rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-top: .8rem; border-top: 1px solid #d8d8d8; }
p, li, figcaption { max-width: 46rem; }
figure { margin: 0; }
figcaption { color: #444; margin-top: .4rem; }
.scroll { overflow-x: auto; }
img { max-width: max(100%, 30rem); height: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
th { white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.warnings { list-style: none; padding: 0; }
.warnings li { background: #fff4d6; border-left: 4px solid #b26a00; padding: .6rem .9rem; margin: .5rem 0; }
.doubt { background: #fff4d6; border-left: 4px solid #b26a00; padding: .6rem .9rem; }
.good { background: #e8f4ea; border-left: 4px solid #2e7d32; padding: .6rem .9rem; }
pre { overflow-x: auto; background: #f5f5f5; padding: .8rem; }
details { margin-top: 2rem; }
"""
