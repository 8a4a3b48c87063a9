"""The audits page: every run with how far it is, and one run's figures exactly as its rows add up to."""

from __future__ import annotations

import dataclasses
import json
from urllib.parse import parse_qs

import pytest

from dashboard import markup
from dashboard import theme as themes
from dashboard.panels.audits import curve as curves
from dashboard.panels.audits import heat_map
from dashboard.panels.audits import model as audits_model
from dashboard.panels.audits import view as audits_view
from engine import CHECKS, Answer, AttackSanity, RunCard
from engine.audit import report
from engine.audit.runs import Run, State
from engine.types.checks import CheckResult, Conditions
from tests import audits, fakes, stores
from tests.watched import Watched

PLAN = (
    audits.PLAN.replace(
        'model = "digits-standard"', 'name = "<b>A & B</b>"\nmodel = "digits-standard"\nbaseline = "digits-robust"'
    )
    + '\n[curve]\nattack = "fgsm-linf"\nepsilons = ["4/255", "8/255"]\n'
)


ATTACK = "fgsm-linf:eps=24/255"


class Checking(Watched):
    """One whose attack sanity checks are still being made."""

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
    return Checking(store)


def text(facts) -> str:
    return json.dumps([facts["list"], facts["audit"], facts["maps"], facts["details"]], ensure_ascii=False)


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
    assert any(sign in shown for sign, _ in audits_view.SIGNS.values())


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


def without_images(seen):
    """The same of a run that kept hashes of its images only."""
    plan = seen.manifest.plan
    kept = dataclasses.replace(plan, images=dataclasses.replace(plan.images, is_kept=False))
    return dataclasses.replace(seen, manifest=dataclasses.replace(seen.manifest, plan=kept))


OWN = ["pgd-linf:eps=24/255,steps=20", "fgsm-linf:eps=24/255,target=random"]


@pytest.mark.parametrize("attack", OWN)
def test_an_attack_with_its_own_settings_leads_to_the_images_that_the_run_kept(auditor, finished, attack):
    seen = with_condition(auditor.audits.view(finished.id), name=attack)
    seen = dataclasses.replace(seen, examples={("candidate", attack): seen.examples["candidate", ATTACK]})
    assert parse_qs(rows(seen)[attack].link)["attack"] == [f"run:{finished.id}/candidate/{attack}"]
    assert audits_model.panel(seen).models[0].notes == ()


@pytest.mark.parametrize("attack", [*OWN, "gone:eps=1"])
def test_an_attack_that_the_levels_cannot_show_has_no_link_and_the_page_says_why(auditor, finished, attack):
    seen = with_condition(without_images(auditor.audits.view(finished.id)), name=attack)
    seen = dataclasses.replace(seen, examples={("candidate", attack): seen.examples["candidate", ATTACK]})
    assert rows(seen)[attack].link == ""
    assert audits_model.NOT_EXPLAINED in audits_model.panel(seen).models[0].notes


def test_an_attack_at_its_default_settings_has_a_link(auditor, finished):
    attack = "pgd-linf:eps=24/255,steps=10"
    seen = with_condition(auditor.audits.view(finished.id), name=attack)
    seen = dataclasses.replace(seen, examples={("candidate", attack): seen.examples["candidate", ATTACK]})
    assert parse_qs(rows(seen)[attack].link)["attack"] == ["pgd-linf"]
    assert audits_model.panel(seen).models[0].notes == ()


def test_attacks_of_another_seed_lead_to_the_images_that_the_run_kept(auditor, finished):
    seen = auditor.audits.view(finished.id)
    plan = dataclasses.replace(seen.manifest.plan, seed=1)
    other = dataclasses.replace(seen, manifest=dataclasses.replace(seen.manifest, plan=plan))
    assert parse_qs(rows(other)[ATTACK].link)["attack"] == [f"run:{finished.id}/candidate/{ATTACK}"]
    assert rows(without_images(other))[ATTACK].link == ""


def test_an_attack_on_cascade_says_what_its_rate_counts(auditor, finished):
    seen = auditor.audits.view(finished.id)
    assert audits_model.panel(seen).models[0].notes == ()
    part = audits_model.panel(with_condition(seen, is_cumulative=True)).models[0]
    assert "count as broken here too" in part.notes[0]
    assert part.rows[1].name.endswith("(in the cascade)")


def cells(heat):
    return {(name, short): cell for name, row in heat.rows for (short, _), cell in zip(heat.columns, row, strict=True)}


def test_every_class_under_every_attack_is_a_cell_with_its_interval_and_number(auditor, finished):
    seen = auditor.audits.view(finished.id)
    model = seen.summary.models[0]
    heat = audits_model.panel(seen).models[0].heat
    assert [short for short, _ in heat.columns] == ["clean", "fgsm-linf 24/255"], (
        "of one attack the worst case is the same"
    )
    found = cells(heat)
    for condition, short in ((model.conditions[0], "clean"), (model.conditions[1], "fgsm-linf 24/255")):
        for class_ in condition.classes:
            cell = found[class_.name, short]
            assert cell.accuracy == class_.accuracy
            assert cell.step == round(10 * (1 - class_.accuracy.value))
            assert f"{audits_model.rate(class_.accuracy)} (Clopper-Pearson, 95 %), n = {class_.accuracy.n}" in cell.told
    shown = text(audits_view.answer(auditor, {"run": finished.id})[0])
    assert all(cell.told in shown for cell in (*found.values(), *heat.every))
    assert [cell.accuracy for cell in heat.every] == [condition.accuracy for condition in model.conditions[:2]]


def test_a_class_with_few_images_is_grey(auditor, finished):
    facts, _ = audits_view.answer(auditor, {"run": finished.id})
    assert all(
        cell.has_few for cell in cells(audits_model.panel(auditor.audits.view(finished.id)).models[0].heat).values()
    )
    assert heat_map.FEW in text(facts)


def test_a_cell_opens_explain_of_its_class_and_attack(auditor, finished):
    seen = auditor.audits.view(finished.id)
    found = cells(audits_model.panel(seen).models[0].heat)
    classes = {class_.name: class_ for class_ in seen.summary.models[0].conditions[1].classes}
    for (name, short), cell in found.items():
        if short == "clean":
            assert cell.link == ""
            continue
        outcome = "fooled" if classes[name].statuses["fooled"] else "resisted"
        assert bool(cell.link) == bool(classes[name].statuses["fooled"] or classes[name].statuses["resisted"])
        if cell.link:
            assert parse_qs(cell.link) == {
                "model": ["digits-standard"], "data": ["digits"], "attack": ["fgsm-linf"], "epsilon": ["24/255"],
                "label": [name], "outcome": [outcome],
            }  # fmt: skip


@pytest.mark.parametrize(
    ("fooled", "resisted", "outcome"), [(1, 1, ["fooled"]), (0, 1, ["resisted"]), (1, 0, ["fooled"]), (0, 0, None)]
)
def test_a_cell_opens_an_image_that_was_fooled_where_there_is_one(auditor, finished, fooled, resisted, outcome):
    seen = auditor.audits.view(finished.id)
    classes = tuple(
        dataclasses.replace(class_, statuses={**class_.statuses, "fooled": fooled, "resisted": resisted})
        for class_ in seen.summary.models[0].conditions[1].classes
    )
    seen = with_condition(seen, classes=classes)
    cell = audits_model.heat(seen.summary.models[0], seen).rows[0][1][1]
    assert parse_qs(cell.link).get("outcome") == outcome


def test_of_many_classes_those_that_fare_worst_are_shown_and_it_is_said(auditor, finished):
    seen = auditor.audits.view(finished.id)
    heat = audits_model.heat(seen.summary.models[0], seen, most=2)
    every = audits_model.heat(seen.summary.models[0], seen, None).rows
    last = sorted(row[-1].accuracy.value for _, row in every)
    assert sorted(row[-1].accuracy.value for _, row in heat.rows) == last[:2]
    assert (len(heat.rows), heat.classes) == (2, len(every))
    assert f"2 of {len(every)} classes" in json.dumps(markup.pieces(heat_map.drawn(heat)))


def test_a_plan_of_own_attacks_is_not_called_a_tier():
    assert [audits_model.tier_title(name) for name in ("fast", "custom", "")] == ["fast", "own attacks", ""]


@pytest.mark.parametrize(("tier", "told"), [("fast", "Screening only"), ("standard", ""), ("custom", "Attacks chosen")])
def test_the_tier_says_what_the_result_is_worth(auditor, finished, tier, told):
    seen = auditor.audits.view(finished.id)
    plan = dataclasses.replace(seen.manifest.plan, tier=tier)
    panel = audits_model.panel(dataclasses.replace(seen, manifest=dataclasses.replace(seen.manifest, plan=plan)))
    assert panel.banner.startswith(told)
    assert bool(panel.banner) == bool(told)
    assert (panel.banner in json.dumps(markup.pieces(audits_view._lead(panel)), ensure_ascii=False)) or not told


def test_one_number_has_one_interval_wherever_it_stands(auditor, finished):
    seen = auditor.audits.view(finished.id)
    (threshold,) = seen.summary.thresholds
    clean = seen.summary.models[0].conditions[0].accuracy
    assert (threshold.low, threshold.high, threshold.n) == pytest.approx((clean.low, clean.high, clean.n))
    shown = text(audits_view.answer(auditor, {"run": finished.id})[0])
    assert "Wilson" not in shown
    assert "Clopper-Pearson, 95 %" in shown


def line_of(name: str, **changes):
    return audits_model.Line(name, name, f"m · {name}", "finished", 1.0, False, False, False, "", **changes)


LINES = [
    line_of("Beta", begun="2026-11-30T12:00", seconds=5.0, author="page", tier="fast", verdict="pass"),
    line_of("alpha", begun="2026-11-29T12:00", seconds=None, author="command line", tier="custom", verdict="fail"),
    line_of("gamma", begun="2026-11-28T12:00", seconds=70.0, author="page", tier="fast", verdict="inconclusive"),
]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("-begun", ["Beta", "alpha", "gamma"]), ("begun", ["gamma", "alpha", "Beta"]), ("name", ["alpha", "Beta", "gamma"]),
        ("-seconds", ["gamma", "Beta", "alpha"]), ("author", ["alpha", "Beta", "gamma"]), ("nonsense", ["Beta", "alpha", "gamma"]),
    ],
)  # fmt: skip
def test_the_list_is_sorted_by_any_column(order, names):
    assert [one.name for one in audits_model.listed(LINES, order=order, find="", state="")] == names


@pytest.mark.parametrize(
    ("find", "state", "names"),
    [
        ("PAGE fast", "", ["Beta", "gamma"]),
        ("", "fail", ["alpha"]),
        ("11-29", "", ["alpha"]),
        ("x", "", []),
        ("", "running", []),
    ],
)
def test_the_list_is_filtered_by_words_state_and_verdict(find, state, names):
    assert [one.name for one in audits_model.listed(LINES, order="", find=find, state=state)] == names


def test_the_list_says_when_by_whom_and_with_what_verdict(auditor, finished):
    facts, _ = audits_view.answer(auditor, {"run": finished.id})
    shown = json.dumps(facts["list"], ensure_ascii=False)
    card = auditor.audits.cards()[0]
    assert audits_model.moment(card.begun) in shown
    assert "command line" in shown
    assert audits_view.SIGNS[card.verdict][0] in shown
    assert '"aria-sort": "descending"' in shown
    facts, _ = audits_view.answer(auditor, {"run": finished.id, "find": "no such run"})
    assert facts["count"] == "0 of 1 runs"


def test_of_very_many_runs_the_first_are_listed_and_it_is_said():
    facts = audits_view._listed([line_of(f"run {k}") for k in range(100)], None, {"order": "name"})
    assert facts["count"].startswith("The first 60 of 100 runs are listed")
    assert json.dumps(facts["list"]).count('"data-key"') == 60


def test_every_column_says_what_it_holds(auditor, finished):
    facts, _ = audits_view.answer(auditor, {"run": finished.id})

    def heads(piece):
        if isinstance(piece, dict):
            own = piece["tag"] == "thead"
            yield from piece["children"] if own else ()
            for child in piece["children"]:
                yield from heads(child)

    cells_ = [
        cell
        for piece in (*facts["list"], *facts["audit"], *facts["maps"], *facts["details"])
        for row in heads(piece)
        for cell in row["children"]
    ]
    bare = [
        cell
        for cell in cells_
        if cell["tag"] == "th" and "data-term" not in json.dumps(cell) and "title" not in cell["attributes"]
    ]
    assert {str(cell["children"]) for cell in bare} == {"['Class']"}, "of heat maps, whose frames have a sentence"


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
    button, _ = audits_view._act(line)
    assert (button.children, button.disabled) == ("Stopping …", True)


def test_a_run_whose_driver_vanished_says_so_and_cannot_be_stopped():
    line = audits_model.line(
        card(State("ab" * 32, "interrupted", 3, 12, message="The process that drove the run ended."))
    )
    assert not line.is_running
    assert "ended" in line.told
    assert "Stop" not in json.dumps(markup.pieces(audits_view._list([line], None, "-begun", has_runs=True)))


def test_unfinished_figures_are_interim_and_decide_nothing(store):
    manifest = audits.planned(store, PLAN.replace("count = 6", "count = 8"))
    stopped = audits.drive(store, manifest, before=stop_after(3))[0]
    facts, _ = audits_view.answer(Checking(store), {"run": stopped.id})
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
    assert (panel.thresholds[0].outcome, panel.thresholds[0].reason) == ("inconclusive", doubt)
    assert panel.models[0].rows[1].doubts == (doubt,)
    assert panel.verdict.startswith("INCONCLUSIVE")
    shown = json.dumps(markup.pieces([*audits_view._lead(panel), *audits_view._details(panel)]), ensure_ascii=False)
    assert shown.count(doubt) == 2
    assert panel.verdict in shown


def test_a_passed_run_says_so_and_one_without_thresholds_has_no_verdict(auditor, finished):
    seen = auditor.audits.view(finished.id)
    decision = dataclasses.replace(seen.summary.thresholds[0], outcome="pass", reason="")
    for decisions, verdict in (((decision,), "PASS: every threshold is met."), ((), "")):
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
    assert panel.left_out in json.dumps(markup.pieces(audits_view._lead(panel)), ensure_ascii=False)


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
    assert curves.draw((), theme).layout.paper_bgcolor == themes.palette(theme).panel


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
    assert found.checks == (), "no rows of 'not run' while they wait"
    assert "The worker died." in found.verdict


def test_the_checks_of_a_run_are_made_on_its_own_images_at_its_largest_budget(store, finished):
    found = report.checked(store, finished.id)
    assert set(found.samples) <= set(finished.manifest.images.samples)
    assert (found.model, found.reference, found.epsilon) == ("digits-standard", "digits-robust", "8/85")


def test_the_page_shows_all_sixteen_once_they_are_made_and_asks_again_until_then(auditor, finished, monkeypatch):
    facts, _ = audits_view.answer(auditor, {"run": finished.id})
    assert facts["again"]
    assert "are being made: Checking" in text(facts)
    monkeypatch.setattr(Checking, "attack_sanity", lambda *_: Answer("ready", attack_sanity()))
    facts, _ = audits_view.answer(auditor, {"run": finished.id})
    assert all(f"{check.name} {check.title}" in text(facts) for check in CHECKS)
    assert not facts["again"]


def test_a_run_that_waits_shows_what_was_agreed_and_no_empty_tables(store):
    run = Run(store, audits.planned(store, PLAN.replace("count = 6", "count = 10")))
    run.begin()
    facts, _ = audits_view.answer(Checking(store), {"run": run.id})
    assert "Waiting for the first results" in text(facts)
    assert "not decided yet" in text(facts)
    assert "not run" not in text(facts)
    assert "heat-map" not in text(facts)
    assert text(facts).count('"table"') == 2, "the list, and the thresholds"
