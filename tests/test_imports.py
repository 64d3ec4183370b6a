"""Imports point one way: a module knows the rooms below it and none above."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pyro_unmix

PACKAGE = Path(pyro_unmix.__file__).parent

# Floor by floor, from the bottom. A module imports from lower floors, or from its own folder, and so do all modules of a folder
# that is named here, but for those that have a floor of their own. A new module has to be given its floor.
FLOORS = """
errors
scene
io metrics simulate subspace interpolation truncated_normal
beta_quantiles poles
library labels downloads
libraries
datasets
recipes
tiles progress numerics processes cluster mixing encoders denoise likelihood distributions
priors noise baselines variability
least_squares residual_noise amplitude simplex
noise_structure
model
refine.slices refine.propagation
refine.moves refine.sampling
refine.concentration
contenders
initialize heads
guide
refine
pairs pieces predictive diagnostics
sources questions proposal
simulator_check
training posterior ways
fit
transfer paper predict
components plot arviz refined
report benchmark compare
experiments
run_folder
experiments
cli
__init__ __main__
""".split("\n")[1:-1]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor.split()}

DATA_ROOMS = {"errors", "scene", "io", "metrics", "simulate", "library", "downloads", "libraries", "datasets", "labels",
              "recipes"}
CALCULATING_ROOMS = {"model", "guide", "priors", "mixing", "noise", "encoders", "baselines", "tiles", "initialize", "pairs"}


def all_but(*rooms: str) -> set[str]:
    return set(FLOOR) - set(rooms)


# (rooms, what they never import, not even inside a function, and the exceptions)
NEVER: list[tuple[set[str], set[str], set[str]]] = [
    (DATA_ROOMS, {"pyro", "torch", "arviz", "matplotlib", "typer"}, set()),
    (all_but("arviz"), {"arviz"}, set()),
    (all_but("cli"), {"typer"}, set()),
    (all_but("plot", "report"), {"matplotlib"}, set()),
    (CALCULATING_ROOMS, {f"pyro_unmix.{room}" for room in ("io", "plot", "report", "arviz", "cli")}, set()),
    ({"posterior", "training", "fit"}, {"pyro_unmix.io"}, {"pyro_unmix.io.files", "pyro_unmix.io.summary_files"}),
]


def module_names(root: Path) -> dict[str, Path]:
    """Dotted names below the package; a folder stands for its `__init__`."""
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}


def imports(tree: ast.Module, *, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run; with `everywhere`, also those inside functions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not everywhere:
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        waiting.extend(ast.iter_child_nodes(node))


def imported(node: ast.Import | ast.ImportFrom, modules: dict[str, Path]) -> list[str]:
    """Full names of the modules a statement imports; those of the package without a name of their own are its `__init__`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if base.split(".")[0] != "pyro_unmix":
        return [base]
    candidates = [f"{base}.{alias.name}".removeprefix("pyro_unmix.") for alias in node.names]
    home = base.removeprefix("pyro_unmix").lstrip(".")
    whole = home if home in modules else f"{home}.__init__".lstrip(".")
    return [f"pyro_unmix.{name if name in modules else f'{name}.__init__' if f'{name}.__init__' in modules else whole}"
            for name in candidates]


def room_of(name: str) -> str:
    return name if name in FLOOR else name.split(".")[0]


def within(name: str, forbidden: str) -> bool:
    return name == forbidden or name.startswith(forbidden + ".")


def violations(root: Path) -> list[str]:
    """Everything about the imports of the package in `root` that breaks the order of the house."""
    modules = module_names(root)
    found, graph = [], {}
    for name, path in modules.items():
        room = room_of(name)
        if room not in FLOOR:
            found.append(f"{name} has no floor: give it one in tests/test_imports.py")
            continue
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
            found.append(f"{name} has a relative import")
        targets = [target for node in imports(tree, everywhere=False) for target in imported(node, modules)]
        targets = [target.removeprefix("pyro_unmix.") for target in targets if target.startswith("pyro_unmix.")]
        graph[name] = [target for target in targets if target != name]
        for target in targets:
            other = room_of(target)
            if other != room and FLOOR.get(other, -1) >= FLOOR[room]:
                found.append(f"{name} imports {target}, which is not below it")
        everything = [target for node in imports(tree, everywhere=True) for target in imported(node, modules)]
        for rooms, forbidden, exceptions in NEVER:
            if room in rooms:
                found += [f"{name} must never import {target}" for target in everything
                          if target not in exceptions and any(within(target, bad) for bad in forbidden)]
        # The store of parameters belongs to the caller.
        if any(getattr(node, "attr", getattr(node, "id", getattr(node, "name", None))) == "clear_param_store"
               for node in ast.walk(tree)):
            found.append(f"{name} clears the parameter store")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a cycle: {' -> '.join(error.args[1])}")
    return found


def test_the_package_is_in_order():
    assert not violations(PACKAGE)


def test_every_room_is_there():
    rooms = {each for name in module_names(PACKAGE) for each in (name, name.split(".")[0])}
    assert not set(FLOOR) - rooms, "a floor is given to a module that does not exist"


@pytest.mark.parametrize("file, text, complaint", [
    ("model.py", "from pyro_unmix.guide import UnmixingGuide", "model imports guide, which is not below it"),
    ("model.py", "from pyro_unmix import guide", "model imports guide, which is not below it"),
    ("model.py", "import pyro_unmix.guide", "model imports guide, which is not below it"),
    ("model.py", "if 1:\n    from pyro_unmix.fit import fit", "model imports fit, which is not below it"),
    ("model.py", "class A:\n    from pyro_unmix.fit import fit", "model imports fit, which is not below it"),
    ("model.py", "from pyro_unmix import Scene", "model imports __init__, which is not below it"),
    ("mixing.py", "from pyro_unmix.encoders import ConvEncoder", "mixing imports encoders, which is not below it"),
    ("priors.py", "def f():\n    from pyro_unmix.io import open_scene", "priors must never import pyro_unmix.io.__init__"),
    ("priors.py", "def f():\n    from pyro_unmix.io.files import atomic_path", "priors must never import pyro_unmix.io.files"),
    ("fit.py", "from pyro_unmix.io import open_scene", "fit must never import pyro_unmix.io.__init__"),
    ("io/npz.py", "def f():\n    import torch.nn", "io.npz must never import torch.nn"),
    ("library.py", "from torch import nn", "library must never import torch"),
    ("posterior.py", "def f():\n    import arviz", "posterior must never import arviz"),
    ("run_folder.py", "import typer", "run_folder must never import typer"),
    ("fit.py", "import matplotlib.pyplot as plt", "fit must never import matplotlib.pyplot"),
    ("invented.py", "", "invented has no floor"),
    ("guide.py", "from . import model", "guide has a relative import"),
    ("fit.py", "import pyro\npyro.clear_param_store()", "fit clears the parameter store"),
    ("fit.py", "from pyro import clear_param_store as c\nc()", "fit clears the parameter store"),
    ("io/npz.py", "from pyro_unmix.io import matlab", "a cycle"),
])
def test_a_module_out_of_order_is_found(tmp_path, file, text, complaint):
    (tmp_path / "io").mkdir()
    for name in ("__init__.py", "guide.py", "encoders.py", "fit.py", "io/__init__.py", "io/files.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "io/matlab.py").write_text("from pyro_unmix.io import npz")
    (tmp_path / "io/npz.py").write_text("")
    assert not violations(tmp_path)
    (tmp_path / file).write_text(text)
    assert any(complaint in found for found in violations(tmp_path)), violations(tmp_path)


@pytest.mark.parametrize("text", [
    "from pyro_unmix.model import UnmixingModel",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pyro_unmix.fit import Fit",
    "def f():\n    from pyro_unmix.arviz import to_arviz",
    "from pyro_unmix.io.files import atomic_path",
])
def test_a_module_in_order_is_let_pass(tmp_path, text):
    (tmp_path / "io").mkdir()
    for name in ("__init__.py", "model.py", "fit.py", "arviz.py", "io/__init__.py", "io/files.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "posterior.py").write_text(text)
    assert not violations(tmp_path)


def test_what_is_slow_to_import_is_imported_when_it_is_used():
    """In a process of its own: here everything has been imported."""
    slow = "matplotlib", "scipy.stats", "arviz", "rasterio", "dask"
    code = f"import sys, pyro_unmix.cli as _; print([each for each in {slow} if each in sys.modules])"
    code += "; import pyro_unmix as pu; print('plot' in dir(pu), pu.plot.__name__, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True pyro_unmix.plot True"]
