"""The one door in: what is let through, what is mended, what is turned away."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.scene import Scene

NM = np.linspace(400, 900, 6)


def cube(rows=4, cols=5, bands=6, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.9, (rows, cols, bands))


def test_an_array_becomes_named_dimensions():
    image = cube()
    scene = Scene(image, wavelengths=NM, name="field")
    assert scene.reflectance.dims == ("y", "x", "wavelength") and scene.reflectance.dtype == np.float32
    assert scene.shape == (4, 5, 6) and scene.n_bands == 6 and scene.n_pixels == 20 and scene.name == "field"
    assert scene.reference is None
    np.testing.assert_allclose(scene.reflectance.values, image, rtol=1e-6)
    np.testing.assert_array_equal(scene.wavelengths, NM)
    assert scene.reflectance.wavelength.attrs["units"] == "nm"


def test_wavelengths_may_be_unknown():
    scene = Scene(cube())
    assert scene.wavelengths is None
    np.testing.assert_array_equal(scene.reflectance.wavelength, np.arange(6))
    assert scene.crop(slice(0, 2)).wavelengths is None, "a band index must not come back as nanometres"


def test_wavelengths_need_not_be_sorted_nor_distinct():
    nm = np.array([400.0, 700, 690, 690, 800, 900])
    np.testing.assert_array_equal(Scene(cube(), wavelengths=nm).wavelengths, nm)


def test_micrometres_are_converted_with_a_warning():
    with pytest.warns(UnmixWarning, match="micrometres"):
        scene = Scene(cube(), wavelengths=NM / 1000)
    np.testing.assert_allclose(scene.wavelengths, NM)


def test_a_data_array_keeps_its_coordinates():
    image = xr.DataArray(cube(), dims=("y", "x", "wavelength"),
                         coords={"y": 50.0 - np.arange(4), "x": 30.0 + np.arange(5), "wavelength": NM, "spatial_ref": 0,
                                 "band_name": ("wavelength", list("abcdef"))})
    scene = Scene(image.transpose("wavelength", "y", "x"))
    assert scene.shape == (4, 5, 6) and set(scene.reflectance.coords) == {"y", "x", "wavelength", "spatial_ref"}
    np.testing.assert_array_equal(scene.reflectance.y, image.y)
    np.testing.assert_array_equal(scene.mask.x, image.x)
    np.testing.assert_array_equal(scene.wavelengths, NM)
    np.testing.assert_allclose(scene.reflectance.values, image.values, rtol=1e-6)


def test_widths_of_bands_are_kept():
    scene = Scene(cube(), wavelengths=NM, fwhm=np.full(6, 7.5))
    np.testing.assert_array_equal(scene.fwhm, np.full(6, 7.5))
    np.testing.assert_array_equal(scene.crop(slice(0, 2)).fwhm, scene.fwhm)
    assert Scene(cube(), wavelengths=NM).fwhm is None


def test_a_data_array_need_not_know_its_wavelengths():
    image = xr.DataArray(cube(), dims=("y", "x", "wavelength"))
    assert Scene(image).wavelengths is None
    np.testing.assert_array_equal(Scene(image, wavelengths=NM).wavelengths, NM)


def test_pixels_come_row_by_row():
    mask = np.ones((4, 5), bool)
    mask[1, 2:] = False
    scene = Scene(cube(), mask=mask)
    values = scene.reflectance.values
    np.testing.assert_array_equal(scene.pixels(), np.concatenate([values[0], values[1, :2], values[2], values[3]]))


def test_pixels_that_are_not_finite_are_masked_and_counted():
    image = cube()
    image[0, 0, 1], image[2, 3, :] = np.nan, np.inf
    with pytest.warns(UnmixWarning, match="2 of 20 pixels have a value that is not finite"):
        scene = Scene(image)
    assert scene.n_pixels == 18 and not scene.mask[0, 0] and not scene.mask[2, 3]


def test_a_fill_value_of_double_precision_is_masked():
    image = cube()
    image[1, :2] = -np.finfo(np.float64).max
    with pytest.warns(UnmixWarning, match="2 of 20 pixels have a value that is not finite"):
        assert Scene(image).n_pixels == 18


@pytest.mark.parametrize("fill", [0.0, -9999.0])
def test_pixels_without_data_are_masked_and_counted(fill):
    image = cube()
    image[1, :2] = fill
    with pytest.warns(UnmixWarning, match="2 of 20 pixels have no data"):
        scene = Scene(image)
    assert scene.n_pixels == 18 and not scene.mask[1, :2].any()


def test_a_fill_value_in_some_bands_is_told():
    image = cube(10, 10, 8)
    image[:5, :, 4:] = -9999
    with pytest.warns(UnmixWarning, match="the lowest value, -9999, is in 200 places: if it stands for no data"):
        Scene(image)


def test_saturation_is_told():
    image = cube(10, 10, 8)
    Scene(image)  # without a word
    with pytest.warns(UnmixWarning, match=r"the largest value, .* is \d+\.\d % of all values: if the sensor is saturated"):
        Scene(np.minimum(image, np.quantile(image, 0.9)))


def test_a_grey_pixel_is_data():
    image = cube()
    image[1, 1] = 0.4
    assert Scene(image).n_pixels == 20


def test_what_is_masked_already_is_not_warned_about():
    image, mask = cube(), np.ones((4, 5), bool)
    image[0, 0], mask[0, 0] = np.nan, False
    assert Scene(image, mask=mask).n_pixels == 19


def test_a_band_without_information_is_warned_about():
    image = cube()
    image[:, :, 3] = 0.5
    with pytest.warns(UnmixWarning, match="1 bands hold one value in all pixels .first: band 3"):
        Scene(image)


def test_warnings_point_at_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = cube()
        image[0, 0] = np.nan
        Scene(image, wavelengths=NM / 1000)
    assert {warning.filename for warning in caught} == {__file__} and len(caught) == 2


def test_the_reference_has_names_and_coordinates():
    scene = Scene(cube(), wavelengths=NM, abundances=np.full((4, 5, 2), 0.5), endmembers=np.ones((2, 6)), names=["soil", "tree"])
    assert dict(scene.reference.sizes) == {"y": 4, "x": 5, "endmember": 2, "wavelength": 6}
    assert list(scene.reference.endmember.values) == ["soil", "tree"]
    np.testing.assert_array_equal(scene.reference.wavelength, NM)
    only = Scene(cube(), endmembers=np.ones((2, 6))).reference
    assert "abundances" not in only and list(only.endmember.values) == ["endmember 1", "endmember 2"]


@given(st.data())
def test_a_crop_is_the_part_asked_for(data):
    rows, cols = (sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in (4, 5))
    mask = np.ones((4, 5), bool)
    mask[0, 0] = False
    abundances = np.random.default_rng(1).dirichlet(np.ones(2), (4, 5))
    scene = Scene(cube(), wavelengths=NM, mask=mask, abundances=abundances, endmembers=np.ones((2, 6)), name="field")
    y, x = slice(*rows), slice(*cols)
    if not mask[y, x].any():
        with pytest.raises(InputError, match="at least one pixel"):
            scene.crop(y, x)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a crop of few pixels may hold one value in a band
        part = scene.crop(y, x)
    np.testing.assert_array_equal(part.reflectance.values, scene.reflectance.values[y, x])
    np.testing.assert_array_equal(part.mask.values, mask[y, x])
    np.testing.assert_array_equal(part.reference.abundances.values, scene.reference.abundances.values[y, x])
    np.testing.assert_array_equal(part.reflectance.y, scene.reflectance.y[y])
    np.testing.assert_array_equal(part.reference.x, scene.reflectance.x[x])
    assert part.name == "field" and list(part.reference.endmember.values) == ["endmember 1", "endmember 2"]
    assert scene.shape == (4, 5, 6)


def test_a_crop_of_a_scene_without_reference():
    assert Scene(cube(), wavelengths=NM).crop(x=slice(1, 3)).reference is None


def test_it_introduces_itself():
    known = Scene(cube(), wavelengths=NM, endmembers=np.ones((2, 6)), name="field")
    assert repr(known) == "<Scene 'field': 4 x 5 pixels (20 in use), 6 bands, 400 to 900 nm, reference of 2 endmembers>"
    assert repr(Scene(cube())) == "<Scene 'scene': 4 x 5 pixels (20 in use), 6 bands>"


DEAD = cube()
DEAD[:, :, 2] = np.nan


@pytest.mark.parametrize("image, options, complaint", [
    (cube()[0], {}, "3 dimensions.*shape .5, 6."),
    (cube().astype(complex), {}, "real numbers"),
    (np.full((2, 2, 3), "a"), {}, "real numbers"),
    (cube(bands=1), {}, "two bands"),
    (cube(rows=0), {}, "at least one row"),
    (xr.DataArray(cube(), dims=("y", "x", "band")), {}, "dimensions y, x, wavelength.*rename"),
    (cube(), {"wavelengths": NM[:5]}, "6 wavelengths.*got 5.*put its bands last"),
    (cube(), {"wavelengths": np.arange(1.0, 8.0)}, "6 wavelengths.*got 7.*bands that were kept"),
    (cube(), {"wavelengths": [400, 500, np.nan, 700, 800, 900]}, "finite, positive wavelengths"),
    (cube(), {"wavelengths": NM - 400}, "finite, positive wavelengths"),
    (cube(), {"wavelengths": list("abcdef")}, "wavelengths that are real numbers"),
    (cube(), {"abundances": np.full((4, 5, 3), "x")}, "reference abundances that are real numbers"),
    (np.full((4, 5, 6), np.nan), {}, "an image with a finite value"),
    (cube(), {"fwhm": np.ones(5)}, "6 positive widths.*got 5"),
    (cube(), {"fwhm": np.zeros(6)}, "6 positive widths.*not positive"),
    (cube(), {"mask": np.ones((5, 4), bool)}, "mask of shape .4, 5."),
    (cube(), {"mask": np.zeros((4, 5), bool)}, "at least one pixel to use"),
    (DEAD, {}, "no finite value in band 2;"),
    (DEAD, {"wavelengths": NM}, "no finite value in band 2 .600 nm."),
    (cube(), {"abundances": np.ones((4, 4, 2))}, "reference abundances of shape .4, 5, k."),
    (cube(), {"abundances": np.ones(3)}, "reference abundances of shape"),
    (cube(), {"abundances": 0.5}, "reference abundances of shape"),
    (cube(), {"endmembers": np.ones((2, 5))}, "reference endmembers of shape .2, 6."),
    (cube(), {"endmembers": 0.5}, "reference endmembers of shape"),
    (cube(), {"endmembers": np.ones((2, 6)), "brightness": np.ones((5, 4))}, "reference brightness of shape .4, 5."),
    (cube(), {"abundances": np.ones((4, 5, 3)), "endmembers": np.ones((2, 6))}, "reference endmembers of shape .3, 6."),
    (cube(), {"endmembers": np.ones((2, 6)), "names": ["one"]}, "2 reference names, got 1"),
])
def test_what_cannot_be_used_is_turned_away(image, options, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        Scene(image, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pyro_unmix.errors.UnmixWarning")
def test_an_empty_scene_is_turned_away():
    with pytest.raises(InputError, match="at least one pixel with data"):
        Scene(np.zeros((3, 3, 4)))
