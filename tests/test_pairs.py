"""Simulated pairs: their truth is the truth, and training on them teaches the guide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.numerics import seeded
from pyro_unmix.pairs import LabelledPixels, PosteriorScenes, SimulatedScenes, labels_error, pairs_loss, simulated
from pyro_unmix.refine.shared import Shared

K, L = 3, 12


@pytest.fixture(scope="module")
def scene(holed_scene):
    return holed_scene


def bound(scene, encoder="cnn", **parts):
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    model, start = pu.initialize(pu.UnmixingModel(K, endmembers=prior, **parts), scene)
    return model, pu.UnmixingGuide(encoder).bind(start)


def sure(guide, noise=1e-5):
    """The guide with endmembers and noise all but known."""
    with torch.no_grad():
        guide.endmembers.log_scale.fill_(-20)
        guide.noise.loc.fill_(float(np.log(noise)))
        guide.noise.log_scale.fill_(-20)
    return guide


@pytest.mark.parametrize("brightness", ["none", "pixel"])
def test_truth_explains_the_simulated_spectra(scene, brightness):
    model, guide = bound(scene, brightness=brightness)
    sure(guide)
    tiles = pu.Tiling(scene, 8, guide.halo).batch([0, 5])
    made, abundances, factor = simulated(model, guide, tiles)
    assert abundances.shape == (len(tiles.pixels()), K) and (factor is None) == (brightness == "none")
    torch.testing.assert_close(abundances.sum(-1), torch.ones(len(abundances)))
    assert abundances.min() > 0 and not abundances.requires_grad
    mixed = abundances @ guide.endmembers().mean
    mixed = mixed if factor is None else factor[:, None] * mixed
    torch.testing.assert_close(made.pixels(), mixed, atol=2e-4, rtol=0)  # tells rows apart: pixels differ by far more
    assert (mixed[1:] - mixed[:-1]).abs().amax(-1).median() > 1e-2


def test_the_tiles_stay_what_they_were_but_for_their_spectra(scene):
    model, guide = bound(scene)
    tiles = pu.Tiling(scene, 8, guide.halo).batch([0, 1])
    made, *_ = simulated(model, guide, tiles)
    assert made.reflectance.shape == tiles.reflectance.shape and made.reflectance.dtype == tiles.reflectance.dtype
    assert torch.equal(made.core, tiles.core) and torch.equal(made.valid, tiles.valid)
    assert (made.scale, made.kl_weight) == (tiles.scale, tiles.kl_weight)
    maps = made.reflectance.movedim(1, -1)
    assert not maps[~tiles.valid].any() and maps[tiles.valid].abs().amin(-1).min() > 0  # context is simulated as well
    assert not torch.equal(made.pixels(), tiles.pixels())


def test_noise_has_the_scale_of_the_posterior(scene):
    """Standard deviation of 280 x 12 residuals within 5 %: four standard errors."""
    model, guide = bound(scene, brightness="none")
    sure(guide, noise=0.05)
    made, abundances, _ = simulated(model, guide, pu.whole(scene))
    residual = made.pixels() - abundances @ guide.endmembers().mean
    assert residual.std().item() == pytest.approx(0.05, rel=0.05)


def test_truth_varies_over_the_scene_as_the_guide_says(scene):
    """Mean of 200 simulations within five standard errors of the mean of q, in every pixel and endmember."""
    model, guide = bound(scene, "mlp")
    tiles = pu.Tiling(scene, 8).batch([0])
    q = guide.pixels(tiles)[0]
    draws = torch.stack([simulated(model, guide, tiles)[1] for _ in range(200)])
    errors = (draws.mean(0) - q.mean) / (q.variance / 200).sqrt()
    assert errors.abs().max() < 5 and errors.std().item() == pytest.approx(1.0, abs=0.2)


def test_training_on_pairs_teaches_the_guide(scene):
    """log q of fresh simulated truth rises, measured on the same 20 simulations before and after."""
    model, guide = bound(scene, "mlp")
    sure(guide, noise=0.02)
    tiles = pu.whole(scene)
    torch.manual_seed(0)
    fresh = [simulated(model, guide, tiles) for _ in range(20)]

    def score():
        with torch.no_grad():
            return torch.stack([guide.log_prob(*pair).mean() for pair in fresh])

    before = score()
    optimizer = torch.optim.Adam(guide.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -guide.log_prob(*simulated(model, guide, tiles)).mean()
        loss.backward()
        optimizer.step()
    gain = score() - before
    assert gain.mean() > 5 * gain.std() / 20**0.5 and gain.mean() > 0.1
    # It is the pixels' part that learned; what all pixels share is left to the scene.
    assert guide.endmembers.shift.grad is None or not guide.endmembers.shift.grad.any()


# From exact draws


def known(scene, brightness, noise=0.01, n_draws=3, correlation=None):
    """Shared draws that hardly differ from the truth."""
    truth = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    endmembers = truth + 1e-3 * torch.randn(n_draws, *truth.shape, dtype=torch.float64)
    noise_scale = noise * (1.0 + torch.arange(L).double() / L).expand(n_draws, L)
    brightness_scale = torch.full((n_draws,), 0.2).double() if brightness else None
    return Shared(endmembers, noise_scale, torch.ones(n_draws, K).double(), brightness_scale, correlation)


def scenes_of(scene, *, brightness=True, seed=0, **options):
    tiling = pu.Tiling(scene, 8, 2)
    with seeded(seed):
        return PosteriorScenes(known(scene, brightness, **options), tiling, 2), tiling


@pytest.mark.parametrize("brightness", [True, False])
def test_pairs_of_exact_draws_are_mixtures_and_noise(scene, brightness):
    """Residuals of pairs, given the shared draw that fits them best, have the standard deviation of the noise in every band: over
    some 4000 pixels, within five standard errors. Negative control: the residuals of other truth."""
    scenes, _ = scenes_of(scene, brightness=brightness)
    residuals, strangers = [], []
    for _ in range(60):
        tiles, abundances, factor = scenes()
        assert abundances.shape == (len(tiles.pixels()), K) and (factor is None) == (not brightness)
        assert abundances.dtype == tiles.reflectance.dtype == torch.float32
        assert abundances.min() > 0
        torch.testing.assert_close(abundances.sum(-1), torch.ones(len(abundances)))
        mixed = abundances.double() @ scenes.shared.endmembers
        mixed = mixed if factor is None else factor.double()[:, None] * mixed
        apart = tiles.pixels() - mixed
        best = apart.square().sum((1, 2)).argmin()
        residuals.append(apart[best])
        strangers.append((tiles.pixels() - mixed.roll(1, dims=1))[best])
    residuals, strangers = torch.cat(residuals), torch.cat(strangers)
    scale = scenes.shared.noise_scale[0]
    assert ((residuals.std(0) / scale - 1).abs() < 5 / (2 * len(residuals)) ** 0.5).all()
    assert residuals.mean(0).abs().max() < 5 * scale.max() / len(residuals) ** 0.5
    assert (strangers.std(0) / scale).mean() > 2


def test_noise_of_pairs_correlates_as_that_of_the_scene(scene):
    """Correlations of residuals over some 2000 pixels, uncertain by .02. Negative control: without it there are none."""
    correlation = torch.linalg.cholesky(0.4 * torch.eye(L).double() + 0.6)
    off = ~torch.eye(L, dtype=torch.bool)
    for factor, expected in ((correlation, 0.6), (None, 0.0)):
        scenes, _ = scenes_of(scene, brightness=False, correlation=factor, n_draws=1)
        residuals = []
        for _ in range(30):
            tiles, abundances, _ = scenes()
            residuals.append(tiles.pixels().double() - abundances.double() @ scenes.shared.endmembers[0])
        assert (torch.corrcoef(torch.cat(residuals).T)[off] - expected).abs().max() < 0.1


def test_exact_draws_vary_over_the_scene_as_its_pixels_say(scene):
    """Means over the maps of a batch are near the truth, as its brightness is; truth of the pixels that count, context apart."""
    scenes, tiling = scenes_of(scene)
    truth = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    for tiles, number, abundances, brightness in scenes.batches:
        pixels = replace(tiles, core=tiles.valid).pixels().double()
        mean = (brightness[..., None] * (abundances @ truth.float())).mean(0)
        assert (mean - pixels).abs().mean() < 0.02 < (mean.roll(1, dims=0) - pixels).abs().mean()
        assert 0 <= number < len(scenes.shared) and len(abundances) == len(brightness)
    made, counted, _ = scenes()
    assert made.core.sum() == len(counted) < made.valid.sum()
    maps = made.reflectance.movedim(1, -1)
    assert not maps[~made.valid].any() and maps[made.valid].abs().amin(-1).min() > 0  # context is simulated as well


def test_the_same_seed_makes_the_same_scenes(scene):
    """And another others; every call makes a new one."""
    pairs = []
    for seed in (0, 0, 1):
        scenes, _ = scenes_of(scene, seed=seed)
        with seeded(seed):
            pairs.append((scenes(), scenes()))
    for one, other in zip(pairs[0], pairs[1], strict=True):
        assert torch.equal(one[0].reflectance, other[0].reflectance)
        assert all(torch.equal(part, twin) for part, twin in zip(one[1:], other[1:], strict=True))
    assert not torch.equal(pairs[0][0][0].reflectance, pairs[2][0][0].reflectance)
    assert not torch.equal(pairs[0][0][0].reflectance, pairs[0][1][0].reflectance)


# Of scenes that are simulated, with their truth


def make(seed, **options):
    return pu.simulate_scene(K, (5, 6), n_bands=L, seed=seed, **{"brightness": 0.2, **options})


def test_simulated_scenes_are_new_ones_with_their_truth():
    """Seeds come from torch's generator: the same scenes for one seed, others for another."""
    made = []
    scenes = SimulatedScenes(lambda seed: made.append(make(seed)) or made[-1], K, L)
    with seeded(0):
        pairs = [scenes() for _ in range(3)]
    for scene, (tiles, abundances, brightness) in zip(made, pairs, strict=True):
        np.testing.assert_array_equal(tiles.pixels(), scene.pixels())
        np.testing.assert_allclose(abundances, scene.reference.abundances.values.reshape(-1, K), rtol=1e-5, atol=1e-29)
        np.testing.assert_allclose(brightness, scene.reference.brightness.values.ravel(), rtol=1e-6)
    assert not torch.equal(pairs[0][1], pairs[1][1])
    again = []
    for seed in (0, 1):
        with seeded(seed):
            again.append(scenes()[1])
    assert torch.equal(again[0], pairs[0][1]) and not torch.equal(again[1], pairs[0][1])


def test_only_pixels_in_use_are_learned_from():
    mask = np.ones((5, 6), bool)
    mask[2, 3] = mask[0, 0] = False

    def masked(seed):
        made = make(seed, brightness=0.0, pure_share=0.5)
        return pu.Scene(made.reflectance.values, mask=mask, abundances=made.reference.abundances.values)

    tiles, abundances, brightness = SimulatedScenes(masked, K, L)()
    assert len(abundances) == len(tiles.pixels()) == 28 and brightness is None
    assert 0 < abundances.min() < 1e-20  # zero has no logarithm, and 1e-20 is near enough
    torch.testing.assert_close(abundances.sum(dim=1), torch.ones(28))


def without_truth(seed):
    return pu.Scene(make(seed).reflectance.values)


def with_holes(seed):
    made = make(seed)
    abundances = made.reference.abundances.values.copy()
    abundances[1, 1] = np.nan
    return pu.Scene(made.reflectance.values, abundances=abundances)


@pytest.mark.parametrize("wrong", [
    without_truth, lambda seed: pu.simulate_scene(4, (5, 6), n_bands=L), lambda seed: pu.simulate_scene(K, (5, 6), n_bands=L + 1),
    with_holes,
], ids=["no truth", "another K", "other bands", "truth in part"])
def test_scenes_without_the_truth_asked_for_are_refused(wrong):
    with pytest.raises(pu.InputError, match="simulated scenes with 12 bands and the abundances of 3 endmembers, got"):
        SimulatedScenes(wrong, K, L)()


# Of labelled pixels


def labels_of(scene, rows):
    """Known in these rows only."""
    labels = np.full((*scene.shape[:2], K), np.nan)
    labels[rows] = np.random.default_rng(0).dirichlet(np.ones(K), labels[rows].shape[:2])
    return labels


def test_labelled_pixels_are_those_of_the_labels(scene):
    """Spectra and abundances belong together, all of them are seen and no other; tiles without any are passed over."""
    labels = labels_of(scene, slice(5, 10))
    tiling = pu.Tiling(scene, 8, 2, labels=labels)
    pairs = LabelledPixels(tiling, 2)
    assert len(pairs.numbers) < len(tiling)
    at = {tuple(np.float32(spectrum)): label for spectrum, label in
          zip(scene.reflectance.values[5:10].reshape(-1, L), labels[5:10].reshape(-1, K), strict=True)}
    seen = set()
    for _ in range(20):
        tiles, abundances, brightness = pairs()
        assert brightness is None and len(abundances) == len(tiles.pixels()) > 0
        for spectrum, known in zip(tiles.pixels().numpy(), abundances.numpy(), strict=True):
            np.testing.assert_allclose(known, at[tuple(spectrum)], atol=3e-4)
            seen.add(tuple(spectrum))
        assert tiles.valid.sum() > tiles.core.sum()  # what is around them is seen as context
    assert len(seen) == int(scene.mask.values[5:10].sum())


# What is learned from them


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_loss_of_pairs_is_that_of_the_density_and_of_the_mean(scene, weight):
    model, guide = bound(scene, "mlp", brightness="pixel")
    tiles = pu.Tiling(scene, 8, labels=labels_of(scene, slice(0, 20))).batch([0, 1])
    abundances, brightness = tiles.known()[0], torch.full((len(tiles.pixels()),), 1.1)
    q_abundances, q_brightness = guide.pixels(tiles)
    density = q_abundances.log_prob(abundances)
    squares = (q_abundances.concentration / q_abundances.concentration.sum(-1, keepdim=True) - abundances).square().mean()
    for factor, expected in ((None, density), (brightness, density + q_brightness.log_prob(brightness))):
        found = pairs_loss(guide, (tiles, abundances, factor), weight)
        torch.testing.assert_close(found, -expected.mean() + weight * squares)


def test_error_of_labels_is_that_of_the_labelled_pixels(scene):
    """Whatever the others are filled with; zero, with a gradient, in a batch without any."""
    _, guide = bound(scene, "mlp")
    tiling = pu.Tiling(scene, 8, labels=labels_of(scene, slice(0, 3)))
    tiles = tiling.batch([0, 1])
    known, labelled = tiles.known()
    mean = guide.pixels(tiles)[0].mean
    found = labels_error(guide, tiles)
    torch.testing.assert_close(found, (mean - known)[labelled].square().mean())
    assert 0 < labelled.sum() < len(labelled)
    other = replace(tiles, labels=torch.where(tiles.labelled[:, None], tiles.labels, 0.9))
    assert labels_error(guide, other) == found != labels_error(guide, replace(other, labelled=tiles.valid))
    last = tiling.batch([len(tiling) - 1])
    nothing = labels_error(guide, last)
    nothing.backward()
    assert nothing == 0.0 and not last.labelled.any()
    assert all(p.grad is None or not p.grad.any() for p in guide.parameters())


@pytest.mark.parametrize("head, alike", [("logistic-normal", True), ("dirichlet", False)])
def test_a_head_without_poles_is_not_drawn_to_what_is_nearly_nothing(scene, head, alike):
    """An abundance of 1e-25 is learned from as 1e-4 is; where a density has poles it says more."""
    guide, tiles = bound(scene, "mlp")[1], pu.whole(scene)
    guide.head = pu.UnmixingGuide("mlp", head).head
    guide.head.build(guide.encoder.n_features, K)
    truths = [torch.tensor([1 - 2 * least, least, least]).expand(len(tiles.pixels()), K) for least in (1e-25, 1e-4)]
    losses = [pairs_loss(guide, (tiles, truth, None)).item() for truth in truths]
    assert (losses[0] == pytest.approx(losses[1], rel=1e-3)) == alike
