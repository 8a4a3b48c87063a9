"""The audits page: every run with how far it is, and one run's figures exactly as its rows add up to."""

from __future__ import annotations

import dataclasses
import json
from urllib.parse import parse_qs

import pytest

from dashboard import markup
from dashboard.panels.audits import model as audits_model
from dashboard.panels.audits import view as audits_view
from engine import CHECKS, Answer, AttackSanity, RunCard
from engine.audit import report
from engine.audit.runs import State
from engine.service import driver
from engine.service.answers import Answers
from engine.types.checks import CheckResult, Conditions
from tests import audits, fakes, stores

PLAN = (
    audits.PLAN.replace(
        'model = "digits-standard"', 'name = "<b>A & B</b>"\nmodel = "digits-standard"\nbaseline = "digits-robust"'
    )
    + '\n[curve]\nattack = "fgsm-linf"\nepsilons = ["4/255", "8/255"]\n'
)


ATTACK = "fgsm-linf:eps=24/255"


class Watched(fakes.FakeAuditor):
    """The page's questions answered from a real store."""

    def __init__(self, store) -> None:
        self.store = store
        self.audits = driver.Runs(Answers(store, audits.Inline(store.root)))

    def attack_sanity(self, run):
        return Answer("working", None, 0, 0, "Checking")


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("audits") / "store")


@pytest.fixture(scope="module")
def finished(store):
    return audits.drive(store, audits.planned(store, PLAN))[0]


@pytest.fixture
def auditor(store, finished):
    return Watched(store)


def text(facts) -> str:
    return json.dumps([facts["list"], facts["audit"]], ensure_ascii=False)


def test_an_empty_store_says_how_to_begin():
    facts, figure = audits_view.answer(fakes.FakeAuditor(), None)
    assert "python -m engine audit" in text(facts)
    assert (facts["run"], facts["again"], facts["has_curve"], len(figure.data)) == (None, False, False, 0)


def test_every_rate_of_a_finished_run_stands_there_with_its_interval(auditor, finished):
    facts, _ = audits_view.answer(auditor, {"run": finished.id})
    summary = auditor.audits.view(finished.id).summary
    shown = text(facts)
    for model in summary.models:
        for condition in (*model.conditions, model.worst_case):
            assert condition.name in shown
            assert audits_model.rate(condition.accuracy) in shown
    assert "Interim" not in shown
    assert any(told in shown for told in audits_model.OUTCOMES.values())


def test_markup_in_a_plans_name_stays_text(auditor, finished):
    shown = audits_view.answer(auditor, {"run": finished.id})[0]["list"]
    assert "<b>A & B</b>" in json.dumps(shown)
    assert all(piece["tag"] == "table" for piece in shown)


def test_the_curve_carries_every_point_of_both_models(auditor, finished):
    facts, figure = audits_view.answer(auditor, {"run": finished.id})
    points = [point for one in auditor.audits.view(finished.id).summary.models for point in one.curve]
    assert facts["has_curve"]
    assert sum(len(trace.x) for trace in figure.data) == len(points)
    assert sorted(value for trace in figure.data for value in trace.y) == pytest.approx(
        sorted(100 * point.accuracy.value for point in points)
    )
    assert len({(trace.line.dash, trace.line.color) for trace in figure.data}) == len(figure.data)


def rows(seen) -> dict[str, audits_model.Row]:
    return {row.name: row for row in audits_model.panel(seen).models[0].rows}


def with_condition(seen, **changes):
    """The same run with the candidate's attack changed."""
    first = seen.summary.models[0]
    attack = dataclasses.replace(first.conditions[1], **changes)
    models = (dataclasses.replace(first, conditions=(first.conditions[0], attack)),)
    return dataclasses.replace(seen, summary=dataclasses.replace(seen.summary, models=models))


def test_an_attack_leads_to_an_image_of_the_run_that_it_fooled(auditor, finished):
    seen = auditor.audits.view(finished.id)
    found, example = rows(seen), seen.examples["candidate", ATTACK]
    assert example.sample in finished.manifest.images.samples
    assert parse_qs(found[ATTACK].link) == {
        "model": ["digits-standard"], "data": ["digits"], "attack": ["fgsm-linf"], "epsilon": ["24/255"],
        "outcome": ["fooled"], "label": [example.label], "sample": [example.sample],
    }  # fmt: skip
    assert found["clean"].link == ""
    assert found["worst-case"].link == ""


def test_an_attack_that_fooled_nothing_leads_to_an_image_that_resisted(auditor, finished):
    seen = auditor.audits.view(finished.id)
    example = dataclasses.replace(seen.examples["candidate", ATTACK], outcome="resisted")
    link = rows(dataclasses.replace(seen, examples={("candidate", ATTACK): example}))[ATTACK].link
    assert parse_qs(link)["outcome"] == ["resisted"]
    assert rows(dataclasses.replace(seen, examples={}))[ATTACK].link == ""


@pytest.mark.parametrize("attack", ["pgd-linf:eps=24/255,steps=20", "fgsm-linf:eps=24/255,target=random", "gone:eps=1"])
def test_an_attack_that_the_levels_cannot_show_has_no_link_and_the_page_says_why(auditor, finished, attack):
    seen = with_condition(auditor.audits.view(finished.id), name=attack)
    seen = dataclasses.replace(seen, examples={("candidate", attack): seen.examples["candidate", ATTACK]})
    assert rows(seen)[attack].link == ""
    assert audits_model.NOT_EXPLAINED in audits_model.panel(seen).models[0].notes


def test_an_attack_at_its_default_settings_has_a_link(auditor, finished):
    attack = "pgd-linf:eps=24/255,steps=10"
    seen = with_condition(auditor.audits.view(finished.id), name=attack)
    seen = dataclasses.replace(seen, examples={("candidate", attack): seen.examples["candidate", ATTACK]})
    assert parse_qs(rows(seen)[attack].link)["attack"] == ["pgd-linf"]
    assert audits_model.panel(seen).models[0].notes == ()


def test_attacks_of_another_seed_have_no_link(auditor, finished):
    seen = auditor.audits.view(finished.id)
    plan = dataclasses.replace(seen.manifest.plan, seed=1)
    other = dataclasses.replace(seen, manifest=dataclasses.replace(seen.manifest, plan=plan))
    assert rows(other)[ATTACK].link == ""


def test_an_attack_on_cascade_says_what_its_rate_counts(auditor, finished):
    seen = auditor.audits.view(finished.id)
    assert audits_model.panel(seen).models[0].notes == ()
    part = audits_model.panel(with_condition(seen, is_cumulative=True)).models[0]
    assert "count as broken here too" in part.notes[0]
    assert part.rows[1].name.endswith("(in the cascade)")


def test_a_class_with_few_images_is_marked_so(auditor, finished):
    classes = audits_model.panel(auditor.audits.view(finished.id)).models[0].classes
    assert classes
    assert all(class_.has_few for class_ in classes)
    assert "few" in text(audits_view.answer(auditor, {"run": finished.id})[0])


def test_without_a_name_the_first_run_is_shown(auditor, finished):
    assert audits_view.answer(auditor, {"run": None})[0]["run"] == finished.id


@pytest.mark.parametrize("asked", ["../../etc", "deadbeef", 7])
def test_an_unknown_run_is_named_and_none_is_shown(auditor, finished, asked):
    facts, figure = audits_view.answer(auditor, {"run": asked})
    assert f"run '{asked}'" in text(facts)
    assert (facts["run"], facts["has_curve"], len(figure.data)) == (None, False, 0)
    assert "Condition" not in text(facts)
    assert finished.id in text(facts), "the list still offers those that are there"


def test_models_are_compared_in_a_table_with_the_worst_case_first(auditor, finished):
    found = audits_model.panel(auditor.audits.view(finished.id)).pairings
    summary = auditor.audits.view(finished.id).summary
    assert len(found) == len(summary.pairings) > 1
    assert [item.is_worst for item in found] == [True] + [False] * (len(found) - 1)
    small = dataclasses.replace(summary.pairings[0], p_holm=1.7e-25)
    assert audits_model._versus(small).p == "< 0.001"


def card(state: State) -> RunCard:
    return RunCard("ab" * 32, "Plan", "m", "d", 1000, state)


def test_a_run_that_goes_on_says_rate_and_time_left_and_is_asked_again():
    line = audits_model.line(card(State("ab" * 32, "running", 3, 12, 41.6, 3725.0)))
    assert line.is_running
    assert line.share == 0.25
    assert line.told == "3 of 12 parts · 42 images a second · 1 h 2 min left"


def test_a_run_that_was_asked_to_stop_says_so_and_cannot_be_stopped_again():
    line = audits_model.line(card(State("ab" * 32, "running", 3, 12, is_stopping=True)))
    assert (line.state, line.is_running) == ("stopping", True)
    (button,) = audits_view._act(line)
    assert (button.children, button.disabled) == ("Stopping …", True)


def test_a_run_whose_driver_vanished_says_so_and_cannot_be_stopped():
    line = audits_model.line(
        card(State("ab" * 32, "interrupted", 3, 12, message="The process that drove the run ended."))
    )
    assert not line.is_running
    assert "ended" in line.told
    assert "Stop" not in json.dumps(markup.pieces(audits_view._list([line], None)))


def test_unfinished_figures_are_interim_and_decide_nothing(store):
    manifest = audits.planned(store, PLAN.replace("count = 6", "count = 8"))
    stopped = audits.drive(store, manifest, before=stop_after(3))[0]
    facts, _ = audits_view.answer(Watched(store), {"run": stopped.id})
    assert "Interim: " in text(facts)
    assert "not decided yet" in text(facts)


def test_a_threshold_that_cannot_be_told_says_why_and_so_does_the_condition(auditor, finished):
    seen = auditor.audits.view(finished.id)
    doubt = "None of the 6 images that were right without attack was changed."
    decision = dataclasses.replace(seen.summary.thresholds[0], outcome="inconclusive", reason=doubt)
    changed = with_condition(seen, doubts=(doubt,))
    panel = audits_model.panel(
        dataclasses.replace(changed, summary=dataclasses.replace(changed.summary, thresholds=(decision,))),
    )
    assert panel.thresholds[0][3] == f"? cannot be told: {doubt}"
    assert panel.models[0].rows[1].doubts == (doubt,)
    assert panel.verdict.startswith("Verdict: INCONCLUSIVE")
    shown = json.dumps(markup.pieces(audits_view._panel(panel)), ensure_ascii=False)
    assert shown.count(doubt) == 2
    assert panel.verdict in shown


def test_a_passed_run_says_so_and_one_without_thresholds_has_no_verdict(auditor, finished):
    seen = auditor.audits.view(finished.id)
    decision = dataclasses.replace(seen.summary.thresholds[0], outcome="pass", reason="")
    for decisions, verdict in (((decision,), "Verdict: PASS: every threshold is met."), ((), "")):
        changed = dataclasses.replace(seen, summary=dataclasses.replace(seen.summary, thresholds=decisions))
        assert audits_model.panel(changed).verdict == verdict


def test_attacks_of_a_tier_that_few_classes_do_not_allow_are_told(auditor, finished):
    seen = auditor.audits.view(finished.id)
    assert audits_model.panel(seen).left_out == ""
    plan = dataclasses.replace(seen.manifest.plan, tier="thorough")
    few = dataclasses.replace(seen, manifest=dataclasses.replace(seen.manifest, plan=plan, classes=("none", "defect")))
    panel = audits_model.panel(few)
    assert panel.left_out == (
        "Left out of the tier 'thorough': apgd-dlr needs at least 3 classes, the model has 2. apgd-t needs at least 4 "
        "classes, the model has 2."
    )
    assert panel.left_out in json.dumps(markup.pieces(audits_view._panel(panel)), ensure_ascii=False)


def stop_after(pieces: int):
    """Return what lets the first pieces be made and all later ones vanish."""
    seen = []

    def before(_task: object) -> bool:
        seen.append(1)
        return len(seen) <= pieces

    return before


def test_stopping_asks_the_driver_and_an_unknown_run_is_told(auditor, finished):
    assert audits_view.stop(auditor, {"run": finished.id}) == ""
    assert finished.place.cancel.is_file()
    assert "No run is called" in audits_view.stop(auditor, {"run": "x"})


def test_looking_at_a_run_again_does_not_stop_it_again(auditor, finished):
    audits_view.stop(auditor, {"run": finished.id})
    finished.place.cancel.unlink()
    audits_view.answer(auditor, {"run": finished.id})
    assert not finished.place.cancel.exists()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_curve_follows_the_theme(theme):
    assert audits_view.draw_curve((), theme).layout.paper_bgcolor == audits_view.themes.palette(theme).panel


def attack_sanity(*outcomes: str) -> AttackSanity:
    """Checks that came out so in turn; the rest passed."""
    given = [*outcomes, *["pass"] * (len(CHECKS) - len(outcomes))]
    results = tuple(
        CheckResult(one.name, outcome, f"said of {one.name}") for one, outcome in zip(CHECKS, given, strict=True)
    )
    return AttackSanity(results, 64, "24/255", Conditions("x", (), (), 0, 64, "cpu", "float32", 2, "digits-robust"))


@pytest.mark.parametrize(
    ("outcomes", "start"),
    [
        (("fail", "not run"), "Attacks on mine fail their sanity checks"),
        (("not run",), "Nothing speaks against attacks on mine, but not"),
        ((), "Nothing speaks against attacks on mine: 16"),
    ],
)
def test_the_verdict_says_what_failed_and_what_was_not_run(outcomes, start):
    found = audits_model.sanity(Answer("ready", attack_sanity(*outcomes)), "mine")
    assert found.verdict.startswith(start)
    assert [check[1] for check in found.checks][: len(outcomes)] == list(outcomes)
    assert "transfer from digits-robust" in found.about


@pytest.mark.parametrize(
    ("condition", "outcome", "checks", "is_told"),
    [
        ("worst-case", "pass", ("fail",), True),
        ("worst-case", "pass", ("not run",), False),
        ("worst-case", "inconclusive", ("fail",), False),
        ("clean", "pass", ("fail",), False),
    ],
)
def test_a_pass_under_attacks_that_must_not_be_believed_is_called_none(
    auditor, finished, condition, outcome, checks, is_told
):
    summary = auditor.audits.view(finished.id).summary
    asked = dataclasses.replace(summary.thresholds[0].threshold, condition=condition)
    decision = dataclasses.replace(summary.thresholds[0], threshold=asked, outcome=outcome)
    changed = dataclasses.replace(summary, thresholds=(decision,))
    found = audits_model.caution(Answer("ready", attack_sanity(*checks)), changed)
    assert bool(found) is is_told
    assert not is_told or found.endswith("this is no pass.")
    assert audits_model.caution(Answer("working", None), changed) == ""


def test_the_verdict_says_what_it_was_made_on():
    found = audits_model.sanity(Answer("ready", attack_sanity()), "mine")
    assert "mine" in found.title
    assert "the candidate alone" in found.scope
    assert "64 of the run's images" in found.scope
    assert "the run's own attacks and figures are no part of it" in found.scope


@pytest.mark.parametrize("state", ["working", "failed"])
def test_checks_that_are_not_there_read_as_not_run(state):
    found = audits_model.sanity(Answer(state, None, message="The worker died."), "mine")
    assert {check[1] for check in found.checks} == {"not run"}
    assert "The worker died." in found.verdict


def test_the_checks_of_a_run_are_made_on_its_own_images_at_its_largest_budget(store, finished):
    found = report.checked(store, finished.id)
    assert set(found.samples) <= set(finished.manifest.images.samples)
    assert (found.model, found.reference, found.epsilon) == ("digits-standard", "digits-robust", "8/85")


def test_the_page_shows_all_sixteen_and_asks_again_while_they_are_made(auditor, finished):
    facts, _ = audits_view.answer(auditor, {"run": finished.id})
    assert all(f"{check.name} {check.title}" in text(facts) for check in CHECKS)
    assert facts["again"]
