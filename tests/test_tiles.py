"""Tiles cover a scene once, and say where their pixels lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiling, whole


def scene_of(rows, cols, masked=0.3, seed=0, bands=3):
    """A scene whose first band numbers the pixels, some of them masked, in whole blocks too."""
    random = np.random.default_rng(seed)
    image = random.uniform(0.1, 0.9, (rows, cols, bands))
    image[..., 0] = np.arange(1, rows * cols + 1).reshape(rows, cols)
    mask = random.uniform(size=(rows, cols)) >= masked
    mask[: rows // 2, : cols // 2] = False
    mask[-1, -1] = True
    image[~mask] = np.nan
    return Scene(image, mask=mask)


tilings = st.tuples(st.integers(2, 11), st.integers(2, 11), st.none() | st.integers(1, 12), st.integers(0, 4), st.integers(0, 9))


@given(tilings)
def test_every_pixel_in_use_counts_exactly_once(settings):
    rows, cols, size, halo, seed = settings
    scene = scene_of(rows, cols, seed=seed)
    tiling = Tiling(scene, size, halo)
    found = np.zeros((rows, cols), int)
    for number in range(len(tiling)):
        tiles = tiling.batch([number])
        assert tiles.core.any(), "a tile without a pixel is no use"
        i, j = (index.numpy() for index in tiling.rows_and_columns(tiles, [number]))
        np.add.at(found, (i, j), 1)
        torch.testing.assert_close(tiles.pixels(), torch.as_tensor(scene.reflectance.values[i, j]))
    np.testing.assert_array_equal(found, scene.mask.values.astype(int))


@given(tilings, st.randoms(use_true_random=False))
def test_a_batch_knows_where_all_its_pixels_lie(settings, random):
    rows, cols, size, halo, seed = settings
    scene = scene_of(rows, cols, seed=seed)
    tiling = Tiling(scene, size, halo)
    indices = random.sample(range(len(tiling)), random.randint(1, len(tiling)))
    tiles = tiling.batch(indices)
    i, j = (index.numpy() for index in tiling.rows_and_columns(tiles, indices))
    np.testing.assert_array_equal(tiles.pixels().numpy(), scene.reflectance.values[i, j])
    assert tiles.reflectance.shape[0] == len(indices) and tiles.valid.shape == tiles.core.shape == tiles.reflectance[:, 0].shape


@given(tilings)
def test_scale_makes_a_sum_over_a_batch_unbiased(settings):
    rows, cols, size, halo, seed = settings
    scene = scene_of(rows, cols, seed=seed)
    tiling = Tiling(scene, size, halo)
    estimates = [tiles.scale * tiles.pixels().sum().item() for tiles in (tiling.batch([n]) for n in range(len(tiling)))]
    np.testing.assert_allclose(np.mean(estimates), scene.pixels().sum(dtype=np.float64), rtol=1e-5)
    everything = tiling.batch(list(range(len(tiling))))
    assert everything.scale == 1.0 and len(everything.pixels()) == scene.n_pixels


@given(tilings)
def test_context_is_the_neighbourhood(settings):
    rows, cols, size, halo, seed = settings
    scene = scene_of(rows, cols, seed=seed)
    tiling = Tiling(scene, size, halo)
    wide = (tiling.halo + tiling.height,) * 2, (tiling.halo + tiling.width,) * 2
    image = np.pad(np.nan_to_num(scene.reflectance.values), (*wide, (0, 0)))
    mask = np.pad(scene.mask.values, wide)
    for number, (i, j) in enumerate(tiling.corners):
        tiles = tiling.batch([number])
        top, left = i + tiling.height, j + tiling.width
        window = (slice(top, top + tiling.height + 2 * tiling.halo), slice(left, left + tiling.width + 2 * tiling.halo))
        np.testing.assert_array_equal(tiles.reflectance[0].movedim(0, -1).numpy(), image[window])
        np.testing.assert_array_equal(tiles.valid[0].numpy(), mask[window])
        assert not (tiles.core & ~tiles.valid).any()


def test_the_whole_scene_is_one_tile_without_context():
    scene = scene_of(7, 5)
    tiles = whole(scene)
    assert tiles.reflectance.shape == (1, 3, 7, 5) and tiles.scale == 1.0 and tiles.kl_weight == 1.0
    np.testing.assert_array_equal(tiles.pixels().numpy(), scene.pixels())
    torch.testing.assert_close(tiles.core, tiles.valid)
    assert Tiling(scene, None, halo=3).halo == 0


def test_nothing_of_a_masked_pixel_enters():
    scene = scene_of(6, 6)
    tiles = Tiling(scene, 4, 2).batch([0])
    assert torch.isfinite(tiles.reflectance).all()
    assert (tiles.reflectance.movedim(1, -1)[~tiles.valid] == 0).all()


def test_maps_are_read_in_the_order_of_the_pixels():
    tiles = whole(scene_of(5, 6))
    maps = torch.arange(60.0).reshape(1, 2, 5, 6)
    expected = maps[0].flatten(1).T[tiles.core[0].flatten()]
    torch.testing.assert_close(tiles.select(maps), expected)


def test_warm_up_weighs_and_changes_nothing_else():
    tiles = whole(scene_of(5, 6))
    lighter = tiles.weighted(0.25)
    assert lighter.kl_weight == 0.25 and tiles.kl_weight == 1.0 and lighter.reflectance is tiles.reflectance


def test_tiles_live_on_the_device_asked_for():
    tiling = Tiling(scene_of(5, 6), 3, 1, device="meta")
    assert tiling.image.device.type == tiling.use.device.type == "meta"
    assert whole(scene_of(5, 6), device="cpu").core.device.type == "cpu"


@pytest.mark.parametrize("size, halo", [(0, 1), (-3, 0), (4, -1)])
def test_sizes_that_make_no_sense_are_refused(size, halo):
    with pytest.raises(InputError, match=f"size {size}, halo {halo}"):
        Tiling(scene_of(5, 6), size, halo)


def labels_of(scene, k=3, seed=0):
    """Every other pixel's, masked or not: on the simplex, some with zeros."""
    rng = np.random.default_rng(seed)
    labels = rng.dirichlet(np.ones(k), scene.shape[:2])
    labels[rng.random(labels.shape[:2]) < 0.3] = np.eye(k)[0]
    labels[rng.random(labels.shape[:2]) < 0.5] = np.nan
    return labels


@given(tilings)
def test_labels_go_with_their_pixels(settings):
    """Each label once, at its pixel, never at a masked one; elsewhere, in the context too, some point of the simplex."""
    rows, cols, size, halo, seed = settings
    scene = scene_of(rows, cols, seed=seed)
    labels = labels_of(scene, seed=seed)
    tiling = Tiling(scene, size, halo, labels=labels)
    seen = np.zeros((rows, cols), int)
    for number in range(len(tiling)):
        tiles = tiling.batch([number])
        known, labelled = tiles.known()
        i, j = (index.numpy() for index in tiling.rows_and_columns(tiles, [number]))
        np.testing.assert_array_equal(labelled.numpy(), np.isfinite(labels[i, j]).all(axis=-1))
        np.testing.assert_allclose(known[labelled], labels[i, j][labelled.numpy()], atol=2.1e-4)
        assert tiles.labels.shape == (1, 3, *tiles.valid.shape[1:]) and tiles.labels.min() > 0
        torch.testing.assert_close(tiles.labels.sum(dim=1), torch.ones_like(tiles.valid, dtype=torch.float32))
        assert not (tiles.labelled & ~tiles.valid).any()
        seen[i, j] += labelled.numpy()
    np.testing.assert_array_equal(seen, scene.mask.values & np.isfinite(labels).all(axis=-1))


def test_a_pure_label_keeps_away_from_zero_as_far_as_it_says():
    labels = np.full((1, 2, 3), np.nan)
    labels[0, 0] = [0.0, 1.0, 0.0]
    known, labelled = Tiling(Scene(np.arange(1.0, 7.0).reshape(1, 2, 3)), labels=labels).batch([0]).known()
    assert labelled.tolist() == [True, False]
    torch.testing.assert_close(known, torch.tensor([[1e-4, 1.0, 1e-4], [1 / 3, 1 / 3, 1 / 3]]), atol=1e-7, rtol=2.1e-4)


def test_without_labels_nothing_is_known():
    tiles = Tiling(scene_of(5, 6), 3, 1).batch([0])
    assert tiles.known() == (None, None) and tiles.labels is tiles.labelled is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tiles_on_a_gpu_say_where_they_lie():
    scene = scene_of(9, 8)
    tiling = Tiling(scene, 4, 1, device="cuda")
    tiles = tiling.batch([1, 0])
    i, j = (index.cpu().numpy() for index in tiling.rows_and_columns(tiles, [1, 0]))
    assert tiles.pixels().device.type == "cuda"
    np.testing.assert_array_equal(tiles.pixels().cpu().numpy(), scene.reflectance.values[i, j])
