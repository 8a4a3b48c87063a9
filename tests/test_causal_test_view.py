"""The causal test panel: a link names the channels it says, a claim needs its control, and every control stands beside."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dashboard import wording
from dashboard.panels.patching import model as patching
from dashboard.panels.patching import view as patching_view
from engine import CONTROLS, DECISIVE, TITLES, Answer, BadInput, UnknownName, compare, statistics
from tests import fakes
from tests.test_neuron_view import KEY, REQUEST

ASK = {"key": KEY, "share": 0.1, "patch": "flow:16", "request": REQUEST}


@pytest.fixture(scope="module")
def explanation():
    return fakes.FakeAuditor().explained(KEY)


@pytest.fixture(scope="module")
def comparison(explanation):
    return compare(explanation, 0.1)


def asked(text, explanation, comparison):
    return patching.asked(text, explanation, comparison)


def causal_test(explanation, comparison, text="flow:16"):
    wanted = asked(text, explanation, comparison)
    return fakes.FakeAuditor().causal_test(KEY, wanted.chosen, wanted.direction).value


def test_flow_names_the_claimable_maps_with_the_most_of_it(explanation, comparison):
    chosen = asked("flow:16", explanation, comparison).chosen
    flat = {
        (site.name, channel): float(np.abs(flow[:, channel]).mean())
        for site, flow in zip(explanation.sites, explanation.flow, strict=True)
        if site.is_eligible
        for channel in range(site.channels)
    }
    named = {
        (name, channel) for name, channels in zip(chosen.sites, chosen.channels, strict=True) for channel in channels
    }
    assert named == set(sorted(flat, key=lambda one: -flat[one])[:16])
    assert list(chosen.sites) == [site.name for site in explanation.sites if site.name in chosen.sites]


@pytest.mark.parametrize(
    ("group", "field"), [("adversarial", "adversarial_only"), ("clean", "clean_only"), ("shared", "shared")]
)
def test_a_group_of_a_layer_is_the_comparisons_set(explanation, comparison, group, field):
    sets = next(site for site in comparison.sites if getattr(site, field))
    chosen = asked(f"{group}:{sets.site}", explanation, comparison).chosen
    assert (chosen.sites, chosen.channels) == ((sets.site,), (getattr(sets, field),))


def test_the_other_way_round_is_another_direction_of_the_same_maps(explanation, comparison):
    there, back = (asked(text, explanation, comparison) for text in ("map:layer2.0:3", "inject:map:layer2.0:3"))
    assert there.chosen == back.chosen
    assert (there.direction, back.direction) == ("restore", "inject")
    assert "clean values" in there.title
    assert "adversarial values" in back.title


@pytest.mark.parametrize(
    ("text", "error"),
    [("", BadInput), ("flow:0", BadInput), ("flow:99999", BadInput), ("flow:x", BadInput), ("map:layer9:0", UnknownName),
     ("adversarial:layer9", UnknownName), ("<b>", BadInput)],
)  # fmt: skip
def test_what_names_no_maps_is_refused_in_words(explanation, comparison, text, error):
    with pytest.raises(error):
        asked(text, explanation, comparison)


@pytest.mark.parametrize("text", ["flow:99999999", "flow:0"])
def test_a_number_of_maps_that_is_not_there_is_answered_with_how_many_there_are(explanation, comparison, text):
    with pytest.raises(BadInput, match=r"From 1 to \d+ channels can be patched"):
        asked(text, explanation, comparison)


def test_every_control_stands_below_the_chosen_maps(explanation, comparison):
    panel = patching.build(causal_test(explanation, comparison), "x", explanation)
    assert [line.name.lower() for line in panel.lines] == ["chosen channels", *(TITLES[name] for name in CONTROLS)]
    assert any("give that image's class" in line.note for line in panel.lines)


def test_a_claim_is_made_of_stored_numbers_only_and_names_its_control(explanation, comparison):
    found = causal_test(explanation, comparison)
    text = patching.claim(found, explanation)
    matched = next(control for control in found.controls if control.name == DECISIVE)
    for number in (found.effect.recovery, matched.effect.recovery, matched.effect.flipped):
        assert wording.percent(number) in text
    assert f"{found.chosen.count} of " in text
    assert explanation.request.attack.text in text


def with_share(effect, share: float):
    interval = statistics.wilson(round(share * effect.n), effect.n)
    return dataclasses.replace(effect, flipped=share, flipped_low=interval.low, flipped_high=interval.high)


def with_flips(found, chosen: float, **controls: float):
    """The test of one image with other shares of answers as aimed, of the chosen maps and of controls by name."""
    changed = tuple(
        dataclasses.replace(
            control,
            effect=with_share(control.effect, controls.get(control.name.replace(" ", "_"), 0.0)),
        )
        for control in found.controls
    )
    return dataclasses.replace(
        found, effect=dataclasses.replace(found.effect, flipped=chosen, flipped_low=0.0), controls=changed
    )


@pytest.mark.parametrize(
    ("chosen", "controls", "said"),
    [
        (0.0, {}, "No effect: the chosen channels do not bring the clean answer"),
        (1.0, {"largest_change": 1.0}, "Supported for this image. Layer-matched random channels do it in"),
        (1.0, {"same_layers": 0.9}, "Not supported: any channels of these layers do the same"),
        (1.0, {"noisy_copy": 0.9}, "Not supported: norm-matched noise (90 %"),
        (1.0, {"same_layers": 0.4}, "Too few trials to tell: 20 trials of layer-matched random"),
    ],
)
def test_of_one_image_the_verdict_says_what_the_maps_and_the_controls_did(
    explanation, comparison, chosen, controls, said
):
    found = dataclasses.replace(causal_test(explanation, comparison), trivial=())
    assert len(found.labels) == 1
    assert said in patching.build(with_flips(found, chosen, **controls), "x", explanation).verdict


def test_what_is_supported_without_a_control_says_which_one_was_not_run(explanation, comparison):
    found = dataclasses.replace(causal_test(explanation, comparison), trivial=())
    found = dataclasses.replace(found, labels=2 * found.labels)
    assert found.is_supported
    assert patching.verdict(found).startswith("Supported. Layer-matched random channels do it in")
    kept = tuple(control for control in found.controls if control.name != "third class")
    fewer = dataclasses.replace(found, controls=kept, missing=("third class: a third class is needed.",))
    assert patching.verdict(fewer).startswith("Supported as far as it was tested (not run: wrong target). ")


def test_the_other_way_round_its_control_is_of_the_attacks_answer_too(explanation, comparison):
    found = dataclasses.replace(causal_test(explanation, comparison), direction="inject")
    control = patching.claim(found, explanation).partition("channels of the same layers:")[2]
    assert "the attack's answer in" in control and "the label" not in control
    assert patching.build(found, "x", explanation).margin_head == "Margin taken"


def test_without_the_control_that_decides_there_is_no_claim(explanation, comparison):
    found = causal_test(explanation, comparison)
    without = dataclasses.replace(
        found, controls=tuple(control for control in found.controls if control.name != DECISIVE)
    )
    assert patching.claim(without, explanation).startswith("No claim")
    two = dataclasses.replace(explanation, outcomes=2 * explanation.outcomes)
    twice = {"labels": 2 * found.labels, "confidences": 2 * found.confidences, "recoveries": 2 * found.recoveries}
    assert "No claim" in patching.build(dataclasses.replace(without, **twice), "x", two).verdict


def test_single_maps_groups_and_flow_can_be_chosen_together(explanation, comparison):
    sets = next(site for site in comparison.sites if site.adversarial_only and site.site != "layer2.0")
    chosen = asked(f"map:layer2.0:3.5-7~adversarial:{sets.site}~map:layer2.0:5", explanation, comparison).chosen
    found = dict(zip(chosen.sites, chosen.channels, strict=True))
    assert found == {"layer2.0": (3, 5, 6, 7), sets.site: tuple(sorted(sets.adversarial_only))}
    assert list(chosen.sites) == [site.name for site in explanation.sites if site.name in found]


def test_a_choice_is_written_as_it_is_read(explanation, comparison):
    chosen = asked("flow:40", explanation, comparison).chosen
    assert asked(patching.written(chosen), explanation, comparison).chosen == chosen


@pytest.mark.parametrize(
    "text",
    ["map:layer2.0:7-3", "map:layer2.0:", "map:layer2.0:1..2", "map:layer2.0:99999", "flow:4~", "map:layer2.0:-1"],
)
def test_maps_that_are_written_wrongly_or_not_there_are_refused(explanation, comparison, text):
    with pytest.raises(BadInput):
        asked(text, explanation, comparison)


def test_every_image_shows_what_it_says_before_and_after(explanation, comparison):
    (member,) = patching.build(causal_test(explanation, comparison), "x", explanation).members
    outcome = explanation.outcomes[0]
    assert member.clean == f"/media/examination/{KEY}/0/clean.png"
    assert explanation.classes[outcome.after.label] in member.adversarial_text
    assert member.is_reached
    wrong = dataclasses.replace(causal_test(explanation, comparison), labels=(outcome.after.label,))
    assert not patching.build(wrong, "x", explanation).members[0].is_reached


def test_a_layer_through_which_everything_runs_supports_no_claim(explanation, comparison):
    found = dataclasses.replace(causal_test(explanation, comparison), trivial=("stem",))
    assert "everything runs through stem" in patching.claim(found, explanation)
    assert patching.build(found, "x", explanation).verdict.startswith("No claim: everything runs")


def test_the_page_shows_the_causal_test_and_stops_asking():
    told = patching_view.facts(fakes.FakeAuditor(), ASK)
    assert not told["again"]
    assert "16 channels with the most attack conductance" in json.dumps(told["causal-test"])


@pytest.mark.parametrize(
    ("state", "again", "text"), [("working", True, "Patching"), ("failed", False, "could not be run")]
)
def test_a_causal_test_in_the_making_is_asked_for_again_and_a_failed_one_says_why(state, again, text):
    class Slow(fakes.FakeAuditor):
        def causal_test(self, *_):
            return Answer(state, None, 0, 0, "Patching the chosen channels")

    told = patching_view.facts(Slow(), ASK)
    assert told["again"] is again
    assert text in json.dumps(told["causal-test"])


@pytest.mark.parametrize("change", [{"patch": "x"}, {"key": "gone"}, {"patch": "map:layer9:1"}])
def test_what_cannot_be_tested_says_why_and_is_not_asked_again(change):
    told = patching_view.facts(fakes.FakeAuditor(), {**ASK, **change})
    assert "nothing" in json.dumps(told["causal-test"])
    assert not told["again"]


def test_no_choice_shows_nothing():
    assert patching_view.facts(fakes.FakeAuditor(), {"key": KEY})["causal-test"] == []
