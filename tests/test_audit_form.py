"""The form plans what a plan's file plans, tells every mistake at its field, and trusts nothing that a browser sends."""

from __future__ import annotations

import dataclasses
import re
import shutil
from dataclasses import replace

import pytest

from dashboard.panels.audits import form
from dashboard.panels.audits import view as audits_view
from engine import Answer, statistics
from engine.audit import manifest, plan
from engine.audit.runs import Run
from engine.service import driver
from engine.service.answers import Answers
from engine.specs import catalogue
from tests import audits, stores

VALUES = {
    "name": "Audit", "model": "digits-standard", "baseline": "", "data": "digits", "count": "6", "seed": "3",
    "tier": "custom", "epsilon": "8/255", "controls": False, "method": "gradient",
    "attacks": [{"name": "fgsm-linf", "settings": {"epsilon": "24/255", "target": "none"}}],
    "thresholds": [
        {"name": "a", "condition": "worst-case", "metric": "accuracy", "at_least": "0.5", "confidence": "0.9", "class": ""}
    ],
}  # fmt: skip
SAME = """
name = "Audit"
model = "digits-standard"
data = "digits"
method = "gradient"
attacks = ["fgsm-linf:eps=24/255"]
controls = false
seed = 3
[images]
count = 6
seed = 3
[[thresholds]]
name = "a"
condition = "worst-case"
at_least = 0.5
confidence = 0.9
"""


class Auditor:
    """The page's questions answered from a real store."""

    def __init__(self, store) -> None:
        self.store = store
        self.audits = driver.Runs(Answers(store, audits.Inline(store.root)))

    def models(self):
        return self.store.models()

    def datasets(self):
        return self.store.datasets()

    def attacks(self):
        return catalogue.cards()

    def methods(self):
        return ("two-run", "gradient")


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("form") / "store")


@pytest.fixture
def auditor(store):
    return Auditor(store)


def changed(**values):
    return {"values": {**VALUES, **values}}


def test_a_filled_form_is_the_same_run_as_the_file_that_says_the_same(store):
    filled = driver.planned(store, form.plan(VALUES))
    read = manifest.build(plan.understood(plan.parse(SAME, "plan.toml"), store), store)
    assert manifest.text(filled) == manifest.text(read)


def test_as_it_is_offered_the_form_is_a_plan_of_the_standard_tier(auditor, store):
    offered = audits_view.offered(auditor, {})
    values = {field["name"]: field["value"] for group in offered["groups"] for field in group["fields"]}
    found = driver.planned(store, form.plan({**values, "controls": values["controls"] == "yes"})).plan
    assert (found.tier, found.images.count, found.method.name, len(found.controls)) == ("standard", 40, "two-run", 3)
    assert found.in_cascade


def test_every_attack_can_be_added_with_its_declared_settings_at_their_defaults(auditor, store):
    offered = audits_view.offered(auditor, {})["attacks"]
    assert [item["name"] for item in offered] == [
        name for name, spec in catalogue.ATTACKS.items() if not spec.is_control
    ]
    rows = [{"name": item["name"], "settings": {f["name"]: f["value"] for f in item["fields"]}} for item in offered]
    found = driver.planned(store, form.plan({**VALUES, "attacks": rows})).plan
    assert found.attacks == tuple(catalogue.attack(item["name"]) for item in offered)


def test_an_added_attack_begins_at_the_strength_of_the_tier(store):
    cards = [replace(store.data_card("digits"), epsilon="24/255")]
    shown = form.build(form.Offer(store.models(), cards, catalogue.cards(), ("two-run",)))
    tier = next(field.value for group in shown.groups for field in group.fields if field.name == "epsilon")
    begins = {one.name: field.value for one in shown.attacks for field in one.fields if field.name == "epsilon"}
    assert (tier, begins["mifgsm-linf"], begins["pgd-l2"]) == ("24/255", "24/255", "0.5")
    assert {field.label for one in shown.attacks for field in one.fields} >= {"Epsilon", "Steps", "Target"}


THRESHOLD = VALUES["thresholds"][0]
FGSM = VALUES["attacks"][0]


def agreed(**changes):
    return {"thresholds": [{**THRESHOLD, **changes}]}


@pytest.mark.parametrize(
    ("values", "field", "text"),
    [
        ({"count": "4x"}, "count", "from 1 to 40"),
        ({"count": ""}, "count", "from 1 to 40"),
        ({"count": "0"}, "count", "from 1 to 40"),
        ({"count": "99"}, "count", "Only 40 images are there."),
        ({"seed": "-1"}, "seed", "whole number from 0"),
        ({"model": "nobody"}, "model", "No model"),
        ({"model": "../../etc/passwd"}, "model", "No model"),
        ({"model": ["digits-standard"]}, "model", "Fill this in."),
        ({"baseline": "digits-standard"}, "baseline", "Choose another model than the candidate."),
        ({"data": "x"}, "data", "No data set"),
        ({"tier": "slow"}, "tier", "No choice"),
        ({"tier": "fast", "epsilon": "8"}, "epsilon", "must lie in"),
        ({"tier": "fast", "epsilon": ""}, "epsilon", "Fill this in."),
        ({"method": "two"}, "method", "No method"),
        ({"attacks": []}, "attacks", "Nothing attacks yet"),
        ({"attacks": [FGSM, {"name": "pgdd", "settings": {}}]}, "attacks-1", "No attack"),
        ({"attacks": [{"name": "fgsm-linf", "settings": {"epsilon": "9"}}]}, "attacks-0-epsilon", "Must lie in [0, 0.5]"),
        ({"attacks": [{"name": "fgsm-linf", "settings": {"a,b": "1"}}]}, "attacks-0", "has no setting"),
        ({"attacks": [FGSM, FGSM]}, "attacks-1", "stands here twice"),
        (agreed(at_least="250 %"), "thresholds-0-at_least", "above 0 % and up to 100 %"),
        (agreed(at_least=""), "thresholds-0-at_least", "above 0 % and up to 100 %"),
        (agreed(at_least="0"), "thresholds-0-at_least", "every model reaches 0 %"),
        (agreed(at_least="nan"), "thresholds-0-at_least", "above 0 %"),
        (agreed(confidence="100 %"), "thresholds-0-confidence", "from 50 % to 99.99 %"),
        (agreed(**{"class": "x"}), "thresholds-0-class", "No class"),
        (agreed(condition="pgd-linf"), "thresholds-0-condition", "This audit does not run pgd-linf"),
        (agreed(condition="clean", metric="robust-on-correct"), "thresholds-0-metric", "choose 'Accuracy'"),
        ({"thresholds": [THRESHOLD] * 2}, "thresholds-1-name", "Another one is called"),
        ({"curve_attack": "pgd-linf", "curve_epsilons": " , "}, "curve_epsilons", "at least one epsilon"),
        ({"curve_attack": "pgd-linf", "curve_epsilons": "1/255, x"}, "curve_epsilons", "got 'x'"),
        ({"curve_attack": "pgdd", "curve_epsilons": "1/255"}, "curve_attack", "No attack"),
        ({"precomputed": [{"name": "a b", "data": "digits", "norm": "linf", "epsilon": "8/255"}]}, "precomputed-0-name",
         "cannot name"),
        ({"precomputed": [{"name": "a", "data": "", "norm": "linf", "epsilon": "8/255"}]}, "precomputed-0-data", "Fill this in."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_field_in_the_forms_words_and_starts_nothing(auditor, store, values, field, text):
    for act in (audits_view.costed, audits_view.started):
        told = act(auditor, changed(**values))
        assert (told["state"], told["text"]) == ("wrong", "One thing is not right yet.")
        (mistake,) = told["mistakes"]
        assert mistake["field"] == field
        assert text in mistake["text"]
        assert not re.search(r"\bline\b|\bkey\b|\[\[|images\.count|\bplan\b", mistake["text"])
        assert mistake["text"].endswith(".")
    assert not (store.root / "runs").exists()


def test_all_mistakes_are_told_at_once_each_at_its_field(auditor):
    wrong = changed(
        count="0", seed="x", name="", method="two", tier="fast", epsilon="eight", curve_attack="pgd-linf", curve_epsilons="z",
        attacks=[{"name": "pgd-linf", "settings": {"epsilon": "9", "steps": "0"}}, {"name": "gone", "settings": {}}, FGSM],
        thresholds=[
            {**THRESHOLD, "at_least": "0", "confidence": "2", "class": "tench", "name": ""},
            {**THRESHOLD, "at_least": "x"},
        ],
    )  # fmt: skip
    told = audits_view.costed(auditor, wrong)
    assert {mistake["field"] for mistake in told["mistakes"]} == {
        "count", "seed", "method", "epsilon", "curve_epsilons", "attacks-0-epsilon", "attacks-0-steps", "attacks-1",
        "thresholds-0-name", "thresholds-0-at_least", "thresholds-0-confidence", "thresholds-0-class",
        "thresholds-1-at_least",
    }  # fmt: skip
    assert told["text"].startswith("13 things are not right yet")


def test_a_wrong_model_is_not_blamed_on_what_depends_on_it(auditor):
    told = audits_view.costed(auditor, changed(model="gone", **agreed(**{"class": "x"})))
    assert [mistake["field"] for mistake in told["mistakes"]] == ["model"]


def test_data_that_do_not_fit_say_why(store):
    odd = replace(store.data_card("digits"), name="odd", classes=("cat", *store.data_card("digits").classes[1:]))
    offer = form.Offer(store.models(), [odd], catalogue.cards(), ("two-run",))
    (mistake,) = form.mistakes({**VALUES, "data": "odd"}, offer, lambda _: None)[:1]
    assert mistake == form.Mistake(
        "data", "odd does not fit digits-standard: its class 'cat' is not among the model's, such as '0'."
    )


def test_only_data_that_fit_are_offered_and_the_others_say_why(store):
    odd = replace(store.data_card("digits"), name="odd", channels=4)
    offer = form.Offer(store.models(), [odd, *store.datasets()], catalogue.cards(), ("two-run",))
    shown = form.build(offer, {"model": "digits-robust", "data": "odd"})
    fields = {item.name: item for group in shown.groups for item in group.fields}
    assert (fields["model"].value, fields["data"].value, fields["count"].value) == ("digits-robust", "digits", "40")
    assert fields["data"].options == (("digits", "digits (40 images)"),)
    assert fields["data"].help == (
        "Not offered, because they do not fit digits-robust: odd: its images have 4 channels, and the model takes 1."
    )
    assert shown.subjects["digits-standard"].baselines == (("", "none"), ("digits-robust", "digits-robust"))
    assert shown.sets["digits"] == form.ImageSet(40, "8/255")


@pytest.mark.parametrize("text", ["90 %", "90%", "90", "0.9"])
def test_shares_are_read_as_they_are_written(text):
    assert form.plan({"thresholds": [{"at_least": text}]})["thresholds"] == [{"at_least": 0.9}]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"at_least": "90 %"}, "To pass: 50 of 50, 96 of 100, 189 of 200 or 919 of 1,000. With these 40 images: 40."),
        ({"at_least": "99 %"}, "To pass: 997 of 1,000. With these 40 images it cannot pass: at least 368 are needed"),
        ({"at_least": "99.9 %"}, "To pass: 3,688 of 3,688. With these 40 images it cannot pass: at least 3,688 are needed"),
        ({"at_least": "100 %"}, "No number of images can show 100 %: the interval never reaches it."),
        ({"at_least": "50 %", "class": "3"}, "With these 4 images of class '3' it cannot pass: at least 6 are needed"),
        ({"at_least": "50 %", "metric": "robust-on-correct"}, "of the images that are right without attack. With these"),
        ({"at_least": "x"}, ""), ({"at_least": "0"}, ""), ({"at_least": "90 %", "confidence": "1"}, ""),
    ],
)  # fmt: skip
def test_a_threshold_says_how_many_right_answers_it_needs(auditor, row, text):
    asked = {"count": "40", "data": "digits", "thresholds": [{"confidence": "95 %", **row}]}
    (line,) = audits_view._needs(auditor, {"values": asked})["lines"]
    assert text in line
    assert bool(text) == bool(line)


def test_what_the_line_says_is_what_decides():
    for n, hits in ((50, 50), (100, 96), (200, 189), (1000, 919)):
        assert statistics.decide(hits, n, 0.9, 0.95) == "pass"
        assert statistics.decide(hits - 1, n, 0.9, 0.95) != "pass"


def test_a_run_that_is_cloned_fills_the_form_with_its_plan(auditor, store):
    values = {
        **VALUES, "tier": "fast", "epsilon": "24/255", "baseline": "digits-robust", "controls": True,
        "curve_attack": "pgd-linf:steps=5", "curve_epsilons": "8/255, 16/255",
        "precomputed": [{"name": "mine", "data": "digits", "norm": "linf", "epsilon": "8/255"}],
        "thresholds": [{**THRESHOLD, "at_least": "91.9 %", "class": "3"}],
    }  # fmt: skip
    run = Run(store, driver.planned(store, form.plan(values)))
    run.begin()
    try:
        shown = audits_view.offered(auditor, {"clone": run.id})
        fields = {item["name"]: item["value"] for group in shown["groups"] for item in group["fields"]}
        again = {**fields, "controls": fields["controls"] == "yes", **shown["rows"]}
        assert fields["name"] == "Audit (again)"
        assert "Filled with the plan of 'Audit'" in shown["note"]
        planned = driver.planned(store, form.plan({**again, "name": "Audit"}))
        assert dataclasses.replace(planned.plan, threads=0) == dataclasses.replace(run.manifest.plan, threads=0)
    finally:
        shutil.rmtree(store.root / "runs")


def test_a_run_that_cannot_be_cloned_says_so_and_the_form_is_there(auditor):
    shown = audits_view.offered(auditor, {"clone": "0" * 32})
    assert "could not be taken over" in shown["note"]
    assert shown["groups"]


def test_every_field_says_what_it_is(auditor):
    shown = audits_view.offered(auditor, {})
    fields = [item for group in shown["groups"] for item in group["fields"]]
    fields += [
        *shown["precomputed"],
        *shown["threshold"],
        *(item for one in shown["attacks"] for item in one["fields"]),
    ]
    assert [item["name"] for item in fields if not item["help"]] == []


@pytest.mark.parametrize(
    "stored",
    [{}, {"values": None}, {"values": 5}, {"values": {"attacks": 3, "thresholds": [1, None], "name": {"a": 1}}}],
)
def test_whatever_a_browser_sends_is_a_wrong_plan_and_no_crash(auditor, stored):
    assert audits_view.costed(auditor, stored)["state"] == audits_view.started(auditor, stored)["state"] == "wrong"


def test_keys_that_no_form_has_are_left_out():
    planned = form.plan({**VALUES, "premade": [{"name": "x"}], "device": "cuda", "curve": {"attack": "x"}})
    assert not {"premade", "curve"} & set(planned)
    assert "device" not in form.plan({**VALUES, "device": "cuda"})


def test_the_cost_is_told_once_the_pace_is_measured(auditor):
    told = audits_view.costed(auditor, changed())
    assert told["state"] == "ready"
    assert told["text"].startswith("custom: 6 images, ")


class Unmeasured:
    """Runs whose pace is not known."""

    def __init__(self, answer: Answer) -> None:
        self.audits, self.answer = self, answer

    models = datasets = attacks = methods = lambda _self: ()

    def check(self, _plan):
        return None

    def forecast(self, _plan):
        return self.answer


@pytest.mark.parametrize(("state", "message"), [("working", "Starting the worker."), ("failed", "The worker died.")])
def test_until_then_it_says_why(state, message):
    assert audits_view.costed(Unmeasured(Answer(state, message=message)), changed()) == {
        "state": state,
        "text": message,
    }


def test_started_the_run_is_there_with_its_thresholds_and_comes_to_its_end(store):
    own = Auditor(store)
    told = audits_view.started(own, changed(name="begun"))
    assert told["state"] == "started"
    own.audits.close()
    found = own.audits.view(told["run"])
    assert (found.card.name, found.card.state.state) == ("begun", "finished")
    assert [threshold.name for threshold in found.manifest.plan.thresholds] == ["a"]
