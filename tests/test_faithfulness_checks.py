"""Faithfulness checks: not applicable where nothing could be run, unstable where a choice is arbitrary, groups held to others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import engine
from engine import serialization, statistics
from engine.attribution import datapaths, explain, scorers
from engine.cli import study
from engine.errors import BadInput
from engine.models import hooks, register
from engine.patching import faithfulness, subjects, trials
from engine.service import answers as at_once
from engine.specs.methods import STANDOUT
from engine.types import faithfulness as faithfulness_parts
from engine.types.core import ExplanationRequest
from engine.types.faithfulness import DatapathChecks, Faithfulness
from tests import stores, test_methods, test_scores, toys

pytestmark = pytest.mark.usefixtures("one_thread")

DETERMINISTIC = ("two-run", "gates", "conductance", "gradient", "activation")
"""Methods that give copies of a map the same score; the quadratic choice does so too, on fewer maps than are kept."""


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    return stores.copied(demo_store, tmp_path_factory.mktemp("certificates") / "store")


@pytest.fixture(scope="module")
def digits(store):
    return register.bundle(store, "digits-standard"), store.dataset("digits")


def asked(dataset, count, method="gradient"):
    samples = dataset.keys_of(3)[:count]
    return ExplanationRequest(
        "digits-standard", "digits", engine.attack("pgd-linf:eps=24/255,steps=5"), samples, engine.method(method)
    )


def quiet(done, total, message):
    pass


@pytest.fixture(scope="module")
def group(digits):
    return explain.explain(*digits, asked(digits[1], 6), quiet)[0]


@pytest.mark.parametrize(("method", "is_aimed"), [("activation", False), ("random", False), ("gradient", True)])
def test_the_wrong_class_check_is_not_applicable_to_a_method_without_aim(digits, method, is_aimed):
    found = explain.explain(*digits, asked(digits[1], 1, method), quiet)[0]
    for side in ("clean", "adversarial"):
        known = getattr(faithfulness.part(side, *digits, found, quiet), side)
        assert (known.wrong_class is not None) is is_aimed
        assert ("wrong_class" in known.not_applicable) is not is_aimed
        # A noisy copy fills maps of another run; kept maps have none to be filled from.
        assert ("noisy_copy" in known.not_applicable) is (known.noisy_copy is None)
        assert known.swap is not None


def test_clean_maps_are_put_back_by_layer_beside_random_ones_of_the_same_layers(digits):
    found = explain.explain(*digits, asked(digits[1], 4), quiet)[0]
    known = faithfulness.part("restoration", *digits, found, quiet).restoration
    assert known.ranking == STANDOUT
    assert len(known.sizes) == len(known.restored) == len(known.random) == len(known.layer_matched)
    taken = torch.tensor([outcome.before.label != outcome.after.label for outcome in found.outcomes])
    size = known.sizes.index(16)
    evidence = subjects.gather_evidence(*digits, found)
    chosen = scorers.largest(digits[0], trials.standing_out(tuple(torch.tensor(site) for site in found.flow)), 16)
    labels = trials.moved_labels(digits[0], evidence.adversarial.images, evidence.clean.images, [chosen])[0]
    slow = (labels == evidence.clean.targets)[taken].float().mean()
    assert known.restored[size] == pytest.approx(float(slow))
    assert known.restored[size] > known.layer_matched[size]


def test_nothing_is_restored_where_nothing_was_taken(digits):
    kept = replace(asked(digits[1], 2), attack=engine.attack("pgd-linf:eps=0,steps=2"))
    found = explain.explain(*digits, kept, quiet)[0]
    assert {outcome.status for outcome in found.outcomes} == {"unperturbed"}
    known = faithfulness.part("restoration", *digits, found, quiet)
    assert known.restoration is None
    assert known.unavailable == ("Restoration: the attack left the class as it was, so there is nothing to restore.",)


def test_not_applicable_survives_the_merging_of_parts_whatever_their_order():
    told = Faithfulness(clean=DatapathChecks(carries_at=4, not_applicable=("wrong_class",)))
    other = Faithfulness(clean=DatapathChecks(seed_jaccard=0.5))
    for parts in ([told, other], [other, told]):
        assert faithfulness_parts.merge(parts).clean.not_applicable == ("wrong_class",)


def test_kept_controls_rank_by_size_whatever_the_sign(digits, group):
    gathered = subjects.gather_evidence(*digits, group)
    case, datapath = gathered.side("clean")
    per_map = gathered.scores(datapath)
    signs = [torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], site.shape)).to(site) for site in per_map]
    turned = tuple(site * sign for site, sign in zip(per_map, signs, strict=True))
    assert faithfulness._kept_controls(gathered, case, per_map) == faithfulness._kept_controls(gathered, case, turned)
    assert faithfulness.one_site_gap(gathered, case, per_map) == faithfulness.one_site_gap(gathered, case, turned)


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_copied_maps_are_reported_unstable_though_their_scores_are_the_same(method):
    similar = {}
    for name, bundle in (("copied", test_methods.copied()), ("plain", toys.bundle(toys.seeded(toys.Chain(width=16))))):
        case, known = test_methods.answered(bundle), test_methods.references(bundle)
        found = test_methods.score(bundle, case, method)
        path = datapaths.datapath(bundle, case, known, found, method=engine.method(method))
        similar[name] = np.mean([faithfulness.similarity(path, found, seed) for seed in range(10)])
    assert similar["copied"] <= 0.45
    assert similar["plain"] >= 0.9


@pytest.mark.parametrize("method", ["two-run", "mask", "gates", "quadratic", "conductance", "gradient"])
def test_a_planted_datapath_is_exactly_the_planted_maps(method):
    bundle = test_scores.planted()
    case = test_methods.answered(bundle)
    strength = statistics.strength([site.numpy() for site in test_methods.score(bundle, case, method)])
    kept = statistics.per_site(strength, 3 / 16)
    assert [site.tolist() for site in kept] == [list(test_scores.PLANTED)] * len(bundle.sites)


def test_shuffled_weights_collapse_the_similarity_to_chance(digits, group):
    """Chance: the datapath of the trained network beside maps drawn at random; the network itself comes back unharmed."""
    gathered = subjects.gather_evidence(*digits, group)
    before = hooks.record(digits[0], gathered.clean.images).logits
    found = faithfulness.random_weights(gathered).clean.random_weights_jaccard
    rng = np.random.default_rng(0)
    drawn = [
        faithfulness.similarity(
            group.clean, tuple(torch.from_numpy(rng.random(site.shape)) for site in group.clean.scores), k
        )
        for k in range(200)
    ]
    itself = faithfulness.similarity(group.clean, gathered.scores(group.clean), 0)
    chance = np.mean(drawn)
    assert itself >= 0.9
    assert found - chance <= 0.2 * (itself - chance)
    assert torch.equal(hooks.record(digits[0], gathered.clean.images).logits, before)
    with hooks.weights(digits[0], 0):
        assert not torch.allclose(hooks.record(digits[0], gathered.clean.images).logits, before, atol=0.1)


def test_the_2_x_2_design_has_all_six_pairs_and_equal_questions_are_equal(digits, group):
    gathered = subjects.gather_evidence(*digits, group)
    cross = faithfulness.crossed(gathered)
    pairs = [getattr(cross, name) for name in cross.__slots__]
    assert [len(pair) for pair in pairs] == [len(digits[0].sites)] * 6
    same = faithfulness.crossed(replace(gathered, attacked=replace(gathered.attacked, after=gathered.attacked.before)))
    assert set(same.same_input_clean) == {1.0}
    assert set(cross.same_input_clean) != {1.0}


def test_class_similarity_tells_of_clean_adversarial_and_noise_beside_both_classes(digits, group):
    known = faithfulness.part("kinship", *digits, group, quiet)
    told, sites = known.class_similarity, len(digits[0].sites)
    for name in ("true_class", "fooled_into", "clean_true", "clean_fooled", "noise_true", "noise_fooled", "classes"):
        assert len(getattr(told, name)) == sites
    true, fooled = (
        statistics.per_site(side, faithfulness.SHARE) for side in (known.classes.true, known.classes.fooled)
    )
    noise = statistics.per_site(group.noise.strength, faithfulness.SHARE)
    assert told.noise_fooled == tuple(statistics.jaccard(a, b) for a, b in zip(noise, fooled, strict=True))
    assert told.classes == tuple(statistics.jaccard(a, b) for a, b in zip(true, fooled, strict=True))
    # Clean images resemble their own class more than the one the attack led to; the attacked ones end the other way round.
    assert told.clean_true[-1] > told.clean_fooled[-1]
    assert told.fooled_into[-1] > told.clean_fooled[-1]
    assert told.convergence_span is None or told.convergence_span.share > 0


def test_of_a_single_pair_there_are_no_groups(digits):
    found = explain.explain(*digits, asked(digits[1], 1), quiet)[0]
    assert faithfulness.part("groups", *digits, found, quiet).groups.groups == ()


@pytest.mark.slow
def test_explain_writes_groups_spans_and_what_each_name_means(store, digits, tmp_path):
    answers = at_once.answers(store, quiet)
    found = study.explained(answers, asked(digits[1], 4), tmp_path / "group", with_checks=True)
    assert found == json.loads((tmp_path / "group" / "examination.json").read_text())
    assert [(entry["name"], entry["images"], entry["held_out"]["images"]) for entry in found["groups"]] == [
        ("clean", 2, 2),
        ("adversarial", 2, 2),
        ("fooled-into", 2, 2),
        ("noise", 4, 2),
    ]
    for entry in found["groups"]:
        held = entry["held_out"]
        assert all(
            low <= share <= high for low, share, high in zip(held["low"], held["carried"], held["high"], strict=True)
        )
        assert all(item["excess"] > 0 for item in entry["specific"])
        assert not {site.name for site in digits[0].sites if not site.is_eligible} & {
            item["site"] for item in entry["specific"]
        }
        excesses = [item["excess"] for item in entry["specific"]]
        assert excesses == sorted(excesses, reverse=True)
    with np.load(tmp_path / "group" / "arrays.npz", allow_pickle=False) as arrays:
        first = found["groups"][0]["specific"][0]
        assert arrays[f"specific_clean/{first['site']}"][first["map"]] == pytest.approx(first["excess"])
        assert arrays["strength_noise/" + first["site"]].ndim == 1
    site = found["sites"][0]
    assert {"target_only", "noise_also", "distance_interval", "p_value"} <= set(site)
    assert set(found["cross"]) >= {"each_its_own", "exchanged"}
    assert {"parts_span", "merges_span"} <= set(found)
    assert all(len(text) > 20 for text in found["meaning"].values())


def test_a_data_set_without_another_image_of_a_class_says_what_is_unknown(digits, group, monkeypatch):
    gathered = subjects.gather_evidence(*digits, group)
    monkeypatch.setattr(faithfulness.baselines, "labels", lambda _bundle, dataset: np.full(len(dataset.keys), 3))
    with pytest.raises(
        BadInput, match="no other correctly classified image of class '7', so likeness to it is unknown"
    ):
        faithfulness._of_class(gathered, 7)
    monkeypatch.setattr(subjects, "gather_evidence", lambda *_: gathered)
    told = faithfulness.part("kinship", *digits, group, lambda *_: None)
    assert told.done == ("kinship",)
    assert told.class_similarity is None
    (reason,) = told.unavailable
    assert "no other correctly classified image" in reason
    assert faithfulness_parts.merge([told, Faithfulness()]).unavailable == (reason,)


def test_all_parts_gather_an_explanation_once_however_they_come_to_it(digits, group, monkeypatch):
    taken, gather = [], subjects.gather_evidence
    monkeypatch.setattr(subjects, "gather_evidence", lambda *of: taken.append(of) or gather(*of))
    monkeypatch.setattr(subjects, "shared", subjects.Shared())
    stored = replace(group, key="known")
    for name in faithfulness_parts.PARTS:
        # A worker reads the explanation from the store anew for every part.
        assert faithfulness.part(name, *digits, replace(stored), quiet).done == (name,)
    assert len(taken) == 1
    faithfulness.part("cross", *digits, replace(stored, key="another"), quiet)
    faithfulness.part("cross", *digits, group, quiet)
    faithfulness.part("cross", *digits, replace(group), quiet)
    assert len(taken) == 4, "an examination without a key is known by itself alone"


def test_a_part_of_shared_evidence_is_that_of_evidence_of_its_own(digits, group, monkeypatch):
    monkeypatch.setattr(subjects, "shared", subjects.Shared())
    names = faithfulness_parts.PARTS
    together = {name: serialization.flatten(faithfulness.part(name, *digits, group, quiet)) for name in names}
    for name in reversed(names):
        monkeypatch.setattr(subjects, "shared", subjects.Shared())
        alone = serialization.flatten(faithfulness.part(name, *digits, group, quiet))
        assert alone.value == together[name].value
        assert all(np.array_equal(alone.arrays[path], array) for path, array in together[name].arrays.items())
