"""The pages of the documentation: all can be reached, links lead somewhere, their code runs, findings are explained."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from doc_pages import DOCS, ROOT, contents, headings, links, python_blocks
from short_fits import CONFIG, quiet_fit

import pyro_unmix as pu
from pyro_unmix.report import warnings as report

PAGES = sorted(DOCS.rglob("*.md"))
QUESTIONS = sorted((DOCS / "questions").glob("*.md"), key=lambda page: (page.name != "index.md", page.name))


def test_every_page_can_be_reached():
    """By the tables of contents, which make the side bar."""
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += contents(page) - reached
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, heading in links(page):
        assert target.exists(), target
        assert not heading or heading in headings(target), f"{target} has no heading #{heading}"


def test_links_that_lead_nowhere_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, `two`\n[a](gone.md), [b](#one-two), [c](#three), [d](https://e.org/f.md)\n```\n[g](h.md)\n```\n")
    assert links(page) == [(tmp_path / "gone.md", ""), (page, "one-two"), (page, "three")]
    assert headings(page) == {"one-two"}


@pytest.mark.filterwarnings("ignore:the comparison is in doubt")
def test_the_code_of_the_pages_runs(monkeypatch, tmp_path, small_scene):
    """In one namespace, one page after the other, with as few steps of training as will do."""
    monkeypatch.chdir(tmp_path)

    few_steps = replace(CONFIG, svi_steps=3, calibration_steps=3)

    def fit(model, scene, *, config=few_steps, **options):
        return quiet_fit(model, scene, **{"config": config, "guide": "mlp"} | options)

    cheaper = {"fit": fit, "compare": partial(pu.compare, shared_draws=25, draws=25), "open_scene": lambda path: small_scene,
               "refine": partial(pu.refine, shared_draws=10, draws=50, progress=False)}
    space = {"pu": SimpleNamespace(**vars(pu) | cheaper)}
    for page in [DOCS / "quickstart.md", *QUESTIONS]:
        blocks = python_blocks(page)
        assert blocks, f"{page} shows no code"
        for block in blocks:
            exec(compile(block.replace("import pyro_unmix as pu\n", ""), page.name, "exec"), space)


def texts(node: ast.expr) -> set[str]:
    """What a string in the code may say: every way round where a part is chosen between two."""
    if isinstance(node, ast.JoinedStr):
        return {"".join(parts) for parts in product(*map(texts, node.values))}
    if isinstance(node, ast.FormattedValue):
        return texts(node.value)
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    assert isinstance(node, ast.Constant), ast.unparse(node)
    return {node.value}


def names_of_findings() -> set[str]:
    """The first argument of every `Finding` that is made anywhere in the package."""
    nodes = (node for path in Path(pu.__file__).parent.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    made = (node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding")
    return set().union(*(texts(node.args[0]) for node in made))


def test_every_finding_is_explained():
    names = names_of_findings()
    assert {"noise too small", "noise too large", "trusted", "not calibrated", "heavy tails"} <= names
    page = (DOCS / "questions/findings.md").read_text()
    explained = set(re.findall(r"`([a-z][a-z -]+)`", page[page.index("## The verdict"):]))
    assert names <= explained, "a finding is not explained"
    assert {name for name in explained if " " in name} <= names, "a finding is explained that does not exist"


def test_every_warning_of_the_report_is_explained():
    page = (DOCS / "questions/findings.md").read_text()
    called = ast.walk(ast.parse(inspect.getsource(report.find_warnings)))
    warnings = {node.func.id for node in called if isinstance(node, ast.Call) and hasattr(report, getattr(node.func, "id", ""))}
    assert len(warnings) >= 8
    for name in warnings:
        function = ast.parse(inspect.getsource(getattr(report, name))).body[0]
        strings = (node.value for node in ast.walk(function) if isinstance(node, ast.Constant) and isinstance(node.value, str))
        sentences = {sentence.strip(" .'") for string in strings for sentence in string.split(". ")}
        assert any(len(sentence) > 15 and sentence in page for sentence in sentences), f"the page does not quote {name}"


def test_the_reference_has_every_public_name():
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^   ~?(?:\w+\.)?(\w+)$", (DOCS / "api/index.md").read_text(), flags=re.MULTILINE))
    modules = {name for name in pu.__all__ if inspect.ismodule(getattr(pu, name))}
    assert listed == set(pu.__all__) - modules
    assert {name for name in modules if f"automodule:: pyro_unmix.{name}\n" in pages} == modules
