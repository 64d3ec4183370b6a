"""What benchmarks of many runs do: one row a run in a CSV file, and on where they stopped."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import pandas as pd


def run(doc: str | None, names: Sequence[str], plan: Iterable[tuple], one: Callable[..., dict], *, seeds: int) -> pd.DataFrame:
    """Call `one(*parts, seed)` for every seed and every `parts` of the plan; its figures go into the file that `--out` names.

    Parameters
    ----------
    doc
        Help text of the command.
    names
        Columns for the parts.
    plan
        Tuples of as many parts.
    seeds
        How many, unless `--seeds` says otherwise.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=seeds)
    options = parser.parse_args()
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    done = {tuple(row[name] for name in (*names, "seed")) for row in rows}
    for seed, parts in product(range(options.seeds), list(plan)):
        if (*parts, seed) not in done:
            rows.append({**dict(zip(names, parts, strict=True)), "seed": seed, **one(*parts, seed)})
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(options.out, index=False)
    return pd.DataFrame(rows)


def medians(table: pd.DataFrame, *names: str) -> str:
    """Over seeds."""
    return table.groupby(list(names), sort=False).median(numeric_only=True).drop(columns="seed").round(4).to_string()
