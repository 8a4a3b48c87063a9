"""Datapaths of groups: means of images, what is special to a class, and held-out images that confirm or refute them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import engine
from engine import statistics
from engine.attribution import baselines, datapaths, explain, scorers
from engine.attribution.baselines import Case, References
from engine.attribution.datapaths import Recipe
from engine.errors import BadInput
from engine.models import hooks, register
from tests import stores, test_scores, toys

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(engine.method("gradient"), 0)
SAMPLES = 8


@pytest.fixture(scope="module")
def bundle():
    return toys.bundle(toys.seeded(toys.Residual()))


def answered(bundle, count, seed=1):
    images = toys.pictures(count, seed=seed)
    with torch.no_grad():
        return Case(images, bundle.logits(images).argmax(1))


def references(bundle):
    images = toys.pictures(2, seed=9)
    trace = hooks.record(bundle, images)
    return References(images, (trace.logits.argmax(1) + 1) % 3, trace, (), "references")


def zeros(bundle):
    return tuple(np.zeros(site.channels, dtype=np.float32) for site in bundle.sites)


def test_a_groups_strength_is_the_mean_of_its_images_alone(bundle):
    group, known = datapaths.halves("clean", answered(bundle, 6)), references(bundle)
    (found,) = datapaths.datapaths(bundle, [group], known, zeros(bundle), RECIPE)
    alone = []
    for k in range(3):
        one = Case(group.members.images[k : k + 1], group.members.targets[k : k + 1])
        alone.append(
            statistics.strength(
                [s.numpy() for s in datapaths.score(bundle, one, known, method=engine.method("gradient"), seed=0)[0]]
            )
        )
    for site, rows in zip(found.strength, zip(*alone, strict=True), strict=True):
        assert np.allclose(site, np.mean(rows, axis=0), atol=1e-6)
        assert not site.flags.writeable
    assert (found.name, found.method.name, found.images) == ("clean", "gradient", 3)
    assert sum(float(site.sum()) for site in found.strength) == pytest.approx(1.0, abs=1e-5)


def test_the_specific_part_is_what_exceeds_the_mean_over_classes(bundle):
    group, known = datapaths.halves("clean", answered(bundle, 6)), references(bundle)
    mean = tuple(np.full(site.channels, 0.01, dtype=np.float32) for site in bundle.sites)
    (found,) = datapaths.datapaths(bundle, [group], known, mean, RECIPE)
    for own, specific in zip(found.strength, found.specific, strict=True):
        assert np.allclose(specific, own - 0.01)


def test_halves_share_no_image_and_count_each_held_out_image_once(bundle):
    images = torch.arange(5.0).repeat_interleave(3)[:, None, None, None].expand(-1, 3, 8, 8)
    group = datapaths.halves("noise", Case(images, torch.zeros(15, dtype=torch.int64)), draws=3)
    assert group.members.images[:, 0, 0, 0].tolist() == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    assert group.held_out.images[:, 0, 0, 0].tolist() == [1, 3]


def test_a_group_of_one_image_is_refused(bundle):
    with pytest.raises(BadInput, match=r"Group 'clean' has 1 image"):
        datapaths.halves("clean", answered(bundle, 1))


def test_held_out_shares_are_those_of_a_loop_over_images(bundle, monkeypatch):
    case, known = answered(bundle, 5, seed=3), references(bundle)
    strength = tuple(np.linspace(0, 1, site.channels, dtype=np.float32) for site in bundle.sites)
    monkeypatch.setattr(hooks, "batch_limit", lambda _: 2)
    found = datapaths.held_out(bundle, case, strength, known, seed=0)
    for place, size in enumerate(found.sizes):
        hits = []
        for k in range(5):
            one = Case(case.images[k : k + 1], case.targets[k : k + 1])
            chosen = scorers.largest(bundle, tuple(torch.tensor(site)[None] for site in strength), size)
            carried = datapaths.share_carried(bundle, one, known, [chosen])[0]
            hits.append(bool(carried.all()))
        assert found.carried[place] == np.mean(hits)
        assert found.low[place] <= np.mean(hits) <= found.high[place]
    assert (found.images, found.references, len(found.random)) == (5, 2, len(found.sizes))


def speaks_by_brightness():
    """The planted network with two answers: class 0 for random pictures, class 1 for black ones, by the planted maps alone."""
    bundle = test_scores.planted()
    linear = bundle.network.linear
    with torch.no_grad():
        linear.weight[1:] = 0.0
        linear.bias.zero_()
        bright, dark = (bundle.logits(images)[:, 0] for images in (toys.pictures(6), torch.zeros(1, 3, 8, 8)))
        assert float(bright.min()) > float(dark) or float(bright.max()) < float(dark)
        sign = 1.0 if float(bright.min()) > float(dark) else -1.0
        linear.weight[0] *= sign
        linear.bias[1] = sign * (bright.mean() + dark[0]) / 2
        linear.bias[2] = -100.0
    return bundle


def test_planted_maps_carry_held_out_images_and_the_others_do_not(monkeypatch):
    bundle = speaks_by_brightness()
    case, black = answered(bundle, 6), torch.zeros(2, 3, 8, 8)
    trace = hooks.record(bundle, black)
    known = References(black, trace.logits.argmax(1), trace, (), "references")
    assert case.targets.tolist() == [0] * 6 and known.labels.tolist() == [1] * 2
    planted = tuple(np.isin(np.arange(16), test_scores.PLANTED).astype(np.float32) for _ in bundle.sites)
    others = tuple(1 - site for site in planted)
    monkeypatch.setattr(datapaths, "claim_sizes", lambda _: (6,))
    found, none = (datapaths.held_out(bundle, case, item, known, seed=0) for item in (planted, others))
    assert (found.carried[0], none.carried[0]) == (1.0, 0.0)
    assert found.random[0] < 0.5


@pytest.fixture(scope="module")
def digits(demo_store, tmp_path_factory):
    store = stores.copied(demo_store, tmp_path_factory.mktemp("groups") / "store")
    bundle, dataset = register.bundle(store, "digits-standard"), store.dataset("digits")
    samples = dataset.keys_of(3)[:SAMPLES]
    pairs = explain.attacked(bundle, dataset, engine.attack("pgd-linf:eps=24/255,steps=5"), samples, 0)
    return bundle, dataset, samples, (pairs, explain.noise_copies(pairs, 1))


@pytest.mark.slow
def test_the_four_groups_of_an_attack_are_held_to_their_held_out_images(digits):
    bundle, dataset, samples, (pairs, copies) = digits
    after = pairs.after
    with torch.no_grad():
        noise = Case(copies, bundle.logits(copies).argmax(1))
    clean, adversarial = explain.sides(pairs)
    into = datapaths.of_classes(bundle, dataset, after.tolist(), avoid=samples)
    known = baselines.references(bundle, dataset, clean, avoid=frozenset({3, *after.tolist()}), seed=0)
    recipe = Recipe(engine.method("two-run"), 0)
    mean = datapaths.class_mean(bundle, dataset, range(10), recipe)
    found = datapaths.datapaths(bundle, datapaths.of_pairs(clean, adversarial, noise, into), known, mean, recipe)
    assert [(item.name, item.images, item.held_out.images) for item in found] == [
        ("clean", 4, 4),
        ("adversarial", 4, 4),
        ("fooled-into", 4, 4),
        ("noise", 4, 4),
    ]
    for item in found:
        place = item.held_out.sizes.index(32)
        assert item.held_out.carried[place] > item.held_out.random[place]
    kept = [np.concatenate([site > 0 for site in item.specific]) for item in found]
    assert (kept[0] == kept[3]).mean() > (kept[0] == kept[2]).mean()


def test_images_of_classes_are_the_wanted_ones_classified_correctly_and_none_twice(digits):
    bundle, dataset, samples, _ = digits
    found = datapaths.of_classes(bundle, dataset, [3, 5, 5, 3], avoid=samples)
    assert found.targets.tolist() == [3, 5, 5, 3]
    with torch.no_grad():
        assert torch.equal(bundle.logits(found.images).argmax(1), found.targets)
    assert len(torch.unique(found.images, dim=0)) == 4
    avoided = baselines.load(bundle, dataset, samples)
    assert not any(bool((avoided == image).flatten(1).all(1).any()) for image in found.images)


def test_images_called_another_class_stand_for_none(digits):
    bundle, dataset, *_ = digits
    found = datapaths.of_classes(bundle, dataset, [label for label in range(10) for _ in range(50)], avoid=())
    truth = torch.as_tensor(baselines.labels(bundle, dataset))
    with torch.no_grad():
        right = int((bundle.logits(baselines.load(bundle, dataset, dataset.keys)).argmax(1) == truth).sum())
    assert len(found.images) == right < 500


def test_classes_without_a_right_answer_are_left_out_of_the_mean_or_refused(digits):
    bundle, dataset, *_ = digits
    both = datapaths.class_mean(bundle, dataset, [3, 5], RECIPE)
    parts = [datapaths.class_mean(bundle, dataset, [label], RECIPE) for label in (3, 5)]
    for site, first, second in zip(both, *parts, strict=True):
        assert np.allclose(site, (first + second) / 2)
    with pytest.raises(BadInput, match="classified correctly"):
        datapaths.class_mean(bundle, dataset, [], RECIPE)
