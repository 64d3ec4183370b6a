"""The guide: what its parts promise, and that a minibatch of tiles tells the truth about the scene."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from short_fits import CONFIG, quiet_fit

import pyro_unmix as pu
from pyro_unmix.heads import LogisticNormalHead, SimplexNormalHead
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.least_squares import LeastSquares, least_squares

K, L = 3, 12


@pytest.fixture(scope="module")
def scene(holed_scene):
    return holed_scene


@pytest.fixture(scope="module")
def filled(scene):
    """Model and start, with brightness."""
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    return pu.initialize(pu.UnmixingModel(K, endmembers=prior, brightness="pixel"), scene)


def shaken(guide, seed=0):
    """The guide with weights that say something."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for head in (guide.head.mean, guide.head.precision[-1], guide.brightness.layer):
            head.weight += 0.1 * torch.randn_like(head.weight)
    return guide


def test_binding_leaves_the_plan_as_it_is(filled):
    plan = pu.UnmixingGuide(pu.ConvEncoder(width=8))
    one, other = plan.bind(filled[1]), plan.bind(filled[1])
    assert not list(plan.parameters()) and not hasattr(plan, "endmembers") and plan.brightness is None
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    with torch.no_grad():
        one.endmembers.shift += 1
    assert not other.endmembers.shift.any()


@pytest.mark.parametrize("exact", [True, False])
def test_a_head_left_open_is_chosen_when_bound(filled, exact):
    """A head that was asked for stays; and a plan of another class makes guides of that class, with all it holds."""
    plan = AtItsMeans(pu.ConvEncoder(width=8))
    assert not hasattr(plan, "head")
    bound = plan.bind(filled[1], exact=exact)
    assert type(bound.head) is (SimplexNormalHead if exact else pu.DirichletHead) and type(bound) is AtItsMeans
    assert bound.encoder.settings == plan.encoder.settings and not hasattr(plan, "head")
    asked = pu.UnmixingGuide("mlp", head="logistic-normal").bind(filled[1], exact=exact)
    assert type(asked.head) is LogisticNormalHead
    assert type(bound.bind(filled[1], exact=not exact).head) is type(bound.head)  # a trained guide as a plan keeps its own


@pytest.mark.parametrize("white", [True, False])
def test_a_fit_learns_from_exact_draws_where_noise_is_white(white):
    """Else the likelihood of many pixels is not to be believed: residuals of one smooth shape."""
    scene = pu.simulate_scene(K, (12, 14), n_bands=L, seed=3)
    noise = 0.02 * np.random.default_rng(0).standard_normal((12, 14, 1)) * np.sin(np.arange(L) / 2)
    values = scene.reflectance.values + (0.0 if white else noise.astype(np.float32))
    structured = pu.Scene(values, endmembers=scene.reference.endmembers.values)
    model = pu.UnmixingModel(K, endmembers=informed_endmembers(scene.reference.endmembers.values, structured, K))
    fit = quiet_fit(model, structured, config=replace(CONFIG, svi_steps=2, calibration_steps=2))
    assert (fit.guide.denoise is not None) == white and ("sample" in fit.seconds) == white
    assert type(fit.guide.head) is (SimplexNormalHead if white else pu.DirichletHead)


def test_what_draws_say_of_what_pixels_share_is_taken_over(filled):
    """Draws of a guide with another posterior: means and standard deviations within what 4000 draws tell, five
    standard errors."""
    guide, other = (pu.UnmixingGuide("mlp").bind(filled[1], exact=True) for _ in range(2))
    with torch.no_grad():
        for parameter in (other.endmembers.shift, other.endmembers.log_scale, other.noise.loc, other.noise.log_scale):
            parameter += 0.5 * torch.randn_like(parameter)
        draws = other.endmembers().sample(torch.Size([4000])).double(), other.noise().sample(torch.Size([4000])).double()
    concentration = torch.tensor([[0.2, 0.5, 3.0], [0.4, 0.7, 3.0]]).double()
    assert not torch.allclose(guide.endmembers.shift, other.endmembers.shift, atol=0.2)  # negative control
    guide.learn_shared(*draws, concentration)
    apart = (guide.endmembers().mean - other.endmembers().mean) / other.endmembers().stddev
    assert apart.abs().max() < 5 / 4000**0.5
    torch.testing.assert_close(guide.endmembers().stddev, other.endmembers().stddev, atol=0, rtol=0.06)
    torch.testing.assert_close(guide.endmembers.stddev, guide.endmembers().stddev)
    torch.testing.assert_close(guide.noise.loc, other.noise.loc, atol=0.01, rtol=0)
    torch.testing.assert_close(guide.noise.log_scale, other.noise.log_scale, atol=0.06, rtol=0)
    torch.testing.assert_close(guide.head.concentration, torch.tensor([0.3, 0.6, 1.0]))


def test_a_trained_guide_can_be_the_plan_of_another_fit(filled):
    """Nothing of the first scene is left in the copy, its brightness least of all."""
    trained = pu.UnmixingGuide("mlp").bind(filled[1])
    again = trained.bind(replace(filled[1], brightness=None))
    assert trained.brightness is not None and again.brightness is None
    assert not torch.equal(trained.encoder.layers[0].weight, again.encoder.layers[0].weight)


def test_two_guides_of_one_start_share_no_memory(filled):
    """Loading weights into one, which writes in place, leaves the other and the start alone."""
    start = copy.deepcopy(filled[1])
    before = copy.deepcopy(start)
    one, other = (pu.UnmixingGuide("mlp").bind(start) for _ in range(2))
    one.load_state_dict({name: value + 1.0 for name, value in one.state_dict().items()})
    assert not {v.data_ptr() for v in one.state_dict().values()} & {v.data_ptr() for v in other.state_dict().values()}
    for name, value in vars(start).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(before, name)), name
    assert all(torch.equal(value, before.denoise.state_dict()[name]) for name, value in start.denoise.state_dict().items())


@pytest.mark.parametrize("make, message", [
    (lambda: pu.UnmixingGuide("transformer"), "spacnn, cnn, mlp"),
    (lambda: pu.DirichletHead(floor=0.0), "positive floor"),
    (lambda: pu.DirichletHead(max_precision=1.0), "max_precision"),
])
def test_guides_that_cannot_be_are_refused(make, message):
    with pytest.raises(pu.InputError, match=message):
        make()


def test_stands_at_the_least_squares_estimate(filled, scene):
    model, start = filled
    guide = pu.UnmixingGuide("spacnn").bind(start)
    abundances, brightness = guide.pixels(pu.whole(scene))
    floor = guide.head.settings["floor"]
    centre = abundances.concentration - floor
    centre = centre / centre.sum(-1, keepdim=True)
    torch.testing.assert_close(centre, start.abundances, atol=5e-3, rtol=0)
    torch.testing.assert_close(brightness.loc.exp(), start.brightness, atol=0, rtol=2e-3)
    torch.testing.assert_close(guide.endmembers().mean, start.endmembers)
    torch.testing.assert_close(guide.noise().base_dist.loc.exp(), start.noise_scale)


@pytest.mark.parametrize("brightness", ["pixel", None])
def test_least_squares_of_denoised_spectra_need_no_spectra(scene, brightness):
    """They are found in a few coordinates, and are those of all bands."""
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    model, start = pu.initialize(pu.UnmixingModel(K, endmembers=prior, brightness=brightness or "none"), scene)
    guide, tiles = pu.UnmixingGuide("mlp").bind(start), pu.whole(scene)
    assert guide.denoise is not None
    denoised = tiles.select(guide.denoise(tiles.reflectance, tiles.valid))
    found = guide.estimate(tiles)
    expected, noisy = (least_squares(pixels, guide.endmembers.loc().detach(), guide.noise.cholesky().detach(),
                                     brightness=brightness is not None) for pixels in (denoised, tiles.pixels()))
    for name, one, other in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert (found.free - noisy.free).abs().max() > 1e-2


def test_head_keeps_its_floor_and_its_bound():
    head = pu.DirichletHead(floor=0.7, max_precision=500.0)
    head.build(4, K)
    with torch.no_grad():
        head.mean.weight.normal_(std=100.0)
        head.precision[-1].weight.normal_(std=100.0)
    estimate = LeastSquares(torch.rand(1000, K), torch.ones(1000), torch.rand(1000, K), torch.eye(K).expand(1000, K, K))
    concentration = head(torch.randn(1000, 4), estimate).concentration
    assert torch.isfinite(concentration).all()
    assert concentration.min() >= 0.7 and concentration.sum(-1).max() <= 0.7 * K + 500 * 1.0001
    assert concentration.sum(-1).min() < 0.7 * K + 1e-3  # and uses the whole range


def test_input_tells_shape_from_brightness(filled, scene):
    guide = pu.UnmixingGuide("mlp").bind(filled[1])
    tiles = pu.whole(scene)
    plain, doubled = (guide.input(factor * tiles.reflectance, tiles.valid) for factor in (1.0, 2.0))
    torch.testing.assert_close(plain[:, :-1], doubled[:, :-1], atol=1e-3, rtol=1e-3)
    shift = (doubled - plain)[:, -1][tiles.core]
    assert shift.min() > 0
    assert not plain.movedim(1, -1)[~tiles.valid].any()
    spread = tiles.select(plain)[:, :2].std(0)
    torch.testing.assert_close(spread, torch.ones(2), atol=0.1, rtol=0)


@pytest.mark.parametrize("encoder", ["spacnn", "cnn", "mlp"])
def test_tiles_with_their_context_are_exact(filled, scene, encoder):
    """And without it they are not, where the encoder looks around."""
    torch.manual_seed(0)
    guide = shaken(pu.UnmixingGuide(encoder).bind(filled[1]))

    def concentration(tiling):
        found = torch.zeros(*scene.shape[:2], K)
        for number in range(len(tiling)):
            tiles = tiling.batch([number])
            found[tiling.rows_and_columns(tiles, [number])] = guide.pixels(tiles)[0].concentration
        return found

    with torch.no_grad():
        exact = concentration(pu.Tiling(scene))
        torch.testing.assert_close(concentration(pu.Tiling(scene, 8, guide.halo)), exact, rtol=1e-3, atol=1e-3)
        careless = concentration(pu.Tiling(scene, 8, 0))
    assert encoder == "mlp" or (careless - exact).abs().max() > 0.5


def test_log_prob_is_that_of_the_sites(filled, scene):
    guide = shaken(pu.UnmixingGuide("mlp").bind(filled[1]))
    tiles = pu.whole(scene)
    with pyro.get_param_store().scope(), torch.no_grad():
        trace = poutine.trace(guide).get_trace(tiles)
        trace.compute_log_prob()
        abundances, brightness = (trace.nodes[name] for name in ("abundances", "brightness"))
        found = guide.log_prob(tiles, abundances["value"], brightness["value"])
    torch.testing.assert_close(found, abundances["log_prob"] + brightness["log_prob"])


class AtItsMeans(pu.UnmixingGuide):
    """Every latent stands at a point that depends on the parameters: no chance in the ELBO, gradients of every part."""

    def forward(self, tiles):
        pyro.sample("endmembers", dist.Delta(self.endmembers().mean, event_dim=2))
        pyro.sample("noise_scale", dist.Delta(self.noise().mean, event_dim=1))
        abundances, brightness = self.pixels(tiles)
        _, labelled = tiles.known()
        with poutine.scale(scale=tiles.scale), pyro.plate("pixel", len(abundances.mean)):
            if labelled is None:
                pyro.sample("abundances", dist.Delta(abundances.mean, event_dim=1))
            else:
                with poutine.mask(mask=~labelled):
                    pyro.sample("abundances_unobserved", dist.Delta(abundances.mean, event_dim=1))
            pyro.sample("brightness", dist.Delta(brightness.mean))


PARTS = ("encoder", "head", "brightness", "endmembers", "noise")


def gradient(model, guide, tiles):
    """Of the loss, flattened part by part."""
    guide.zero_grad()
    with pyro.get_param_store().scope():
        Trace_ELBO()(model, guide)(tiles).backward()
    return {part: torch.cat([p.grad.flatten() for p in getattr(guide, part).parameters() if p.grad is not None])
            for part in PARTS}


def relative_error(found, expected):
    return {part: ((found[part] - expected[part]).norm() / expected[part].norm()).item() for part in PARTS}


@pytest.mark.parametrize("encoder", ["spacnn", "mlp"])
def test_minibatch_gradient_is_unbiased(filled, scene, encoder):
    """Averaged over all tiles, each a batch, it is the gradient of the whole scene."""
    model, start = filled
    model = model.replace(evidence=0.5)
    torch.manual_seed(0)
    guide = shaken(AtItsMeans(encoder).bind(start))
    tiling = pu.Tiling(scene, 8, guide.halo)
    batches = [tiling.batch([number]) for number in range(len(tiling))]
    counts = [len(tiles.pixels()) for tiles in batches]
    assert sum(counts) == scene.n_pixels and max(counts) > 2 * min(counts)

    def averaged(batches):
        gradients = [gradient(model, guide, tiles) for tiles in batches]
        return {part: sum(g[part] for g in gradients) / len(gradients) for part in PARTS}

    exact = gradient(model, guide, pu.whole(scene))
    assert all(value.norm() > 0 for value in exact.values())
    errors = relative_error(averaged(batches), exact)
    assert max(errors.values()) < 1e-4, errors
    # Batches of two tiles, all pairs: the same.
    pairs = [tiling.batch([i, j]) for i in range(len(tiling)) for j in range(i)]
    errors = relative_error(averaged(pairs), exact)
    assert max(errors.values()) < 1e-4, errors
    # Negative control: pixels over pixels, the obvious scale, is wrong for tiles that hold different numbers of them.
    wrong = [replace(tiles, scale=scene.n_pixels / count) for tiles, count in zip(batches, counts, strict=True)]
    errors = relative_error(averaged(wrong), exact)
    assert min(errors[part] for part in ("encoder", "head", "endmembers")) > 1e-2, errors


def labels_of(scene):
    """Of half of the pixels, most of them in the upper tiles."""
    rng = np.random.default_rng(0)
    labels = rng.dirichlet(np.ones(K), scene.shape[:2])
    labels[rng.random(labels.shape[:2]) < np.linspace(0, 1, len(labels))[:, None]] = np.nan
    return labels


def test_minibatch_gradient_is_unbiased_where_some_abundances_are_observed(filled, scene):
    """Averaged over all tiles it is that of the whole scene. Negative control: the gradient without the labels is another."""
    model, start = filled
    torch.manual_seed(0)
    guide = shaken(AtItsMeans("mlp").bind(start))
    tiling = pu.Tiling(scene, 8, guide.halo, labels=labels_of(scene))
    exact = gradient(model, guide, pu.Tiling(scene, labels=labels_of(scene)).batch([0]))
    gradients = [gradient(model, guide, tiling.batch([number])) for number in range(len(tiling))]
    errors = relative_error({part: sum(g[part] for g in gradients) / len(gradients) for part in PARTS}, exact)
    assert max(errors.values()) < 1e-4, errors
    errors = relative_error(gradient(model, guide, pu.whole(scene)), exact)
    assert min(errors[part] for part in ("encoder", "head", "endmembers")) > 1e-2, errors


@pytest.mark.parametrize("labelled", [False, True])
def test_both_elbos_estimate_one_number(scene, filled, labelled):
    """Analytic and sampled divergences of the same draws agree within four standard errors (one seed in 16,000 would
    fail), and the weight of the warm-up reaches both."""
    model, start = filled
    guide = shaken(pu.UnmixingGuide("mlp").bind(start))
    tiles = pu.Tiling(scene, 8, labels=labels_of(scene) if labelled else None).batch([0, 3])

    def losses(elbo, weight):
        values = []
        with pyro.get_param_store().scope(), torch.no_grad():
            for seed in range(30):
                pyro.set_rng_seed(seed)
                values.append(elbo.loss(model, guide, tiles.weighted(weight)))
        return np.array(values)

    def standard_errors_apart(one, other):
        difference = one - other
        return abs(difference.mean()) / (difference.std(ddof=1) / len(difference) ** 0.5)

    sampled, analytic = ({weight: losses(elbo(), weight) for weight in (0.2, 1.0)} for elbo in (Trace_ELBO, TraceMeanField_ELBO))
    for weight in (0.2, 1.0):
        assert standard_errors_apart(sampled[weight], analytic[weight]) < 4
    # Negative control: another weight is told apart by the same rule.
    assert standard_errors_apart(sampled[0.2], analytic[1.0]) > 8
