"""The one door in: a hyperspectral scene, checked once, with its mask and its reference."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning

# Below this, a "wavelength" can only be in micrometres; above, only in nanometres.
_LARGEST_MICROMETRE = 100.0
# A measured value is not the extreme one so often; of values that are saturated it is a share of all.
_REPEATED, _SATURATED = 20, 3e-3


class Scene:
    """A hyperspectral image, ready to be unmixed.

    Parameters
    ----------
    image
        `(y, x, wavelength)`: rows, columns, bands, in any unit proportional to reflectance. Either an array or an
        `xarray.DataArray` with exactly those dimensions, whose coordinates (georeference included) are kept.
    wavelengths
        `(bands,)` in nanometres. Micrometres are converted, with a warning. Need not be sorted: sensors whose detectors
        overlap are not.
    fwhm
        `(bands,)`, the full widths at half maximum of the bands in nanometres, where they are known.
    mask
        `(y, x)`, True where the pixel is to be used. Pixels with a value that is not finite, and pixels without data
        (the same value, zero or negative, in every band), are masked with a warning that counts them.
    abundances, endmembers, names, brightness
        The reference, if there is one: `(y, x, k)`, `(k, bands)`, `(k,)`, and where a simulation knows it the factor of each
        pixel `(y, x)`. Read by `evaluate` only, never by a fit.
    name
        What to call the scene in files and reports.

    Raises
    ------
    InputError
        Wrong shape, no usable pixel, a band without any finite value, wavelengths or widths of the wrong length.
    """

    name: str
    reflectance: xr.DataArray
    mask: xr.DataArray
    reference: xr.Dataset | None

    def __init__(
        self,
        image: np.ndarray | xr.DataArray,
        *,
        wavelengths: Sequence[float] | np.ndarray | None = None,
        fwhm: Sequence[float] | np.ndarray | None = None,
        mask: np.ndarray | None = None,
        abundances: np.ndarray | None = None,
        endmembers: np.ndarray | None = None,
        names: Sequence[str] | None = None,
        brightness: np.ndarray | None = None,
        name: str = "scene",
    ):
        if isinstance(image, xr.DataArray):
            if set(image.dims) != {"y", "x", "wavelength"}:
                raise InputError("an image with dimensions y, x, wavelength", f"dimensions {', '.join(map(str, image.dims))}",
                                 "rename them with image.rename(...)")
            image = image.transpose("y", "x", "wavelength")
            if wavelengths is None and image.wavelength.attrs.get("units", "nm") != "1":
                wavelengths = image.wavelength.values if "wavelength" in image.coords else None
            if fwhm is None and "fwhm" in image.coords:
                fwhm = image.fwhm.values
            kept = {key: coord for key, coord in image.coords.items() if "wavelength" not in coord.dims}
        else:
            kept = {}
        values = _check_image(np.asarray(image))
        wavelengths = _check_wavelengths(wavelengths, values.shape)
        fwhm = _check_widths(fwhm, values.shape[2])
        use = _check_mask(mask, values, wavelengths)

        self._hold(values, use, scene_coords(values.shape, wavelengths, fwhm, kept), name)
        self.reference = check_reference(abundances, endmembers, names, self.reflectance, brightness)

    @classmethod
    def of_checked(cls, values: np.ndarray, use: np.ndarray, coords: dict, name: str) -> Scene:
        """From float32 values `(y, x, wavelength)` whose pixels `use` `(y, x)` are known to have data, with `scene_coords`."""
        scene = cls.__new__(cls)
        scene._hold(values, use, coords, name)
        return scene

    def _hold(self, values: np.ndarray, use: np.ndarray, coords: dict, name: str) -> None:
        self.name, self.reference = name, None
        self.reflectance = xr.DataArray(values, dims=("y", "x", "wavelength"), name="reflectance", coords=coords)
        self.mask = xr.DataArray(use, dims=("y", "x"), coords={k: v for k, v in self.reflectance.coords.items()
                                                               if "wavelength" not in v.dims}, name="mask")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(rows, columns, bands)`."""
        rows, cols, n_bands = self.reflectance.shape
        return rows, cols, n_bands

    @property
    def n_bands(self) -> int:
        return self.shape[2]

    @property
    def n_pixels(self) -> int:
        """Number of pixels in use."""
        return int(self.mask.sum())

    @property
    def wavelengths(self) -> np.ndarray | None:
        """`(bands,)` in nanometres, or None where the scene does not know them."""
        band = self.reflectance.wavelength
        return None if band.attrs.get("units") == "1" else band.values

    @property
    def fwhm(self) -> np.ndarray | None:
        """`(bands,)`, full widths at half maximum in nanometres, or None where the scene does not know them."""
        return self.reflectance.fwhm.values if "fwhm" in self.reflectance.coords else None

    def pixels(self) -> np.ndarray:
        """The pixels in use, `(n_pixels, bands)`, row by row."""
        return self.reflectance.values[self.mask.values]

    def digest(self) -> str:
        """A short name for the pixels in use, where they stand, and their spectra: two scenes that differ in any have two."""
        found = hashlib.sha256(self.mask.values.tobytes())
        found.update(np.ascontiguousarray(self.pixels()).tobytes())
        return found.hexdigest()[:16]

    def crop(self, y: slice = slice(None), x: slice = slice(None)) -> Scene:
        """The part of the scene at rows `y` and columns `x` (positions), its reference with it."""
        reference = self.reference if self.reference is not None else xr.Dataset()
        maps = {name: reference[name].isel(y=y, x=x).values for name in ("abundances", "brightness") if name in reference}
        return Scene(
            self.reflectance.isel(y=y, x=x),
            mask=self.mask.isel(y=y, x=x).values,
            **maps,
            endmembers=reference.endmembers.values if "endmembers" in reference else None,
            names=list(reference.endmember.values) if reference.sizes else None,
            name=self.name,
        )

    def __repr__(self) -> str:
        rows, cols, bands = self.shape
        known = self.wavelengths
        spectrum = f"{bands} bands" if known is None else f"{bands} bands, {known.min():.0f} to {known.max():.0f} nm"
        reference = "" if self.reference is None else f", reference of {self.reference.sizes['endmember']} endmembers"
        return f"<Scene '{self.name}': {rows} x {cols} pixels ({self.n_pixels} in use), {spectrum}{reference}>"


def scene_coords(shape: tuple[int, int, int], wavelengths: np.ndarray | None, fwhm: np.ndarray | None, ground: dict) -> dict:
    """Coordinates of an image of `shape` `(rows, columns, bands)`; `ground` are those that say where its pixels are."""
    rows, cols, n_bands = shape
    if wavelengths is None:
        band = ("wavelength", np.arange(n_bands), {"units": "1", "long_name": "band index"})
    else:
        band = ("wavelength", wavelengths, {"units": "nm", "long_name": "wavelength"})
    coords = {"y": np.arange(rows), "x": np.arange(cols), **ground, "wavelength": band}
    if fwhm is not None:
        coords["fwhm"] = ("wavelength", fwhm, {"units": "nm", "long_name": "full width at half maximum"})
    return coords


def _check_image(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3:
        raise InputError("an image of 3 dimensions (rows, columns, bands)", f"shape {image.shape}",
                         "reshape it, or stack its bands along the last axis")
    if image.dtype.kind not in "fiub":
        raise InputError("an image of real numbers", f"type {image.dtype}", "convert it to float")
    if min(image.shape) == 0 or image.shape[2] < 2:
        raise InputError("at least one row, one column and two bands", f"shape {image.shape}")
    with np.errstate(over="ignore"):  # a fill value beyond the range of float32 becomes infinite, and its pixels are masked
        return image.astype(np.float32, copy=False)


def _check_wavelengths(wavelengths, shape: tuple[int, int, int]) -> np.ndarray | None:
    if wavelengths is None:
        return None
    wavelengths = _numbers(wavelengths, "wavelengths", np.float64).ravel()
    if len(wavelengths) != shape[2]:
        transposed = len(wavelengths) in shape[:2]
        raise InputError(f"{shape[2]} wavelengths, one a band (the last axis of the image)", f"{len(wavelengths)}",
                         f"the image has shape {shape}: put its bands last" if transposed
                         else "give the wavelengths of the bands that were kept")
    if not np.isfinite(wavelengths).all() or (wavelengths <= 0).any():
        raise InputError("finite, positive wavelengths in nanometres", "a value that is not",
                         "leave the wavelengths out if they are unknown")
    if wavelengths.max() < _LARGEST_MICROMETRE:
        warnings.warn(f"wavelengths from {wavelengths.min():g} to {wavelengths.max():g} are taken as micrometres "
                      "and converted to nanometres", UnmixWarning, stacklevel=3)
        wavelengths = wavelengths * 1000.0
    return wavelengths


def _numbers(values, what: str, dtype: type = np.float32) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise InputError(f"{what} that are real numbers", f"type {values.dtype}", "convert them to float")
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def _check_widths(fwhm, n_bands: int) -> np.ndarray | None:
    if fwhm is None:
        return None
    fwhm = _numbers(fwhm, "fwhm", np.float64).ravel()
    if len(fwhm) != n_bands or not (np.isfinite(fwhm) & (fwhm > 0)).all():
        raise InputError(f"{n_bands} positive widths of bands (fwhm) in nanometres", f"{len(fwhm)} numbers"
                         + (", some of them not positive" if len(fwhm) == n_bands else ""), "leave them out if they are unknown")
    return fwhm


def _check_mask(mask, values: np.ndarray, wavelengths) -> np.ndarray:
    use = np.ones(values.shape[:2], bool) if mask is None else np.asarray(mask).astype(bool)
    if use.shape != values.shape[:2]:
        raise InputError(f"a mask of shape {values.shape[:2]}", f"shape {use.shape}")
    if not use.any():
        raise InputError("a mask with at least one pixel to use (True)", "no such pixel", "check that True means 'use'")

    broken, empty = gaps(values)
    if broken[use].all():
        finite = np.isfinite(values[use])
        if not finite.any():
            raise InputError("an image with a finite value", "none", "check the image for fill values")
        if len(dead := np.flatnonzero(~finite.any(axis=0))):
            where = ", ".join(str(b) if wavelengths is None else f"{b} ({wavelengths[b]:.0f} nm)" for b in dead[:8])
            raise InputError("a finite value in every band", f"no finite value in band {where}{' ...' if len(dead) > 8 else ''}",
                             "drop these bands from the image and from the wavelengths")
    for bad, what in ((broken, "have a value that is not finite"), (empty, "have no data (one value in all bands)")):
        if count := int((bad & use).sum()):
            warnings.warn(f"{count} of {int(use.sum())} pixels {what} and are masked", UnmixWarning, stacklevel=3)
            use = use & ~bad
    if not use.any():
        raise InputError("at least one pixel with data", "none", "check the image for fill values")
    pixels = values.reshape(-1, values.shape[2]) if use.all() else values[use]
    constant = np.flatnonzero(pixels.min(axis=0) == pixels.max(axis=0))
    if len(pixels) > 1 and len(constant):
        warnings.warn(f"{len(constant)} bands hold one value in all pixels (first: band {constant[0]}): "
                      "they tell nothing, better drop them", UnmixWarning, stacklevel=3)
    _tell_extremes(pixels)
    return use


def gaps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(y, x)` of `values` `(y, x, bands)` that have a value that is not finite, and those that have no data."""
    with np.errstate(invalid="ignore"):
        lowest, highest = values.min(axis=2), values.max(axis=2)
    finite = np.isfinite(lowest) & np.isfinite(highest)
    return ~finite, finite & (lowest == highest) & (highest <= 0)


def _tell_extremes(pixels: np.ndarray) -> None:
    """Warn of a value that no measurement repeats so often: of no data in some bands, or the end of the sensor's range."""
    lowest, highest = pixels.min(), pixels.max()
    if lowest < 0 and (count := int((pixels == lowest).sum())) >= _REPEATED:
        warnings.warn(f"the lowest value, {lowest:g}, is in {count} places: if it stands for no data, mask these pixels or drop "
                      "these bands", UnmixWarning, stacklevel=4)
    count = int((pixels == highest).sum())
    if count >= max(_REPEATED, _SATURATED * pixels.size):
        warnings.warn(f"the largest value, {highest:g}, is {100 * count / pixels.size:.1f} % of all values: if the sensor is "
                      "saturated there, mask these pixels or drop these bands", UnmixWarning, stacklevel=4)


def check_reference(abundances, endmembers, names, reflectance: xr.DataArray, brightness=None) -> xr.Dataset | None:
    if abundances is None and endmembers is None:
        return None
    rows, cols, n_bands = reflectance.shape
    if abundances is not None and np.shape(abundances)[:-1] != (rows, cols):
        raise InputError(f"reference abundances of shape ({rows}, {cols}, k)", f"shape {np.shape(abundances)}")
    k = np.shape(abundances)[-1] if abundances is not None else len(np.atleast_2d(endmembers))
    names = [f"endmember {i + 1}" for i in range(k)] if names is None else [str(n) for n in names]
    reference = xr.Dataset(coords={"endmember": names})
    if len(names) != k:
        raise InputError(f"{k} reference names", f"{len(names)}")
    if abundances is not None:
        reference["abundances"] = (("y", "x", "endmember"), _numbers(abundances, "reference abundances"))
        reference = reference.assign_coords(y=reflectance.y, x=reflectance.x)
    if endmembers is not None:
        if np.shape(endmembers) != (k, n_bands):
            raise InputError(f"reference endmembers of shape ({k}, {n_bands})", f"shape {np.shape(endmembers)}")
        reference["endmembers"] = (("endmember", "wavelength"), _numbers(endmembers, "reference endmembers"))
        reference = reference.assign_coords(wavelength=reflectance.wavelength)
    if brightness is not None:
        if np.shape(brightness) != (rows, cols):
            raise InputError(f"reference brightness of shape ({rows}, {cols})", f"shape {np.shape(brightness)}")
        reference["brightness"] = (("y", "x"), _numbers(brightness, "reference brightness"))
        reference = reference.assign_coords(y=reflectance.y, x=reflectance.x)
    return reference
