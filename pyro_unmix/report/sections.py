"""The parts of the page that stand still: the verdict, what was done, warnings, figures, tables and how to read them."""

from __future__ import annotations

import base64
import dataclasses
import io
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix import plot
from pyro_unmix.metrics import Evaluation
from pyro_unmix.report.run import Run
from pyro_unmix.report.warnings import find_warnings, losses_of, percent

FILES = {
    "summary.nc": "abundances, endmembers and their uncertainty (NetCDF; open with xarray)",
    "config.json": "every setting of the run, and what it took",
    "weights.pt": "the trained guide, for <code>pyro-unmix predict</code>",
    "history.csv": "the training loss, step by step",
    "pixels.nc": "observed spectra of some pixels, for this page",
    "draws.nc": "draws from the posterior (open with ArviZ)",
    "report.html": "this page",
}


def sections(run: Run, explorer: str) -> list[tuple[str, str]]:
    """Headings and their HTML, in the order of the page; `explorer` is that of the part to click on."""
    summary, config, history = run.summary, run.config, run.history
    names = ", ".join(map(str, summary.endmember.values))
    found = find_warnings(summary, run.totals, history, config)
    compared = config.get("evaluation")
    return [
        ("Can the intervals be trusted?", _trust(summary)),
        ("What was done", _what_was_done(run)),
        ("Warnings", _list(found) if found else "<p class='good'>None: every other check of this run passed.</p>"),
        *([("Against the reference", _evaluation(compared))] if isinstance(compared, dict) else []),
        ("Abundances", _picture(
            _in_pixels(plot.abundance_maps(summary), run), f"Maps of mean abundance and standard deviation of {names}",
            "How much of each endmember is in each pixel (above; 0 none, 1 nothing else), and the standard deviation "
            f"of that number (below). All maps of one kind have the same scale. Grey pixels are masked. {thinning(run)}")
            + _abundance_table(run)),
        ("Pixel by pixel", explorer),
        ("Endmembers", _picture(
            plot.endmembers(summary), f"Spectra of {names} with their 90 % intervals",
            "The spectrum of each endmember and the band that should hold it with 90 % probability. In grey, for "
            "comparison, the other endmembers.")),
        ("Where to be careful", _picture(
            _in_pixels(plot.uncertainty(summary), run), "Maps of total abundance uncertainty and of reconstruction error",
            "Left: all uncertainty of a pixel's abundances in one number. Right: how far the pixel is from its best "
            f"mixture. A patch that stands out on the right holds something that is not among the endmembers. {thinning(run)}")),
        ("Convergence", _picture(
            plot.loss(history), "Training loss by step",
            "The loss should have become level. It can be negative; only its change means something.")
            if len(losses_of(history)) else "<p>No training loss was recorded.</p>"),
        ("How to read this", _HOW_TO_READ),
        ("Files in this folder", _files(run.folder)),
    ]


def thinning(run: Run) -> str:
    """Which pixels the maps show, where these are not all."""
    if (len(run.rows), len(run.cols)) == run.shape:
        return ""
    step = next(shown[1] - shown[0] for shown in (run.rows, run.cols) if len(shown) > 1)
    return (f"The maps show one pixel, the middle one, of each block of {step} × {step}: {len(run.rows)} × {len(run.cols)} of "
            f"{run.shape[0]} × {run.shape[1]} pixels. The numbers in tables and warnings are of all pixels.")


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


def _what_was_done(run: Run) -> str:
    summary, config = run.summary, run.config
    band = summary.wavelength
    spectrum = f"{band.size} bands"
    if band.attrs.get("units", "nm") == "nm":
        spectrum += f" from {float(band.min()):.0f} to {float(band.max()):.0f} nm"
    seconds = {k: v for k, v in (config.get("seconds") or {}).items() if isinstance(v, (int, float))}
    rows = {
        "Scene": config.get("scene"),
        "Size": f"{run.shape[0]} × {run.shape[1]} pixels ({run.totals.used} in use), {spectrum}",
        "Endmembers": summary.sizes["endmember"],
        "Energy explained": percent(run.totals.explained),
        "Guide": (config.get("guide") or {}).get("class"),
        "Seed": config.get("seed"),
        "Time": ", ".join(f"{k.replace('_', ' ')} {v:.1f} s" for k, v in seconds.items())
                + f"; together {sum(seconds.values()):.1f} s" if seconds else None,
        "Program": f"pyro_unmix {config['version']}" if "version" in config else None,
    }
    return _table([(f"<th scope='row'>{escape(k)}</th>", f"<td>{escape(str('not recorded' if v is None else v))}</td>")
                   for k, v in rows.items()])


def _abundance_table(run: Run) -> str:
    head = "".join(f"<th scope='col'>{t}</th>" for t in ("Endmember", "Mean abundance", "Largest", "Mean sd"))
    columns = (run.totals.mean, run.totals.largest, run.totals.sd)
    return _table([(head,)] + [(f"<th scope='row'>{escape(str(n))}</th>", *(f"<td>{v:.3f}</td>" for v in values))
                               for n, *values in zip(run.summary.endmember.values, *columns, strict=True)])


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
    # Finer than it is shown, for screens that can; but many maps side by side would make the page large.
    figure.savefig(buffer, format="png", dpi=min(150.0, 1400.0 / figure.get_figwidth()))
    width = round(96 * figure.get_figwidth())
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = f"<img alt='{escape(alternative)}' width='{width}' src='data:image/png;base64,{data}'>"
    return f"<figure><div class='scroll'>{image}</div><figcaption>{escape(caption)}</figcaption></figure>"


def _in_pixels(figure: Figure, run: Run) -> Figure:
    """The maps of a part of the pixels, on axes that count all."""
    for axis in figure.axes:
        for image in axis.images:
            image.set_extent((-0.5, run.shape[1] - 0.5, run.shape[0] - 0.5, -0.5))
    return figure


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
