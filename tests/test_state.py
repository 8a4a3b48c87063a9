"""The view: what a link may say, what becomes of what it may not, and what the defaults are."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

import engine
from dashboard import links, progress
from dashboard.links import SHARES, ViewState
from engine import VALIDATION_CHECKS, Answer, AttackResults, AttackResultsRequest, ValidationReport
from engine.types.checks import CheckResult
from tests import fakes
from tests.fakes import FakeAuditor


class Outcomes(FakeAuditor):
    """Every image of a class ends as that class's entry says; classes without an entry resist."""

    def __init__(self, statuses: dict[int, str]) -> None:
        self.statuses = statuses
        self.asked: list[int] = []

    def attack_results(self, request: AttackResultsRequest) -> Answer[AttackResults]:
        self.asked.append(request.label)
        status = self.statuses.get(request.label, "resisted")
        if status == "working":
            return Answer("working", None, 3, 50)
        found = super().attack_results(request).value
        assert found is not None
        return Answer(
            "ready", replace(found, outcomes=tuple(replace(outcome, status=status) for outcome in found.outcomes))
        )


def test_a_view_survives_the_way_through_its_link():
    view = ViewState(
        model="m", data="d", label="cat & dog", attack="pgd-linf", epsilon="8/255", outcome="resisted", sample="group",
        method="mask", share=0.3, detail="sites", layer="layer1.0.relu#2", channel=7, theme="dark", group="shared",
    )  # fmt: skip
    assert ViewState.from_dict(dict(parse_qsl(view.to_query()))) == view


def test_a_default_view_has_an_empty_link():
    assert ViewState().to_query() == ""


@pytest.mark.parametrize(
    "stored", [None, [], "x", 3, {"nonsense": 1}, {"model": ["a"]}, {"channel": {}, "share": None}]
)
def test_what_is_no_view_becomes_the_default_view(stored):
    assert ViewState.from_dict(stored) == ViewState()


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ("0.07", 0.05),
        ("0.26", 0.3),
        (7, 0.2),
        ("0.9", 0.2),
        (-1, 0.2),
        ("0.1", 0.1),
        ("nan", 0.2),
        ("a", 0.2),
        (True, 0.2),
    ],
)
def test_a_share_goes_to_the_nearest_offered_and_none_far_from_all_does(given, share):
    assert ViewState.from_dict({"share": given}).share == share
    assert share in SHARES


@pytest.mark.parametrize("channel", [-1, "x", 1.5, 1e12, "inf", True])
def test_an_impossible_channel_is_dropped(channel):
    assert ViewState.from_dict({"channel": channel}).channel is None


def test_a_name_is_cut_to_a_length_nobody_needs():
    assert len(str(ViewState.from_dict({"model": "m" * 10_000}).model)) == links.LONGEST


def test_unusable_values_are_named_and_usable_ones_are_not():
    told = links.complaints({"detail": "x", "theme": "dark", "share": "0.10", "channel": "4", "outcome": "won"})
    assert [text.split("'")[1] for text in told] == ["won", "x"]


def test_an_empty_view_resolves_to_the_defaults():
    found = links.resolve(ViewState(), FakeAuditor())
    view = found.view
    assert (view.model, view.data, view.attack, view.epsilon) == ("digits-standard", "digits", "pgd-linf", "0.05")
    assert (view.outcome, view.label, view.sample, view.method) == ("fooled", "0", "00000", "two-run")
    assert found.notices == ()
    assert found.request is not None
    assert found.request.samples == ("00000",)
    assert found.request.attack == engine.attack("pgd-linf:eps=0.05")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "nope"),
        ("data", "nope"),
        ("label", "nope"),
        ("attack", "nope"),
        ("method", "nope"),
        ("sample", "nope"),
        ("layer", "nope"),
        ("epsilon", "0.7"),
        ("epsilon", "nope"),
        ("epsilon", "1/0"),
    ],
)
def test_what_a_link_asks_for_in_vain_is_named_and_replaced(field, value):
    found = links.resolve(replace(ViewState(), **{field: value}), FakeAuditor())
    assert len(found.notices) == 1
    assert f"'{value}'" in found.notices[0]
    assert getattr(found.view, field) != value
    assert found.request is not None


@pytest.mark.parametrize(("field", "shelf"), [("model", "models"), ("data", "datasets")])
def test_what_is_archived_is_said_to_be(field, shelf, monkeypatch):
    cards = fakes.MODELS[:1] if field == "model" else fakes.DATA
    archived = [replace(cards[0], name="old")]
    monkeypatch.setattr(fakes.BareRegistry, shelf, lambda _self, archived_=archived, **_: archived_)
    found = links.resolve(replace(ViewState(), **{field: "old"}), FakeAuditor())
    assert "'old', which is archived (restore it under Models and data)" in found.notices[0]
    gone = links.resolve(replace(ViewState(), **{field: "gone"}), FakeAuditor())
    assert "'gone', which is not here" in gone.notices[0]


def test_data_that_are_here_and_do_not_fit_say_why(monkeypatch):
    odd = replace(fakes.DATA[0], name="pets", classes=("cat",), class_counts=(5,))
    monkeypatch.setattr(FakeAuditor, "datasets", lambda _self: (*fakes.DATA, odd))
    found = links.resolve(ViewState(data="pets"), FakeAuditor())
    assert found.notices == (
        "Data 'pets' does not fit digits-standard: its class 'cat' is not among the model's, such as '0'; showing 'digits'.",
    )
    assert found.view.data == "digits"


@pytest.mark.parametrize(("outcome", "count"), [("fail", 1), ("pass", 0), ("not run", 0)])
def test_a_model_that_failed_its_validation_report_is_marked(outcome, count, monkeypatch):
    results = tuple(CheckResult(check.name, outcome, "") for check in VALIDATION_CHECKS[:1])
    monkeypatch.setattr(fakes.BareRegistry, "reports", lambda *_: (ValidationReport("m", "", "digits", 3, results),))
    notices = links.resolve(ViewState(), FakeAuditor()).notices
    assert len(notices) == count
    assert all("failed its validation report on digits (Loads)" in text for text in notices)


@pytest.mark.parametrize(
    ("failed", "doubts"),
    [
        (("edges",), ("connections (bands between layers",)),
        (("fields",), ("patches and boxes in pictures",)),
        (("function", "edges", "fields"), ("handed in, which answers otherwise", "connections (", "patches and boxes")),
        (("accuracy",), ()),
    ],
)
def test_a_model_that_failed_a_causal_test_says_what_cannot_be_trusted(failed, doubts, monkeypatch):
    results = tuple(CheckResult(item.name, "fail" if item.name in failed else "pass", "") for item in VALIDATION_CHECKS)
    reports = tuple(ValidationReport("m", "", data, 3, results) for data in ("digits", ""))
    monkeypatch.setattr(fakes.BareRegistry, "reports", lambda *_: reports)
    told = " ".join(links.resolve(ViewState(), FakeAuditor()).notices)
    titles = [check.title for check in VALIDATION_CHECKS if check.name in failed]
    assert told.count(f"({', '.join(titles)})") == 2
    assert told.count("What cannot be trusted here:") == bool(doubts), "once, however many reports failed"
    assert [text for text in links.DOUBTFUL.values() if text in told] == [
        text for name, text in links.DOUBTFUL.items() if name in failed
    ]
    assert all(text in told for text in doubts)


def test_a_strength_the_engine_refuses_is_named_with_its_reason():
    class Generous(FakeAuditor):
        def attacks(self):
            wide = replace(fakes.EPSILON, high=0.9)
            return tuple(replace(card, settings=(wide,)) for card in fakes.ATTACKS)

    found = links.resolve(ViewState(epsilon="0.7"), Generous())
    assert found.view.epsilon == "0.05"
    assert any("must lie in [0, 0.5]" in text for text in found.notices)


@pytest.mark.parametrize(("count", "told"), [(50, False), (1000, True)])
def test_a_sample_of_a_large_class_may_be_one_that_was_not_attacked(count, told, monkeypatch):
    monkeypatch.setattr(FakeAuditor, "datasets", lambda _: (replace(fakes.DATA[0], class_counts=(count,) * 10),))
    found = links.resolve(ViewState(label="0", sample="99999"), FakeAuditor())
    assert ("50 of the 1000 images of the class are attacked here" in found.notices[0]) is told


def test_a_map_beyond_its_layer_is_named_and_dropped():
    found = links.resolve(ViewState(layer="layer1.0", channel=12), FakeAuditor())
    assert (found.view.layer, found.view.channel) == ("layer1.0", None)
    assert "channel 12 of layer1.0" in found.notices[0]


def test_any_class_is_the_first_with_an_image_of_the_outcome():
    auditor = Outcomes({2: "fooled"})
    found = links.resolve(ViewState(), auditor)
    assert found.view.label == "2"
    assert auditor.asked == [0, 1, 2]


def test_a_named_class_is_kept_even_without_an_image():
    found = links.resolve(ViewState(label="1"), Outcomes({2: "fooled"}))
    assert found.view.label == "1"
    assert found.request is None
    assert found.outcomes == ()


def test_the_search_waits_at_a_class_that_is_still_attacked():
    auditor = Outcomes({1: "working", 2: "fooled"})
    found = links.resolve(ViewState(), auditor)
    assert found.view.label == "1"
    assert found.attack_results is not None
    assert found.attack_results.state == "working"
    assert auditor.asked == [0, 1]


def test_a_group_is_at_most_sixteen_images_of_the_outcome():
    found = links.resolve(ViewState(sample="group"), FakeAuditor())
    assert found.request is not None
    assert len(found.request.samples) == links.GROUP_SIZE
    assert found.view.sample == "group"
    assert {outcome.status for outcome in found.outcomes} == {"fooled"}


class Mixed(FakeAuditor):
    """Its attacks lead two of three images to one class, the third to another."""

    def attack_results(self, request):
        answer = super().attack_results(request)
        outcomes = tuple(
            replace(entry, after=replace(entry.after, label=7 if int(entry.sample) % 3 else 5))
            if entry.status == "fooled"
            else entry
            for entry in answer.value.outcomes
        )
        return replace(answer, value=replace(answer.value, outcomes=outcomes))


def test_images_that_became_different_classes_are_looked_at_apart():
    found = links.resolve(ViewState(sample="into:5"), Mixed())
    groups = links.scopes(found)
    assert list(groups) == ["into:7", "into:5", "group"]
    assert len(groups["into:7"]) + len(groups["into:5"]) == len(groups["group"]) == len(found.outcomes)
    assert found.request.samples == groups["into:5"][: links.GROUP_SIZE]
    became = {entry.sample: entry.after.label for entry in found.outcomes}
    assert {became[sample] for sample in found.request.samples} == {5}


def test_one_target_needs_no_pairs_and_an_unknown_one_is_named():
    assert list(links.scopes(links.resolve(ViewState(), FakeAuditor()))) == ["group"]
    found = links.resolve(ViewState(sample="into:9"), Mixed())
    assert found.view.sample == found.outcomes[0].sample
    assert "'into:9'" in found.notices[0]


def test_the_only_target_of_a_class_is_the_whole_class():
    first = links.resolve(ViewState(), FakeAuditor())
    into = first.model.classes[first.outcomes[0].after.label]
    found = links.resolve(ViewState(sample=f"into:{into}"), FakeAuditor())
    assert (found.view.sample, found.notices) == ("group", ())


def test_how_many_of_how_many_are_looked_at_is_always_said():
    work = progress.look({"sample": "into:7"}, Mixed())
    count = len(links.scopes(links.resolve(ViewState(), Mixed()))["into:7"])
    assert work.scope == f"{min(16, count)} of {count} fooled images of class '0' that became '7', together."
    labels = [option["label"] for option in work.menus["sample"].options[:3]]
    assert labels == ["→ 7: all 16 together", "→ 5: all 9 together", "All targets: 16 of 25 together"]
    mixed = progress.look({"sample": "group"}, Mixed()).scope
    assert "16 of 25 fooled images of class '0', together: they became '7' " in mixed
    assert "choose one target to keep them apart" in mixed
    assert progress.look({}, Mixed()).scope == ""


def test_data_with_other_classes_or_channels_does_not_fit():
    model, data = fakes.MODELS[0], fakes.DATA[0]
    assert links.fits(data, model)
    assert not links.fits(replace(data, classes=("cat",)), model)
    assert not links.fits(replace(data, channels=3), model)


def test_an_empty_store_resolves_to_nothing_to_ask():
    class Empty(FakeAuditor):
        def models(self):
            return ()

    found = links.resolve(ViewState(model="digits-standard"), Empty())
    assert found.attack_results is None
    assert found.request is None
    assert "digits-standard" in found.notices[0]
