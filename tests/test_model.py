"""The model tells the story it claims to tell, and trains as any Pyro model does."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import ClippedAdam
from scipy import stats

import pyro_unmix as pu
from pyro_unmix import noise, priors
from pyro_unmix.initialize import informed_endmembers

K, L = 3, 12
GLOBAL = ["endmembers", "noise_scale"]


@pytest.fixture(scope="module")
def scene():
    made = pu.simulate_scene(K, (10, 9), n_bands=L, brightness=0.2, seed=3)
    mask = np.ones((10, 9), bool)
    mask[2:4, 5] = False
    return pu.Scene(made.reflectance, mask=mask, endmembers=made.reference.endmembers.values)


@pytest.fixture(scope="module")
def known(scene):
    """A prior of the endmembers around the truth; saves the search for them."""
    return informed_endmembers(scene.reference.endmembers.values, scene, K)


def bound(scene, known, encoder="mlp", **parts):
    """A filled model and a guide standing at its start."""
    model, start = pu.initialize(pu.UnmixingModel(K, endmembers=known, **parts), scene)
    return model, pu.UnmixingGuide(encoder).bind(start)


def sites(function, tiles):
    nodes = poutine.trace(function).get_trace(tiles).nodes
    return {name: node for name, node in nodes.items() if node["type"] == "sample" and name != "pixel"}


@pytest.mark.parametrize("brightness", ["none", "pixel"])
def test_sites_are_those_of_the_contract(scene, known, brightness):
    model, guide = bound(scene, known, brightness=brightness)
    tiles = pu.whole(scene)
    n = scene.n_pixels
    shapes = {"endmembers": (K, L), "noise_scale": (L,), "abundances": (n, K), "brightness": (n,), "reflectance": (n, L)}
    if brightness == "none":
        del shapes["brightness"]
    with pyro.get_param_store().scope():
        told, guessed = sites(model, tiles), sites(guide, tiles)
    assert {name: tuple(site["value"].shape) for name, site in told.items()} == shapes
    assert {name: tuple(site["value"].shape) for name, site in guessed.items()} == {
        name: shape for name, shape in shapes.items() if name != "reflectance"}
    latent = [name for name in told if not told[name]["is_observed"]]
    assert latent == list(guessed)  # TraceMeanField_ELBO wants one order
    assert [name for name in told if name not in latent] == ["reflectance"]
    np.testing.assert_array_equal(told["reflectance"]["value"], scene.pixels())
    for name, site in [*told.items(), *guessed.items()]:
        plates = [(frame.name, frame.size) for frame in site["cond_indep_stack"]]
        assert plates == ([] if name in GLOBAL else [("pixel", n)])


@pytest.mark.parametrize("brightness", ["none", "pixel"])
def test_log_density_is_that_of_the_story(scene, known, brightness):
    """Against SciPy, with the weights of a minibatch and of the warm-up."""
    model, _ = bound(scene, known, brightness=brightness, abundances=priors.Dirichlet([0.5, 1.0, 2.0]))
    tiles = pu.Tiling(scene, 5).batch([0]).weighted(0.25)
    assert tiles.scale == 4
    rng = np.random.default_rng(0)
    observed = tiles.pixels().double().numpy()
    n = len(observed)
    endmembers = known.mean.double().numpy() * rng.uniform(0.9, 1.1, (K, L))
    scale = model.noise.scale.double().numpy() * rng.uniform(0.5, 2.0, L)
    abundances = rng.dirichlet(np.ones(K), n)
    factor = rng.uniform(0.8, 1.2, n) if brightness == "pixel" else np.ones(n)
    given = {"endmembers": endmembers, "noise_scale": scale, "abundances": abundances}
    if brightness == "pixel":
        given["brightness"] = factor
    given = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in given.items()}
    trace = poutine.trace(poutine.condition(model, data=given)).get_trace(tiles)

    covariance = (known.scale_tril @ known.scale_tril.mT).double().numpy()
    expected = sum(stats.multivariate_normal(m, c).logpdf(e)
                   for m, c, e in zip(known.mean.double().numpy(), covariance, endmembers, strict=True))
    expected += stats.lognorm(model.noise.settings["spread"], scale=model.noise.scale.numpy()).logpdf(scale).sum()
    pixels = stats.dirichlet([0.5, 1.0, 2.0]).logpdf(abundances.T).sum()
    if brightness == "pixel":
        pixels += stats.lognorm(float(model.brightness.scale)).logpdf(factor).sum()
    sd = np.sqrt(scale**2 + model.noise.settings["floor"] ** 2)
    likelihood = stats.norm(factor[:, None] * (abundances @ endmembers), sd).logpdf(observed).sum()
    expected += 4 * (0.25 * pixels + likelihood)
    np.testing.assert_allclose(trace.log_prob_sum().item(), expected, rtol=2e-4)


# Some abundances observed


def labels_of(scene, share=0.5, seed=0):
    """Of so many pixels, at random."""
    rng = np.random.default_rng(seed)
    labels = rng.dirichlet(np.ones(K), scene.shape[:2])
    labels[rng.random(labels.shape[:2]) >= share] = np.nan
    return labels


@pytest.mark.parametrize("brightness", ["none", "pixel"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none", "some", "all"])
def test_log_density_where_some_abundances_are_observed(scene, known, brightness, share):
    """Against SciPy: labelled pixels at their label, the others at what the guide has drawn. Negative control: all at what it has
    drawn."""
    model, guide = bound(scene, known, brightness=brightness, abundances=priors.Dirichlet([0.5, 1.0, 2.0]))
    tiles = pu.Tiling(scene, 5, labels=labels_of(scene, share)).batch([0]).weighted(0.25)
    label, labelled = tiles.known()
    with pyro.get_param_store().scope():
        drawn = poutine.trace(guide).get_trace(tiles)
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(tiles)
    value = {name: node["value"].detach().double().numpy() for name, node in drawn.nodes.items() if node["type"] == "sample"
             and name != "pixel"}
    factor = value.get("brightness", np.ones(len(label)))

    def expected(abundances):
        covariance = (known.scale_tril @ known.scale_tril.mT).double().numpy()
        log = sum(stats.multivariate_normal(m, c).logpdf(e)
                  for m, c, e in zip(known.mean.double().numpy(), covariance, value["endmembers"], strict=True))
        log += stats.lognorm(1.0, scale=model.noise.scale.double().numpy()).logpdf(value["noise_scale"]).sum()
        pixels = stats.dirichlet([0.5, 1.0, 2.0]).logpdf((abundances / abundances.sum(axis=1, keepdims=True)).T).sum()
        if brightness == "pixel":
            pixels += stats.lognorm(float(model.brightness.scale)).logpdf(factor).sum()
        sd = np.sqrt(value["noise_scale"] ** 2 + model.noise.settings["floor"] ** 2)
        mean = factor[:, None] * (abundances @ value["endmembers"])
        return log + tiles.scale * (0.25 * pixels + stats.norm(mean, sd).logpdf(tiles.pixels().double().numpy()).sum())

    told = np.where(labelled[:, None], label.double().numpy(), value["abundances_unobserved"])
    np.testing.assert_allclose(trace.log_prob_sum().item(), expected(told), rtol=2e-4)
    np.testing.assert_allclose(trace.nodes["abundances"]["value"].detach(), told, atol=1e-6)
    if share:
        assert abs(expected(value["abundances_unobserved"]) / expected(told) - 1) > 0.01
    if share == 0.0:  # as if there were no labels
        plain = pu.Tiling(scene, 5).batch([0]).weighted(0.25)
        given = {**{name: node["value"] for name, node in drawn.nodes.items() if name in value},
                 "abundances": drawn.nodes["abundances_unobserved"]["value"]}
        assert poutine.trace(poutine.condition(model, data=given)).get_trace(plain).log_prob_sum().item() == pytest.approx(
            trace.log_prob_sum().item(), rel=1e-5)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none", "some", "all"])
def test_model_and_guide_agree_on_what_is_observed(scene, known, elbo, share, recwarn):
    """Every latent site of the model is one of the guide, in the same order, without a warning; and the loss falls."""
    model, guide = bound(scene, known, brightness="pixel")
    tiles = pu.Tiling(scene, labels=labels_of(scene, share)).batch([0])
    with pyro.get_param_store().scope(), pyro.validation_enabled(True):
        told, guessed = sites(model, tiles), sites(guide, tiles)
        assert [name for name, site in told.items() if not site["is_observed"]] == list(guessed)
        assert "abundances_unobserved" in guessed
        pyro.set_rng_seed(0)
        svi = SVI(model, guide, ClippedAdam({"lr": 5e-3}), elbo())
        assert falls(np.array([svi.step(tiles) for _ in range(80)]))
    assert not [str(warning.message) for warning in recwarn]


def test_evidence_tempers_what_moves_the_endmembers_and_nothing_else(scene, known):
    tiles = pu.whole(scene)

    def gradients(evidence):
        model, _ = bound(scene, known, brightness="none", evidence=evidence)
        pyro.set_rng_seed(0)
        values = {name: site["value"].clone().requires_grad_() for name, site in sites(model, tiles).items()
                  if not site["is_observed"]}
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(tiles)
        trace.compute_log_prob()
        likelihood = trace.nodes["reflectance"]["log_prob_sum"]
        return likelihood.item(), torch.autograd.grad(likelihood, [values["endmembers"], values["abundances"]])

    value, (endmembers, abundances) = gradients(1.0)
    tempered, (endmembers_tempered, abundances_tempered) = gradients(0.25)
    assert tempered == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(endmembers_tempered, 0.25 * endmembers, rtol=1e-4, atol=1e-3 * endmembers.abs().max().item())
    torch.testing.assert_close(abundances_tempered, abundances, rtol=1e-4, atol=1e-4 * abundances.abs().max().item())


def test_replace_makes_a_new_model_and_leaves_the_old_one(known):
    model = pu.UnmixingModel(K)
    parts = dict(model._parts)
    other = model.replace(abundances=priors.Dirichlet(0.3), endmembers=known, brightness="pixel", evidence=0.5)
    assert model._parts == parts and model.endmembers is None and model.brightness == "auto" and model.evidence is None
    assert model.abundances(K).concentration.tolist() == [1.0] * K
    assert other.abundances(K).concentration.tolist() == pytest.approx([0.3] * K)
    assert other.endmembers is known and isinstance(other.brightness, noise.PixelBrightness) and other.evidence == 0.5
    # What was not named stays: and a replaced model can be replaced again.
    again = other.replace(evidence=1.0)
    assert again.abundances is other.abundances and again.endmembers is known and other.evidence == 0.5
    assert model.replace(n_endmembers=4).n_endmembers == 4
    with pytest.raises(pu.InputError, match="mixing.*got colour"):
        model.replace(colour="red")


@pytest.mark.parametrize("parts, message", [
    (dict(n_endmembers=1), "at least 2 endmembers"),
    (dict(n_endmembers=2.5), "a whole number"),
    (dict(brightness="maybe"), "brightness 'auto', 'none', 'pixel'"),
    (dict(evidence=-0.1), "evidence from"),
    (dict(evidence=1.5), "evidence from"),
    (dict(abundances=priors.Dirichlet([1.0, 1.0])), "3 concentrations"),
    (dict(abundances=dist.Dirichlet(torch.ones(4))), "over 3 endmembers"),
    (dict(abundances=lambda k: dist.Normal(torch.zeros(k), 1.0).to_event(1)), "on the simplex"),
    (dict(abundances=lambda k: 1 / 0), "ZeroDivisionError"),
    (dict(abundances=0.3), "a prior"),
    (dict(endmembers="smooth"), "a prior"),
])
def test_parts_that_cannot_be_are_refused(parts, message):
    with pytest.raises(pu.InputError, match=message):
        pu.UnmixingModel(**{"n_endmembers": K, **parts})


def test_checking_a_prior_draws_no_random_number_of_the_caller():
    before = torch.get_rng_state()
    pu.UnmixingModel(K, abundances=priors.Dirichlet(0.5))
    assert torch.equal(before, torch.get_rng_state())


def test_a_count_from_numpy_will_do():
    assert pu.UnmixingModel(np.int64(3)).n_endmembers == 3


@pytest.mark.parametrize("filled", [
    {},
    {"endmembers": True},
    {"endmembers": True, "brightness": "none"},
    {"endmembers": True, "brightness": "none", "evidence": 1.0},
    {"endmembers": True, "brightness": "pixel", "evidence": 1.0, "noise": noise.DiagonalNoise(0.1)},
    {"brightness": "none", "evidence": 1.0, "noise": noise.DiagonalNoise(0.1)},
], ids=lambda parts: "+".join(parts) or "nothing")
def test_an_unfilled_model_says_what_to_do(scene, known, filled):
    parts = {**filled, "endmembers": known} if "endmembers" in filled else filled
    with pytest.raises(pu.InputError, match="pyro_unmix.initialize"):
        pu.UnmixingModel(K, **parts)(pu.whole(scene))


def test_an_unfilled_model_says_so_to_plain_pyro_too(scene, known):
    """Pyro makes errors inside a trace anew, from one string."""
    _, guide = bound(scene, known)
    with pyro.get_param_store().scope(), pytest.raises(pu.InputError, match="pyro_unmix.initialize"):
        SVI(pu.UnmixingModel(K), guide, ClippedAdam({}), Trace_ELBO()).step(pu.whole(scene))


def test_a_model_filled_by_hand_needs_no_scene(scene, known):
    model = pu.UnmixingModel(K, endmembers=known, brightness=noise.PixelBrightness(0.2), evidence=1.0,
                             noise=noise.DiagonalNoise(0.01))
    assert model(pu.whole(scene)).shape == (scene.n_pixels, L)


def train(model, guide, scene, elbo, *, steps, seed=0, rate=1e-3):
    """As in Pyro's tutorial, in a parameter store of its own."""
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(seed)
        svi = SVI(model, guide, ClippedAdam({"lr": rate}), elbo)
        tiles = pu.whole(scene)
        return np.array([svi.step(tiles) for _ in range(steps)])


def falls(losses):
    """The mean of the last fifth lies below that of the first by five standard errors."""
    fifth = len(losses) // 5
    first, last = losses[:fifth], losses[-fifth:]
    return np.isfinite(losses).all() and first.mean() - last.mean() > 5 * np.hypot(first.std(), last.std()) / fifth**0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trains_as_in_pyros_tutorial(scene, known, seed):
    model, guide = bound(scene, known, "spacnn")
    before = [p.detach().clone() for p in guide.parameters()]
    assert falls(train(model, guide, scene, Trace_ELBO(), steps=300, seed=seed))
    assert not any(torch.equal(p, q) for p, q in zip(guide.parameters(), before, strict=True))
    assert all(torch.isfinite(p).all() for p in guide.parameters())


def test_trains_with_analytic_divergences(scene, known):
    assert falls(train(*bound(scene, known), scene, TraceMeanField_ELBO(), steps=100, rate=5e-3))


@pytest.mark.parametrize("prior, elbo", [
    (priors.Dirichlet(0.3), Trace_ELBO),
    (priors.Dirichlet(0.3), TraceMeanField_ELBO),
    (lambda k: dist.Dirichlet(torch.full((k,), 2.0)), Trace_ELBO),
    (dist.Dirichlet(torch.full((K,), 2.0)), TraceMeanField_ELBO),
], ids=["sparse", "sparse, analytic", "callable", "distribution, analytic"])
def test_trains_with_another_prior(scene, known, prior, elbo):
    assert falls(train(*bound(scene, known, abundances=prior), scene, elbo(), steps=80, rate=1e-2))


# A number of endmembers that is open


def test_an_open_number_of_endmembers_is_filled_from_the_scene(caplog):
    scene = pu.simulate_scene(4, (20, 20), n_bands=30, snr_db=40.0, concentration=0.5, seed=0)
    model = pu.UnmixingModel("auto", abundances=priors.Dirichlet(0.5))
    with caplog.at_level("INFO", logger="pyro_unmix"):
        filled, start = pu.initialize(model, scene)
    assert filled.n_endmembers == 4 == len(start.endmembers) and model.n_endmembers == "auto"
    assert [message for message in caplog.messages if "endmembers" in message] == [
        "4 endmembers, an estimate from the scene: give their number where it is known"]
    known, same = pu.initialize(model.replace(n_endmembers=4), scene)
    torch.testing.assert_close(same.endmembers, start.endmembers, rtol=0, atol=0)
    assert filled(pu.whole(scene)).shape == known(pu.whole(scene)).shape == (400, 30)


def test_an_open_number_of_endmembers_is_the_default_and_can_be_given_later(scene, known):
    model = pu.UnmixingModel()
    assert model.n_endmembers == "auto" and model.replace(brightness="pixel").n_endmembers == "auto"
    assert model.replace(n_endmembers=4).n_endmembers == 4
    assert model.replace(n_endmembers=K, endmembers=known).endmembers is known
    everything_else = model.replace(brightness="none", evidence=1.0, noise=noise.DiagonalNoise(0.1))
    with pytest.raises(pu.InputError, match="open parts are filled in"):
        everything_else(pu.whole(scene))


def test_priors_are_checked_once_the_number_of_endmembers_is_known(scene, known):
    model = pu.UnmixingModel("auto", abundances=priors.Dirichlet([1.0] * 7))
    with pytest.raises(pu.InputError, match="3 concentrations"):
        model.replace(n_endmembers=3)
    with pytest.raises(pu.InputError, match="concentrations"):
        pu.initialize(model, pu.simulate_scene(3, (20, 20), n_bands=30, seed=0))
    with pytest.raises(pu.InputError, match="a number of endmembers with an endmember prior.*got 'auto'"):
        pu.UnmixingModel("auto", endmembers=known)
    with pytest.raises(pu.InputError, match="endmember prior"):
        pu.UnmixingModel().replace(endmembers=known)


@pytest.mark.parametrize("count", ["many", "4", "", None, True, -3, 1, 4.0, float("nan"), [4], np.array([3, 4])], ids=repr)
def test_counts_that_cannot_be(count):
    with pytest.raises(pu.InputError, match="at least 2 endmembers, a whole number, or 'auto'"):
        pu.UnmixingModel(count)


def test_too_few_pixels_to_count_endmembers_in():
    with pytest.raises(pu.InputError, match="say how many endmembers"):
        pu.initialize(pu.UnmixingModel("auto"), pu.simulate_scene(3, (4, 4), n_bands=30, seed=0))


def test_generates_spectra_of_given_abundances(scene, known):
    """With everything given it is the mixture and its noise, whose standard deviation over 2400 values is uncertain by 1.5 %."""
    model, _ = bound(scene, known, brightness="pixel")
    abundances = np.random.default_rng(0).dirichlet(np.ones(K), 200)
    spectra, light = scene.reference.endmembers.values, np.linspace(0.5, 2.0, 200)
    torch.manual_seed(0)
    made = model.generate(abundances, L, endmembers=spectra, brightness=light, noise_scale=0.01)
    errors = made.numpy() - light[:, None] * (abundances @ spectra)
    assert made.shape == (200, L) and abs(errors.std() / 0.01 - 1) < 0.08 and abs(errors.mean()) < 1e-3
    torch.manual_seed(0)
    assert torch.equal(made, model.generate(abundances, L, endmembers=spectra, brightness=light, noise_scale=0.01))
    # What is not given is drawn: brightness now varies around one, by its prior.
    drawn = model.generate(abundances, L, endmembers=spectra, noise_scale=1e-6).numpy()
    factor = (drawn * (abundances @ spectra)).sum(axis=1) / ((abundances @ spectra) ** 2).sum(axis=1)
    assert abs(np.log(factor).std() / float(model.brightness.scale) - 1) < 0.2
    assert not torch.equal(model.generate(abundances, L), model.generate(abundances, L))


@pytest.mark.parametrize("abundances, given, match", [
    (np.ones((4, K - 1)) / (K - 1), {}, "abundances"), (np.ones((4, K)), {}, "divide them by their sum"),
    (-np.eye(K) + 2 / K, {}, "at least 0"), (np.eye(K), {"endmembers": np.ones((K, L + 1))}, "endmembers of shape"),
    (np.eye(K), {"noise": 0.1}, "sites among"), (np.eye(K), {"brightness": 1.0}, "brightness of shape"),
])
def test_cannot_generate_from(scene, known, abundances, given, match):
    model, _ = bound(scene, known, brightness="none")
    with pytest.raises(pu.InputError, match=match):
        model.generate(abundances, L, **given)


def test_an_open_model_cannot_generate():
    with pytest.raises(pu.InputError, match="open parts are filled in"):
        pu.UnmixingModel(K).generate(np.eye(K), L)
