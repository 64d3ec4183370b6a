"""What happens when things go wrong? `python -m benchmarks.faults --out DIR` tries it with the command line itself.

Parts, of which `--parts` names some: `fit` and `predict` killed at random moments; `output` that cannot be written; `input` that
is cut short; `data` that is damaged. Written to `DIR/PART.csv` and `DIR/PART.md` as it goes. `output` mounts small disks, which
only root may.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd

from benchmarks import damaged, kills, places

PARTS = {"fit": kills.of_fit, "predict": kills.of_predict, "output": places.of_output, "input": places.of_input,
         "data": damaged.of_data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for part in options.parts.split(","):
        work = options.out / "work" / part
        shutil.rmtree(work, ignore_errors=True)
        rows = []
        for case in PARTS[part](work, options.seed):
            rows.append(case)
            print(*case.values(), sep=" | ", flush=True)
            pd.DataFrame(rows).to_csv(options.out / f"{part}.csv", index=False)
            (options.out / f"{part}.md").write_text(markdown(rows))
    shutil.rmtree(options.out / "work", ignore_errors=True)


def markdown(rows: list[dict]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
