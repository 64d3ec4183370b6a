"""A scene in every format that can be opened, written by the libraries that others write them with."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import rasterio
import scipy.io

import pyro_unmix as pu


def write_all(scene: pu.Scene, folder: Path) -> dict[str, Path]:
    """The path to open, by the name of the format; what a format has in files beside it has the same stem."""
    folder.mkdir(parents=True, exist_ok=True)
    image = scene.reflectance.values
    pu.save_scene(scene, folder / "scene.npz")
    scipy.io.savemat(folder / "v5.mat", {"Y": image})
    with h5py.File(folder / "v73.mat", "w", userblock_size=512) as file:
        file.create_dataset("Y", data=image.T, compression="gzip").attrs["MATLAB_class"] = np.bytes_("double")
    cube = scene.reflectance.rename("reflectance").to_dataset()
    cube.to_netcdf(folder / "four.nc", engine="h5netcdf", encoding={"reflectance": {"zlib": True}})
    cube.to_netcdf(folder / "three.nc", engine="scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither a missing georeference nor the metadata of Zarr matters here
        cube.to_zarr(folder / "store.zarr", mode="w", consolidated=False)
        for name, driver, options in (("image.img", "ENVI", {}), ("image.tif", "GTiff", {"compress": "deflate"})):
            rows, cols, bands = image.shape
            with rasterio.open(folder / name, "w", driver=driver, width=cols, height=rows, count=bands, dtype="float32",
                               **options) as file:
                file.write(np.moveaxis(image, -1, 0))
                for number, wavelength in enumerate(scene.wavelengths, start=1):
                    file.set_band_description(number, f"{wavelength:.2f} nm")
    return {"npz": folder / "scene.npz", "MATLAB 5": folder / "v5.mat", "MATLAB 7.3": folder / "v73.mat",
            "NetCDF 4": folder / "four.nc", "NetCDF 3": folder / "three.nc", "Zarr": folder / "store.zarr",
            "ENVI": folder / "image.hdr", "GeoTIFF": folder / "image.tif"}


def files_of(path: Path) -> list[Path]:
    """The files that hold what is opened by this path."""
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    return [path, *([path.with_suffix(".img")] if path.suffix == ".hdr" else [])]
