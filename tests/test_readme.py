"""The code of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")
def test_python_blocks_run(monkeypatch):
    """In one namespace, one after the other, with as few steps of training as will do."""
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
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
