"""Spectral libraries in ENVI files and tables, and what every format has in common: units, bad bands, gaps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.library import open_library

DATA = os.environ.get("PYRO_UNMIX_DATA")
real = pytest.mark.skipif(not (DATA and (Path(DATA) / "original").is_dir()), reason="PYRO_UNMIX_DATA has no original/")
WAVELENGTHS = np.array([400.0, 450.0, 500.0, 700.0, 650.0, 900.0])  # two spectrometers that overlap
ORDER = [0, 1, 2, 4, 3, 5]
SPECTRA = np.random.default_rng(0).uniform(0.2, 0.9, (3, 6)).round(4)
NAMES = ["Alunite GDS83", "Jarosite Na,K", "Kaolinite"]


def listed(values):
    return "{\n " + ",\n ".join(map(str, values)) + "}"


def write_envi(folder, spectra=SPECTRA, *, data_type=4, byte_order=0, header="lib.hdr", data="lib.sli", offset=0, **fields):
    """A pair of files; of `fields` those that are None are left out of the header."""
    kind = {1: "u1", 2: "i2", 4: "f4", 5: "f8", 12: "u2"}.get(data_type, "f4")
    (folder / data).write_bytes(b"\0" * offset + np.asarray(spectra).astype("<>"[byte_order] + kind).tobytes())
    fields = {"description": "{\n  made = here, bands = 9}", "samples": 6, "lines": 3, "bands": 1, "header_offset": offset,
              "file_type": "ENVI Spectral Library", "data_type": data_type, "byte_order": byte_order, "sensor_type": "",
              "wavelength_units": "Micrometers", "spectra_names": listed(NAMES), "wavelength": listed(WAVELENGTHS / 1000),
              } | fields
    lines = [f"{name.replace('_', ' ')} = {value}" for name, value in fields.items() if value is not None]
    (folder / header).write_text("\n".join(["ENVI", *lines]), encoding="latin-1")
    return folder / data


@pytest.mark.parametrize("options", [
    {}, {"data_type": 5}, {"byte_order": 1}, {"data_type": 5, "byte_order": 1, "offset": 7}, {"header": "lib.sli.hdr"},
    {"header": "lib.HDR"}, {"data": "lib", "opened": "lib.hdr"}, {"opened": "lib.hdr"},
    {"header": "lib.sli.hdr", "opened": "lib.sli.hdr"},
    {"wavelength_units": "Nanometers", "wavelength": listed(WAVELENGTHS)}, {"wavelength_units": None},
], ids=str)
def test_envi(tmp_path, options):
    options = dict(options)
    opened = options.pop("opened", "lib.sli")
    write_envi(tmp_path, fwhm=listed(WAVELENGTHS / (100 if options.get("wavelength") else 1e5)), **options)
    library = open_library(tmp_path / opened)
    np.testing.assert_allclose(library.spectra, SPECTRA[:, ORDER], rtol=1e-6)
    np.testing.assert_allclose(library.wavelengths, WAVELENGTHS[ORDER])
    np.testing.assert_allclose(library.fwhm, WAVELENGTHS[ORDER] / 100)
    assert library.names == NAMES


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("name", ["lib.hdr", "lib.csv"])
@pytest.mark.filterwarnings("ignore::pyro_unmix.errors.UnmixWarning")
def test_damaged_libraries_raise_input_errors_alone(tmp_path, name, data):
    write_envi(tmp_path)
    rows = [["name", *WAVELENGTHS], *([mineral.replace(",", ""), *row] for mineral, row in zip(NAMES, SPECTRA, strict=True))]
    (tmp_path / "lib.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    content = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from([*b"0123456789-{},=.ex\n\"\0\xff"]))
    (tmp_path / name).write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        assert open_library(tmp_path / name).spectra.ndim == 2
    except InputError as error:
        assert "\n" not in str(error)


def test_envi_without_what_is_optional(tmp_path):
    library = open_library(write_envi(tmp_path, wavelength=None, spectra_names=None, byte_order=0, file_type=None, bands=None))
    assert library.names == ["spectrum 1", "spectrum 2", "spectrum 3"] and library.wavelengths is library.fwhm is None
    np.testing.assert_allclose(library.spectra, SPECTRA, rtol=1e-6)
    assert open_library(write_envi(tmp_path, wavelength_units="Index", wavelength=listed(range(6)))).wavelengths is None
    names = open_library(write_envi(tmp_path, spectra_names="{red  brick, zinc,Stra\xdfe}")).names  # of old files, Latin-1
    assert names == ["red brick", "zinc", "Straße"]


@pytest.mark.parametrize("options, message", [
    ({"lines": 4}, r"96 bytes in 'lib\.sli', as its header says, got 72; it may be cut short"),
    ({"lines": None}, "a number 'lines' in 'lib.hdr', got 'none'"),
    ({"samples": "six"}, "a number 'samples'"),
    ({"samples": -6}, "-6 samples"),
    ({"data_type": 6}, "data type 6"),
    ({"bands": 5}, "5 bands; a scene is opened with open_scene"),
    ({"file_type": "ENVI Standard"}, "file type ENVI Standard"),
    ({"spectra_names": listed(["a", "b"])}, "3 spectra names"),
    ({"wavelength": listed([1, 2])}, "6 numbers in 'wavelength'.*got 2"),
    ({"wavelength": listed("abcdef")}, "numbers in 'wavelength'"),
    ({"wavelength_units": "Wavenumber"}, "nanometers or micrometers.*wavenumber"),
    ({"header": "other.hdr"}, r"beside 'lib\.sli', got none of lib\.hdr"),
])
def test_envi_files_that_cannot_be_read(tmp_path, options, message):
    path = write_envi(tmp_path, **options)
    with pytest.raises(InputError, match=message):
        open_library(path)


def test_a_header_that_is_none(tmp_path):
    (tmp_path / "lib.sli").write_bytes(b"12345678")
    (tmp_path / "lib.hdr").write_text("samples = 6")
    with pytest.raises(InputError, match="first line is not ENVI"):
        open_library(tmp_path / "lib.hdr")


def test_values_that_are_missing(tmp_path):
    """The ignore value of the header, in decimal, and the mark of the USGS, which no header needs to name."""
    spectra = SPECTRA.copy()
    spectra[0, 1], spectra[2, 3] = -9999.1, -1.23e34
    path = write_envi(tmp_path, spectra, data_ignore_value="-9.99910000e+003")
    with pytest.warns(UnmixWarning, match="2 of 3 spectra have a missing value"):
        assert open_library(path).names == NAMES[1:2]
    library = open_library(path, drop=[(440, 460), (690, 710)])
    assert library.names == NAMES and library.wavelengths.tolist() == [400, 500, 650, 900]
    np.testing.assert_allclose(library.spectra, SPECTRA[:, [0, 2, 4, 5]], rtol=1e-6)
    with pytest.raises(InputError, match="mark the bands by a mask"):
        open_library(write_envi(tmp_path, wavelength=None), drop=[(440, 460)])


def test_bands_marked_as_bad(tmp_path):
    spectra = SPECTRA.copy()
    spectra[0, 3], spectra[1, 5] = -1.23e34, 7.0e8  # what is in a bad band counts for nothing, not even for the scale
    path = write_envi(tmp_path, spectra, bbl="{1, 1, 1, 0, 1, 0.0}", fwhm=listed([0.01, 0.01, 0.01, 0, 0.01, 0]))
    with pytest.warns(UnmixWarning, match="2 of 6 bands are marked as bad and are left out"):
        library = open_library(path)
    assert library.names == NAMES and library.wavelengths.tolist() == [400, 450, 500, 650]
    np.testing.assert_allclose(library.spectra, SPECTRA[:, [0, 1, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(library.fwhm, 10)


@pytest.mark.parametrize("factor, options, told", [
    (10_000, {"data_type": 2}, "taken as ten-thousandths of reflectance and divided by 10000"),
    (10_000, {"data_type": 12, "reflectance_scale_factor": 1.0}, "ten-thousandths"),
    (100, {}, "taken as percent of reflectance and divided by 100"),
    (10_000, {"data_type": 2, "reflectance_scale_factor": 10_000}, None),
    (250, {"reflectance_scale_factor": "250.0"}, None),
    (1, {"reflectance_scale_factor": 1}, None),
])
def test_scales_of_reflectance(tmp_path, recwarn, factor, options, told):
    open_path = write_envi(tmp_path, (SPECTRA * factor).round(4), **options)
    library = open_library(open_path)
    np.testing.assert_allclose(library.spectra, SPECTRA[:, ORDER], rtol=1e-6)
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == (told is not None) and all(told in message for message in messages)


def test_a_scale_that_could_be_anything(tmp_path):
    with pytest.warns(UnmixWarning, match="no known scale of reflectance: left as it is"):
        library = open_library(write_envi(tmp_path, SPECTRA * 300))
    np.testing.assert_allclose(library.spectra, 300 * SPECTRA[:, ORDER], rtol=1e-6)


def test_one_record_that_is_no_spectrum_does_not_set_the_scale(tmp_path, recwarn):
    spectra = SPECTRA.copy()
    spectra[0] = WAVELENGTHS  # some libraries hold their wavelengths as the first record
    np.testing.assert_allclose(open_library(write_envi(tmp_path, spectra)).spectra[1:], SPECTRA[1:, ORDER], rtol=1e-6)
    assert not recwarn.list


def rows(corner="name", more=()):
    table = [[corner, *more, *WAVELENGTHS / 1000]]
    return table + [[f'"{name}"', *more, *values] for name, values in zip(NAMES, SPECTRA, strict=True)]


def write_csv(path, table, encoding="utf-8"):
    path.write_text("\r\n".join(",".join(map(str, row)) for row in table) + "\r\n\r\n", encoding=encoding)
    return path


@pytest.mark.parametrize("table", [rows(), rows("\ufeffClass"), rows(more=["mineral", ""]), rows(""),
                                   list(map(list, zip(*rows("wavelength"), strict=True)))],
                         ids=["rows", "marked", "classes", "bare", "columns"])
def test_csv(tmp_path, table):
    library = open_library(write_csv(tmp_path / "lib.CSV", table))
    np.testing.assert_allclose(library.spectra, SPECTRA[:, ORDER], rtol=1e-6)
    np.testing.assert_allclose(library.wavelengths, WAVELENGTHS[ORDER])
    assert library.names == NAMES


def test_an_empty_cell_is_a_missing_value(tmp_path):
    table = rows()
    table[2][3] = ""
    with pytest.warns(UnmixWarning, match="1 of 3 spectra"):
        assert open_library(write_csv(tmp_path / "lib.csv", table)).names == [NAMES[0], NAMES[2]]


@pytest.mark.parametrize("table, message", [
    ([], "1 lines that start with nothing"),
    ([["name", 400, 500]], "1 lines that start with name"),
    ([[400, 0.1], [500, 0.2]], "2 lines that start with 400, 0.1; add the names"),
    ([["name", 400, 500], ["a", 0.1]], "3 cells in every line of 'lib.csv', got 2 in line 2"),
    ([["name", 400, 500], ["a", 0.1, "n/a"]], "numbers below the first line of 'lib.csv'"),
    ([["name", "class"], ["a", "soil"], ["b", "tree"]], "numbers below the first line"),
    ([["nm", "a"], ["", 0.1], [500, 0.2]], "a first line of wavelengths"),
])
def test_tables_that_are_no_library(tmp_path, table, message):
    with pytest.raises(InputError, match=message):
        open_library(write_csv(tmp_path / "lib.csv", table))


def test_a_table_in_another_encoding(tmp_path):
    with pytest.raises(InputError, match="write it as CSV in UTF-8"):
        open_library(write_csv(tmp_path / "lib.csv", [["Straße", 400], ["a", 1]], "latin-1"))


@real
@pytest.mark.parametrize("stem, twin", [("capstone-coal__pycoal__s06av95a_envi", "library_usgs_splib06_av95"),
                                        ("capstone-coal__pycoal__s07_AV95_envi", "library_usgs_splib07_av95")])
def test_published_envi_libraries_of_the_usgs(stem, twin):
    """Complete spectra equal the conversions, row by row and band by band; names but for blanks."""
    archive = np.load(Path(DATA) / f"{twin}.npz")
    whole = archive["n_filled"] == 0
    with pytest.warns(UnmixWarning, match="spectra have a missing value"):
        library = open_library(Path(DATA) / "original" / f"{stem}.sli")
    np.testing.assert_allclose(library.wavelengths, archive["wavelengths"])
    assert (np.diff(library.wavelengths) > 0).all() and library.spectra.min() > -1
    left = [row for row, name in enumerate(library.names) if not name.startswith(("error bars", "Wavelengths", "Resolution"))
            and library.spectra[row].min() >= 0 and library.spectra[row].max() <= 1.6]
    np.testing.assert_allclose(library.spectra[left], archive["spectra"][whole], rtol=1e-6)
    assert [library.names[row] for row in left] == archive["names"][whole].tolist()


@real
def test_published_envi_library_of_berlin():
    with pytest.warns(UnmixWarning, match="ten-thousandths"):
        library = open_library(Path(DATA) / "original" / "EnMAP-Box__enmap-box__library_berlin.hdr")
    twin = open_library(Path(DATA) / "library_berlin_urban.npz")
    np.testing.assert_allclose(library.spectra, twin.spectra, rtol=1e-6)
    np.testing.assert_allclose(library.wavelengths, twin.wavelengths)
    assert library.names == twin.names and library.fwhm[0] == pytest.approx(5.8)


@real
def test_published_table():
    with pytest.warns(UnmixWarning, match="ten-thousandths"):
        library = open_library(Path(DATA) / "original" / "emit-sds__SpectralUnmixing__basic_endmember_library.csv")
    assert library.names == ["SOIL", "SOIL", "SOIL", "PV", "NPV"] and library.spectra.shape == (5, 224)
    assert library.spectra[0, -1] == pytest.approx(0.0752326927)
