"""Non-local means: less noise, no blur, no trace of masked pixels, and tiles that fit together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.denoise import NonLocalMeans
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import absorption_spectra, simulate_scene
from pyro_unmix.tiles import Tiling, whole

BANDS = 40


def patches(noise_sd, *, size=12, seed=0):
    """`(1, bands, 2 size, 2 size)`: four squares, each of one spectrum; with noise and without."""
    spectra = torch.as_tensor(absorption_spectra(4, np.linspace(400.0, 2500.0, BANDS), seed=3), dtype=torch.float32)
    kind = torch.arange(2 * size) // size
    clean = spectra[2 * kind[:, None] + kind].movedim(-1, 0)[None]
    return clean + noise_sd * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)), clean


def fitted(reflectance, n_components=5):
    return NonLocalMeans(reflectance.shape[1], n_components).fit(reflectance[0].flatten(1).T)


def everywhere(reflectance):
    return torch.ones(reflectance.shape[0], *reflectance.shape[2:], dtype=torch.bool)


def root_mean_square(errors):
    return errors.square().mean().sqrt()


@pytest.mark.parametrize("noise_sd", [0.003, 0.02])
def test_noise_on_patches_falls(noise_sd):
    noisy, clean = patches(noise_sd)
    denoise = fitted(noisy)
    assert denoise.noise_scale == pytest.approx(noise_sd, rel=0.1)
    left = root_mean_square(denoise(noisy, everywhere(noisy)) - clean)
    projected = torch.einsum("pl,pm,bmhw->blhw", denoise.directions, denoise.directions, noisy - clean)
    assert left < noise_sd / 6.0
    assert left < root_mean_square(projected) / 2.0  # by the mean, not by the projection alone


def test_an_edge_is_not_blurred():
    noisy, clean = patches(0.01)
    denoised = fitted(noisy)(noisy, everywhere(noisy))
    step = (clean[..., 12] - clean[..., 11]).square().sum(dim=1).sqrt()
    along_edge = (denoised - clean)[..., 11:13]
    assert along_edge.mean(dim=2).abs().max() < 0.005
    assert along_edge.square().sum(dim=1).sqrt().max() < 0.05 * step.min()
    box = torch.nn.functional.avg_pool2d(clean, 7, stride=1, padding=3, count_include_pad=False)
    assert (box - clean)[..., 11:13].square().sum(dim=1).sqrt().min() > 0.2 * step.min()  # the control: a plain mean does


def test_it_is_the_weighted_mean_of_the_paper():
    """Pixel by pixel and neighbour by neighbour, as it is written."""
    noisy, _ = patches(0.02, size=5)
    use = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(1)) > 0.1
    denoise = fitted(noisy)
    maps = torch.einsum("pl,lhw->hwp", denoise.directions, noisy[0] - denoise.mean[:, None, None])
    pixels = {(y, x): maps[y, x] for y, x in use[0].nonzero().tolist()}
    expected = 2 * len(denoise.directions) * denoise.noise_scale**2

    def weight(here, there):
        apart = [(pixels[here[0] + i, here[1] + j] - pixels[there[0] + i, there[1] + j]).square().sum()
                 for i in (-1, 0, 1) for j in (-1, 0, 1)
                 if (here[0] + i, here[1] + j) in pixels and (there[0] + i, there[1] + j) in pixels]
        return torch.exp(-(sum(apart) / len(apart) - expected).clamp_min(0) / (0.5 * expected))

    found, wrong = denoise(noisy, use), 0
    for here in pixels:
        near = [there for there in pixels if max(abs(here[0] - there[0]), abs(here[1] - there[1])) <= 3]
        weights = [weight(here, there) for there in near]
        mean = sum(w * pixels[there] for w, there in zip(weights, near, strict=True)) / sum(weights)
        torch.testing.assert_close(found[(0, slice(None), *here)], denoise.mean + mean @ denoise.directions, rtol=0, atol=1e-5)
        wrong = max(wrong, (sum(pixels[there] for there in near) / len(near) - mean).abs().max())
    assert wrong > 0.01  # negative control: a mean of all alike is another


def test_masked_pixels_take_no_part():
    noisy, _ = patches(0.02)
    denoise, valid = fitted(noisy), everywhere(noisy)
    valid[0, 5:9, 3:14] = False
    valid[0, 0, 0] = False
    other = torch.where(valid[:, None], noisy, noisy.flip(1) + 3.0)
    denoised = denoise(noisy, valid)
    torch.testing.assert_close(denoise(other, valid), denoised, rtol=0.0, atol=0.0)
    assert (denoised.movedim(1, -1)[~valid] == 0.0).all()
    assert not torch.equal(denoised.movedim(1, -1)[valid], denoise(noisy, everywhere(noisy)).movedim(1, -1)[valid])


def assembled(denoise, scene, size, halo):
    """The scene denoised tile by tile, `(height, width, bands)`."""
    tiling = Tiling(scene, size, halo)
    numbers = list(range(len(tiling)))
    tiles = tiling.batch(numbers)
    rows, columns = tiling.rows_and_columns(tiles, numbers)
    maps = torch.zeros(scene.shape)
    maps[rows, columns] = tiles.select(denoise(tiles.reflectance, tiles.valid))
    return maps


@pytest.mark.parametrize("size", [5, 8])
def test_tiles_equal_the_whole(size):
    made = simulate_scene(3, (20, 14), n_bands=BANDS, snr_db=20.0, seed=3)
    mask = np.ones((20, 14), bool)
    mask[3:9, 5:8] = False
    scene = Scene(made.reflectance, mask=mask)
    denoise = NonLocalMeans(BANDS, 5).fit(torch.as_tensor(scene.pixels()))
    tiles = whole(scene)
    expected = denoise(tiles.reflectance, tiles.valid)[0].movedim(0, -1)
    torch.testing.assert_close(assembled(denoise, scene, size, denoise.halo), expected, rtol=0.0, atol=1e-6)
    assert (assembled(denoise, scene, size, denoise.halo - 1) - expected).abs().max() > 1e-4  # no more halo than it needs


def test_a_transposed_scene_gives_the_transposed_result():
    noisy, _ = patches(0.02)
    noisy = noisy[:, :, :17]
    valid = everywhere(noisy)
    valid[0, 4:6, 9] = False
    denoise = fitted(noisy)
    turned = denoise(noisy.transpose(2, 3), valid.transpose(1, 2))
    torch.testing.assert_close(turned.transpose(2, 3), denoise(noisy, valid), rtol=0.0, atol=1e-6)


def test_scenes_of_one_batch_do_not_mix():
    noisy, _ = patches(0.02)
    batch = torch.cat([noisy, noisy.flip(3)])
    denoise = fitted(noisy)
    denoised = denoise(batch, everywhere(batch))
    torch.testing.assert_close(denoised[:1], denoise(noisy, everywhere(noisy)), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(denoised[1:], denoised[:1].flip(3), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_without_noise_nothing_changes(smooth):
    if smooth:
        # One material mixed into another, from column to column: neighbours are alike, and must still stay apart.
        spectra = absorption_spectra(2, np.linspace(400.0, 2500.0, BANDS), seed=3)
        weight = np.linspace(0.0, 1.0, 24)[:, None]
        row = torch.as_tensor(weight * spectra[0] + (1.0 - weight) * spectra[1], dtype=torch.float32)
        clean = row.T[None, :, None].expand(1, BANDS, 16, 24).contiguous()
    else:
        clean = patches(0.0)[1]
    torch.testing.assert_close(fitted(clean)(clean, everywhere(clean)), clean, rtol=0.0, atol=1e-5)


def test_what_was_fitted_travels_with_the_state():
    noisy, _ = patches(0.02)
    denoise, again = fitted(noisy), NonLocalMeans(BANDS, 5)
    again.load_state_dict(denoise.state_dict())
    torch.testing.assert_close(again(noisy, everywhere(noisy)), denoise(noisy, everywhere(noisy)), rtol=0.0, atol=0.0)
