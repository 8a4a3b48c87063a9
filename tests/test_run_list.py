"""The list of runs: the newest first, with date, duration, author, tier and verdict; and a run's plan planned again."""

from __future__ import annotations

import dataclasses
import os

import pytest

from engine.audit import manifest, report, results, runs
from engine.service import driver
from engine.service.answers import Answers
from tests import audits, stores

TIER = """
name = "tier"
model = "digits-standard"
baseline = "digits-robust"
data = "digits"
tier = "standard"
epsilon = "24/255"
method = "none"
seed = 5
attacks = ["fab-t:eps=16/255", "pgd-linf:eps=24/255,steps=20"]
controls = false
[images]
count = 20
seed = 2
block = 7
keep = false
[curve]
attack = "apgd-ce:steps=5"
epsilons = ["8/255", "16/255"]
[[precomputed]]
name = "mine"
data = "digits"
epsilon = "8/255"
[[thresholds]]
name = "one"
condition = "worst-case"
metric = "robust-on-correct"
at_least = 0.25
confidence = 0.99
class = "3"
"""


@pytest.fixture
def store(small_demo_store, tmp_path):
    return stores.copied(small_demo_store, tmp_path / "store")


def watched(store) -> driver.Runs:
    return driver.Runs(Answers(store, audits.Inline(store.root)))


def test_the_newest_run_stands_first_with_all_that_a_list_shows(store):
    first = audits.drive(store, audits.planned(store))[0]
    second = audits.drive(store, audits.planned(store, f'name = "a"\n{audits.PLAN}'.replace("count = 6", "count = 8")))[
        0
    ]
    newest, oldest = report.listed(store)
    assert (newest.run, oldest.run) == (second.id, first.id)
    assert newest.begun > oldest.begun
    assert (oldest.tier, oldest.author) == ("custom", "command line")
    assert oldest.verdict == report.summary.verdict(results.read_summary(first.place, first.manifest))
    assert 0 < oldest.seconds < 600


def test_a_run_begun_on_the_page_says_so_and_begins_once(store):
    own = watched(store)
    values = driver.written(audits.planned(store))
    run = own.start(values)
    own.close()
    assert own.start(values) == run
    own.close()
    begun = [event for event in runs.AuditLog(store.root).events() if event.event == runs.BEGUN]
    assert [(event.run, event.detail) for event in begun] == [(run, "page")]
    assert own.cards()[0].author == "page"


def test_without_a_log_that_can_be_believed_the_files_tell_the_date(store):
    run = audits.drive(store, audits.planned(store))[0]
    log = store.root / runs.FILE
    log.write_text(log.read_text().replace("finished", "cancelled"))
    os.utime(run.place.manifest, (86_400, 86_400))
    (card,) = report.listed(store)
    assert (card.begun[:10], card.author, card.seconds) == ("1970-01-02", "", None)


@pytest.mark.parametrize("text", [audits.PLAN, TIER])
def test_the_values_of_a_run_plan_the_same_run_again(store, text):
    planned = audits.planned(store, text)
    planned = dataclasses.replace(planned, plan=dataclasses.replace(planned.plan, name="again"))
    again = driver.planned(store, driver.written(planned))
    assert manifest.text(again) == manifest.text(planned)


def test_only_what_the_tier_does_not_bring_stands_among_a_plans_own_attacks(store):
    values = driver.written(audits.planned(store, TIER))
    assert values["attacks"] == ["fab-t:eps=16/255,steps=100", "pgd-linf:eps=24/255,steps=20"]
    assert (values["tier"], values["epsilon"]) == ("standard", "24/255")


def test_a_plan_is_checked_without_beginning_or_measuring_anything(store):
    own = watched(store)
    own.check(driver.written(audits.planned(store)))
    assert not (store.root / "runs").exists()
    assert not (store.root / runs.FILE).exists()
