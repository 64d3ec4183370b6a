"""Named, seeded scenes with exact truth: `simulate_scene` with its choices made, with invented or with USGS spectra."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_unmix.errors import InputError
from pyro_unmix.libraries import load_library
from pyro_unmix.library import SpectralLibrary
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene

if TYPE_CHECKING:
    from pyro_unmix.mixing import Mixing

# At least 0.15 rad apart from each other, so that any number of them can be told apart.
ONTECH_MINERALS = {
    "Kaolinite": "Kaolinite CM9",
    "Calcite": "Calcite WS272",
    "Goethite": "Goethite WS222",
    "Olivine": "Olivine GDS70.c GSB  70um",
    "Gypsum": "Gypsum SU2202",
    "Chlorite": "Chlorite SMR-13.a 104-150",
    "Jarosite": "Jarosite GDS99 K,Sy 200C",
    "Epidote": "Epidote GDS26.b <75um",
    "Malachite": "Malachite HS254.3B",
    "Nontronite": "Nontronite NG-1.a",
    "Almandine": "Almandine WS478",
    "Azurite": "Azurite WS316",
}

# The sample that is the reference of Cuprite, and how the names of its relatives begin. Both kaolinites of the reference are
# mixtures with smectite: the first takes after kaolinite, the second after the mixtures with half of smectite and more.
CUPRITE_MINERALS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Alunite": ("Alunite GDS82 Na82", ("Alunite",)),
    "Andradite": ("Andradite WS487", ("Andradite",)),
    "Buddingtonite": ("Buddingtonite GDS85 D-206", ("Buddingtonite",)),
    "Dumortierite": ("Dumortierite HS190.3B", ("Dumortierite",)),
    "Kaolinite_1": ("Kaolin/Smect KLF508 85%K", ("Kaolinite", "Kaolin/Smect KLF506")),
    "Kaolinite_2": ("Kaolin/Smect H89-FR-5 30K", ("Kaolin/Smect H89", "Kaolin/Smect KLF511")),
    "Muscovite": ("Muscovite GDS108", ("Muscovite",)),
    "Montmorillonite": ("Montmorillonite+Illi CM37", ("Montmorillonite",)),
    "Nontronite": ("Nontronite NG-1.a", ("Nontronite",)),
    "Pyrope": ("Pyrope WS474", ("Pyrope",)),
    "Sphene": ("Sphene HS189.3B", ("Sphene",)),
    "Chalcedony": ("Chalcedony CU91-6A", ("Chalcedony",)),
}
# Length scale of what a scene's spectra depart from a library's by.
_SMOOTH_NM = 150.0


def ontech(
    n_endmembers: int = 8,
    shape: tuple[int, int] = (64, 64),
    *,
    wavelengths: np.ndarray | None = None,
    snr_db: float = 30.0,
    concentration: float | np.ndarray = 1.0,
    correlation_length: float = 4.0,
    pure_share: float = 0.1,
    mixing: Mixing | None = None,
    library: SpectralLibrary | None = None,
    seed: int = 0,
) -> Scene:
    """A scene like OnTech-HSI-Syn-21: USGS minerals, Dirichlet abundances, linear mixing.

    That data set (Mantripragada & Qureshi, arXiv 2203.01327; used in arXiv 2311.10701) holds linear combinations of one or
    more endmembers of the USGS library, with Dirichlet abundances. All else is a choice made here.

    Parameters
    ----------
    n_endmembers
        The first so many of `ONTECH_MINERALS`, 2 to 12, whatever the seed.
    wavelengths
        (bands,) of the sensor in nm; those of the library where left out.
    library
        A library with these minerals; by default that of USGS (Clark et al. 1993, USGS Open File Report 93-592) on the
        bands of AVIRIS.
    shape, snr_db, concentration, correlation_length, pure_share, mixing, seed
        As in `simulate_scene`.

    Raises
    ------
    InputError
        As `simulate_scene`, more minerals than there are, no USGS library, or one that lacks a mineral or a band.
    """
    if n_endmembers not in range(2, len(ONTECH_MINERALS) + 1):
        raise InputError(f"n_endmembers a whole number from 2 to {len(ONTECH_MINERALS)}", repr(n_endmembers))
    names = list(ONTECH_MINERALS)[:n_endmembers]
    samples = (load_library("usgs1995") if library is None else library).select([ONTECH_MINERALS[name] for name in names])
    samples = samples.resample(samples.wavelengths if wavelengths is None else wavelengths)
    return simulate_scene(
        shape=shape, wavelengths=samples.wavelengths, endmembers=samples.spectra, names=names, snr_db=snr_db,
        concentration=concentration, correlation_length=correlation_length, pure_share=pure_share, mixing=mixing, seed=seed,
        name="ontech",
    )


def cuprite(
    shape: tuple[int, int] = (64, 64),
    *,
    minerals: Sequence[str] | None = None,
    wavelengths: np.ndarray | None = None,
    snr_db: float = 30.0,
    concentration: float | np.ndarray = 0.2,
    correlation_length: float = 4.0,
    pure_share: float = 0.05,
    variability: float = 1.0,
    departure: float = 0.0,
    brightness: float = 0.1,
    library: SpectralLibrary | None = None,
    seed: int = 0,
) -> Scene:
    """A scene like Cuprite: the minerals of its reference, which vary from pixel to pixel, brightness and noise.

    The reference spectra that are in use for AVIRIS Cuprite are samples of the USGS library; a mineral varies towards the
    other samples of it in the library. Four minerals have only one sample there and do not vary.

    Parameters
    ----------
    minerals
        Names from `CUPRITE_MINERALS`, two or more; all 12 where left out.
    wavelengths
        (bands,) of the sensor in nm; those of the library where left out.
    variability
        How far the spectra of a pixel go from the reference sample towards the other samples: 0 not at all, which is linear
        mixing of the reference endmembers, 1 all the way.
    departure
        How far all spectra of a scene are from those of a laboratory: standard deviation of the logarithm of a factor that is
        smooth over wavelength, one for the sensor and one for each mineral, the same in every pixel. The reference
        endmembers are those of the scene.
    library
        A library with these minerals; by default that of USGS (Clark et al. 1993, USGS Open File Report 93-592) on the
        bands of AVIRIS.
    shape, snr_db, concentration, correlation_length, pure_share, brightness, seed
        As in `simulate_scene`. The same seed gives the same abundances, brightness and noise at every variability.

    Raises
    ------
    InputError
        As `simulate_scene`, an unknown mineral, no USGS library, or one that lacks a mineral or a band.
    """
    names = list(CUPRITE_MINERALS if minerals is None else minerals)
    if len(names) < 2 or len(set(names)) < len(names) or not set(names) <= CUPRITE_MINERALS.keys():
        raise InputError(f"two or more different minerals of {', '.join(CUPRITE_MINERALS)}", f"{names}")
    if not 0.0 <= variability <= 1.0:
        raise InputError("variability from 0 to 1", repr(variability))
    if not 0.0 <= departure < np.inf:
        raise InputError("a departure of 0 or more", repr(departure))
    library = load_library("usgs1995") if library is None else library
    grid = library.wavelengths if wavelengths is None else np.asarray(wavelengths, dtype=np.float64)
    if grid is None:
        raise InputError("wavelengths of the library", "none", "give them when it is made")
    spectra = []  # of each mineral: the reference sample, then its relatives
    for sample, starts in map(CUPRITE_MINERALS.__getitem__, names):
        relatives = [row for row, name in enumerate(library.names) if name.startswith(starts) and name != sample]
        spectra.append(library.select([sample, *relatives]).resample(grid).spectra)
    factors = _smooth_factors(grid, len(names), departure, seed) if departure else np.ones((len(names), 1))
    spectra = [factor * samples for factor, samples in zip(factors, spectra, strict=True)]
    return simulate_scene(
        shape=shape, wavelengths=grid, endmembers=np.stack([samples[0] for samples in spectra]), names=names,
        variants=[samples[0] + variability * (samples[1:] - samples[0]) for samples in spectra], snr_db=snr_db,
        concentration=concentration, correlation_length=correlation_length, pure_share=pure_share, brightness=brightness,
        seed=seed, name="cuprite",
    )


def _smooth_factors(wavelengths: np.ndarray, n: int, sd: float, seed: int) -> np.ndarray:
    """`(n, bands)`: what all share times what each has of its own, logarithms Gaussian over wavelength."""
    apart = (wavelengths[:, None] - wavelengths) / _SMOOTH_NM
    values, vectors = np.linalg.eigh(np.exp(-0.5 * apart**2))
    shared, *own = sd * (np.random.default_rng([seed, n]).standard_normal((n + 1, len(values))) * np.sqrt(np.maximum(values, 0))
                         ) @ vectors.T
    return np.exp(shared + np.stack(own))


RECIPES: dict[str, Callable[..., Scene]] = {
    "linear": functools.partial(simulate_scene, name="linear"),
    "brightness": functools.partial(simulate_scene, brightness=0.25, name="brightness"),
    "ontech": ontech,
    "cuprite": cuprite,
}


def simulate(recipe: str, **options) -> Scene:
    """The scene of a named recipe, a key of `RECIPES`, with that function's own options.

    Raises
    ------
    InputError
        No such recipe, or an option it does not take or that is out of range.
    """
    if recipe not in RECIPES:
        raise InputError(f"a recipe ({', '.join(RECIPES)})", f"'{recipe}'")
    make = RECIPES[recipe]
    signature = inspect.signature(make)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InputError(f"options that recipe '{recipe}' takes ({', '.join(signature.parameters)})",
                         str(error).removeprefix("got ")) from error
    return make(**options)
