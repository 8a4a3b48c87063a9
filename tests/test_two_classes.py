"""With two classes everything is proved and evaluated but what needs a third, and that is said to be missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

import engine
from dashboard.panels import faithfulness
from engine import __main__ as command_line
from engine.attribution import explain
from engine.audit import report, results
from engine.audit.runs import State
from engine.data import register
from engine.errors import BadInput
from engine.models import register as load
from engine.patching import causal, minimal, subjects
from engine.patching import faithfulness as faithfulness_checks
from engine.types import faithfulness as faithfulness_parts
from engine.types.core import ExplanationRequest
from tests import audits, stores, two_classes

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACK = "pgd-linf:eps=48/255,steps=5"
THIRD = "third class: a third class is needed, and the network has 2."


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return two_classes.fill(tmp_path_factory.mktemp("two") / "store")


@pytest.fixture(scope="module")
def world(store):
    return load.bundle(store, two_classes.MODEL), store.dataset(two_classes.DATA)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    for module in (causal, causal, minimal, minimal):
        monkeypatch.setattr(module, "DRAWS", 2)
    monkeypatch.setattr(causal, "CLEAN_IMAGES", 20)
    monkeypatch.setattr(causal, "MEAN_IMAGES", 20)
    monkeypatch.setattr(causal, "COUNTS", (4, 16))


def command(store, name: str, out, *more: str) -> int:
    place = ["--store", str(store.root), "--model", two_classes.MODEL, "--data", two_classes.DATA, "--out", str(out)]
    return command_line.main([name, *place, "--attack", ATTACK, "--first", "0", *more])


def test_all_studies_are_made_and_the_third_class_is_said_to_be_missing(store, tmp_path, capsys):
    assert command(store, "prove", tmp_path / "p.json", "--images", "6", "--maps", "16") == 0
    table, found = capsys.readouterr().out, json.loads((tmp_path / "p.json").read_text())
    for part, whole in (("proof", "controls"), ("curve", "lines")):
        names = {item["name"] for item in found[part][whole]}
        assert {"random", "noisy copy", "largest change"} <= names
        assert not {"third class", "another image"} & names
        assert THIRD in found[part]["missing"]
        assert f"left out: {THIRD}" in table
    assert found["smallest"]["images"]
    assert found["defence"]["held_out"]["samples"]
    assert "; supported." not in table


def test_a_causal_test_needs_no_second_class_among_the_images(store, tmp_path, capsys):
    assert command(store, "prove", tmp_path / "p.json", "--images", "1", "--maps", "4", "--studies", "proof") == 0
    assert "fooled images" in capsys.readouterr().out


@pytest.mark.slow
def test_the_evaluation_is_made_and_says_what_it_lacks(store, tmp_path, capsys):
    assert command(store, "evaluate", tmp_path / "e.json", "--images", "8", "--methods", "two-run,mask,random") == 0
    table, found = capsys.readouterr().out, json.loads((tmp_path / "e.json").read_text())
    assert len(found["missing"]) == 2
    assert all(f"– Not run, {text}" in table for text in found["missing"])
    for row in found["methods"]:
        for question in ("sufficient", "transplant", "restore"):
            assert row[question]["wrong_class"] is None
            assert not {"wrong_class_low", "wrong_class_high"} & set(row[question])
        assert row["transplant"]["swap"] is row["restore"]["swap"] is None
        assert len(row["transplant"]["carried"]) == len(row["restore"]["restored"]) == len(found["maps"])
        assert len(row["sufficient"]["swap"]) == len(found["kept"])
    assert table.count("             –") >= 3 * 3


def test_with_three_classes_nothing_is_missing(small_demo_store, tmp_path_factory):
    store = stores.copied(small_demo_store, tmp_path_factory.mktemp("ten") / "store")
    bundle, dataset = load.bundle(store, "digits-standard"), store.dataset("digits")
    found = subjects.choose(bundle, dataset, 12, first=0, seed=0)
    assert found.strangers is not None
    assert found.thirds is not None


def test_images_of_one_class_alone_cannot_be_evaluated_and_the_message_counts_rightly(store, tmp_path, capsys):
    alone = two_classes.some((3,))
    register.add(store, "threes", alone, source="test")
    place = ["--store", str(store.root), "--model", two_classes.MODEL, "--data", "threes", "--attack", ATTACK]
    more = ["--images", "6", "--first", "0", "--methods", "random", "--out", str(tmp_path / "e.json")]
    assert command_line.main(["evaluate", *place, *more]) == 2
    assert (
        "has 6 correctly classified images of 1 class from index 0 on; at least 2 images of 2 classes are needed"
        in (capsys.readouterr().err)
    )


@pytest.fixture(scope="module")
def explained(world):
    """One fooled image with all its checks."""
    bundle, dataset = world
    found, _ = next(
        pair
        for pair in (
            explain.explain(
                bundle,
                dataset,
                ExplanationRequest(two_classes.MODEL, two_classes.DATA, engine.attack(ATTACK), (key,)),
                lambda *_: None,
            )
            for key in dataset.keys
        )
        if pair[0].outcomes[0].status == "fooled"
    )
    parts = [
        faithfulness_checks.part(name, bundle, dataset, found, lambda *_: None) for name in faithfulness_parts.PARTS
    ]
    return found, faithfulness_parts.merge(parts)


def test_no_wrong_class_is_made_up_where_there_is_none(explained):
    found, known = explained
    for side in ("clean", "adversarial"):
        one = getattr(known, side)
        assert one.wrong_class is None
        assert "wrong_class" in one.not_applicable
    shown = {check.name: check for check in faithfulness.build_card(found, known).checks}
    assert (shown["Wrong class"].clean, shown["Wrong class"].adversarial) == (faithfulness.NOT_APPLICABLE,) * 2
    assert sum(text.startswith("Wrong class (") for text in known.unavailable) == 2
    assert set(known.unavailable) <= set(faithfulness.build_card(found, known).failures)


def test_a_reference_that_gives_the_answer_anyway_carries_nothing(explained):
    """The blurred copy is answered with one of the two classes: into it, any maps whatever would seem to carry that one."""
    found, known = explained
    sides = [getattr(found, name) for name in ("clean", "adversarial")]
    assert {side.baseline for side in sides} == {"blur"}
    (trivial,) = [k for k, one in enumerate(sides) if not one.sizes]
    assert sides[trivial].carries_at is None
    one = (known.clean, known.adversarial)[trivial]
    assert (one.carries_at, one.random_low, one.random_high, one.noisy_copy) == (None, None, None, None)
    assert sum(text.startswith("Transplant carries the label (") for text in known.unavailable) == 1
    assert all(float(np.abs(site).max()) > 0 for one in sides for site in one.scores[1:]), (
        "a class is no rival of its own"
    )


def test_a_model_of_a_single_class_cannot_be_audited(tmp_path):
    store = two_classes.fill(tmp_path / "store", (3,))
    plan = audits.PLAN.replace("digits-standard", two_classes.MODEL).replace('"digits"', f'"{two_classes.DATA}"')
    with pytest.raises(BadInput, match="model: 'two' has a single class and is right whatever it is shown"):
        audits.planned(store, plan)


def test_an_audit_says_which_attacks_two_classes_leave_out(store):
    plan = audits.PLAN.replace("digits-standard", two_classes.MODEL).replace('"digits"', f'"{two_classes.DATA}"')
    plan = plan.replace('attacks = ["fgsm-linf:eps=24/255"]', 'tier = "thorough"\nepsilon = "24/255"')
    plan = plan.replace('"gradient"', '"none"').replace("block = 2", "block = 6")
    run = audits.drive(store, audits.planned(store, plan))[0]
    found = results.read_summary(run.place, run.manifest)
    assert not any(condition.name.startswith(("apgd-dlr", "apgd-t")) for condition in found.models[0].conditions)
    state = State(run.id, "finished", 1, 1)
    left_out = report.as_json(run, state, found, 0.0)["left_out"]
    assert left_out == [
        "apgd-dlr needs at least 3 classes, the model has 2.",
        "apgd-t needs at least 4 classes, the model has 2.",
    ]
    assert f"Left out of the tier 'thorough': {' '.join(left_out)}" in report.text(run, state, found)
