"""The image that stands for how a condition ended is one of the run's own, of the most frequent confusion."""

from __future__ import annotations

from collections import Counter

import pytest

from engine.audit import report, results
from engine.audit.manifest import CANDIDATE
from tests import audits, stores

PLAN = audits.PLAN.replace(
    'attacks = ["fgsm-linf:eps=24/255"]', 'attacks = ["fgsm-linf:eps=24/255", "fgsm-linf:eps=1/255"]'
).replace("count = 6", "count = 20")
STRONG, WEAK = "fgsm-linf:eps=24/255", "fgsm-linf:eps=1/255"


@pytest.fixture(scope="module")
def run(small_demo_store, tmp_path_factory):
    store = stores.copied(small_demo_store, tmp_path_factory.mktemp("examples") / "store")
    return audits.drive(store, audits.planned(store, PLAN))[0]


def rows(run, condition: str) -> list[tuple[str, str, str, str]]:
    """Sample, class, class after the attack, and status of every row of a condition, from its shards."""
    (folder,) = [item.folder for item in run.manifest.of(CANDIDATE) if item.name == condition]
    own, names = results.gathered(run.place, run.manifest)[folder], run.manifest.classes
    labels, after = ([names[k] for k in column.tolist()] for column in (own.labels, own.after))
    return list(zip(own.samples, labels, after, own.status, strict=True))


def test_an_attack_is_stood_for_by_an_image_of_its_most_frequent_confusion(run):
    found = report.of_run(run.place, run.manifest)[CANDIDATE, STRONG]
    fooled = [row for row in rows(run, STRONG) if row[3] == "fooled"]
    flows = Counter((label, after) for _, label, after, _ in fooled)
    (own,) = [row for row in fooled if row[0] == found.sample]
    assert flows[own[1], own[2]] == max(flows.values())
    assert (found.label, found.outcome) == (own[1], "fooled")


def test_an_attack_that_fooled_nothing_is_stood_for_by_an_image_that_resisted(run):
    found = report.of_run(run.place, run.manifest)[CANDIDATE, WEAK]
    assert "fooled" not in {status for *_, status in rows(run, WEAK)}
    assert (found.outcome, found.sample) == ("resisted", rows(run, WEAK)[0][0])


def test_what_was_not_attacked_has_no_example(run):
    assert (CANDIDATE, "clean") not in report.of_run(run.place, run.manifest)


def test_a_run_that_goes_on_has_the_examples_of_what_it_has(run):
    found = results.gathered(run.place, run.manifest)
    assert report.of_rows(found, run.manifest) == report.of_run(run.place, run.manifest)
    assert report.of_rows({}, run.manifest) == {}
