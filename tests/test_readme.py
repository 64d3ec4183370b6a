"""The code of the README runs as it stands."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from doc_pages import DOCS, ROOT, python_blocks


@pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")
def test_python_blocks_run(monkeypatch):
    """In one namespace, one after the other, with as few steps of training as will do."""
    monkeypatch.chdir(ROOT)
    blocks = python_blocks(ROOT / "README.md")
    assert len(blocks) == 2
    config = "pu.FitConfig(svi_steps=3, calibration_steps=3, sampling_steps=40)"
    few = ("pu.fit(model, scene, ", f"pu.fit(model, scene, progress=False, config={config}, ")
    space: dict = {}
    for block in blocks:
        code = block.replace(*few).replace("range(300)", "range(3)")
        assert code != block
        exec(code, space)
    plt.close("all")
    summary = space["post"].summary()
    np.testing.assert_allclose(summary.abundance_mean.sum("endmember"), 1.0, atol=1e-6)
    assert summary.sizes["endmember"] == 4


def test_a_prior_written_after_the_page_works():
    """Fewer than 15 lines, and it is heard: the first material is what there is most of."""
    code, = python_blocks(DOCS / "priors.md")
    own = code[code.index("def background"):code.index("scene =")]
    assert len(own.strip().splitlines()) < 15
    config = "pu.FitConfig(svi_steps=3, calibration_steps=3, sampling_steps=40)"
    space: dict = {}
    exec(code.replace("pu.fit(model, scene)", f"pu.fit(model, scene, progress=False, config={config})"), space)
    mean = space["fit"].posterior(space["scene"]).summary().abundance_mean
    np.testing.assert_allclose(mean.sum("endmember"), 1.0, atol=1e-6)
    np.testing.assert_allclose(mean.mean(("y", "x")), [4 / 6, 1 / 6, 1 / 6], atol=0.05)
    assert type(space["model"].abundances).__name__ == "CustomPrior"
