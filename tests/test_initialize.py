"""What the scene says before any training: amplitudes, brightness, noise, and a start in any unit."""

from __future__ import annotations

import random

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import ndimage

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.initialize import effective_bands, informed_endmembers, initialize
from pyro_unmix.io import open_scene
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, PixelBrightness, SmoothNoise
from pyro_unmix.priors import MVNEndmembers, smooth_scale_tril
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene


def truth(scene):
    return scene.reference.endmembers.values.astype(float), scene.reference.abundances.values[scene.mask.values]


def known(scene, **parts):
    """A model that brings the true endmembers, so that nothing has to be searched for."""
    endmembers, _ = truth(scene)
    prior = MVNEndmembers(endmembers, smooth_scale_tril(scene.wavelengths, scene.n_bands, 0.02))
    return UnmixingModel(len(endmembers), endmembers=prior, **parts)


@pytest.fixture(scope="module")
def bright_scene():
    """Brightness varies from pixel to pixel by 25 percent, nearly independently."""
    return simulate_scene(3, (24, 24), n_bands=30, snr_db=40, concentration=0.5, correlation_length=1, brightness=0.25, seed=5)


@pytest.fixture(scope="module")
def started(small_scene):
    return initialize(UnmixingModel(3), small_scene)


# --- the whole

def test_every_open_part_is_filled(started, small_scene):
    model, start = started
    assert model.endmembers is not None and model.brightness is None and model.evidence == 0.0
    assert not torch.isnan(model.noise.scale).any()
    n, k, bands = small_scene.n_pixels, 3, small_scene.n_bands
    shapes = {"endmembers": (k, bands), "endmember_scale_tril": (k, bands, bands), "abundances": (n, k), "noise_scale": (bands,),
              "spectrum_mean": (bands,), "components": (10, bands), "log_norm": (2,)}
    for name, shape in shapes.items():
        value = getattr(start, name)
        assert value.shape == shape and value.dtype == torch.float32 and torch.isfinite(value).all(), name
    assert start.brightness is None
    assert (start.abundances >= 0).all() and (start.abundances.sum(1) - 1).abs().max() < 1e-6


def test_it_is_a_start_worth_having(started, small_scene):
    _, start = started
    endmembers, abundances = truth(small_scene)
    angles = spectral_angle(start.endmembers.double().numpy()[:, None], endmembers[None])
    order = angles.argmin(axis=0)
    assert sorted(order) == [0, 1, 2] and angles.min(axis=0).max() < 0.1
    assert np.sqrt(np.mean((start.abundances.numpy()[:, order] - abundances) ** 2)) < 0.06


def test_the_model_given_is_left_as_it_is(small_scene):
    model = UnmixingModel(3)
    initialize(model, small_scene)
    assert model.endmembers is None and model.brightness == "auto" and model.evidence is None and model.noise is None


def test_the_input_of_the_encoder_is_white(started, small_scene):
    _, start = started
    pixels = torch.as_tensor(small_scene.pixels())
    shapes = pixels / pixels.norm(dim=1, keepdim=True)
    white = (shapes - start.spectrum_mean) @ start.components.T
    torch.testing.assert_close(torch.cov(white.T), torch.eye(10), atol=0.01, rtol=0)
    log_norm = (pixels.norm(dim=1).log() - start.log_norm[0]) / start.log_norm[1]
    assert abs(log_norm.mean()) < 1e-3 and abs(log_norm.std() - 1) < 0.01


def test_noise_is_measured(small_scene):
    model, start = initialize(known(small_scene), small_scene)
    endmembers, abundances = truth(small_scene)
    errors = (small_scene.pixels() - abundances @ endmembers).std(axis=0)
    # K - 1 = 2 of 30 bands' worth of noise is fitted; the sample of 256 pixels errs by 4 percent.
    np.testing.assert_allclose(start.noise_scale, errors, rtol=0.2)
    torch.testing.assert_close(model.noise.scale, start.noise_scale)


@pytest.mark.parametrize("noise", [
    DiagonalNoise(spread=0.5), SmoothNoise(length_scale=60.0, share=0.5, spread=0.5), LowRankNoise(loadings=np.ones((2, 30))),
], ids=lambda noise: type(noise).__name__)
def test_noise_of_an_open_scale_keeps_its_kind(small_scene, noise):
    model, start = initialize(known(small_scene, noise=noise), small_scene)
    rms = np.sqrt(np.mean(small_scene.pixels().astype(float) ** 2))
    assert type(model.noise) is type(noise)
    assert model.noise.settings == noise.settings | {"floor": pytest.approx(1e-4 * rms)}
    torch.testing.assert_close(model.noise.scale, start.noise_scale)
    spectra = model.noise.likelihood(torch.zeros(30), model.noise.scale)
    independent, _ = initialize(known(small_scene), small_scene)
    torch.testing.assert_close(spectra.variance.sqrt(), independent.noise.scale, rtol=0.05, atol=0)
    assert noise.scale.isnan()


def test_noise_of_a_known_scale_is_left_alone(small_scene):
    noise = SmoothNoise(0.02)
    assert initialize(known(small_scene, noise=noise), small_scene)[0].noise is noise


def test_low_rank_noise_without_loadings_is_refused(small_scene):
    with pytest.raises(InputError, match=r"loadings \(rank, 30\), got none"):
        initialize(known(small_scene, noise=LowRankNoise()), small_scene)


def test_masked_pixels_do_not_enter(small_scene):
    image = small_scene.reflectance.values.copy()
    mask = np.ones(image.shape[:2], bool)
    mask[:4] = False
    clean = Scene(image[4:], wavelengths=small_scene.wavelengths)
    image[:4] = 5.0
    masked = Scene(image, wavelengths=small_scene.wavelengths, mask=mask)
    model = known(small_scene)
    (_, start), (_, expected) = initialize(model, masked), initialize(model, clean)
    assert len(start.abundances) == clean.n_pixels
    for name in ("abundances", "noise_scale", "components", "log_norm"):
        torch.testing.assert_close(getattr(start, name), getattr(expected, name))


# --- what must not matter

@pytest.mark.parametrize("brightness", ["none", "pixel"])
def test_the_unit_of_the_scene_does_not_matter(small_scene, brightness):
    raw = Scene(10000.0 * small_scene.reflectance.values, wavelengths=small_scene.wavelengths)
    (model, start), (raw_model, raw_start) = (initialize(UnmixingModel(3, brightness=brightness), s) for s in (small_scene, raw))
    torch.testing.assert_close(raw_start.abundances, start.abundances, atol=1e-4, rtol=0)
    torch.testing.assert_close(raw_start.endmembers / 10000, start.endmembers, atol=1e-4, rtol=0)
    torch.testing.assert_close(raw_start.endmember_scale_tril / 10000, start.endmember_scale_tril, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(raw_model.noise.scale / 10000, model.noise.scale, atol=0, rtol=1e-3)
    assert raw_model.noise.settings["floor"] == pytest.approx(10000 * model.noise.settings["floor"], rel=1e-4)
    torch.testing.assert_close(raw_start.components, start.components, atol=0.02, rtol=1e-3)
    assert raw_model.evidence == model.evidence


def test_the_order_of_the_pixels_does_not_matter(started, small_scene):
    _, start = started
    flipped = Scene(small_scene.reflectance.values[::-1, ::-1], wavelengths=small_scene.wavelengths)
    _, other = initialize(UnmixingModel(3), flipped)
    torch.testing.assert_close(other.endmembers, start.endmembers, atol=1e-6, rtol=0)
    torch.testing.assert_close(other.abundances.flip(0), start.abundances, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_start_and_another_much_the_same(started, small_scene):
    _, start = started
    again, other = (initialize(UnmixingModel(3), small_scene, seed=seed)[1] for seed in (0, 1))
    torch.testing.assert_close(again.endmembers, start.endmembers, atol=0, rtol=0)
    torch.testing.assert_close(other.endmembers, start.endmembers, atol=0.01, rtol=0)


def test_random_numbers_outside_are_left_alone(small_scene):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    initialize(UnmixingModel(3), small_scene)
    initialize(UnmixingModel(3, endmembers=softmax_prior), small_scene)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


# --- amplitude and brightness

def test_brightness_is_taken_up_where_it_varies(bright_scene, small_scene):
    model, start = initialize(UnmixingModel(3), bright_scene)
    assert isinstance(model.brightness, PixelBrightness) and start.brightness.shape == (bright_scene.n_pixels,)
    assert float(model.brightness.scale) == pytest.approx(0.25, rel=0.3)
    assert (start.abundances.sum(1) - 1).abs().max() < 1e-6


def test_brightness_and_abundances_are_told_apart(bright_scene):
    """With the true endmembers, both are close to the truth."""
    model, start = initialize(known(bright_scene), bright_scene)
    endmembers, abundances = truth(bright_scene)
    assert float(model.brightness.scale) == pytest.approx(0.25, rel=0.15)
    assert np.sqrt(np.mean((start.abundances.numpy() - abundances) ** 2)) < 0.03
    factor = np.linalg.norm(bright_scene.pixels(), axis=1) / np.linalg.norm(abundances @ endmembers, axis=1)
    assert np.median(np.abs(np.log(start.brightness.numpy() / factor))) < 0.02


def test_brightness_is_left_out_where_it_does_not_vary(small_scene):
    assert initialize(known(small_scene), small_scene)[0].brightness is None


@pytest.mark.parametrize("asked, expected", [("none", None), (None, None), ("pixel", 0.25), (PixelBrightness(0.7), 0.7)])
def test_a_choice_of_brightness_is_respected(bright_scene, asked, expected):
    model, start = initialize(known(bright_scene, brightness=asked), bright_scene)
    if expected is None:
        assert model.brightness is None and start.brightness is None
    else:
        assert float(model.brightness.scale) == pytest.approx(expected, rel=0.15)


def test_brightness_asked_for_where_there_is_none_has_a_scale_nevertheless(small_scene):
    model, _ = initialize(known(small_scene, brightness="pixel"), small_scene)
    assert 1e-3 <= float(model.brightness.scale) < 0.05


# --- noise and evidence

def with_noise(scene, factor, sd, seed=0):
    """The scene without its noise, with noise whose covariance over bands is `factor factor^T`, scaled to `sd`."""
    endmembers, _ = truth(scene)
    clean = scene.reference.abundances.values @ endmembers
    noise = np.random.default_rng(seed).standard_normal(clean.shape) @ factor.T
    return Scene(clean + sd * noise / noise.std(), wavelengths=scene.wavelengths,
                 endmembers=scene.reference.endmembers.values, abundances=scene.reference.abundances.values)


SMOOTH = smooth_scale_tril(np.linspace(400, 2500, 30), 30, 1.0, length_scale=500.0).double().numpy()
ONE_SHAPE = np.outer(np.sin(np.arange(30) / 2), np.eye(30)[0]) + 0.1 * np.eye(30)


@pytest.mark.parametrize("factor, together, smooth, full", [
    (np.eye(30), False, False, True), (SMOOTH, False, True, True), (SMOOTH, True, False, False), (ONE_SHAPE, False, False, False),
], ids=["white", "smooth", "together", "one shape"])
def test_noise_of_independent_pixels_is_full_evidence_and_its_bands_may_correlate(small_scene, factor, together, smooth, full):
    """Where neighbours err together, or in one shape as a missing endmember would, no likelihood of many pixels is believed."""
    scene = with_noise(small_scene, factor, 0.01)
    if together:
        endmembers, _ = truth(small_scene)
        clean = small_scene.reference.abundances.values @ endmembers
        noise = ndimage.gaussian_filter(scene.reflectance.values - clean, (1, 1, 0))
        scene = Scene(clean + 0.01 * noise / noise.std(), wavelengths=scene.wavelengths,
                      endmembers=scene.reference.endmembers.values, abundances=scene.reference.abundances.values)
    model, start = initialize(known(scene), scene)
    assert (type(model.noise) is SmoothNoise) == smooth == (start.noise_correlation is not None)
    assert model.evidence == 1.0 if full else 0 < model.evidence < 0.3
    assert start.joint == full


def test_parts_that_are_given_are_kept(small_scene):
    noise = DiagonalNoise(0.05, spread=0.3)
    model, _ = initialize(known(small_scene, evidence=0.5, noise=noise), small_scene)
    assert model.evidence == 0.5 and model.noise is noise
    model, _ = initialize(known(small_scene, noise=DiagonalNoise(spread=0.3)), small_scene)
    assert model.noise.settings["spread"] == 0.3 and model.noise.scale.shape == (small_scene.n_bands,)


def test_effective_bands_counts_independent_residuals():
    generator = np.random.default_rng(0)
    white = generator.standard_normal((4000, 20))
    assert effective_bands(white, 2) > 17
    assert effective_bands(white[:, :2] @ generator.standard_normal((2, 20)), 1) == pytest.approx(1.0)
    assert effective_bands(np.eye(3), 3) == effective_bands(np.zeros((4, 3)), 1) == 1.0


def test_a_scene_without_noise_can_be_started_from(small_scene):
    endmembers, _ = truth(small_scene)
    scene = Scene(small_scene.reference.abundances.values @ endmembers, wavelengths=small_scene.wavelengths)
    model, start = initialize(known(small_scene), scene)
    assert (start.noise_scale > 0).all() and model.brightness is None


def test_a_pixel_that_says_nothing_is_an_even_mixture(small_scene):
    image = small_scene.reflectance.values.copy()
    image[0, 0] = -np.linspace(0.1, 0.2, small_scene.n_bands)
    scene = Scene(image, wavelengths=small_scene.wavelengths)
    _, start = initialize(known(small_scene, brightness="pixel"), scene)
    torch.testing.assert_close(start.abundances[0], torch.full((3,), 1 / 3))


# --- the user's endmembers

def softmax_prior(k, n_bands):
    """Without moments in closed form."""
    normal = dist.Normal(torch.linspace(-2, 1, k)[:, None].expand(k, n_bands), 0.1).to_event(2)
    return dist.TransformedDistribution(normal, [dist.transforms.SigmoidTransform()])


def test_a_prior_of_the_users_own_is_respected(small_scene):
    prior = known(small_scene).endmembers
    model, start = initialize(UnmixingModel(3, endmembers=prior), small_scene)
    assert model.endmembers is prior
    torch.testing.assert_close(start.endmembers, prior.mean)
    torch.testing.assert_close(start.endmember_scale_tril.norm(dim=-1), torch.full((3, 30), 0.02))


def test_a_prior_without_moments_in_closed_form_is_drawn_from(small_scene):
    _, start = initialize(UnmixingModel(3, endmembers=softmax_prior), small_scene)
    np.testing.assert_allclose(start.endmembers.mean(dim=1), [0.12, 0.378, 0.731], atol=0.005)


@pytest.mark.parametrize("prior, complaint", [
    (lambda k, n: dist.Cauchy(torch.ones(k, n), 0.1).to_event(2), "finite mean"),
    (lambda k, n: dist.StudentT(1.5, torch.ones(k, n), 0.1).to_event(2), "finite variance"),
    (lambda k, n: dist.Delta(torch.ones(k, n), event_dim=2), "positive.*small standard deviation"),
    (lambda k, n: dist.Normal(torch.zeros(k, n + 1), 1.0).to_event(2), r"event shape \(3, 30\)"),
])
def test_a_prior_that_cannot_start_is_refused(small_scene, prior, complaint):
    with pytest.raises(InputError, match=complaint):
        initialize(UnmixingModel(3, endmembers=prior), small_scene)


def test_measured_spectra_are_brought_to_the_amplitude_of_the_scene(small_scene):
    endmembers, _ = truth(small_scene)
    prior = informed_endmembers(7.0 * endmembers, small_scene, 3, sd=0.2)
    np.testing.assert_allclose(prior.mean, endmembers, rtol=0.02)
    sds = prior(3, 30).variance.sqrt()
    torch.testing.assert_close(sds, 0.2 * prior.mean.square().mean(dim=1).sqrt()[:, None].expand(3, 30), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(2, 30), (3, 29), (30,)])
def test_spectra_of_another_scene_are_refused(small_scene, shape):
    with pytest.raises(InputError, match="3 spectra of 30 bands.*name as many materials"):
        informed_endmembers(np.ones(shape), small_scene, 3)


# --- size

def scene_like(rows, cols, bands, rank=None, seed=0):
    generator = np.random.default_rng(seed)
    rank = rank or bands
    return Scene(generator.uniform(0.1, 1, (rows, cols, rank)) @ generator.uniform(0.1, 1, (rank, bands)))


@pytest.mark.parametrize("scene, k, complaint", [
    (scene_like(8, 8, 4), 5, r"as bands \(4\), got 5"),
    (scene_like(2, 2, 20), 5, r"as pixels in use \(4\), got 5"),
    (scene_like(8, 8, 20, rank=3), 4, "at most 3 endmembers.*got 4; ask for fewer"),
])
def test_more_endmembers_than_the_scene_can_tell_apart_are_refused(scene, k, complaint):
    with pytest.raises(InputError, match=complaint):
        initialize(UnmixingModel(k), scene)


def test_few_pixels_are_warned_about():
    with pytest.warns(UnmixWarning, match="25 pixels are few for 3 endmembers"):
        initialize(UnmixingModel(3), scene_like(5, 5, 10))


def test_as_many_endmembers_as_bands():
    model, start = initialize(UnmixingModel(2), scene_like(8, 8, 2))
    assert torch.isfinite(start.endmembers).all()


# --- a real scene

def test_samson(real_data):
    scene = open_scene(real_data / "samson.npz")
    model, start = initialize(UnmixingModel(3), scene)
    assert 0.1 < float(model.brightness.scale) < 0.3 and model.evidence == 0.0
    angles = spectral_angle(start.endmembers.double().numpy()[:, None], truth(scene)[0][None])
    assert sorted(angles.argmin(axis=0)) == [0, 1, 2] and angles.min(axis=0).mean() < 0.05


def test_what_pixels_share_is_drawn_jointly_only_where_abundances_look_dirichlet():
    """Where the learned concentrations end at their bound the law is another, whatever the noise."""
    sparse, even = (simulate_scene(3, (24, 24), n_bands=40, concentration=concentration, correlation_length=0.0, seed=2)
                    for concentration in (1 / 3, 3.0))
    assert initialize(UnmixingModel(3), sparse)[1].joint
    start = initialize(UnmixingModel(3), even)[1]
    assert start.denoise is not None and not start.joint


# --- much noise

@pytest.mark.parametrize("brightness", [0.0, 0.2])
def test_ten_endmembers_under_much_noise(brightness):
    """The density that takes errors of abundances for independent is greatest far from the truth here."""
    scene = simulate_scene(10, (24, 24), n_bands=60, snr_db=20, concentration=0.1, correlation_length=0.0, brightness=brightness,
                           seed=1)
    _, start = initialize(UnmixingModel(10, brightness="pixel" if brightness else "none"), scene)
    found, endmembers = start.endmembers.double().numpy(), truth(scene)[0]
    assert start.joint
    assert spectral_angle(found[match(found, endmembers)], endmembers).mean() < 0.06
