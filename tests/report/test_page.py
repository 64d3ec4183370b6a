"""The report says what the run folder holds and whether to trust it."""

from __future__ import annotations

import configparser
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
from runs import found_in, good_history, good_summary, run_folder, scene_of_runs

from pyro_unmix import metrics, report
from pyro_unmix.errors import InputError
from pyro_unmix.report import sections


@pytest.fixture(scope="module")
def scene():
    return scene_of_runs()


@pytest.fixture
def folder(scene, tmp_path):
    return run_folder(scene, tmp_path)


@pytest.fixture(scope="module")
def written(scene, tmp_path_factory):
    """A good run's folder with its report."""
    folder = run_folder(scene, tmp_path_factory.mktemp("run"))
    assert report.write_report(folder) == folder / "report.html"
    return folder


class Page(HTMLParser):
    """Headings, images and text of a page; every tag must be closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.headings, self.images, self.words = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)
        if self.open and self.open[-1] in {"h1", "h2"}:
            self.headings.append(data)


def test_the_page_is_whole_and_needs_no_network(written):
    html = (written / "report.html").read_text()
    page = Page(html)
    assert page.headings == ["Unmixing of hill.hdr", "Can the intervals be trusted?", "What was done", "Warnings", "Abundances",
                             "Pixel by pixel", "Endmembers", "Where to be careful", "Convergence", "How to read this",
                             "Files in this folder"]
    assert len(page.images) == 4
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:|//|file:)|@import|url\(|<link|<script[^>]* src", html)
    assert "name='viewport'" in html and "lang='en'" in html
    assert not list(written.glob(".report*")) and not plt.get_fignums()


def test_the_page_says_what_was_done(written):
    text = " ".join(Page((written / "report.html").read_text()).words)
    for words in ("14 × 20 pixels (280 in use), 40 bands from 400 to 2500 nm", "SpatialAttentionEncoder", "pyro_unmix 1.2.3",
                  "initialize 1.5 s, warm start 2.5 s, svi 36.0 s; together 40.0 s", "every other check of this run passed",
                  "weights.pt", "svi_steps", "Energy explained"):
        assert words in text
    assert "draws.nc" not in text


def test_a_wheel_has_the_files_of_the_page():
    settings = configparser.ConfigParser()
    assert settings.read(Path(__file__).parents[2] / "setup.cfg")
    patterns = settings["options.package_data"]["pyro_unmix.report"].split(", ")
    files = [path for path in Path(report.__file__).parent.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(files) == 5 and all(any(path.match(pattern) for pattern in patterns) for path in files)


def test_names_are_escaped(written):
    html = (written / "report.html").read_text()
    assert "<b>sand" not in html and "&lt;b&gt;sand &amp; gravel" in html


def test_a_bare_run_is_tolerated_and_an_evaluation_shown(folder, scene):
    found = metrics.evaluate(good_summary(scene), scene.reference)
    (folder / "config.json").write_text(json.dumps({"evaluation": found.to_dict() | {"from a later version": 1}}))
    good_history().assign(elbo_loss=np.nan).to_csv(folder / "history.csv", index=False)
    page = Page(report.write_report(folder).read_text())
    text = " ".join(page.words)
    assert "not recorded" in text and "No training loss was recorded" in text
    assert "expected to be too narrow" in text and "passed" not in text
    assert "Against the reference" in page.headings and "90 % interval covers" in text


def test_a_summary_leads_to_no_other_file(folder):
    (folder / "summary.nc").rename(folder / "other.nc")
    with h5py.File(folder / "summary.nc", "w") as file:
        for name in ("abundance_mean", "endmember_mean"):
            file[name] = h5py.ExternalLink(str(folder / "other.nc"), name)
    with pytest.raises(InputError, match="all data of 'summary.nc' in that file"):
        report.write_report(folder)


def test_a_config_that_holds_no_settings_is_refused(folder):
    (folder / "config.json").write_text("3")
    with pytest.raises(InputError, match="config.json holds no settings"):
        report.write_report(folder)


def test_a_number_that_is_none_is_refused(folder):
    history = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text(history.rsplit(",", 1)[0] + ",1.2.3\n")
    with pytest.raises(InputError, match="can be read, got .*1.2.3"):
        report.write_report(folder)


@pytest.mark.parametrize("name", ["summary.nc", "history.csv", "config.json"])
def test_missing_or_damaged_files_are_refused(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="can(not)? be read"):
        report.write_report(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}"):
        report.write_report(folder)
    assert not (folder / "report.html").exists()


@pytest.fixture
def no_pictures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr(sections, "_picture", lambda figure, *words: plt.close(figure) or "")


def page_of(folder, scene, attributes) -> Page:
    good_summary(scene).assign_attrs(attributes).to_netcdf(folder / "summary.nc", engine="h5netcdf")
    return Page(report.write_report(folder).read_text())


def test_the_page_says_whether_intervals_can_be_trusted(no_pictures, folder, scene):
    text = " ".join(page_of(folder, scene, found_in()).words)
    assert "Yes, as far as the scene can tell." in text and "Intervals can be trusted" in text
    assert "what to do" not in text and "refined" not in text


def test_the_page_says_what_was_found_and_what_to_do(no_pictures, folder, scene):
    attributes = found_in(band_correlation=0.7, needed=np.array([1.0, 1.0, 0.0]))
    page = page_of(folder, scene, attributes | {"refined": "cut"})
    text = " ".join(page.words)
    assert "they are a best effort" in text and "Yes, as" not in text and "a cut posterior" in text
    for sentence in attributes["findings"].split("\n"):
        assert text.count(sentence) == 1
    assert text.index("what to do") < text.index("What was done")
    assert "<b>sand" not in (folder / "report.html").read_text()


def test_a_summary_that_says_nothing_of_trust_has_a_report(written):
    assert "Not known: this summary does not say." in " ".join(Page((written / "report.html").read_text()).words)


@pytest.mark.parametrize("method", ["exact", "cut", "re-weighted"])
def test_the_page_says_how_the_posterior_was_refined(no_pictures, folder, scene, method):
    text = " ".join(page_of(folder, scene, found_in() | {"refined": method}).words)
    assert text.count("The posterior was refined") == 1
