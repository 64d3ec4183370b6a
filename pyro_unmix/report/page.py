"""Puts the page together from its parts and the files beside this one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from pyro_unmix.io.files import atomic_path
from pyro_unmix.report.explorer import embedded, explorer
from pyro_unmix.report.run import Run
from pyro_unmix.report.sections import sections


def write_report(folder: str | os.PathLike) -> Path:
    """Write `report.html` into a run folder and return its path.

    Maps of at most 40,000 pixels and spectra of fewer are in the page, which has about 8 MB at most. A larger scene is thinned on
    a regular grid, and the page says so; its numbers are those of all pixels. Observed spectra come from `pixels.nc`, where
    `save_run` has left one.

    Raises
    ------
    InputError
        One of the three files is missing, or one cannot be read.
    """
    run = Run.read(Path(folder))
    page = _page(run)
    with atomic_path(run.folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return run.folder / "report.html"


def _page(run: Run) -> str:
    style, script = _file("page.css"), _file("posterior.js") + _file("explorer.js")
    # "<" could end the script that holds the data: names come from files.
    data = json.dumps(embedded(run), allow_nan=False).replace("<", "\\u003c")
    body = "".join(f"<section><h2>{heading}</h2>{content}</section>" for heading, content in sections(run, explorer(run)))
    return Template(_file("page.html")).substitute(
        title=f"Unmixing of {escape(str(run.config.get('scene', 'scene')))}",
        sections=body, style=style, script=script, data=data,
        settings=escape(json.dumps(run.config, indent=2, ensure_ascii=False)),
        # Nothing is loaded from anywhere, and no script runs but this one.
        policy=f"default-src 'none'; img-src data:; style-src '{_fingerprint(style)}'; script-src '{_fingerprint(script)}'")


def _file(name: str) -> str:
    return resources.files("pyro_unmix.report").joinpath(name).read_text("utf-8")


def _fingerprint(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
