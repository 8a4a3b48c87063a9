"""Proof over a class: every study tells what it found beside its control, and never more than the record says."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dashboard.panels.patching import figure as study_figure
from dashboard.panels.patching import model as patching
from dashboard.panels.patching import studies
from dashboard.panels.patching import view as patching_view
from engine import (
    Accuracy,
    Answer,
    AttackResults,
    AttackResultsRequest,
    BadInput,
    CurveLine,
    Defence,
    Effect,
    Estimate,
    Group,
    MapSet,
    RestorationCurve,
    SharedSet,
    SiteEffect,
    SiteProfile,
    SmallestSet,
    SmallestSets,
    serialization,
)
from tests import fake_studies, fakes
from tests.test_neuron_view import KEY

GROUP = Group(50, tuple(f"{k:05d}" for k in range(40)), 336, ("stem",))
SET = MapSet(("layer1.0", "layer2.0"), ((2,), (1, 9)))


def effect(share: float, low: float, high: float) -> Effect:
    return Effect(40, share, share - 0.1, share + 0.1, share, low, high)


def curve(flow: Effect, random: Effect) -> RestorationCurve:
    lines = (
        CurveLine("standing out", (effect(0, 0, 0.1), flow)),
        CurveLine("layer-matched", (effect(0, 0, 0.1), random)),
    )
    another = CurveLine("another image", lines[1].effects, (Estimate(0.1, 0, 0.2, 40), Estimate(0.9, 0.8, 1, 40)))
    return RestorationCurve(GROUP, (8, 32), (*lines, another), ("third class: no class",), 20)


def smallest(is_reached: bool = True) -> SmallestSets:
    images = (
        SmallestSet("00001", SET, 8, is_restored=True, recovery=0.6, random=0.0),
        SmallestSet("00002", MapSet(("layer2.0",), ((9,),)), 4, is_restored=True, recovery=0.5, random=0.02),
        SmallestSet("00003", SET, 336, is_restored=False, recovery=0.2, random=0.0),
    )
    shared = SharedSet(0.9, is_reached, SET, 16, effect(0.9, 0.8, 0.95), effect(0.02, 0.01, 0.03))
    few = Estimate(2.0, 1.0, 3.0, 2)
    return SmallestSets(GROUP, images, few, few, effect(0.95, 0.9, 0.98), effect(0.01, 0, 0.02), 20, shared)


def defence() -> Defence:
    def accuracy(before: float, after: float) -> Accuracy:
        change = Estimate(after - before, after - before - 0.1, after - before + 0.1, 40)
        return Accuracy(Estimate(before, 0, 1, 40), Estimate(after, 0, 1, 40), change, None, None)

    own, random = effect(0.84, 0.65, 0.94), effect(0, 0, 0.01)
    return Defence(
        GROUP, smallest().shared, GROUP, own, random, "position", 500, accuracy(0.0, 0.1), accuracy(0.99, 0.49), 20
    )


def test_the_curve_names_the_number_of_maps_that_beats_random_ones():
    study = studies.curve(curve(effect(0.94, 0.84, 0.98), effect(0.04, 0.03, 0.06)))
    assert (
        study.verdict
        == "32 channels of the default ranking restore 94 % [84, 98], as many random ones of the same layers 4 % [3, 6]."
    )
    assert any("third class: no class" in text for text in study.told)
    assert any("no channel of stem is chosen" in text for text in study.told)
    assert study.tables[0].rows[2][-1].startswith("90 %")


def test_without_a_gap_beyond_both_intervals_nothing_is_claimed():
    study = studies.curve(curve(effect(0.5, 0.3, 0.7), effect(0.4, 0.35, 0.45)))
    assert study.verdict.startswith("Any channels of these layers do the same")
    without = dataclasses.replace(curve(effect(1, 0.9, 1), effect(0, 0, 0.1)), lines=())
    assert "missing" in studies.curve(without).verdict


def test_faithfulness_stands_beside_layer_matched_random_maps_in_both_directions():
    study = studies.faithfulness(fake_studies.faithfulness_study())
    assert study.verdict == (
        "Denoising CPR 50.0 % [45.0, 55.0], +20 points [+10, +30] beyond layer-matched random channels; "
        "noising CPR 50.0 % [45.0, 55.0], +20 points [+10, +30] beyond layer-matched random channels."
    )
    (table,) = study.tables
    assert table.heads[:3] == ("Set", "0.1 % (0)", "0.2 % (0)")
    assert [row[0] for row in table.rows] == [line.name for line in study.plot.lines]
    assert [len(row) for row in table.rows] == [len(table.heads)] * 4
    own, control = "50.0 % [45.0, 55.0]", "30.0 % [25.0, 35.0]"
    assert [row[-2] for row in table.rows] == [own, control, own, control]
    assert table.rows[0][1] == "0.1 % [−9.9, 10.1]"
    assert table.rows[0][-3:] == ("100.0 % [90.0, 110.0]", "50.0 % [45.0, 55.0]", "50.0 % [45.0, 55.0]")
    told = " ".join(study.told)
    for text in (
        "One set of 3 channels", "independence: low is right) 90 % [80, 100], n = 2 (layer-matched random: 10 % [0, 20], n = 10)",
        "leaving out 2 of its 3 channels costs more than leaving out one of 19", "similarity of 0.80 [0.60, 1.00]",
        "Left out: 1 of the images",
    ):  # fmt: skip
        assert text in told


def test_sizes_without_maps_are_not_drawn_and_no_interval_is_cut_off():
    study = studies.faithfulness(fake_studies.faithfulness_study())
    assert {line.x for line in study.plot.lines} == {(1, 3, 7, 15, 31, 78, 156)}
    low, high = study_figure.draw(study.plot, "light").layout.yaxis.range
    assert low < 100 * min(min(line.low) for line in study.plot.lines) < 0
    assert high > 100 * max(max(line.high) for line in study.plot.lines) > 100


def test_a_ranking_no_better_than_its_control_is_not_called_more_faithful():
    found = fake_studies.faithfulness_study()
    level = dataclasses.replace(found.measures.denoising, beyond=Estimate(0.01, -0.01, 0.03, 2))
    without = dataclasses.replace(
        found.measures, denoising=level, noising=level, tests=None, missing=("minimality: no other channels.",)
    )
    study = studies.faithfulness(dataclasses.replace(found, measures=without))
    assert study.verdict.endswith("Neither is more faithful than layer-matched random channels, beyond the interval.")
    assert "Not run: minimality: no other channels." in study.told


def test_the_profile_says_which_layers_it_leaves_out_and_why():
    sites = tuple(
        SiteEffect(name, 4, effect(share, 0, 0.1), effect(0.05, 0, 0.1)) for name, share in (("a", 0.2), ("b", 0.4))
    )
    study = studies.profile(SiteProfile(GROUP, sites, ("stem", "layer1"), 20))
    assert study.verdict.startswith("Most beyond random channels is won back at b: 4 of its channels recover 40 %")
    assert any("stem, layer1" in text for text in study.told)
    assert [row[0] for row in study.tables[0].rows] == ["a", "b"]


def test_a_layer_leads_by_what_it_wins_back_beyond_random_maps_of_it():
    wide = SiteEffect("wide", 4, effect(0.36, 0, 0.1), effect(0.06, 0, 0.1))
    narrow = SiteEffect("narrow", 4, effect(0.4, 0, 0.1), effect(0.22, 0, 0.1))
    assert "won back at wide" in studies.profile(SiteProfile(GROUP, (narrow, wide), (), 20)).verdict
    assert studies.profile(SiteProfile(GROUP, (narrow,), (), 20)).verdict.startswith("No layer alone")


def test_smallest_sets_count_what_recurs_and_what_was_not_restored():
    study = studies.smallest(smallest())
    recurring, images = study.tables
    assert recurring.rows[0] == ("layer2.0 · channel 9", "2 of 2", "yes")
    assert recurring.title == f"Channels that recur, the first {len(recurring.rows)} of 3"
    assert images.title == f"Image by image, {len(images.rows)} of {len(GROUP.samples)} fooled"
    assert images.rows[2][-1] == "not restored by all channels together"
    assert "asked for: 90 %)" in study.verdict
    assert "not reached" in studies.smallest(smallest(is_reached=False)).verdict
    assert study.intervene == patching.written(SET) == "map:layer1.0:2~map:layer2.0:1.9"


def test_a_bound_is_told_with_its_condition_and_beside_the_same_search_elsewhere():
    bounded = fake_studies.smallest_sets()
    told = " ".join(studies.smallest(bounded).told)
    assert (
        "No set of fewer than 2.0 [2.0, 2.0] channels restores an image, on average; every single channel was tried."
        in told
    )
    assert "more channels never undo what fewer restore, which held in 38 of 40 random supersets" in told
    assert "of the same layers, drawn at random, restore 10 %" in told
    assert "(ranked last): it restores 1 of 2 images." in told
    assert "(random half): it restores 2 of 2 images, with 4.5 [4.0, 5.0] channels on average." in told
    assert studies.smallest(bounded).tables[1].rows[0][1:3] == ("3", "2")


def test_a_record_of_version_0_2_is_told_without_a_bound():
    plain = serialization.flatten(smallest())
    grown = ("matched", "ranked", "bounds", "monotone", "pools", "passes")
    value = {name: held for name, held in plain.value.items() if name not in grown}
    fields = ("sample", "chosen", "prefix", "is_restored", "recovery", "random")
    value["images"] = [{name: image[name] for name in fields} for image in value["images"]]
    study = studies.smallest(serialization.rebuild(SmallestSets, value))
    assert "No set of fewer" not in " ".join(study.told)
    assert study.tables[1].rows[0][1:3] == ("3", "1")
    assert study.told[1] == studies.RANKED


def test_the_defence_tells_its_cost_with_its_gain():
    study = studies.defence(defence())
    assert "held-out attacked images by +10 points [0, +20]" in study.verdict
    assert "clean images by −50 points [−60, −40]" in study.verdict
    assert study.tables[0].rows[0][-1] == "–"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_line_is_drawn_with_its_interval_and_its_own_mark(theme):
    drawn = study_figure.draw(studies.curve(curve(effect(0.94, 0.84, 0.98), effect(0.04, 0.03, 0.06))).plot, theme)
    assert [trace.name for trace in drawn.data] == ["standing out (default)", "layer-matched random", "cross-image"]
    assert len({trace.marker.symbol for trace in drawn.data}) == 3
    assert drawn.data[0].error_y.array[1] == pytest.approx(4)
    assert drawn.layout.xaxis.type == "log"


class Studying(fakes.FakeAuditor):
    """Answers with the records above, for the class of the explained pair."""

    asked = None

    def attack_results(self, request: AttackResultsRequest):
        outcome = self.explained(KEY).outcomes[0]
        kept = dataclasses.replace(outcome, sample="kept", status="resisted")
        wrong = dataclasses.replace(outcome, sample="wrong", status="clean_wrong")
        return Answer("ready", AttackResults(request, (outcome, kept, wrong)))

    def restoration_curve(self, group):
        type(self).asked = group
        return Answer("ready", curve(effect(0.94, 0.84, 0.98), effect(0.04, 0.03, 0.06)))

    def site_profile(self, _group):
        return Answer("working", None, 1, 4, "Putting channels back")

    def smallest_sets(self, _group):
        return Answer("failed", message="no image was fooled")

    def defence(self, _group):
        raise BadInput("too few images")


ASK = {"key": KEY, "study": "curve", "theme": "light"}


def test_a_study_is_of_the_images_of_the_class_that_were_right_before():
    told, drawn = patching_view.answer(Studying(), ASK)
    assert Studying.asked.samples == (fakes.FakeAuditor().explained(KEY).outcomes[0].sample, "kept")
    assert "Asked of all 2 images of the class that were right before the attack." in str(told["tables"])
    assert told["plot"]
    assert not told["again"]
    assert len(drawn.data) == 3


def test_a_study_of_the_first_images_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(patching_view, "MOST_IMAGES", 1)
    told, _ = patching_view.answer(Studying(), ASK)
    assert "Asked of the first 1 of 2 images" in str(told["tables"])


@pytest.mark.parametrize(
    ("study", "again", "text"),
    [("profile", True, "1 of 4"), ("smallest", False, "no image was fooled"), ("defence", False, "too few"),
     ("other", False, "is no study")],
)  # fmt: skip
def test_a_study_in_the_making_is_asked_for_again_and_a_failed_one_says_why(study, again, text):
    told, _ = patching_view.answer(Studying(), {**ASK, "study": study})
    assert told["again"] is again
    assert text in json.dumps(told["text"])
    assert not told["plot"]


def test_the_localisation_profile_names_the_layer_where_few_channels_decide():
    study = studies.localisation(fake_studies.localisation_study())
    assert study.verdict.startswith(
        "Most in few channels at layer1.0: 25 % [20, 30] of its 16 channels restore the label"
    )
    assert "75 % [70, 80] (3.0 times as many)" in study.verdict
    rows = study.tables[0].rows
    assert rows[2] == ("layer3.0", "64", "–", "–", "–", "0 of 20")
    assert [line.name for line in study.plot.lines] == ["ranked", "random order"]


def test_a_flat_profile_says_that_the_attack_is_everywhere():
    made = fake_studies.localisation_study()
    flat = dataclasses.replace(
        made, localisation=dataclasses.replace(made.localisation, layers=made.localisation.layers[1:])
    )
    assert studies.localisation(flat).verdict.startswith("Everywhere")
