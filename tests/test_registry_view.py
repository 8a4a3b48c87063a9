"""The models and data page: what the store holds, what a report found, and orders that name no path."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dashboard.panels.registry import model as registry
from dashboard.panels.registry import view as registry_view
from engine import (
    VALIDATION_CHECKS,
    Answer,
    BadInput,
    DataOrder,
    Entry,
    Estimate,
    ModelOrder,
    RunCard,
    Suspicion,
    Taken,
    UnknownName,
    ValidationReport,
)
from engine.audit.runs import State
from engine.service.registry import SUFFIXES
from engine.types.checks import CheckResult, InexactLink
from tests import fakes

ENTRIES = (
    Entry("a" * 16, "net.pt", "weights", 2_000_000),
    Entry("b" * 16, "x.npz", "npz", 3000),
    Entry("c" * 16, "pictures", "folder", 0),
    Entry("d" * 16, "names.txt", "classes", 60),
)
FILLED = {
    "entry": "a" * 16,
    "name": "mine",
    "architecture": "resnet50",
    "classes": "d" * 16,
    "resize": "256",
    "mean": "",
}


def some_report(outcome: str = "pass") -> ValidationReport:
    results = tuple(CheckResult(check.name, outcome, f"found {check.name}") for check in VALIDATION_CHECKS)
    share = Estimate(0.5, 0.4, 0.6, 100)
    doubt = Suspicion("The channels are probably swapped.", "--channels bgr", share, Estimate(0.9, 0.8, 1, 100), share)
    return ValidationReport("digits-standard", "0" * 32, "digits", 100, results, (doubt,))


class Shelf(fakes.BareRegistry):
    """A desk that notes what it was asked."""

    has_import_folder = True

    def __init__(self) -> None:
        self.done = []

    def models(self, *, archived=False):
        return fakes.MODELS[1:2] if archived else fakes.MODELS[:1]

    def datasets(self, *, archived=False):
        return () if archived else fakes.FakeAuditor().datasets()

    def architectures(self):
        return ("resnet50",)

    def entries(self):
        return ENTRIES

    def left_out(self):
        return "Left out: 1 entry (.git)."

    def archive(self, shelf, name, *, archived):
        self.done.append((shelf, name, archived))

    def forget(self, order):
        self.done.append(("forget", order))

    def take_model(self, order):
        self.done.append(order)
        if order.architecture == "gone":
            raise UnknownName("architecture", "gone", [])
        return Answer("ready", Taken("mine", ("The prefix 'module.' was taken off.",)))

    def take_data(self, order):
        self.done.append(order)
        return Answer("working", None, 0, 0, "Adding a data set")


class Auditor(fakes.FakeAuditor):
    def __init__(self, outcome: str = "pass") -> None:
        self.model_registry = Shelf()
        self.outcome = outcome

    def validation(self, name, data=""):
        if name == "slow":
            return Answer("working", None, 0, 1, "Checking the model")
        if name == "unknown":
            raise UnknownName("model", name, [])
        return Answer("ready", some_report(self.outcome))


def test_the_page_lists_what_is_in_use_and_what_can_be_taken_back():
    told = registry_view.facts(Auditor(), {})
    text = json.dumps(told["models"])
    assert fakes.MODELS[0].name in text
    assert f"Take {fakes.MODELS[1].name} back" in text
    assert told["report"] == []
    assert not told["again"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("pass", "✔ passed, on digits"), ("fail", "✘ failed, on digits"), ("not run", "– in part, on digits")],
)
def test_every_model_says_what_its_reports_found(outcome, status, monkeypatch):
    assert registry.UNCHECKED in json.dumps(registry_view.facts(Auditor(), {})["models"], ensure_ascii=False)
    monkeypatch.setattr(Shelf, "reports", lambda *_: (some_report(outcome),), raising=False)
    assert status in json.dumps(registry_view.facts(Auditor(), {})["models"], ensure_ascii=False)


def test_counts_that_are_equal_are_told_once():
    (row,) = registry.datasets(fakes.DATA, fakes.MODELS)
    assert row.classes == "10 (50 images each)"


def test_a_model_is_checked_only_on_data_whose_classes_it_knows():
    cards = fakes.FakeAuditor().datasets()
    (row,) = registry.models(fakes.MODELS[:1], cards, {})
    known = set(fakes.MODELS[0].classes)
    assert {value for value, _ in row.fitting} == {card.name for card in cards if known >= set(card.classes)} | {""}


@pytest.mark.parametrize(("outcome", "verdict"), [("pass", "✔ passed"), ("fail", "✘ failed"), ("not run", "– not")])
def test_a_report_shows_every_check_with_what_was_found(outcome, verdict):
    shown = registry.report(some_report(outcome))
    assert shown.verdict.startswith(verdict)
    assert [check.sentence for check in shown.checks] == [f"found {check.name}" for check in VALIDATION_CHECKS]
    assert "With 'Channel order bgr'" in shown.suspicions[0], "the page has fields and no options"
    assert "90 % instead of 50 %" in shown.suspicions[0]
    told = registry_view.facts(Auditor(outcome), {"report": "digits-standard@digits"})
    assert told["report_of"] == "digits-standard@digits"
    assert "Validation report: digits-standard, checked on 100 images of digits" in json.dumps(told["report"])


def inexact_report(count: int) -> ValidationReport:
    head = InexactLink(8, len(fakes.SITES), 0.9, "several layers compute the logits")
    others = tuple(
        InexactLink(k % 7, k % 7 + 1, (k + 1) / 1000, "" if k == 0 else f"gate{k}") for k in range(count - 1)
    )
    return replace(some_report(), inexact=(*others, head))


def test_a_report_lists_the_worst_connections_that_are_not_exact_and_counts_the_others():
    shown = registry.report(inexact_report(30), fakes.MODELS[0])
    assert len(shown.inexact) == registry.INEXACT_SHOWN
    assert shown.inexact[0] == registry.InexactRow(
        fakes.SITES[8].name, "answer", "90 %", "several layers compute the logits"
    )
    assert [row.reason for row in shown.inexact[1:]] == [f"gate{k}" for k in range(28, 19, -1)]
    assert shown.others == "20 others are off by at most 2 %."


def test_few_connections_that_are_not_exact_are_all_listed_and_one_unexplained_says_so():
    shown = registry.report(inexact_report(2), fakes.MODELS[0])
    assert [row.reason for row in shown.inexact] == ["several layers compute the logits", registry.UNEXPLAINED]
    assert shown.inexact[1] == registry.InexactRow(
        fakes.SITES[0].name, fakes.SITES[1].name, "0.1 %", registry.UNEXPLAINED
    )
    assert shown.others == ""
    assert registry.report(inexact_report(12), fakes.MODELS[0]).others.count("others are") == 1
    assert registry.report(inexact_report(11), fakes.MODELS[0]).others == "1 other is off by at most 0.1 %."


def test_a_gate_is_called_one_where_the_layer_is_known_to_pass_it():
    links = tuple(replace(link, through=("gate28",)) if link.source == 0 else link for link in fakes.LINKS)
    inexact = (InexactLink(0, 1, 0.3, "gate28"), InexactLink(0, 2, 0.2, ""))
    rows = registry.report(replace(some_report(), inexact=inexact), replace(fakes.MODELS[0], links=links)).inexact
    assert [row.reason for row in rows] == ["gate or norm on the way: gate28", registry.UNEXPLAINED]


def test_the_page_shows_the_table_of_inexact_connections_only_where_there_are_such(monkeypatch):
    told = json.dumps(registry_view.facts(Auditor(), {"report": "digits-standard@digits"})["report"])
    assert registry_view.INEXACT_TITLE not in told
    monkeypatch.setattr(Auditor, "validation", lambda *_: Answer("ready", inexact_report(30)))
    told = json.dumps(registry_view.facts(Auditor(), {"report": "digits-standard@digits"})["report"])
    for text in (
        registry_view.INEXACT_TITLE,
        "From layer",
        "To layer",
        "Off by",
        "Why",
        fakes.SITES[8].name,
        "20 others",
    ):
        assert text in told
    assert "layer 9" not in told


def test_a_report_of_a_archived_model_names_its_layers_too(monkeypatch):
    archived = replace(inexact_report(3), model=fakes.MODELS[1].name)
    monkeypatch.setattr(Auditor, "validation", lambda *_: Answer("ready", archived))
    told = json.dumps(registry_view.facts(Auditor(), {"report": f"{fakes.MODELS[1].name}@digits"})["report"])
    assert fakes.SITES[8].name in told


def test_the_tests_stand_among_the_checks():
    titles = [check.title for check in registry.report(some_report()).checks]
    assert {"Same function as handed in", "Connections are exact", "Receptive fields"} <= set(titles)


def test_a_report_in_the_making_is_asked_for_again():
    told = registry_view.facts(Auditor(), {"report": "slow@digits"})
    assert told["again"]
    assert "Checking the model" in json.dumps(told["report"])


def test_a_report_on_an_unknown_model_leaves_the_page_as_it_is():
    told = registry_view.facts(Auditor(), {"report": "unknown@digits"})
    assert "'unknown'" in json.dumps(told["report"])
    assert fakes.MODELS[0].name in json.dumps(told["models"])
    assert not told["again"]


@pytest.mark.parametrize("missing", ["models", "datasets"])
def test_a_report_asked_for_while_the_demo_is_loading_is_asked_for_again(missing, monkeypatch):
    monkeypatch.setattr(Auditor, missing, lambda _self: ())
    told = registry_view.facts(Auditor(), {"report": "unknown@digits"})
    assert registry_view.FILLING in json.dumps(told["report"])
    assert told["again"]


def test_forms_offer_what_lies_in_the_import_folder_by_id():
    forms = registry_view.facts(Auditor(), {})["forms"]
    fields = {field["name"]: field for field in forms["model"]}
    assert fields["architecture"]["options"] == (("resnet50", "resnet50"),)
    assert fields["entry"]["options"] == (("a" * 16, "net.pt (1.9 MiB)"),)
    assert ("d" * 16, "names.txt") in fields["classes"]["options"]
    assert [option[0] for option in forms["data"][0]["options"]] == ["b" * 16, "c" * 16]


def test_what_is_left_out_of_the_import_folder_is_said_beside_the_forms():
    assert registry_view.facts(Auditor(), {})["forms"]["note"] == "Left out: 1 entry (.git)."


def test_without_an_import_folder_the_page_says_how_to_get_one():
    auditor = Auditor()
    auditor.model_registry.has_import_folder = False
    assert "--import-folder DIR" in registry_view.facts(auditor, {})["forms"]["note"]


def test_what_was_filled_in_becomes_an_order():
    order = registry.order("model", FILLED)
    assert order == ModelOrder("a" * 16, "mine", "resnet50", "d" * 16, resize=256)
    assert registry.order("data", {"entry": "b" * 16, "name": "x", "epsilon": "8/255"}) == DataOrder(
        "b" * 16, "x", epsilon="8/255"
    )
    table = {"entry": "c" * 16, "name": "x", "images": "d" * 16, "first_label": "1"}
    assert registry.order("data", table) == DataOrder("c" * 16, "x", images="d" * 16, first_label=1)


@pytest.mark.parametrize(
    "change", [{"entry": ""}, {"name": " "}, {"architecture": ""}, {"resize": "9e9"}, {"resize": "-1"}, {"name": 3}]
)
def test_a_form_that_is_not_filled_in_is_refused(change):
    with pytest.raises(BadInput):
        registry.order("model", {**FILLED, **change})
    with pytest.raises(BadInput):
        registry.order("data", None)


def test_an_order_is_done_and_its_notes_are_told():
    auditor = Auditor()
    told = registry_view.ordered(auditor, {"kind": "model", "values": FILLED, "isFirst": True})
    assert told["state"] == "ready"
    assert told["text"] == "Added mine. The prefix 'module.' was taken off."
    assert auditor.model_registry.done[0][0] == "forget"
    assert (
        registry_view.ordered(auditor, {"kind": "data", "values": {"entry": "b" * 16, "name": "x"}})["state"]
        == "working"
    )


def test_a_model_that_was_added_is_reported_on_first_with_data_that_fits(monkeypatch):
    added = replace(fakes.MODELS[0], name="mine")
    monkeypatch.setattr(Shelf, "models", lambda _self, **_: (added,))
    told = registry_view.ordered(Auditor(), {"kind": "model", "values": FILLED})
    assert told["report_of"] == "mine@digits"
    assert told["text"].endswith(registry_view.REPORTED)
    monkeypatch.setattr(Shelf, "datasets", lambda _self, **_: (replace(fakes.DATA[0], classes=("cat",)),))
    assert registry_view.ordered(Auditor(), {"kind": "model", "values": FILLED})["report_of"] == "mine@"


def test_an_order_that_fails_says_why():
    told = registry_view.ordered(Auditor(), {"kind": "model", "values": {**FILLED, "architecture": "gone"}})
    assert told["state"] == "failed"
    assert "gone" in told["mistakes"]["architecture"]


def test_every_empty_or_malformed_field_is_said_at_once_at_its_field():
    auditor = Auditor()
    values = {"entry": "", "name": "a b", "resize": "x", "mean": "half", "classes": "", "architecture": ""}
    told = registry_view.ordered(auditor, {"kind": "model", "values": values})
    assert set(told["mistakes"]) == {"entry", "name", "resize", "mean", "classes", "architecture"}
    assert told["text"] == "6 fields are not right yet."
    assert auditor.model_registry.done == [], "nothing was ordered"
    told = registry_view.ordered(auditor, {"kind": "data", "values": {"epsilon": "eight"}})
    assert set(told["mistakes"]) == {"entry", "name", "epsilon"}


@pytest.mark.parametrize(
    ("kind", "text", "field", "words"),
    [
        ("model", "--mean and --std need 3 values each for this network, got 1 and 3.", "mean", "Mean and Standard deviation need"),
        ("model", "--size must be pixels such as 224", "size", "Input size must be"),
        ("model", "--accuracy must lie between 0 and 1, got '9'.", "accuracy", "Claimed accuracy must"),
        ("model", "No architecture is called 'rsnet'.", "architecture", "No architecture"),
        ("model", "Another model is called 'mine' already.", "name", "called 'mine'"),
        ("model", "net.pt holds NaN.", "entry", "holds NaN"),
        ("data", "pgd-linf.epsilon must lie in [0, 0.5], got 9.", "epsilon", "Usual epsilon must lie in"),
        ("data", "A table of pictures needs the folder in which they lie.", "images", "needs the folder"),
        ("data", "--first-label must be 0 or 1, got 3.", "first_label", "First label is must"),
    ],
)  # fmt: skip
def test_what_the_engine_says_stands_at_its_field_in_the_forms_words(kind, text, field, words):
    found, said = registry.mistake(kind, text)
    assert found == field
    assert words in said
    assert "--" not in said


def test_a_data_set_that_fits_no_model_says_why_and_what_to_do():
    numbered = replace(fakes.DATA[0], classes=tuple("0123"), class_counts=(1,) * 4)
    named = tuple(replace(model, classes=("cat", "dog")) for model in fakes.MODELS)
    (row,) = registry.datasets([numbered], named)
    assert row.models == ()
    assert row.misfit.startswith(
        "Fits no model here. digits-standard: its class '0' and 3 more are not among the model's"
    )
    assert row.misfit.endswith("add it again with the class names of the model.")
    (row,) = registry.datasets([replace(numbered, classes=("a", "b", "c", "d"))], named)
    assert "add it again" not in row.misfit
    (row,) = registry.datasets(fakes.DATA, fakes.MODELS)
    assert (row.misfit, row.models) == ("", ("digits-standard", "digits-robust"))
    assert registry.datasets(fakes.DATA, ())[0].misfit == ""


def test_a_data_set_that_was_added_and_fits_nothing_says_so_at_once(monkeypatch):
    odd = replace(fakes.DATA[0], name="odd", classes=("cat",), class_counts=(1,))
    monkeypatch.setattr(Shelf, "datasets", lambda _self, **_: (odd,))
    monkeypatch.setattr(Shelf, "take_data", lambda *_: Answer("ready", Taken("odd", ())))
    told = registry_view.ordered(Auditor(), {"kind": "data", "values": {"entry": "b" * 16, "name": "odd"}})
    assert told["text"].startswith("Added odd. Fits no model here.")


def run_of(model: str, data: str, baseline: str = "") -> RunCard:
    return RunCard("r", "n", model, data, 5, State("r", "finished", 1, 1), baseline=baseline)


def test_rows_say_where_things_came_from_and_how_many_audits_are_of_them():
    runs = [run_of("digits-standard", "digits"), run_of("digits-robust", "digits", "digits-standard"), run_of("x", "y")]
    card = replace(fakes.MODELS[0], source="net.pt", licence="MIT", added="2026-11-22T10:11:12.000+00:00")
    (row,) = registry.models([card], fakes.DATA, {}, runs)
    assert row.origin == registry.Origin("net.pt", "MIT", "2026-11-22 10:11", card.content_hash, 2)
    assert registry.datasets(fakes.DATA, fakes.MODELS, runs)[0].origin.audits == 2
    shown = json.dumps(registry_view.facts(Auditor(), {})["models"], ensure_ascii=False)
    assert f'"data-copy": "{fakes.MODELS[0].content_hash}"' in shown, "the whole hash"
    assert "not stated" in shown
    assert "model=digits-standard&data=digits" in shown
    assert '"data-plan": "digits-standard"' in shown


def test_the_import_folder_is_listed_with_sizes_and_dates_the_latest_first():
    entries = (Entry("a" * 16, "net.pt", "weights", 2_000_000, "2026-11-01T10:00:00+00:00"),
               Entry("c" * 16, "pictures", "folder", 0, "2026-11-02T10:00:00+00:00"),
               Entry("d" * 16, "names.txt", "classes", 60, "2026-11-03T10:00:00+00:00"))  # fmt: skip
    assert registry.files(entries) == (
        ("names.txt", "class names or text", "60 bytes", "2026-11-03 10:00"),
        ("pictures/", "folder", "", "2026-11-02 10:00"),
        ("net.pt", "weights", "1.9 MiB", "2026-11-01 10:00"),
    )


@pytest.mark.parametrize("is_taken", [True, False])
def test_files_can_be_sent_only_where_the_server_takes_them(is_taken):
    auditor = Auditor()
    auditor.model_registry.takes_uploads = is_taken
    drop = registry_view.facts(auditor, {})["drop"]
    assert bool(drop) is is_taken
    assert not is_taken or drop["there"] == [entry.name for entry in ENTRIES]


def test_the_endings_that_the_page_sends_are_those_of_the_import_folder():
    assert set(registry_view.UPLOADED) == set(SUFFIXES)


def test_no_file_is_taken_for_class_names_unasked():
    fields = {field["name"]: field for field in registry_view.facts(Auditor(), {})["forms"]["model"]}
    assert (fields["classes"]["value"], fields["classes"]["options"][0]) == ("", ("", "choose …"))


def test_four_fields_come_first_and_every_field_says_what_it_is():
    forms = registry_view.facts(Auditor(), {})["forms"]
    assert forms["first"] == 4
    assert [field["name"] for field in forms["model"]][:4] == ["entry", "name", "architecture", "classes"]
    assert [field["name"] for kind in ("model", "data") for field in forms[kind] if not field["help"]] == []


@pytest.mark.parametrize("sent", [["intake"], "intake", 3, True, [], None])
def test_what_is_no_set_of_fields_asks_for_nothing(sent):
    assert registry_view.facts(Auditor(), sent) == registry_view.facts(Auditor(), {})
    assert registry_view.ordered(Auditor(), sent) == registry_view.ordered(Auditor(), {})


def test_retiring_and_taking_back_name_a_shelf_that_exists():
    auditor = Auditor()
    registry_view.ordered(auditor, {"shelf": "models", "name": "mine", "archived": True})
    registry_view.ordered(auditor, {"shelf": "data", "name": "mine", "archived": False})
    assert auditor.model_registry.done == [("models", "mine", True), ("data", "mine", False)]
    assert registry_view.ordered(auditor, {"shelf": "../x", "name": "mine", "archived": True})["state"] == "failed"
    assert len(auditor.model_registry.done) == 2
