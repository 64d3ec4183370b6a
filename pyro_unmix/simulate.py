"""Scenes with known truth: absorption-band spectra, maps with exact Dirichlet marginals, noise of stated level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, special

from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene

if TYPE_CHECKING:
    from pyro_unmix.mixing import Mixing

LEAST_ANGLE = 0.15  # rad between any two simulated spectra; real scenes have theirs at 0.1 to 1
_MOST_TRIES = 2000
# Below this a gamma quantile underflows to 0 in every endmember of a pixel at once.
_LEAST_CONCENTRATION = 0.05
_TRUNCATE = 4.0
_MOST_FIELDS = 1000


def absorption_spectra(n: int, wavelengths: np.ndarray, seed: int | np.random.Generator = 0) -> np.ndarray:
    """`n` reflectance spectra `(n, bands)` in (0, 1), at least 0.15 rad apart from each other.

    The modified Gaussian model of Sunshine, Pieters & Pratt (1990, JGR 95, 6955): the logarithm of reflectance is a
    continuum linear in photon energy minus absorption bands that are Gaussian in wavelength.
    `wavelengths` `(bands,)` in nm, in any order.

    Raises
    ------
    InputError
        `n` or the wavelengths make no sense, or so many different spectra do not fit into so few bands.
    """
    _check_count("n", n, 1)
    wavelengths = np.asarray(wavelengths, dtype=np.float64)
    if wavelengths.ndim != 1 or len(wavelengths) < 2 or not (np.isfinite(wavelengths) & (wavelengths > 0)).all():
        raise InputError("at least two positive wavelengths in nm", f"an array of shape {wavelengths.shape}")
    low, high = wavelengths.min(), wavelengths.max()
    rng = _generator(seed)
    chosen = np.empty((0, len(wavelengths)))
    for _ in range(_MOST_TRIES):
        at_ends = np.log(rng.uniform(0.15, 0.95, 2))  # log continuum at the two ends of the range
        energy = (1 / wavelengths - 1 / high) / (1 / low - 1 / high)
        centre = rng.uniform(low, high, 4)
        width = (high - low) * rng.uniform(0.015, 0.12, 4)
        depth = rng.uniform(0.0, 1.2, 4)
        bands = depth * np.exp(-0.5 * ((wavelengths[:, None] - centre) / width) ** 2)
        spectrum = np.exp(at_ends[1] + (at_ends[0] - at_ends[1]) * energy - bands.sum(axis=1))
        unit = spectrum / np.linalg.norm(spectrum)
        if not len(chosen) or (chosen @ unit / np.linalg.norm(chosen, axis=1)).max() < np.cos(LEAST_ANGLE):
            chosen = np.vstack([chosen, spectrum])
        if len(chosen) == n:
            return chosen
    raise InputError(f"a number of spectra that {len(wavelengths)} bands can tell apart", f"{n}",
                     "ask for fewer endmembers or more bands")


def dirichlet_field(
    rows: int,
    cols: int,
    concentration: np.ndarray,
    correlation_length: float = 4.0,
    seed: int | np.random.Generator = 0,
    max_abundance: float = 1.0,
) -> np.ndarray:
    """Abundance maps `(rows, cols, k)`, smooth in space, each pixel exactly Dirichlet(`concentration`).

    One Gaussian field for each endmember is sent through its distribution function to a gamma variable, and gammas
    divided by their sum are Dirichlet. A small `concentration` (k,) gives nearly pure pixels, a large one none.
    `correlation_length` in pixels, of the Gaussian fields. With `max_abundance` below 1 a pixel is Dirichlet given that no
    endmember exceeds it: where one does, the pixel is taken from the next of a series of independent maps, so that
    patches of several maps lie side by side.

    Raises
    ------
    InputError
        No pixel, fewer than two endmembers, a concentration below 0.05, a negative length, or a largest abundance that
        hardly any pixel keeps to.
    """
    _check_count("rows", rows, 1)
    _check_count("cols", cols, 1)
    concentration = np.atleast_1d(np.asarray(concentration, dtype=np.float64))
    if concentration.ndim != 1 or len(concentration) < 2 or not (
            np.isfinite(concentration) & (concentration >= _LEAST_CONCENTRATION)).all():
        raise InputError(f"a concentration of at least {_LEAST_CONCENTRATION} for each of two or more endmembers",
                         f"{concentration}")
    _check_number("correlation_length", correlation_length, 0.0)
    if not 1.0 / len(concentration) < max_abundance <= 1.0:
        raise InputError(f"max_abundance above 1 / {len(concentration)} and up to 1", repr(max_abundance))
    rng = _generator(seed)
    abundances = np.ones((rows, cols, len(concentration)))
    over = np.ones((rows, cols), bool)
    for _ in range(_MOST_FIELDS):
        normal = np.stack([_smooth_field(rows, cols, correlation_length, rng) for _ in concentration], axis=-1)
        gamma = special.gammaincinv(concentration, special.ndtr(normal[over]))
        abundances[over] = gamma / gamma.sum(axis=-1, keepdims=True)
        over = abundances.max(axis=-1) > max_abundance
        if not over.any():
            return abundances
    raise InputError("a max_abundance that pixels of this concentration keep to", repr(max_abundance),
                     "raise it, or raise the concentration")


def simulate_scene(
    n_endmembers: int = 4,
    shape: tuple[int, int] = (64, 64),
    *,
    n_bands: int = 100,
    wavelengths: np.ndarray | None = None,
    endmembers: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    variants: Sequence[np.ndarray] | None = None,
    snr_db: float = 30.0,
    concentration: float | np.ndarray = 1.0,
    correlation_length: float = 4.0,
    max_abundance: float = 1.0,
    pure_share: float = 0.0,
    brightness: float = 0.0,
    mixing: Mixing | None = None,
    seed: int = 0,
    name: str = "simulated",
) -> Scene:
    """A mixed scene with its truth as reference: abundances, endmembers and, where it varies, brightness.

    Parameters
    ----------
    n_endmembers, shape
        Number of materials, unless `endmembers` are given; rows and columns.
    n_bands, wavelengths
        `n_bands` bands spread evenly over 400 to 2500 nm, unless `wavelengths` (bands,) in nm are given.
    endmembers, names
        Spectra (k, bands) to mix, measured at `wavelengths`, in place of `absorption_spectra`; what to call them (k,).
    variants
        For each of the k endmembers other spectra (m, bands) of its material, m from 0 up. A pixel's own spectrum of a
        material is a convex combination that is smooth in space: a share uniform on (0, 1) of the variants, themselves
        mixed by Dirichlet(1, ..., 1), and the rest of the endmember. The reference holds the endmembers as given.
    snr_db
        10 log10 of the mean squared signal over the noise variance; white Gaussian noise, the same in every band.
    concentration
        Of the Dirichlet distribution of a pixel, one number or one for each endmember. Small: nearly pure pixels.
    correlation_length
        Of the abundance and brightness fields, in pixels.
    max_abundance
        No pixel holds more than this of any endmember; below 1 the scene has no pure pixels. How: `dirichlet_field`.
    pure_share
        Share of the pixels, in patches, that hold nothing but what was their most abundant material.
    brightness
        Standard deviation of the logarithm of a positive factor per pixel with median 1; 0 leaves it out.
    mixing
        How the endmembers of a pixel combine: one of `pyro_unmix.mixing`. None: linearly.
    seed
        The same seed gives the same scene, but for the mixing.

    Raises
    ------
    InputError
        An argument out of its range, spectra whose shapes do not agree, a `max_abundance` that hardly any pixel keeps to, or a
        mixing together with variants.
    """
    if endmembers is not None:
        endmembers = _check_spectra("endmembers", endmembers, wavelengths)
        n_endmembers = len(endmembers)
    _check_count("n_endmembers", n_endmembers, 2)
    _check_count("n_bands", n_bands, 2)
    _check_number("brightness", brightness, 0.0)
    _check_number("snr_db", snr_db, -np.inf)
    if np.shape(shape) != (2,):
        raise InputError("a shape (rows, columns)", f"{shape}")
    concentration = np.asarray(concentration, dtype=np.float64)
    if concentration.shape not in {(), (n_endmembers,)}:
        raise InputError(f"one concentration, or {n_endmembers}", f"shape {concentration.shape}")
    _check_number("pure_share", pure_share, 0.0)
    if pure_share > 1 or (pure_share and max_abundance < 1):
        raise InputError("pure_share up to 1, and 0 with a max_abundance below 1", f"{pure_share:g}")
    if mixing is not None and not hasattr(mixing, "spectra"):
        raise InputError("a mixing of pyro_unmix.mixing", f"{mixing!r}", "make your own a subclass of pyro_unmix.mixing.Mixing")
    wavelengths = np.linspace(400.0, 2500.0, n_bands) if wavelengths is None else np.asarray(wavelengths, float)
    if variants is not None:
        if len(variants) != n_endmembers:
            raise InputError(f"variants of each of {n_endmembers} endmembers", f"of {len(variants)}",
                             "an endmember without variants takes an array of shape (0, bands)")
        if mixing is not None:
            raise InputError("linear mixing where endmembers vary", f"{mixing!r}", "leave out the mixing or the variants")
        variants = [_check_spectra("variants", spectra, wavelengths) for spectra in variants]

    rng = _generator(seed)
    if endmembers is None:
        endmembers = absorption_spectra(n_endmembers, wavelengths, rng)
    abundances = dirichlet_field(*shape, np.broadcast_to(concentration, n_endmembers), correlation_length, rng, max_abundance)
    factor = np.exp(brightness * _smooth_field(*shape, correlation_length, rng))
    noise = rng.standard_normal((*shape, len(wavelengths)))
    # What not every scene has is drawn last, so that with and without it the rest of the scene is the same.
    if pure_share:
        first = np.argsort(_smooth_field(*shape, correlation_length, rng), axis=None)[:round(pure_share * factor.size)]
        pure = np.unravel_index(first, shape)
        abundances[pure] = np.eye(n_endmembers)[abundances[pure].argmax(axis=-1)]
    shares, spectra = abundances, endmembers
    if variants is not None:
        weights = [_sample_weights(*shape, len(others), correlation_length, rng) for others in variants]
        shares = np.concatenate([abundances[..., k, None] * own for k, own in enumerate(weights)], axis=-1)
        spectra = np.concatenate([np.vstack([own, others]) for own, others in zip(endmembers, variants, strict=True)])
    signal = factor[..., None] * (shares @ spectra if mixing is None else mixing.spectra(abundances, endmembers))
    noise_sd = np.sqrt(np.mean(signal**2) / 10 ** (snr_db / 10))
    return Scene(
        signal + noise_sd * noise,
        wavelengths=wavelengths,
        abundances=abundances,
        endmembers=endmembers,
        names=[f"material {i + 1}" for i in range(n_endmembers)] if names is None else names,
        brightness=factor if brightness else None,
        name=name,
    )


def example_scene() -> Scene:
    """The small scene of `pyro-unmix demo` and `data/example.npz`: 48 x 48 pixels, 100 bands, four materials."""
    scene = simulate_scene(4, (48, 48), n_bands=100, snr_db=35.0, concentration=0.5, correlation_length=5.0,
                           brightness=0.1, seed=7, name="example")
    # Four decimals, as sensors deliver, also hide the last bits in which mathematical libraries differ.
    scene.reflectance = scene.reflectance.round(4)
    return scene


def _sample_weights(rows: int, cols: int, n: int, correlation_length: float, rng: np.random.Generator) -> np.ndarray:
    """Weights `(rows, cols, 1 + n)` of a reference sample and `n` others of its material; all on the first where n is 0."""
    if not n:
        return np.ones((rows, cols, 1))
    others, *each = (_smooth_field(rows, cols, correlation_length, rng) for _ in range(1 + n))
    exponential = -special.log_ndtr(np.stack(each, axis=-1))
    share = special.ndtr(others)[..., None]
    return np.concatenate([1 - share, share * exponential / exponential.sum(axis=-1, keepdims=True)], axis=-1)


def _smooth_field(rows: int, cols: int, correlation_length: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian field: each pixel exactly N(0, 1), correlation exp(-d^2 / (2 length^2)) at distance d."""
    sigma = correlation_length / np.sqrt(2.0)  # white noise smoothed by a Gaussian has the kernel's width times sqrt 2
    margin = int(_TRUNCATE * sigma) + 2  # beyond the reach of the kernel, so that no pixel feels the edge
    noise = rng.standard_normal((rows + 2 * margin, cols + 2 * margin))
    if sigma > 0:
        impulse = np.zeros(2 * margin + 1)
        impulse[margin] = 1.0
        kernel = ndimage.gaussian_filter1d(impulse, sigma, truncate=_TRUNCATE)
        # The kernel of the plane is an outer product, whose sum of squares is the square of this one.
        noise = ndimage.gaussian_filter(noise, sigma, truncate=_TRUNCATE) / np.sum(kernel**2)
    return noise[margin:-margin, margin:-margin]


def _generator(seed: int | np.random.Generator) -> np.random.Generator:
    if isinstance(seed, np.random.Generator):
        return seed
    _check_count("seed", seed, 0)
    return np.random.Generator(np.random.PCG64(seed))


def _check_spectra(what: str, spectra: np.ndarray, wavelengths: np.ndarray | None) -> np.ndarray:
    if wavelengths is None:
        raise InputError("the wavelengths of the spectra", "none", "give wavelengths (bands,) in nm")
    spectra = np.asarray(spectra, dtype=np.float64)
    if spectra.ndim != 2 or spectra.shape[1] != np.size(wavelengths) or not np.isfinite(spectra).all():
        raise InputError(f"{what} (n, {np.size(wavelengths)}) of finite numbers, a column a wavelength", f"shape {spectra.shape}")
    return spectra


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} a whole number of at least {least}", repr(value))


def _check_number(name: str, value: float, least: float) -> None:
    if not np.isfinite(value) or value < least:
        raise InputError(f"{name} a finite number" + (f" from {least:g} up" if least > -np.inf else ""), repr(value))
