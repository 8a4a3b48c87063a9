"""The form plans what a plan's file plans, tells every mistake at its field, and trusts nothing that a browser sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.panels.audits import model as audits_model
from dashboard.panels.audits import view as audits_view
from engine import Answer
from engine.audit import manifest, plan
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
    filled = driver.planned(store, audits_model.plan(VALUES))
    read = manifest.build(plan.understood(plan.parse(SAME, "plan.toml"), store), store)
    assert manifest.text(filled) == manifest.text(read)


def test_as_it_is_offered_the_form_is_a_plan_of_the_standard_tier(auditor, store):
    offered = audits_view.offered(auditor, {})
    values = {field["name"]: field["value"] for group in offered["groups"] for field in group["fields"]}
    found = driver.planned(store, audits_model.plan({**values, "controls": values["controls"] == "yes"})).plan
    assert (found.tier, found.images.count, found.method.name, len(found.controls)) == ("standard", 40, "two-run", 3)
    assert found.in_cascade


def test_every_attack_can_be_added_with_its_declared_settings_at_their_defaults(auditor, store):
    offered = audits_view.offered(auditor, {})["attacks"]
    assert [item["name"] for item in offered] == [
        name for name, spec in catalogue.ATTACKS.items() if not spec.is_control
    ]
    rows = [{"name": item["name"], "settings": {f["name"]: f["value"] for f in item["fields"]}} for item in offered]
    found = driver.planned(store, audits_model.plan({**VALUES, "attacks": rows})).plan
    assert found.attacks == tuple(catalogue.attack(item["name"]) for item in offered)


def test_an_added_attack_begins_at_the_strength_of_the_tier(store):
    cards = [replace(store.data_card("digits"), epsilon="24/255")]
    form = audits_model.build_form(store.models(), cards, catalogue.cards(), ("two-run",))
    tier = next(field.value for group in form.groups for field in group.fields if field.name == "epsilon")
    begins = {one.name: field.value for one in form.attacks for field in one.fields if field.name == "epsilon"}
    assert (tier, begins["mifgsm-linf"], begins["pgd-l2"]) == ("24/255", "24/255", "0.5")
    assert {field.label for one in form.attacks for field in one.fields} >= {"Epsilon", "Steps", "Target"}


@pytest.mark.parametrize(
    ("values", "field", "text"),
    [
        ({"count": "4x"}, "count", "must be a whole number from 1"),
        ({"count": ""}, "count", "is missing"),
        ({"count": "99"}, "", "only 40 are there"),
        ({"seed": "-1"}, "seed", "must be a whole number from 0"),
        ({"model": "nobody"}, "model", "No model"),
        ({"model": "../../etc/passwd"}, "model", "No model"),
        ({"model": ["digits-standard"]}, "model", "is missing"),
        ({"baseline": "digits-standard"}, "baseline", "must be another model"),
        ({"data": "x"}, "data", "No data set"),
        ({"tier": "slow"}, "tier", "No choice"),
        ({"tier": "fast", "epsilon": "8"}, "epsilon", "must lie in"),
        ({"tier": "fast", "epsilon": ""}, "epsilon", "is missing"),
        ({"method": "two"}, "method", "No method"),
        ({"attacks": []}, "attacks", "a plan needs attacks"),
        ({"attacks": [VALUES["attacks"][0], {"name": "pgdd", "settings": {}}]}, "attacks-1", "No attack"),
        ({"attacks": [{"name": "fgsm-linf", "settings": {"epsilon": "9"}}]}, "attacks-0", "must lie in"),
        ({"attacks": [{"name": "fgsm-linf", "settings": {"a,b": "1"}}]}, "attacks-0", "has no setting"),
        ({"thresholds": [{**VALUES["thresholds"][0], "at_least": "50"}]}, "thresholds-0-at_least", "from 0 to 1"),
        ({"thresholds": [{**VALUES["thresholds"][0], "at_least": ""}]}, "thresholds-0-at_least", "is missing"),
        ({"thresholds": [{**VALUES["thresholds"][0], "class": "x"}]}, "thresholds-0-class", "No class"),
        ({"thresholds": [{**VALUES["thresholds"][0], "condition": "pgd-linf"}]}, "thresholds-0-condition", "no attack"),
        ({"thresholds": VALUES["thresholds"] * 2}, "thresholds-1-name", "another one is called"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_and_starts_nothing(auditor, store, values, field, text):
    for act in (audits_view.costed, audits_view.started):
        told = act(auditor, changed(**values))
        assert (told["state"], told["field"]) == ("wrong", field)
        assert text in told["text"]
        assert "line" not in told["text"]
    assert not (store.root / "runs").exists()


@pytest.mark.parametrize(
    "stored", [None, {}, {"values": 5}, {"values": {"attacks": 3, "thresholds": [1, None], "name": {"a": 1}}}]
)
def test_whatever_a_browser_sends_is_a_wrong_plan_and_no_crash(auditor, stored):
    assert audits_view.costed(auditor, stored)["state"] == audits_view.started(auditor, stored)["state"] == "wrong"


def test_keys_that_no_form_has_are_left_out():
    assert "premade" not in audits_model.plan({**VALUES, "premade": [{"name": "x"}], "device": "cuda", "curve": {}})
    assert "device" not in audits_model.plan({**VALUES, "device": "cuda"})


def test_the_cost_is_told_once_the_pace_is_measured(auditor):
    told = audits_view.costed(auditor, changed())
    assert told["state"] == "ready"
    assert told["text"].startswith("custom: 6 images, ")


class Unmeasured:
    """Runs whose pace is not known."""

    def __init__(self, answer: Answer) -> None:
        self.audits, self.answer = self, answer

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
