"""The command line: the same calls as in a notebook, with files in and files out."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import typer
import xarray as xr
from rich.console import Console
from rich.table import Table

from pyro_unmix import datasets, libraries, recipes, simulate
from pyro_unmix.cluster import dask_workers
from pyro_unmix.errors import FitDiverged, InputError, ProcessLost, UnmixWarning, one_line
from pyro_unmix.fit import Fit, FitConfig
from pyro_unmix.fit import fit as fit_scene
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.io import (
    WATER_VAPOUR,
    SceneFile,
    is_sensor_file,
    open_reference,
    open_scene,
    open_scene_file,
    save_scene,
)
from pyro_unmix.io.files import make_folder
from pyro_unmix.io.summary_files import check_output, open_summary
from pyro_unmix.library import SpectralLibrary, open_library
from pyro_unmix.metrics import evaluate as evaluate_summary
from pyro_unmix.mixing import MIXINGS
from pyro_unmix.model import UnmixingModel
from pyro_unmix.predict import predict as predict_scene
from pyro_unmix.predict import strips_folder
from pyro_unmix.processes import is_first
from pyro_unmix.run_folder import load_fit, save_run
from pyro_unmix.scene import Scene
from pyro_unmix.subspace import count_endmembers, hfc, hysime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

app = typer.Typer(help="Bayesian hyperspectral unmixing: which materials, how much of each, and how sure.",
                  no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
datasets_app = typer.Typer(help="Benchmark scenes and spectral libraries by name.", no_args_is_help=True)
app.add_typer(datasets_app, name="datasets")
# Names may hold brackets, and paths must stay in one piece. Of several processes one talks.
out = Console(markup=False, highlight=False, soft_wrap=True, quiet=not is_first())

SceneArgument = Annotated[str, typer.Argument(metavar="SCENE", help="A .npz, .mat, .tif, .nc, .zarr or ENVI file, or the name "
                                                   "of a benchmark scene.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write to; made if missing.")]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same result.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at once; seconds are comparable only with 1.")]
KeepWater = Annotated[bool, typer.Option("--keep-water", help="Keep the bands of a sensor's file at 1340 to 1460 and 1790 to "
                                         "1960 nm, where water vapour absorbs.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Only try it: few steps, few pixels, one seed, one scene.")]

_LAST = "report.html"  # the last file of a run folder to be written
_MOST_HELD = 2**26  # values of a scene that is held whole: 0.27 GB, of which a fit takes up to seventeen times as much

Guide = Literal["spacnn", "cnn", "mlp"]
Brightness = Literal["auto", "none", "pixel"]
Device = Literal["auto", "cpu", "cuda"]


def main() -> None:
    """Entry point: errors a user can mend become one line and exit code 2, diverged training exit code 3."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pyro_unmix").setLevel(logging.INFO)
    warnings.showwarning = _one_line_warning
    # What HDF5 and Zarr cannot clean up of a file that they could not read is no news beside the error. Nor is what GDAL says of
    # it; of one that it could read it is, such as a georeference that was lost, and is told at the end.
    sys.unraisablehook = lambda found: None
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    said_by_gdal = MemoryHandler(1000, flushLevel=sys.maxsize, target=logging.StreamHandler(sys.stderr))
    logging.getLogger("rasterio").addHandler(said_by_gdal)
    logging.getLogger("rasterio").propagate = False
    try:
        app()
    except InputError as error:
        said_by_gdal.buffer.clear()
        _fail(error, 2)
    except FitDiverged as error:
        _fail(error, 3)
    except ProcessLost as error:
        _fail(error, 1)
    except (OSError, MemoryError) as error:  # a full disk, a device that fails, a scene larger than memory
        _fail(InputError("a system that can do this", f"{type(error).__name__}: {error}"), 2)


@app.command()
def demo(out_folder: OutFolder = Path("pyro-unmix-demo"), seed: Seed = 0) -> None:
    """Unmix the bundled scene, compare with its truth, and write everything: about a minute."""
    scene = simulate.example_scene()
    truth = scene.reference
    assert truth is not None  # the scene is simulated
    make_folder(out_folder)
    result = fit_scene(UnmixingModel(truth.sizes["endmember"]), scene, seed=seed)
    posterior = result.posterior(scene)
    evaluation = evaluate_summary(posterior.summary(), truth)
    save_run(out_folder, result, posterior, evaluation=evaluation)
    save_scene(scene, out_folder / "scene.npz")
    out.print(str(evaluation))
    _say_done(result, out_folder)


@app.command()
def info(scene: SceneArgument, keep_water: KeepWater = False) -> None:
    """Say what is in a scene, and what of its file is left out.

    Of a sensor's file of more than 67 million values (2^26) some rows are looked at.
    """
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UnmixWarning)
        opened = _open_to_hold(scene, keep_water)
    rows, cols, bands = opened.shape
    pixels = opened.pixels() if isinstance(opened, Scene) else opened.spread_spectra()
    table = Table(show_header=False, box=None)
    table.add_row("scene", opened.name)
    table.add_row("size", f"{rows} rows x {cols} columns x {bands} bands")
    table.add_row("pixels in use" if isinstance(opened, Scene) else "pixels looked at",
                  f"{len(pixels)} of {rows * cols} ({100 * len(pixels) / (rows * cols):.1f} %)")
    known = opened.wavelengths
    table.add_row("wavelengths", "unknown" if known is None else f"{known.min():.1f} to {known.max():.1f} nm"
                  + ("" if (known[1:] > known[:-1]).all() else ", not in increasing order"))
    table.add_row("values", f"{pixels.min():.4g} to {pixels.max():.4g}, mean {pixels.mean():.4g}")
    try:
        table.add_row("endmembers", f"about {count_endmembers(pixels)}, an estimate to start from")
        table.add_row("above the noise", f"{hysime(pixels).n_endmembers} directions by HySime, {hfc(pixels)} by HFC; "
                      "materials that vary add to them")
    except InputError as error:
        table.add_row("endmembers", f"no estimate: {error}")
    if isinstance(opened, Scene) and opened.reference is not None:
        names = ", ".join(map(str, opened.reference.endmember.values))
        table.add_row("reference", f"{', '.join(map(str, opened.reference))} of {names}")
    coords = opened.reflectance.coords if isinstance(opened, Scene) else xr.Dataset(coords=opened.coords).coords
    if "spatial_ref" in coords:
        table.add_row("georeference", _georeference(coords))
    for note in notes:
        table.add_row("note", str(note.message))
    out.print(table)


@app.command()
def fit(
    scene: SceneArgument,
    out_folder: OutFolder,
    n_endmembers: Annotated[str, typer.Option("-k", "--endmembers", metavar="INTEGER|auto", help="Number of endmembers; auto "
                                              "estimates it from the scene.")],
    guide: Annotated[Guide, typer.Option(help="Spatial-attention CNN, CNN, or spectrum by spectrum.")] = "spacnn",
    library: Annotated[str | None, typer.Option(metavar="FILE|NAME", help="Spectral library to centre the endmember prior on: "
                                                "a file, or a name that 'datasets list' shows.")] = None,
    materials: Annotated[str | None, typer.Option(help="Names in the library, separated by commas, one an endmember.")] = None,
    brightness: Annotated[Brightness, typer.Option(help="One factor a pixel, or none; auto decides from the scene.")]
        = "auto",
    config: Annotated[Path | None, typer.Option(help="TOML file with settings of FitConfig.")] = None,
    seed: Seed = 0,
    device: Annotated[Device | None, typer.Option(help="Where to train; auto takes a GPU if there is one.")] = None,
    draws: Annotated[int, typer.Option(min=0, help="Draws to keep in draws.nc, an ArviZ file.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with a fit that was killed.")] = False,
    keep_water: KeepWater = False,
) -> None:
    """Fit a scene and write the run folder: summary.nc, config.json, weights.pt, history.csv, report.html.

    Of a sensor's file of more than 67 million values (2^26) a sample of pixels is learned from, and all are unmixed strip by
    strip: it may be larger than memory.
    """
    settings = FitConfig.from_dict(_read_toml(config) if config else {})
    settings = settings if device is None else replace(settings, device=device)
    opened = _open_to_hold(scene, keep_water)
    if draws and isinstance(opened, SceneFile):
        raise InputError("a scene of 67 million values or fewer with --draws", f"'{opened.path.name}', which is read in parts",
                         "draw from a part of it in Python: see docs/large-scenes.md")
    make_folder(out_folder)
    checkpoint = out_folder / "checkpoint.pt"
    if resume and not checkpoint.exists() and _holds_finished_fit(out_folder):
        out.print(f"{out_folder} holds a finished fit: nothing to resume")
        return
    k = int(n_endmembers) if n_endmembers.lstrip("-").isdecimal() else n_endmembers
    model = UnmixingModel(k, brightness=brightness)
    names = None
    learned = opened.sample(seed=seed) if isinstance(opened, SceneFile) else opened
    if isinstance(opened, SceneFile):
        out.print(f"{opened.name}: {opened.shape[0]} x {opened.shape[1]} pixels, of which {learned.n_pixels} are learned from")
    if library is not None:
        if model.n_endmembers == "auto":
            raise InputError("a number of endmembers with a --library", "auto", "it holds one spectrum an endmember")
        chosen = _open_library(library)
        chosen = chosen.select([name.strip() for name in materials.split(",")]) if materials else chosen
        if learned.wavelengths is not None and chosen.wavelengths is not None:
            chosen = chosen.resample(learned.wavelengths)
        names = list(chosen.names)
        model = model.replace(endmembers=informed_endmembers(chosen.spectra, learned, model.n_endmembers))
    elif materials is not None:
        raise InputError("a --library to take the --materials from", "none")
    if not resume:  # what says that a fit is finished is the last to be written and the first to go
        (out_folder / _LAST).unlink(missing_ok=True)
        shutil.rmtree(strips_folder(out_folder / "summary.nc"), ignore_errors=True)
    result = fit_scene(model, learned, guide=guide, seed=seed, config=settings, names=names, checkpoint=checkpoint,
                       resume=resume)
    if not is_first():
        return
    found = opened if isinstance(opened, SceneFile) else result.posterior(opened)
    save_run(out_folder, result, found, draws=draws, resume=resume)
    if not result.interrupted:
        checkpoint.unlink(missing_ok=True)
    _say_done(result, out_folder)


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a fit.")],
    scene: SceneArgument,
    out_file: Annotated[Path, typer.Option("--out", help="File to write: .nc or .zarr; maps alone: .tif or .hdr (ENVI).")],
    resume: Annotated[bool, typer.Option(help="Go on with a prediction that was killed.")] = False,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS|local", help="Work on a Dask cluster, or on one made "
                                             "here.")] = None,
) -> None:
    """Unmix another scene of the same sensor with a trained guide: no training. Maps keep its georeference.

    Files of sensors may be larger than memory: they are read, and the result is written, strip by strip.
    """
    out_file = check_output(out_file)
    make_folder(out_file.parent)
    fitted = load_fit(folder)
    opened = _open_in_parts(scene, wavelengths=fitted.wavelengths)
    if dask is None:
        predict_scene(fitted, opened, out_file, resume=resume)
    else:
        with dask_workers(dask) as workers:
            predict_scene(fitted, opened, out_file, resume=resume, executor=workers)
    out.print(f"wrote {out_file}")


@app.command()
def evaluate(
    summary: Annotated[Path, typer.Argument(metavar="SUMMARY.nc", help="Written by fit or predict.")],
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="File with abundances or endmembers, or a scene's name.")],
    variant: Annotated[str, typer.Option(help="Another reference in the same file, e.g. alt.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a summary with a reference: RMSE, spectral angle, coverage, CRPS."""
    with open_summary(summary) as opened:
        estimated = opened.load()
    if Path(reference).exists() or reference not in datasets.dataset_names():
        truth = open_reference(reference, estimated, variant=variant)
    elif (known := datasets.load_dataset(reference, variant=variant).reference) is not None:
        truth = known
    else:
        raise InputError("a scene with a reference", f"'{reference}', which has none")
    evaluation = evaluate_summary(estimated, truth)
    if as_json:
        print(json.dumps(evaluation.to_dict(), indent=2))
    else:
        out.print(str(evaluation))


@app.command("simulate")
def simulate_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {', '.join(recipes.RECIPES)}.")],
    out_file: Annotated[Path, typer.Option("--out", help="File to write: .npz.")],
    seed: Seed = 0,
    rows: Annotated[int, typer.Option()] = 64,
    cols: Annotated[int, typer.Option()] = 64,
    n_endmembers: Annotated[int | None, typer.Option("-k", "--endmembers", help="Number of endmembers.")] = None,
    minerals: Annotated[str | None, typer.Option(help="Minerals of cuprite, separated by commas.")] = None,
    n_bands: Annotated[int | None, typer.Option("--bands", help="Bands, evenly over 400 to 2500 nm.")] = None,
    snr_db: Annotated[float | None, typer.Option("--snr", help="Signal-to-noise ratio, dB.")] = None,
    concentration: Annotated[float | None, typer.Option(help="Of the Dirichlet: below 1 purer pixels, above 1 more even "
                                                        "ones.")] = None,
    correlation_length: Annotated[float | None, typer.Option(help="Of the abundance maps, in pixels.")] = None,
    pure_share: Annotated[float | None, typer.Option(help="Share of pixels with one material, 0 to 1.")] = None,
    variability: Annotated[float | None, typer.Option(help="Of the endmembers, from 0 (none) to 1.")] = None,
    departure: Annotated[float | None, typer.Option(help="Of a scene's spectra from the library's, such as 0.05.")] = None,
    brightness: Annotated[float | None, typer.Option(help="Standard deviation of the log of a factor per pixel.")] = None,
    mixing: Annotated[str | None, typer.Option(help=f"How materials combine: {', '.join(MIXINGS)}.")] = None,
) -> None:
    """Make a scene whose truth is known. A recipe takes some of the options and has defaults of its own."""
    options = {"n_endmembers": n_endmembers, "n_bands": n_bands, "snr_db": snr_db, "concentration": concentration,
               "correlation_length": correlation_length, "pure_share": pure_share, "variability": variability,
               "departure": departure, "brightness": brightness,
               "minerals": None if minerals is None else [mineral.strip() for mineral in minerals.split(",")]}
    given: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    if mixing is not None:
        if mixing not in MIXINGS:
            raise InputError(f"a mixing ({', '.join(MIXINGS)})", f"'{mixing}'")
        given["mixing"] = MIXINGS[mixing]()
    scene = recipes.simulate(recipe, seed=seed, shape=(rows, cols), **given)
    save_scene(scene, out_file)
    out.print(f"wrote {out_file}: {scene}")


@app.command()
def benchmark(
    out_folder: OutFolder,
    scenes: Annotated[str | None, typer.Option(help="Names separated by commas, or real, simulated, fresh.")] = None,
    methods: Annotated[str | None, typer.Option(help="Names separated by commas.")] = None,
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    timeout: Annotated[float, typer.Option(help="Seconds after which one run counts as failed.")] = 1800.0,
    fresh: Annotated[int | None, typer.Option(metavar="SEED", help="Add simulated scenes of this seed.")] = None,
) -> None:
    """Compare methods on scenes with a reference: results.csv, table.md, benchmark.png. Run again, it goes on."""
    from pyro_unmix.benchmark import run_benchmark

    _say_compared(out_folder, run_benchmark(out_folder, scenes=_listed(scenes), methods=_listed(methods), seeds=seeds, jobs=jobs,
                                            timeout=timeout, fresh=fresh))


@app.command()
def ablation(
    out_folder: OutFolder,
    scenes: Annotated[str | None, typer.Option(help="Names separated by commas.")] = None,
    modes: Annotated[str | None, typer.Option(help="blind, supervised, or both, separated by commas.")] = None,
    encoders: Annotated[str | None, typer.Option(help="Of spacnn, cnn and mlp, separated by commas.")] = None,
    heads: Annotated[str | None, typer.Option(help="auto, softmax (the paper's), or both, separated by commas.")] = None,
    seeds: Seeds = 3,
    jobs: Jobs = 2,
    smoke: Smoke = False,
) -> None:
    """Encoders and heads against each other: results.csv, table.md, ablation.png. Run again, it goes on."""
    from pyro_unmix.experiments import run_ablation

    _say_compared(out_folder, run_ablation(out_folder, scenes=_listed(scenes), modes=_listed(modes), encoders=_listed(encoders),
                                           heads=_listed(heads), seeds=seeds, jobs=jobs, smoke=smoke))


@app.command()
def experiment(
    name: Annotated[Literal["contexts", "many-endmembers"], typer.Argument(metavar="NAME", help="contexts: other ways to use "
                    "neighbours; many-endmembers: 3 to 20 of them.")],
    out_folder: OutFolder,
    seeds: Seeds = 3,
    jobs: Jobs = 2,
    smoke: Smoke = False,
) -> None:
    """Another experiment, blind: results.csv, table.md, NAME.png. Run again, it goes on."""
    from pyro_unmix.experiments import EXPERIMENTS

    _say_compared(out_folder, EXPERIMENTS[name](out_folder, seeds=seeds, jobs=jobs, smoke=smoke))


@app.command("transfer")
def transfer_command(
    out_folder: OutFolder,
    scene: Annotated[str, typer.Option(help="The real scene: a file, or a name of 'pyro-unmix datasets list'.")] = "cuprite_crop",
    minerals: Annotated[str | None, typer.Option(help="Of the Cuprite recipe, separated by commas; all 12 if left out.")] = None,
    guide: Annotated[Guide, typer.Option()] = "spacnn",
    steps: Annotated[int, typer.Option(min=1, help="Simulated scenes to train on.")] = 1000,
    mse_weight: Annotated[float, typer.Option(help="Of the squared error of the mean abundances, beside -log q.")] = 0.0,
    scenes: Annotated[int, typer.Option(min=1, help="Simulated scenes to test on.")] = 4,
    seed: Seed = 0,
    smoke: Smoke = False,
) -> None:
    """Train a guide on simulated minerals, and map a real scene that it has never seen."""
    from pyro_unmix.experiments.transfer import run_transfer

    steps, scenes, side = (20, 1, 16) if smoke else (steps, scenes, 48)
    run_transfer(out_folder, scene, minerals=_listed(minerals), guide=guide, steps=steps, mse_weight=mse_weight, scenes=scenes,
                 seed=seed, side=side)
    out.print((out_folder / "table.md").read_text().split("\n- ")[0])
    out.print(f"wrote {out_folder}: open {out_folder / 'report.html'} and {out_folder / 'maps.png'}")


@app.command("sensitivity")
def sensitivity_command(
    out_folder: OutFolder,
    guide: Annotated[Guide, typer.Option()] = "spacnn",
    steps: Annotated[int, typer.Option(min=1, help="Simulated scenes to train on, twice.")] = 1000,
    scenes: Annotated[int, typer.Option(min=1, help="Simulated scenes of every shift.")] = 4,
    seed: Seed = 0,
    smoke: Smoke = False,
) -> None:
    """Ask a guide trained on simulated minerals about scenes that are not what it was trained on."""
    from pyro_unmix.experiments.sensitivity import run_sensitivity

    steps, scenes, side = (20, 1, 16) if smoke else (steps, scenes, 48)
    run_sensitivity(out_folder, guide=guide, steps=steps, scenes=scenes, seed=seed, side=side)
    out.print((out_folder / "table.md").read_text())
    out.print(f"wrote {out_folder}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a fit.")]) -> None:
    """Write report.html of a run folder again."""
    from pyro_unmix.report import write_report

    out.print(f"wrote {write_report(folder)}")


@datasets_app.command("list")
def list_datasets() -> None:
    """List the benchmark scenes and spectral libraries."""
    table = Table(show_header=False, box=None)
    for name, description in (datasets.dataset_names() | libraries.library_names()).items():
        table.add_row(name, description)
    out.print(table)


@datasets_app.command("fetch")
def fetch(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Download a benchmark scene or a spectral library, checked against its checksum."""
    for path in datasets.fetch_dataset(name):
        out.print(str(path))


@app.callback(invoke_without_command=True)
def _version(show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if show:
        print(f"pyro-unmix {version('pyro_unmix')}")
        raise typer.Exit()


def _open(scene: str, keep_water: bool = False) -> Scene:
    if not Path(scene).exists() and scene in datasets.dataset_names():
        return datasets.load_dataset(scene)
    return open_scene(scene, drop=() if keep_water else WATER_VAPOUR)


def _open_in_parts(scene: str, keep_water: bool = False, *, wavelengths: np.ndarray | None = None) -> Scene | SceneFile:
    """As `_open`; nothing is held of a sensor's file."""
    if Path(scene).exists() and is_sensor_file(scene):
        return open_scene_file(scene, drop=() if keep_water else WATER_VAPOUR, wavelengths=wavelengths)
    return _open(scene, keep_water)


def _open_to_hold(scene: str, keep_water: bool) -> Scene | SceneFile:
    """As `_open`; a sensor's file that is too large to be held is left where it is."""
    opened = _open_in_parts(scene, keep_water)
    return opened.whole() if isinstance(opened, SceneFile) and math.prod(opened.shape) <= _MOST_HELD else opened


def _georeference(coords: Mapping) -> str:
    about = coords["spatial_ref"].attrs
    name = about.get("projected_crs_name", about.get("geographic_crs_name", "an unnamed reference system"))
    x, y = coords["x"].values, coords["y"].values
    return f"{name}, x {x.min():.10g} to {x.max():.10g}, y {y.min():.10g} to {y.max():.10g}"


def _open_library(library: str) -> SpectralLibrary:
    if not Path(library).exists() and library in libraries.library_names():
        return libraries.load_library(library)
    return open_library(library)


def _read_toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError("a readable TOML file", f"'{path}': {error}") from error


def _holds_finished_fit(folder: Path) -> bool:
    """Whether a fit ran to its end here. One stopped by Ctrl-C leaves all files too, and says so in config.json."""
    if not (folder / _LAST).exists():
        return False
    try:
        return not json.loads((folder / "config.json").read_text())["interrupted"]
    except (OSError, ValueError, KeyError):
        return False


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


def _say_compared(folder: Path, results: pd.DataFrame) -> None:
    out.print(f"{len(results)} runs, {int(results.error.notna().sum())} of them failed\n"
              f"wrote {folder}: read {folder / 'table.md'}")


def _say_done(result: Fit, folder: Path) -> None:
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    out.print(f"{stages}\nwrote {folder}: open {folder / 'report.html'} in a browser")


def _one_line_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, UnmixWarning) and is_first():
        print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _fail(error: Exception, code: int) -> None:
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    sys.exit(code)
