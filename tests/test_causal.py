"""Causal tests: putting maps of one run into another does what a slow loop says, and its controls are what they are called."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import engine
from engine import statistics
from engine.attribution import explain
from engine.errors import BadInput, UnknownName
from engine.models import hooks, register
from engine.patching import causal, controls, subjects
from engine.types.core import ExplanationRequest
from engine.types.patching import COMPARED, CONTROLS, DECISIVE, MapSet
from tests import stores

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(demo_store, tmp_path_factory):
    store = stores.copied(demo_store, tmp_path_factory.mktemp("causal") / "store")
    return register.bundle(store, "digits-standard"), store.dataset("digits")


@pytest.fixture(scope="module")
def found(digits):
    """Four attacked digits of one class, all of them fooled."""
    samples = digits[1].keys_of(3)[:4]
    request = ExplanationRequest(
        "digits-standard", "digits", engine.attack("pgd-linf:eps=24/255,steps=5"), samples, engine.method("gradient")
    )
    made = explain.explain(*digits, request, lambda *_: None)[0]
    assert all(outcome.status == "fooled" for outcome in made.outcomes)
    return made


def every_map(bundle, *, but_stem: bool = False) -> MapSet:
    sites = [site for site in bundle.sites if not but_stem or site.role != "stem"]
    return MapSet(tuple(site.name for site in sites), tuple(tuple(range(site.channels)) for site in sites))


def strongest(bundle, made, count: int) -> MapSet:
    """The channels with the most attack conductance over the group."""
    flat = [
        (float(np.abs(flow).mean(axis=0)[channel]), site.name, channel)
        for site, flow in zip(bundle.sites, made.flow, strict=True)
        if site.is_eligible
        for channel in range(site.channels)
    ]
    chosen = sorted(sorted(flat, reverse=True)[:count], key=lambda one: one[1:])
    names = tuple(site.name for site in bundle.sites if site.name in {item[1] for item in chosen})
    return MapSet(names, tuple(tuple(sorted(c for _, n, c in chosen if n == name)) for name in names))


@pytest.mark.parametrize("direction", ["restore", "inject"])
def test_all_maps_bring_about_the_giving_runs_answer_exactly(digits, found, direction):
    causal_test = causal.intervene(*digits, found, every_map(digits[0]), direction)
    aim = "before" if direction == "restore" else "after"
    assert causal_test.effect.recovery == pytest.approx(1.0, abs=1e-4)
    assert causal_test.effect.flipped == 1.0
    assert causal_test.labels == tuple(getattr(outcome, aim).label for outcome in found.outcomes)


@pytest.mark.parametrize("direction", ["restore", "inject"])
def test_recovery_is_what_a_loop_over_images_finds(digits, found, direction):
    bundle, dataset = digits
    chosen = MapSet(("layer2.0",), ((1, 5, 7),))
    causal_test = causal.intervene(bundle, dataset, found, chosen, direction)
    known = subjects.gather_evidence(bundle, dataset, found)
    site = [item.name for item in bundle.sites].index("layer2.0")
    giver, receiver = (known.clean, known.adversarial) if direction == "restore" else (known.adversarial, known.clean)
    for k in range(len(found.outcomes)):
        true, fooled = int(known.clean.targets[k]), int(known.adversarial.targets[k])
        give = hooks.record(bundle, giver.images[k : k + 1])
        own = hooks.record(bundle, receiver.images[k : k + 1])

        def put(number, tensor, give=give):
            if number == site:
                tensor = tensor.clone()
                for channel in (1, 5, 7):
                    tensor[:, channel] = give.maps[site][:, channel]
            return tensor

        with torch.no_grad(), bundle.visiting(put):
            logits = bundle.logits(receiver.images[k : k + 1])[0]
        start = float(own.logits[0, true] - own.logits[0, fooled])
        end = float(give.logits[0, true] - give.logits[0, fooled])
        reached = float(logits[true] - logits[fooled])
        assert causal_test.recoveries[k] == pytest.approx((reached - start) / (end - start), abs=1e-4)
        assert causal_test.labels[k] == int(logits.argmax())


def test_the_maps_with_the_most_flow_restore_and_every_control_does_less(digits, found):
    causal_test = causal.intervene(*digits, found, strongest(digits[0], found, 32), "restore")
    assert causal_test.effect.flipped == 1.0
    assert {control.name for control in causal_test.controls} | {
        line.partition(":")[0] for line in causal_test.missing
    } == set(CONTROLS)
    by_name = {control.name: control for control in causal_test.controls}
    assert by_name["random"].effect.n == 4 * causal.DRAWS
    assert by_name["random"].effect.recovery < causal_test.effect.recovery
    assert by_name["noisy copy"].effect.flipped == 0.0
    assert by_name["third class"].effect.flipped <= 0.25


def test_a_claim_needs_the_control_that_decides_and_lies_beyond_every_other(digits, found):
    causal_test = causal.intervene(*digits, found, strongest(digits[0], found, 16), "restore")
    by_name = {control.name: control for control in causal_test.controls}
    matched = by_name[DECISIVE]
    assert matched.excess.value == pytest.approx(causal_test.effect.flipped - matched.effect.flipped)
    beyond = all(
        control.effect.flipped_high < causal_test.effect.flipped_low
        for control in causal_test.controls
        if control.name != COMPARED
    )
    assert causal_test.is_supported is (matched.excess.low > 0 and beyond)
    left = tuple(control for control in causal_test.controls if control.name != DECISIVE)
    assert dataclasses.replace(causal_test, controls=left).verdict == "untested"
    assert dataclasses.replace(causal_test, trivial=("stem",)).verdict == "trivial"


def test_the_stem_restores_whatever_is_put_back_and_is_called_trivial(digits, found):
    stem = next(site for site in digits[0].sites if site.role == "stem")
    causal_test = causal.intervene(*digits, found, MapSet((stem.name,), (tuple(range(stem.channels)),)), "restore")
    assert causal_test.effect.recovery == pytest.approx(1.0, abs=1e-4)
    assert causal_test.trivial == (stem.name,)
    assert not causal_test.is_supported


def test_a_map_that_nothing_reads_changes_nothing(digits, found):
    """Its values are put in, but the weights behind it are zero: planted, so the effect must be exactly none."""
    bundle, dataset = digits
    chosen = MapSet(("layer1.0.relu1",), ((2,),))
    reader = bundle.network.get_submodule("layer1.0.conv2")
    kept = reader.weight.detach().clone()
    with torch.no_grad():
        reader.weight[:, 2] = 0
    try:
        made = explain.explain(bundle, dataset, found.request, lambda *_: None)[0]
        causal_test = causal.intervene(bundle, dataset, made, chosen, "restore")
    finally:
        with torch.no_grad():
            reader.weight.copy_(kept)
    assert causal_test.recoveries == pytest.approx([0.0] * 4, abs=1e-6)


def test_a_whole_layer_is_its_own_layer_matched_control(digits, found):
    site = next(item for item in digits[0].sites if item.name == "layer1.0.relu1")
    causal_test = causal.intervene(*digits, found, MapSet((site.name,), (tuple(range(site.channels)),)), "restore")
    matched = next(control for control in causal_test.controls if control.name == DECISIVE)
    assert matched.excess.value == 0
    assert causal_test.verdict == "same layers"


def test_layer_matched_maps_are_as_many_in_every_layer_and_the_chosen_ones_may_be_among_them(digits):
    bundle = digits[0]
    picked = torch.zeros(sum(site.channels for site in bundle.sites), dtype=torch.bool)
    picked[: bundle.sites[0].channels // 2 + 1] = picked[-3:] = True
    drawn = controls.same_layers(bundle, picked, (30, 2), seed=0)
    for own, site in zip(hooks.split(picked[None], bundle), hooks.split(drawn.flatten(0, 1), bundle), strict=True):
        assert (site.sum(dim=1) == own.sum()).all()
    assert (drawn & picked).any(), "drawn from all maps of a layer"
    assert (drawn & ~picked).any()


@pytest.mark.parametrize(
    ("hits", "control", "value"),
    [([1, 1, 1, 1], [[0, 0, 0, 0], [0, 0, 0, 0]], 1.0), ([1, 0, 1, 1], [[1, 0, 0, 0], [1, 1, 0, 0]], 0.375)],
)
def test_an_excess_is_paired_and_never_of_no_width(hits, control, value):
    excess = statistics.excess(np.array(hits, bool), np.array(control, bool))
    assert excess.value == pytest.approx(value)
    assert excess.low < value


@pytest.mark.parametrize(
    ("count", "n", "side"), [(0, 4, "below"), (1, 4, "too few"), (4, 4, "above"), (0, 3, "too few")]
)
def test_few_trials_do_not_decide(count, n, side):
    assert statistics.against_half(count, n) == side


def test_a_single_image_has_no_interval_of_its_recovery(digits, found):
    request = dataclasses.replace(found.request, samples=found.request.samples[:1])
    alone = explain.explain(*digits, request, lambda *_: None)[0]
    effect = causal.intervene(*digits, alone, strongest(digits[0], alone, 16), "restore").effect
    assert (effect.recovery_low, effect.recovery_high, effect.n) == (None, None, 1)


def test_the_same_question_has_the_same_answer(digits, found):
    chosen = strongest(digits[0], found, 8)
    assert causal.intervene(*digits, found, chosen, "restore") == causal.intervene(*digits, found, chosen, "restore")


@pytest.mark.parametrize(
    ("chosen", "error", "text"),
    [
        (MapSet((), ()), BadInput, "at least one"),
        (MapSet(("layer9",), ((0,),)), UnknownName, "No layer is called 'layer9'"),
        (MapSet(("layer1.0",), ((999,),)), UnknownName, "No feature map of layer1.0 is called '999'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_in_words(digits, found, chosen, error, text):
    with pytest.raises(error, match=text):
        causal.intervene(*digits, found, chosen, "restore")
