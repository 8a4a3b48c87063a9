"""Scores are contributions: they add up, they find planted maps, and an image's scores do not depend on its batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.attribution import datapaths, scorers
from engine.attribution.baselines import Case
from engine.models import hooks
from tests import toys


@pytest.fixture(scope="module")
def bundle():
    return toys.bundle(toys.seeded(toys.Residual()))


def ask(bundle, count=6):
    images = toys.pictures(count)
    targets = torch.arange(count) % 3
    return scorers.Question(images, targets, (targets + 1) % 3)


def margin(bundle, question, images):
    return hooks.margins(bundle.logits(images), question.targets, question.rivals)


def test_two_run_scores_add_up_to_the_difference_of_the_margins(bundle):
    question, starts = ask(bundle), toys.pictures(6, seed=9)
    found = scorers.between_runs(bundle, question, hooks.record(bundle, starts), steps=400)
    whole = margin(bundle, question, question.images) - margin(bundle, question, starts)
    assert torch.allclose(hooks.join(found.scores).sum(1), whole, atol=2e-2)
    assert found.passes == 400 * 6


def test_the_gate_gradient_is_the_slow_sum_over_positions(bundle):
    """The oracle differentiates with respect to each site's maps themselves and multiplies by (a - b)."""
    question, reference = ask(bundle, 2), hooks.record(bundle, toys.pictures(2, seed=9))
    gates = hooks.uniform_gates(bundle, 2, 0.3)
    unwanted = hooks.GradientMean(frozenset(), 1)
    fast = scorers._gate_gradients(bundle, question, gates, reference.maps, unwanted)
    for number in range(len(bundle.sites)):
        seen = {}

        def visit(k, tensor, number=number, seen=seen):
            if k >= len(gates):
                return tensor
            out = reference.maps[k] + (tensor - reference.maps[k]) * gates[k][:, :, None, None]
            if k == number:
                seen["inside"], seen["out"] = tensor.detach(), out.detach().requires_grad_()
                return seen["out"]
            return out

        with torch.enable_grad(), bundle.visiting(visit):
            total = hooks.margins(bundle.logits(question.images), question.targets, question.rivals).sum()
        (gradient,) = torch.autograd.grad(total, seen["out"])
        slow = (gradient * (seen["inside"] - reference.maps[number])).sum((2, 3))
        assert torch.allclose(fast[number], slow, atol=1e-5)


def test_conductance_is_complete_at_every_cut_site(bundle):
    question, starts = ask(bundle), toys.pictures(6, seed=9)
    flow = scorers.conductance(bundle, question, starts, steps=100)
    whole = margin(bundle, question, question.images) - margin(bundle, question, starts)
    cuts = [k for k, site in enumerate(bundle.sites) if site.is_cut]
    assert len(cuts) >= 3
    for k in cuts:
        assert torch.allclose(flow.scores[k].sum(1), whole, atol=0.1)


@pytest.mark.parametrize("score", ["between_runs", "conductance", "at_once"])
def test_an_images_scores_do_not_depend_on_its_batch_mates(bundle, score):
    question, starts = ask(bundle), toys.pictures(6, seed=9)

    def run(rows):
        part = scorers.Question(question.images[rows], question.targets[rows], question.rivals[rows])
        if score == "between_runs":
            return scorers.between_runs(bundle, part, hooks.record(bundle, starts[rows])).scores
        if score == "conductance":
            return scorers.conductance(bundle, part, starts[rows]).scores
        return scorers.at_once(bundle, part).scores

    together, alone = run(torch.arange(6)), run(torch.tensor([4]))
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a[4:5], b, atol=1e-5)


PLANTED = (0, 3, 7)


def planted():
    """Only maps 0, 3 and 7 of 16 reach the logits from any site, each with positive weights."""
    network = toys.seeded(toys.Chain(width=16))
    matters = torch.zeros(16)
    matters[list(PLANTED)] = 1.0
    with torch.no_grad():
        for layer in (network.b, network.c):
            layer.weight.copy_(layer.weight.abs() * 0.1 * matters[None, :, None, None])
        network.linear.weight.mul_(matters[None])
        network.linear.weight[0, list(PLANTED)] = torch.tensor([1.0, 1.2, 0.9])
        for layer in (network.a, network.b, network.c):
            layer.bias.abs_()
    return toys.bundle(network)


def test_maps_that_cannot_matter_score_zero_and_planted_ones_do_not():
    bundle = planted()
    reference = hooks.record(bundle, toys.pictures(6, seed=9))
    for site in scorers.between_runs(bundle, ask(bundle), reference).scores:
        assert set(site.abs().mean(0).topk(3).indices.tolist()) == set(PLANTED)
        others = [c for c in range(16) if c not in PLANTED]
        assert float(site[:, others].abs().max()) == 0.0


def test_a_trained_mask_keeps_the_planted_maps():
    bundle = planted()
    images = toys.pictures(6)
    case = Case(images, bundle.logits(images).argmax(1))
    for site in scorers.train(bundle, case, seed=0):
        for row in site:
            assert set(row.topk(3).indices.tolist()) == set(PLANTED)


def test_transplanting_a_whole_cut_site_gives_the_donors_answer(bundle):
    images, others = toys.pictures(8), toys.pictures(8, seed=9)
    donor, cut = hooks.record(bundle, images), max(k for k, site in enumerate(bundle.sites) if site.is_cut)
    chosen = tuple(torch.full((8, site.channels), k == cut) for k, site in enumerate(bundle.sites))
    assert torch.allclose(hooks.transplanted(bundle, others, chosen, donor.maps), donor.logits, atol=1e-5)


def test_transplanting_nothing_changes_nothing(bundle):
    images, others = toys.pictures(8), toys.pictures(8, seed=9)
    chosen = tuple(torch.zeros(8, site.channels, dtype=torch.bool) for site in bundle.sites)
    moved = hooks.transplanted(bundle, others, chosen, hooks.record(bundle, images).maps)
    assert torch.equal(moved, hooks.record(bundle, others).logits)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("rows", [None, torch.tensor([3, 0, 0, 2, 1, 3, 2, 1])])
def test_a_few_maps_are_copied_as_many_would_be(bundle, batch, rows, monkeypatch):
    images, others = toys.pictures(8), toys.pictures(8, seed=9)
    donor = hooks.record(bundle, images[: batch if rows is None else 4]).maps
    chosen = scorers.at_random(bundle, batch if rows is None else 8, 2, torch.Generator().manual_seed(1))
    moved = []
    for few in (2.0, 0.0):
        monkeypatch.setattr(hooks, "FEW", few)
        moved.append(hooks.transplanted(bundle, others, chosen, donor, rows))
    assert torch.equal(*moved)
    assert not torch.equal(moved[0], hooks.record(bundle, others).logits)


def test_the_largest_leave_the_stem_out_and_count_exactly(bundle):
    per_map = tuple(torch.ones(2, site.channels) for site in bundle.sites)
    chosen = scorers.largest(bundle, per_map, 5)
    assert not chosen[0].any()
    assert int(hooks.join(chosen).sum(1).unique()) == 5


def test_random_choices_are_repeatable_and_leave_the_stem_out(bundle):
    draws = [scorers.at_random(bundle, 3, 7, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(hooks.join(draws[0]), hooks.join(draws[1]))
    assert not draws[0][0].any()


def test_one_site_gates_touch_one_site_each(bundle):
    per_map = tuple(torch.rand(2, site.channels) for site in bundle.sites)
    gates = datapaths.one_site_gates(bundle, per_map, 0.5)
    closed = torch.stack([(gate < 1).any(1) for gate in gates], dim=1)
    assert torch.equal(
        closed.view(2, len(gates), len(gates)), torch.eye(len(gates), dtype=torch.bool).expand(2, -1, -1)
    )


@pytest.mark.parametrize("fails", [False, True])
def test_no_tap_is_left_visited(bundle, fails):
    def visit(_, tensor):
        if fails:
            raise RuntimeError("in the middle")
        return tensor

    try:
        with bundle.visiting(visit):
            bundle.logits(toys.pictures(1))
    except RuntimeError:
        assert fails
    assert all(probe.visit is None for probe in bundle.taps)


def test_the_mask_loss_is_a_divergence_from_the_networks_own_answer(bundle):
    images = toys.pictures(4)
    wanted = bundle.logits(images).softmax(1)
    whole = [torch.ones(4, site.channels) for site in bundle.sites]
    assert float(scorers._loss(bundle, images, whole, 1.0, wanted)) == pytest.approx(0.0, abs=1e-5)
    assert F.kl_div(wanted.flip(1).log(), wanted, reduction="sum") > 0
