"""Laws that every method keeps, the planted and the copied maps, and each published method against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize

from engine import statistics
from engine.attribution import datapaths, scorers
from engine.attribution.baselines import Case, References
from engine.errors import UnknownName
from engine.models import hooks
from engine.models.network import ModelBundle
from engine.specs import methods
from tests import test_scores, toys

pytestmark = pytest.mark.usefixtures("one_thread")

FINDS_PLANTED = ("two-run", "mask", "gates", "quadratic", "conductance", "gradient", "geomean")
"""Not the sigmoid mask: it stops at fewer maps where fewer keep the answer. Activation and random do not look at the answer."""
TRAINED = ("mask", "sigmoid")
"""Those whose start the seed shakes."""


@pytest.fixture(scope="module")
def bundle():
    return toys.bundle(toys.seeded(toys.Residual()))


def answered(bundle, count=5):
    images = toys.pictures(count)
    with torch.no_grad():
        return Case(images, bundle.logits(images).argmax(1))


def references(bundle, count=2):
    images = toys.pictures(count, seed=9)
    trace = hooks.record(bundle, images)
    return References(images, (trace.logits.argmax(1) + 1) % 3, trace, (), "references")


def score(bundle, case, method, seed=0):
    return datapaths.score(bundle, case, references(bundle), method=methods.method(method), seed=seed)[0]


def rows(case, index):
    return Case(case.images[index], case.targets[index])


def test_every_method_of_the_menu_is_computed():
    assert all(callable(datapaths.scorer(item)) for item in methods.DECLARED)
    assert list(methods.METHODS) == [item.name for item in methods.DECLARED], "no name stands twice"


def test_an_unknown_method_is_refused_by_name(bundle):
    with pytest.raises(UnknownName, match=r"'sigmiod'.*'sigmoid'"):
        score(bundle, answered(bundle), "sigmiod")


@pytest.mark.parametrize("method", methods.METHODS)
def test_scores_are_finite_and_of_every_map(bundle, method):
    found = score(bundle, answered(bundle), method)
    assert [tuple(site.shape) for site in found] == [(5, site.channels) for site in bundle.sites]
    assert all(bool(torch.isfinite(site).all()) for site in found)
    assert any(len(site.unique()) > 1 for site in found)


@pytest.mark.parametrize("method", methods.DECLARED, ids=str)
def test_scores_have_signs_as_the_methods_entry_says(bundle, method):
    found = hooks.join(score(bundle, answered(bundle), method.name))
    assert bool((found < 0).any()) is method.is_signed


@pytest.mark.parametrize("method", methods.METHODS)
def test_the_same_question_gives_the_same_scores(bundle, method):
    first, second = (hooks.join(score(bundle, answered(bundle), method)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", methods.METHODS)
def test_scores_depend_on_neither_batch_mates_nor_batch_size(bundle, method, monkeypatch):
    case = answered(bundle)
    together = hooks.join(score(bundle, case, method))
    alone = hooks.join(score(bundle, rows(case, torch.tensor([3])), method))
    turned = hooks.join(score(bundle, rows(case, torch.arange(4, -1, -1)), method)).flip(0)
    monkeypatch.setattr(hooks, "batch_limit", lambda _: 2)
    small = hooks.join(score(bundle, case, method))
    for other in (turned, small):
        assert torch.allclose(together, other, atol=1e-4, rtol=1e-3)
    assert torch.allclose(together[3:4], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", methods.METHODS)
def test_no_more_than_the_limit_goes_through_the_network_at_once(bundle, method, monkeypatch):
    case, known, sizes, logits = answered(bundle), references(bundle), [], ModelBundle.logits
    monkeypatch.setattr(hooks, "batch_limit", lambda _: 2)
    monkeypatch.setattr(
        ModelBundle, "logits", lambda self, images: (sizes.append(len(images)), logits(self, images))[1]
    )
    datapaths.score(bundle, case, known, method=methods.method(method), seed=0)
    assert max(sizes, default=2) == 2


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("two-run", 10),
        ("mask", 22),
        ("sigmoid", 101),
        ("gates", 31),
        ("quadratic", 3),
        ("conductance", 11),
        ("gradient", 1),
        ("activation", 1),
        ("random", 0),
    ],
)
def test_passes_are_counted_per_image(bundle, method, passes):
    found = datapaths.score(bundle, answered(bundle), references(bundle), method=methods.method(method), seed=0)
    assert found[1] == 5 * passes


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_method_takes_aim_as_its_entry_says(bundle, method):
    case = answered(bundle)
    aimed = replace(case, targets=(case.targets + 1) % 3)
    found, other = (hooks.join(score(bundle, item, method)) for item in (case, aimed))
    assert torch.equal(found, other) is not methods.METHODS[method].takes_aim


@pytest.mark.parametrize("method", FINDS_PLANTED)
def test_planted_maps_come_first_at_every_site(method):
    bundle = test_scores.planted()
    for site in score(bundle, answered(bundle), method):
        for row in site.abs():
            assert set(row.topk(3).indices.tolist()) == set(test_scores.PLANTED)


def test_a_sigmoid_mask_closes_every_map_that_cannot_matter():
    bundle = test_scores.planted()
    dead = [c for c in range(16) if c not in test_scores.PLANTED]
    for site in score(bundle, answered(bundle), "sigmoid"):
        assert float(site[:, dead].max()) < 0.5
    assert float(site[:, list(test_scores.PLANTED)].max()) > 0.5


def copied():
    """Sixteen maps per site, eight copies each of two: any choice among copies is as good as any other."""
    network = toys.seeded(toys.Chain(width=16))
    with torch.no_grad():
        for layer in (network.a, network.b, network.c):
            layer.weight.copy_(layer.weight[:2].repeat(8, 1, 1, 1))
            layer.bias.copy_(layer.bias[:2].repeat(8))
        for layer in (network.b, network.c):
            layer.weight.copy_(layer.weight[:, :2].repeat(1, 8, 1, 1) / 8)
        network.linear.weight.copy_(network.linear.weight[:, :2].repeat(1, 8))
    return toys.bundle(network)


def jaccard(first, second):
    """Mean over images and sites of the similarity of the kept fifths."""
    found = []
    for row in range(len(first[0])):
        kept = [statistics.per_site([site[row].abs().numpy() for site in side], 0.2) for side in (first, second)]
        found += [statistics.jaccard(a, b) for a, b in zip(*kept, strict=True)]
    return float(np.mean(found))


@pytest.mark.parametrize("method", TRAINED)
def test_copied_maps_are_reported_unstable_by_seed_and_by_noise(method):
    """Contributions and gates give copies the same score; there the tie goes to the lower index and looks stable."""
    similar = {}
    for name, bundle in (("copied", copied()), ("plain", toys.bundle(toys.seeded(toys.Chain(width=16))))):
        case = answered(bundle)
        shaken = case.images + 0.01 * torch.randn(case.images.shape, generator=torch.Generator().manual_seed(0))
        found = score(bundle, case, method)
        seeded, noisy = score(bundle, case, method, seed=1), score(bundle, replace(case, images=shaken), method)
        similar[name] = jaccard(found, seeded), jaccard(found, noisy)
    assert max(similar["copied"]) <= 0.45
    assert min(similar["plain"]) >= 0.65


def test_equal_scores_share_their_rank_and_the_others_are_spread_evenly():
    ranks = scorers._rank(torch.tensor([[0.0, 0.0, 5.0, 5.0 * (1 + 1e-6), 9.0]]))
    assert torch.allclose(ranks, torch.tensor([[-0.75, -0.75, 0.25, 0.25, 1.0]]))


def test_an_images_draws_are_its_own():
    images = toys.pictures(3)
    drawn = scorers.uniform(images, 50, seed=0)
    assert torch.equal(drawn[[2]], scorers.uniform(images[[2]], 50, seed=0))
    assert len(drawn.flatten().unique()) > 140
    assert not torch.equal(drawn, scorers.uniform(images, 50, seed=1))
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1


def test_a_mask_is_to_keep_the_answer_or_to_reach_its_aim(bundle):
    case = answered(bundle, 2)
    aimed = replace(case, targets=torch.stack([case.targets[0], (case.targets[1] + 1) % 3]))
    found = scorers.wanted(bundle, aimed)
    assert torch.equal(found[0], bundle.logits(case.images).softmax(1)[0])
    assert found[1].tolist() == [float(k == aimed.targets[1]) for k in range(3)]


def test_a_heavier_penalty_makes_smaller_sigmoid_masks(bundle, monkeypatch):
    sizes = []
    for penalty in (0.0, 5.0, 50.0):
        monkeypatch.setattr(scorers, "SIGMOID_PENALTY", penalty)
        sizes.append(float(hooks.join(scorers.sigmoid(bundle, answered(bundle), seed=0).scores).mean()))
    assert sizes[0] > sizes[1] > sizes[2]


def test_gates_keep_the_answer_within_their_range_at_a_smaller_sum(bundle):
    case = answered(bundle)
    found = scorers.gates(bundle, case).scores
    assert torch.equal(hooks.gated(bundle, case.images, found).argmax(1), case.targets)
    flat = hooks.join(found)
    assert float(flat.min()) >= 0 and float(flat.max()) <= scorers.GATE_HIGHEST
    assert bool((flat.sum(1) < flat.shape[1]).all())


def test_of_each_image_the_gates_that_kept_its_answer_are_returned_not_those_of_least_loss(bundle, monkeypatch):
    monkeypatch.setattr(scorers, "GATE_PENALTY", 5.0)
    case = answered(bundle, 8)
    closed = hooks.gated(bundle, case.images, hooks.uniform_gates(bundle, 8, 0.0)).argmax(1)
    assert bool((closed != case.targets).any())
    assert torch.equal(hooks.gated(bundle, case.images, scorers.gates(bundle, case).scores).argmax(1), case.targets)


def test_frank_wolfe_comes_near_what_a_general_solver_finds(monkeypatch):
    monkeypatch.setattr(scorers, "QUADRATIC_STEPS", 500)
    # Ten classes and eight maps: the loss cannot be zero, where every choice would do.
    contributions = torch.randn(4, 10, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = scorers.frank_wolfe(contributions, 3)
    assert torch.allclose(found.sum(1), torch.full((4,), 3.0, dtype=torch.float64))
    assert float(found.min()) >= -1e-12 and float(found.max()) <= 1 + 1e-12
    for image, kept in zip(contributions.numpy(), found.numpy(), strict=True):

        def loss(z, image=image):
            return float(((image @ (1 - z)) ** 2).sum())

        budget = {"type": "eq", "fun": lambda z: z.sum() - 3}
        slow = optimize.minimize(loss, np.full(8, 3 / 8), bounds=[(0, 1)] * 8, constraints=[budget], method="SLSQP")
        assert slow.fun <= loss(kept) + 1e-6 <= 1.01 * slow.fun + 1e-5


def test_masks_trained_in_small_batches_are_the_same(bundle, monkeypatch):
    case, sizes, logits = answered(bundle), [], ModelBundle.logits
    together = scorers.train(bundle, case, seed=0)
    monkeypatch.setattr(hooks, "batch_limit", lambda _: 2)
    monkeypatch.setattr(
        ModelBundle, "logits", lambda self, images: (sizes.append(len(images)), logits(self, images))[1]
    )
    assert torch.allclose(hooks.join(scorers.train(bundle, case, seed=0)), hooks.join(together), atol=1e-4)
    assert max(sizes) == 2


def test_probability_contributions_are_those_of_one_class_and_site_at_a_time(bundle):
    images = toys.pictures(2)
    found = scorers._probability_contributions(bundle, images)
    likeliest = bundle.logits(images).argsort(1, descending=True)
    for k in range(len(bundle.sites)):
        for place in range(3):
            recorder = hooks.Recorder(frozenset({k}))
            with bundle.visiting(recorder):
                chances = bundle.logits(images.clone().requires_grad_()).softmax(1)
            chosen = chances.gather(1, likeliest[:, [place]]).sum()
            (gradient,) = torch.autograd.grad(chosen, recorder.seen[k])
            slow = (gradient * recorder.seen[k]).sum((2, 3))
            assert torch.allclose(found[k][:, place].float(), slow, atol=1e-5)


def test_conductance_is_complete_at_every_cut_site(bundle):
    case = answered(bundle)
    question = scorers.Question(case.images, case.targets, torch.full_like(case.targets, -1))
    starts = torch.full_like(case.images, 0.5)
    found = scorers.conductance(bundle, question, starts, steps=400)
    own, from_starts = (test_scores.margin(bundle, question, images) for images in (case.images, starts))
    for k, site in enumerate(bundle.sites):
        if site.is_cut:
            assert torch.allclose(found.scores[k].sum(1), own - from_starts, atol=5e-3)


def test_conductance_is_captums_layer_by_layer(bundle):
    attr = pytest.importorskip("captum.attr")
    case = answered(bundle)
    question = scorers.Question(case.images, case.targets, torch.full_like(case.targets, -1))
    starts = torch.full_like(case.images, 0.5)
    found = scorers.conductance(bundle, question, starts, steps=100).scores
    taps = {probe.number: probe for probe in bundle.taps}
    for k in range(len(bundle.sites)):
        peer = attr.LayerConductance(bundle.logits, taps[k])
        slow = peer.attribute(case.images, baselines=starts, target=case.targets, n_steps=100)
        assert np.corrcoef(found[k].flatten(), slow.detach().sum((2, 3)).flatten())[0, 1] >= 0.999


def test_the_geometric_mean_is_the_root_of_the_product(bundle):
    case = answered(bundle)
    first, second = (methods.METHODS[name] for name in ("two-run", "gradient"))
    both = replace(first, name="both", scorer="", parts=(first, second))
    found = datapaths.scorer(both)(bundle, case, references(bundle), 0)
    own = [datapaths.scorer(part)(bundle, case, references(bundle), 0) for part in both.parts]
    for mean, *sites in zip(found.scores, *(item.scores for item in own), strict=True):
        slow = np.sqrt(np.abs(sites[0].numpy() * sites[1].numpy()))
        assert np.allclose(mean.numpy(), slow, rtol=1e-4, atol=1e-7)
    assert found.passes == sum(item.passes for item in own)
