"""Encoders are local: cut into tiles with enough context, a scene gives the same features as in one piece."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyro_unmix.encoders import ConvEncoder, PixelEncoder, SpatialAttentionEncoder
from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiling, whole

N_INPUTS = 4
ENCODERS = {
    "pixel": lambda: PixelEncoder(width=8, depth=2),
    "conv": lambda: ConvEncoder(width=8, depth=2),
    "conv, wide kernel": lambda: ConvEncoder(width=6, depth=1, kernel=5),
    "attention": lambda: SpatialAttentionEncoder(width=8, depth=2),
    "attention, deep": lambda: SpatialAttentionEncoder(width=6, depth=3, kernel=1, window=3),
}
every_encoder = pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)


def built(make):
    encoder = make()
    encoder.build(N_INPUTS)
    with torch.no_grad():
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.4)  # far from silent, biases too, so that every border effect would show
    return encoder.eval()


def scene_of(rows=19, cols=23):
    random = np.random.default_rng(0)
    mask = random.uniform(size=(rows, cols)) > 0.15
    mask[4:9, 10:20] = False
    return Scene(random.normal(size=(rows, cols, N_INPUTS)), mask=mask)


def features_by_tiles(encoder, scene, size, halo):
    tiling = Tiling(scene, size, halo)
    out = np.full((*scene.shape[:2], encoder.n_features), np.nan)
    with torch.no_grad():
        for start in range(0, len(tiling), 3):
            numbers = list(range(start, min(start + 3, len(tiling))))
            tiles = tiling.batch(numbers)
            i, j = (index.numpy() for index in tiling.rows_and_columns(tiles, numbers))
            out[i, j] = tiles.select(encoder(tiles.reflectance, tiles.valid)).numpy()
    return out[scene.mask.values]


def features_of_the_whole(encoder, scene):
    tiles = whole(scene)
    with torch.no_grad():
        return tiles.select(encoder(tiles.reflectance, tiles.valid)).numpy()


@every_encoder
@pytest.mark.parametrize("size", [1, 5, 8, 21])
def test_tiles_with_context_equal_the_whole(make, size):
    encoder, scene = built(make), scene_of()
    if size == 1:  # slow: a small scene will do
        scene = scene.crop(slice(3, 9), slice(6, 14))
    tiled = features_by_tiles(encoder, scene, size, encoder.receptive_field // 2)
    np.testing.assert_allclose(tiled, features_of_the_whole(encoder, scene), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "pixel"])
def test_one_pixel_of_context_less_is_seen(name):
    encoder, scene = built(ENCODERS[name]), scene_of()
    tiled = features_by_tiles(encoder, scene, 5, encoder.receptive_field // 2 - 1)
    assert np.abs(tiled - features_of_the_whole(encoder, scene)).max() > 1e-4


@every_encoder
def test_the_receptive_field_is_what_it_says(make):
    encoder = built(make).double()
    reach = encoder.receptive_field // 2
    side = 2 * reach + 5
    centre = side // 2
    inputs = torch.randn(1, N_INPUTS, side, side, dtype=torch.float64)
    valid = torch.ones(1, side, side, dtype=torch.bool)
    with torch.no_grad():
        before = encoder(inputs, valid)[0, :, centre, centre]
        for distance, seen in ((0, True), (reach, True), (reach + 1, False), (reach + 2, False)):
            for i, j in ((centre + distance, centre), (centre, centre - distance), (centre - distance, centre + distance)):
                moved = inputs.clone()
                moved[0, :, i, j] += 3.0
                change = (encoder(moved, valid)[0, :, centre, centre] - before).abs().max()
                assert (change > 0) == seen, f"a pixel {i - centre}, {j - centre} away changes features by {change}"


@every_encoder
def test_the_gradient_reaches_the_whole_receptive_field_and_no_further(make):
    encoder = built(make).double()
    reach = encoder.receptive_field // 2
    side = 2 * reach + 3
    inputs = torch.randn(1, N_INPUTS, side, side, dtype=torch.float64, requires_grad=True)
    encoder(inputs, torch.ones(1, side, side, dtype=torch.bool))[0, :, side // 2, side // 2].sum().backward()
    reached = inputs.grad.abs().sum(dim=(0, 1)) > 0
    rows, cols = reached.any(1).nonzero()[:, 0], reached.any(0).nonzero()[:, 0]
    assert rows.min() == cols.min() == 1 and rows.max() == cols.max() == side - 2


@every_encoder
def test_values_of_masked_pixels_do_not_matter(make):
    encoder, tiles = built(make), whole(scene_of())
    other = tiles.reflectance.movedim(1, -1).clone()
    other[~tiles.valid] = 100.0
    with torch.no_grad():
        features, again = (encoder(x, tiles.valid) for x in (tiles.reflectance, other.movedim(-1, 1)))
    torch.testing.assert_close(tiles.select(features), tiles.select(again), rtol=0, atol=0)


@every_encoder
def test_scenes_of_a_batch_do_not_meet(make):
    encoder = built(make)
    inputs, valid = torch.randn(2, N_INPUTS, 6, 7), torch.rand(2, 6, 7) > 0.2
    with torch.no_grad():
        together = encoder(inputs, valid)
        alone = torch.cat([encoder(inputs[n : n + 1], valid[n : n + 1]) for n in (0, 1)])
    assert together.shape == (2, encoder.n_features, 6, 7)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_attention_looks_at_the_neighbours():
    encoder = built(ENCODERS["attention"])
    without = built(ENCODERS["attention"])
    without.load_state_dict(encoder.state_dict())
    for gate in without.gates:
        torch.nn.init.zeros_(gate.weight)
    inputs, valid = torch.randn(1, N_INPUTS, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool)
    with torch.no_grad():
        assert (encoder(inputs, valid) - without(inputs, valid)).abs().max() > 1e-4


@pytest.mark.parametrize("make, field", [
    (PixelEncoder, 1), (ConvEncoder, 5), (SpatialAttentionEncoder, 17),
    (lambda: SpatialAttentionEncoder(depth=1, kernel=5, window=3), 7),
])
def test_receptive_fields(make, field):
    assert make().receptive_field == field


@pytest.mark.parametrize("make", [PixelEncoder, ConvEncoder, SpatialAttentionEncoder])
def test_settings_make_the_same_encoder_again(make):
    encoder = make(width=np.int64(12), depth=3)
    settings = json.loads(json.dumps(encoder.settings))
    again = make(**settings)
    assert again.settings == encoder.settings and again.receptive_field == encoder.receptive_field
    encoder.build(N_INPUTS)
    again.build(N_INPUTS)
    again.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize("make, complaint", [
    (lambda: PixelEncoder(width=0), "whole number from 1 to 10000 for width, got 0"),
    (lambda: PixelEncoder(depth=-1), "whole number from 1 to 10000 for depth, got -1"),
    (lambda: PixelEncoder(width=2.5), "whole number from 1 to 10000 for width, got 2.5"),
    (lambda: ConvEncoder(width="32"), "whole number from 1 to 10000 for width, got 32"),
    (lambda: ConvEncoder(kernel=4), "odd kernel.*got 4"),
    (lambda: ConvEncoder(kernel=0), "whole number from 1 to 10000 for kernel"),
    (lambda: SpatialAttentionEncoder(window=6), "odd window.*got 6"),
    (lambda: SpatialAttentionEncoder(kernel=2), "odd kernel"),
    (lambda: SpatialAttentionEncoder(depth=0), "whole number from 1 to 10000 for depth"),
])
def test_settings_that_make_no_sense_are_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()
