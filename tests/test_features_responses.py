"""Responses over the strength of an attack: the ends are the stored images', the rest what an explanation would show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import engine
from engine import serialization
from engine.attribution import explain
from engine.errors import Unsupported
from engine.features import dose_response
from engine.models import hooks
from engine.store import Store
from engine.types.core import DatasetCard, ExplanationRequest
from tests import toys

ATTACK = "pgd-linf:eps=16/255,steps=3"
SIDE = 8
ONE, HALF, ZERO = 5, 3, 0


def silent(*_):
    """Report nothing."""


@pytest.fixture(scope="module")
def bundle():
    return toys.bundle(toys.seeded(toys.Residual()), SIDE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, bundle):
    """Thirty images, each labelled as the network sees it, so that every one can be attacked."""
    store = Store(tmp_path_factory.mktemp("responses") / "store")
    pictures = toys.pictures(30, SIDE)
    with torch.no_grad():
        labels = bundle.logits(pictures).argmax(1).numpy()
    counts = tuple(np.bincount(labels, minlength=3).tolist())
    card = DatasetCard("toys", "x", 30, toys.CLASSES, counts, 3, (SIDE, SIDE), "npz", "2026")
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    store.add_data(card, pixels, labels, tuple(str(k) for k in range(30)))
    return store.dataset("toys")


@pytest.fixture(scope="module")
def explaining(bundle, dataset):
    """An explanation of the first images of a class, with its key."""

    def explained(count: int = 1, attack: str = ATTACK):
        label = int(np.bincount(dataset.labels).argmax())
        request = ExplanationRequest("toy", "toys", engine.attack(attack), dataset.keys_of(label)[:count])
        found, maps = explain.explain(bundle, dataset, request, silent)
        return replace(found, key="0" * 32), maps

    return explained


@pytest.fixture(scope="module")
def pair(explaining):
    return explaining()[0]


@pytest.fixture(scope="module")
def found(bundle, dataset, pair):
    return dose_response.respond(bundle, dataset, pair, silent)


def answers(bundle, stored: np.ndarray):
    """The slow way: every image alone."""
    traces = [hooks.record(bundle, torch.from_numpy(item / np.float32(255)).permute(2, 0, 1)[None]) for item in stored]
    means = [np.mean([t.maps[k].mean((2, 3))[0].numpy() for t in traces], axis=0) for k in range(len(bundle.sites))]
    peaks = [np.mean([t.maps[k].amax((2, 3))[0].numpy() for t in traces], axis=0) for k in range(len(bundle.sites))]
    return means, peaks, [int(t.logits.argmax()) for t in traces]


@pytest.mark.parametrize(("row", "side", "control"), [(ONE, "adversarial", "noise"), (ZERO, "clean", "clean")])
def test_at_strength_one_they_are_the_stored_adversarial_images_and_at_zero_the_clean_ones(
    bundle, pair, found, row, side, control
):
    for stored, means, peaks in (
        (side, found.mean, found.peak),
        (control, found.noise_mean, found.noise_peak),
    ):
        wanted = answers(bundle, pair.images[stored])
        for k in range(len(bundle.sites)):
            assert np.allclose(means[k][row], wanted[0][k], rtol=1e-5, atol=1e-6)
            assert np.allclose(peaks[k][row], wanted[1][k], rtol=1e-5, atol=1e-6)
    assert list(found.labels[row]) == answers(bundle, pair.images[side])[2]


def test_the_strengths_are_exact_multiples_of_the_attacks_epsilon(found):
    assert found.strengths == ("0", "1/8", "1/4", "1/2", "3/4", "1", "3/2")
    assert found.epsilons == ("0/255", "2/255", "4/255", "8/255", "12/255", "16/255", "24/255")


def test_between_them_they_are_what_an_explanation_at_that_strength_attacks_with(bundle, explaining, found):
    weaker, _ = explaining(attack="pgd-linf:eps=8/255,steps=3")
    for stored, means in (("adversarial", found.mean), ("noise", found.noise_mean)):
        wanted, _, labels = answers(bundle, weaker.images[stored])
        assert all(np.allclose(means[k][HALF], wanted[k], rtol=1e-5, atol=1e-6) for k in range(len(wanted)))
    assert list(found.noise_labels[HALF]) == labels
    assert found.lengths[HALF, 0] == pytest.approx(weaker.outcomes[0].l2, rel=1e-5)


def test_lengths_start_at_nothing_and_grow(found, pair):
    assert found.lengths[ZERO, 0] == 0
    assert found.lengths[ONE, 0] == pytest.approx(pair.outcomes[0].l2, rel=1e-5)
    assert (np.diff(found.lengths[:, 0]) > 0).all()


def test_whether_each_strength_fools_is_told_by_the_true_class(found, pair):
    truth = pair.outcomes[0].label
    assert np.array_equal(found.fooled, found.labels != truth)
    assert np.array_equal(found.noise_fooled, found.noise_labels != truth)
    assert found.fooled[ONE, 0] == (pair.outcomes[0].status == "fooled")
    assert not found.fooled[ZERO].any()
    assert found.fooled.any(), "the attack fools the toy somewhere"


def test_an_image_that_was_wrong_before_is_never_fooled(bundle, dataset, pair):
    (outcome,) = pair.outcomes
    mislabelled = replace(pair, outcomes=(replace(outcome, label=(outcome.label + 1) % 3),))
    found = dose_response.respond(bundle, dataset, mislabelled, silent)
    assert not found.fooled.any()
    assert not found.noise_fooled.any()


def test_a_group_is_the_mean_of_its_images(bundle, dataset, explaining):
    group, _ = explaining(3)
    found = dose_response.respond(bundle, dataset, group, silent)
    assert found.labels.shape == found.lengths.shape == (7, 3)
    assert found.noise_labels.shape == (7, 6)
    wanted = answers(bundle, group.images["adversarial"])
    assert all(np.allclose(found.peak[k][ONE], wanted[1][k], rtol=1e-5, atol=1e-6) for k in range(len(wanted[1])))


def test_they_have_as_many_noise_copies_as_the_explanation_was_made_with(bundle, dataset, explaining):
    pair = explaining(2)[0]
    more = replace(pair, images={**pair.images, "noise": np.repeat(pair.images["noise"], 2, axis=0)})
    found = dose_response.respond(bundle, dataset, more, silent)
    assert found.noise_labels.shape == (len(found.strengths), len(more.images["noise"]))


def test_they_are_the_same_again_and_survive_the_store(bundle, dataset, pair, found):
    first, again = (
        serialization.flatten(item) for item in (found, dose_response.respond(bundle, dataset, pair, silent))
    )
    assert first.value == again.value
    assert all(np.array_equal(first.arrays[name], again.arrays[name]) for name in first.arrays)
    assert all(site.dtype == np.float32 for site in (*found.mean, *found.peak, *found.noise_mean, *found.noise_peak))
    back = serialization.rebuild(dose_response.Responses, first.value, first.arrays)
    assert back.strengths == found.strengths


def test_strengths_beyond_what_the_attack_allows_are_left_out(bundle, dataset, explaining):
    strong, _ = explaining(attack="fgsm-linf:eps=0.5")
    found = dose_response.respond(bundle, dataset, strong, silent)
    assert found.strengths[-1] == "1"
    assert len(found.labels) == len(found.mean[0]) == 6


def test_a_corruption_has_no_strength_to_vary(bundle, dataset, explaining):
    damaged, _ = explaining(attack="corruption-gaussian-noise")
    with pytest.raises(Unsupported, match="no epsilon"):
        dose_response.respond(bundle, dataset, damaged, silent)


def test_the_first_noise_copys_maps_lie_beside_the_clean_and_adversarial_ones(bundle, explaining):
    group, maps = explaining(2)
    copies = group.images["noise"][::2]
    assert {name.partition("/")[2] for name in maps} == {"clean", "adversarial", "noise"}
    for k in range(len(bundle.sites)):
        slow = np.mean(
            [hooks.record(bundle, torch.from_numpy(copy_ / np.float32(255)).permute(2, 0, 1)[None]).maps[k][0].numpy()
             for copy_ in copies], axis=0
        )  # fmt: skip
        assert np.allclose(maps[f"{k:03d}/noise"], slow, rtol=1e-3, atol=1e-3)
        assert not np.array_equal(maps[f"{k:03d}/noise"], maps[f"{k:03d}/clean"])
