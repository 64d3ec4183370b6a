"""Does a transferred guide say where the simulator is wrong? `python -m benchmarks.simulator --out FILE.csv` counts it.

One guide, trained on minerals without alunite, is asked about scenes that were drawn as those of training and about scenes that
differ in one thing; some hold alunite, on average in the share that its concentration makes. At last, the real crop.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyro_unmix as pu
from pyro_unmix.experiments.minerals import HELD_OUT, minerals_on, train
from pyro_unmix.experiments.sensitivity import MINERAL
from pyro_unmix.recipes import CUPRITE_MINERALS
from pyro_unmix.simulator_check import Discrepancies

EVERY = list(CUPRITE_MINERALS)
OTHERS = [mineral for mineral in EVERY if mineral != MINERAL]
SIDE, CONCENTRATION = 32, 0.2


def with_alunite(concentration: float) -> dict:
    return {"minerals": EVERY, "concentration": np.where(np.array(EVERY) == MINERAL, concentration, CONCENTRATION)}


def share(concentration: float) -> float:
    return concentration / (concentration + CONCENTRATION * len(OTHERS))


# What differs, and in how many times as many scenes as asked for.
CASES: dict[str, tuple[dict, int]] = {
    "as trained": ({}, 4), "as trained, 64 x 64 pixels": ({"side": 2 * SIDE}, 2),
    **{f"alunite unknown, {100 * share(value):.0f} % of it": (with_alunite(value), 1) for value in (0.05, 0.1, 0.2, 0.5)},
    **{f"departure {value}": ({"departure": value}, 1) for value in (0.0, 0.1)},
    **{f"{value} dB": ({"snr_db": value}, 1) for value in (20.0, 25.0, 40.0)},
    **{f"brightness {value}": ({"brightness": value}, 1) for value in (0.0, 0.6)},
    **{f"concentration {value}": ({"concentration": value}, 1) for value in (0.1, 0.5, 1.0)},
    **{f"correlation length {value}": ({"correlation_length": value}, 1) for value in (0.0, 8.0)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV with a row for each scene")
    parser.add_argument("--scenes", type=int, default=12, help="of every case but those as trained, of which there are more")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    real = pu.load_dataset("cuprite_crop")
    fit = train(minerals_on(real.wavelengths, OTHERS, side=SIDE), steps=options.steps, progress=False)
    assert fit.simulated is not None
    rows = []
    torch.manual_seed(0)

    def ask(case: str, scene: pu.Scene) -> None:
        said = list(fit.simulated.compare(Discrepancies.drawn(fit, scene)))
        rows.append({"case": case, "findings": "; ".join(each.name.removesuffix(" not as simulated") for each in said),
                     "said": " ".join(map(str, said))})
        pd.DataFrame(rows).to_csv(options.out, index=False)

    for number, (case, (settings, times)) in enumerate(CASES.items()):
        settings = {"minerals": OTHERS, "side": SIDE, **settings}
        make = minerals_on(real.wavelengths, settings.pop("minerals"), side=settings.pop("side"))
        for seed in range(times * options.scenes):
            ask(case, make(HELD_OUT + 1000 * number + seed, **settings))
    ask("cuprite_crop", real)
    for case, part in pd.DataFrame(rows).groupby("case", sort=False):
        counts = Counter(name for found in part.findings for name in found.split("; ") if name)
        print(f"| {case} | {len(part)} | {(part.findings != '').mean():.2f} | "
              f"{', '.join(f'{name} {count}' for name, count in counts.most_common())} |")
    print(rows[-1]["said"])


if __name__ == "__main__":
    main()
