"""Images that a run stored, explained: the very pixels, under the run's own attack, whatever its settings and seed."""

from __future__ import annotations

import dataclasses
from urllib.parse import parse_qsl

import numpy as np
import pytest

import engine
from dashboard import links
from dashboard.links import ViewState
from dashboard.panels.images import model as images
from engine import BadInput, BadSetting, Selection, StoreError, UnknownName
from engine.attribution import explain
from engine.audit import results, shards, stored_images
from engine.audit.plan import WrongPlan
from engine.service import answers, tasks
from engine.service.auditor import Auditor
from engine.types.core import AttackResultsRequest, ExplanationRequest
from engine.types.faithfulness import PARTS
from engine.types.patching import FooledRequest, MapSet
from engine.types.requests import CausalTestRequest, FaithfulnessRequest
from tests import audits, planted_runs, stores

PLAN = (
    audits.PLAN.replace("fgsm-linf:eps=24/255", "pgd-linf:eps=24/255,steps=3")
    .replace("threads = 1", "threads = 1\nseed = 7")
    .replace("count = 6\nblock = 2", "count = 20\nblock = 8")
    .replace('method = "gradient"', 'method = "none"')
    .replace("controls = false", "controls = true")
)
ATTACK = "pgd-linf:eps=24/255,steps=3"


def quiet(*_told: object) -> None:
    pass


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("of-run") / "store")


@pytest.fixture(scope="module")
def run(store):
    run, state, _ = audits.drive(store, audits.planned(store, PLAN))
    assert state.state == "finished", state.message
    return run


def text(run, condition: str = ATTACK) -> str:
    return f"run:{run.id}/candidate/{condition}"


@pytest.fixture(scope="module")
def fooled(store, run):
    """Sample, label and place among the run's images of one that was fooled."""
    table = results.read_table(run.place, ["condition", "sample", "status", "label"]).to_pylist()
    row = next(one for one in table if one["condition"] == ATTACK and one["status"] == "fooled")
    return row["sample"], row["label"]


def request(run, sample: str, condition: str = ATTACK) -> ExplanationRequest:
    return ExplanationRequest("digits-standard", "digits", engine.attack(text(run, condition)), (sample,))


@pytest.fixture(scope="module")
def explained(store, run, fooled):
    return answers.result(answers.answers(store, quiet), tasks.EXPLANATION, request(run, fooled[0]))


def stored_pixels(run, sample: str, condition: str = ATTACK) -> np.ndarray:
    block, row = divmod(run.manifest.images.samples.index(sample), run.manifest.block)
    (own,) = [one for one in run.manifest.conditions if one.name == condition]
    return shards.images(run.place, own.folder, block)[row]


def test_a_text_says_the_run_the_model_and_the_condition_and_is_read_back():
    own = engine.attack(f"run:{'ab' * 16}/baseline/{ATTACK}")
    assert engine.attack(own.text) == own
    assert (own.name, own.norm.name, own.strength_text, own.is_control) == ("pgd-linf", "linf", "24/255", False)
    made = engine.attack(f"run:{'ab' * 16}/candidate/red-team")
    assert (made.name, made.epsilon, made.norm.name) == ("red-team", None, "none")
    assert engine.attack(f"run:{'ab' * 16}/candidate/noise-sign:eps=8/255").is_control
    for wrong in (
        "run:",
        "run:12/candidate/x",
        f"run:{'ab' * 16}/judge/x",
        f"run:{'ab' * 16}/candidate/",
        f"run:{'AB' * 16}/candidate/x",
    ):
        with pytest.raises(BadSetting, match="run:RUN/ROLE/CONDITION"):
            engine.attack(wrong)
    with pytest.raises(UnknownName):
        engine.attack(f"run:{'ab' * 16}/candidate/nothing:eps=1/255")


def test_the_explanation_is_of_the_stored_pixels(store, run, fooled, explained):
    sample, label = fooled
    assert np.array_equal(explained.images["adversarial"][0], stored_pixels(run, sample))
    (outcome,) = explained.outcomes
    assert (outcome.sample, outcome.label, outcome.status) == (sample, label, "fooled")
    change = explained.images["adversarial"][0].astype(int) - explained.images["clean"][0]
    assert outcome.linf == pytest.approx(np.abs(change).max() / 255)
    assert outcome.linf <= 24 / 255 + 1e-9
    bundle, dataset = audits.bundle(store.root, "digits-standard"), store.dataset("digits")
    anew = explain.attacked(bundle, dataset, engine.attack(ATTACK), (sample,), 0)
    assert not np.array_equal(np.moveaxis(anew.stored[0], 0, 2), explained.images["adversarial"][0]), "another seed"


def test_noise_judge_and_causal_test_work_as_for_any_attack(store, explained):
    asking = answers.answers(store, quiet)
    lengths = [
        np.linalg.norm((explained.images[side][0].astype(float) - explained.images["clean"][0]).ravel())
        for side in ("adversarial", "noise")
    ]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.1)
    for part in PARTS:
        answers.result(asking, tasks.FAITHFULNESS, FaithfulnessRequest(explained.key, part))
    layer = explained.sites[2].name
    found = answers.result(
        asking, tasks.CAUSAL_TEST, CausalTestRequest(explained.key, MapSet((layer,), ((0, 1, 2),)), "restore")
    )
    assert found.controls


def test_the_key_follows_the_hash_of_the_stored_image(store, run, fooled, monkeypatch):
    asked = request(run, fooled[0])
    key = tasks.EXPLANATION.key(store, asked)
    assert key == tasks.EXPLANATION.key(store, asked)
    monkeypatch.setattr(stored_images, "_hashes", lambda *_: {fooled[0]: "0" * 32})
    assert tasks.EXPLANATION.key(store, asked) != key


def test_a_picture_that_is_not_the_one_judged_is_not_explained(store, run, fooled, tmp_path):
    other = stores.copied(store, tmp_path / "store")
    sample = fooled[0]
    block, row = divmod(run.manifest.images.samples.index(sample), run.manifest.block)
    (own,) = [one for one in run.manifest.conditions if one.name == ATTACK]
    place = other.root / "runs" / run.id / "shards" / f"condition={own.folder}" / f"block={block:05d}" / shards.IMAGES
    pixels = np.load(place)
    pixels[row, 0, 0] ^= 1
    np.save(place, pixels)
    with pytest.raises(StoreError, match="not the one the run judged"):
        stored_images.pictures(other, engine.attack(text(run)), [sample])


def test_what_is_gone_or_does_not_fit_is_one_sentence(store, run, fooled):
    asking = answers.answers(store, quiet)
    sample = fooled[0]
    gone = dataclasses.replace(request(run, sample), attack=engine.attack(f"run:{'0' * 32}/candidate/{ATTACK}"))
    nobody = next(key for key in store.dataset("digits").keys if key not in run.manifest.images.samples)
    for asked, said in (
        (gone, "Run 000000000000 is not in this store any more"),
        (request(run, sample, "fgsm-linf:eps=9/255"), "has no condition 'fgsm-linf:eps=9/255' of its candidate"),
        (dataclasses.replace(request(run, sample), model="digits-robust"), "was 'digits-standard' as it was then"),
        (request(run, nobody), "did not attack sample"),
    ):
        with pytest.raises(BadInput, match=said) as caught:
            asking.ask(tasks.EXPLANATION, asked)
        assert str(caught.value).count(". ") == 0
    group = FooledRequest("digits-robust", "digits", engine.attack(text(run)), (sample,))
    with pytest.raises(BadInput, match="as it was then"):
        asking.ask(tasks.CURVE, group)


def test_a_run_that_kept_no_images_says_so(store):
    lost = planted_runs.finish(store, planted_runs.PLAN.replace("block = 16", "block = 16\nkeep = false"))
    asked = ExplanationRequest(
        "digits-standard", "digits", engine.attack(f"run:{lost.id}/candidate/fgsm-linf:eps=24/255"), ("00000",)
    )
    with pytest.raises(BadInput, match="kept hashes of its images only"):
        answers.answers(store, quiet).ask(tasks.EXPLANATION, asked)
    listing = Auditor(store, audits.Inline(store.root)).audits.images(lost.id, Selection(statuses=("fooled",)))
    rows = images.rows(listing, lost.id, 0, listing.count)
    assert {row["adversarial"] for row in rows} == {""}
    assert {dict(parse_qsl(row["link"]))["attack"] for row in rows} == {"fgsm-linf", "pgd-linf"}


def test_a_plan_takes_no_stored_images(store, run):
    with pytest.raises(WrongPlan, match="no attack that could be planned"):
        audits.planned(store, PLAN.replace(f'"{ATTACK}"', f'"{text(run)}"'))


def test_a_class_ends_as_the_rows_of_the_run_say(store, run, fooled):
    auditor = Auditor(store, audits.Inline(store.root))
    found = auditor.attack_results(
        AttackResultsRequest("digits-standard", "digits", engine.attack(text(run)), fooled[1])
    )
    assert found.state == "ready"
    rows = [
        one
        for one in results.read_table(run.place, ["condition", "sample", "status", "label", "after"]).to_pylist()
        if one["condition"] == ATTACK and one["label"] == fooled[1]
    ]
    assert [(one.sample, one.status, one.after.label) for one in found.value.outcomes] == [
        (one["sample"], one["status"], one["after"]) for one in rows
    ]


def test_a_row_of_the_table_is_a_view_of_explain(store, run, fooled):
    auditor = Auditor(store, audits.Inline(store.root))
    listing = auditor.audits.images(run.id, Selection(statuses=("fooled", "resisted"), is_every_condition=True))
    rows = images.rows(listing, run.id, 0, listing.count)
    assert all(row["link"] for row in rows), "controls too, and whatever the seed"
    row = next(one for one in rows if one["sample"] == fooled[0] and one["condition"] == ATTACK)
    resolved = links.resolve(ViewState.from_dict(dict(parse_qsl(row["link"]))), auditor)
    assert resolved.notices == ()
    assert resolved.request == request(run, fooled[0])
    assert resolved.attack.title == f"{ATTACK}, stored by run {run.manifest.plan.name or run.id[:12]}"
    assert resolved.view.epsilon is None


def test_a_link_to_a_run_that_is_gone_shows_what_is_attacked_anew_and_says_why(store, run, fooled):
    auditor = Auditor(store, audits.Inline(store.root))
    gone = {
        "model": "digits-standard",
        "data": "digits",
        "attack": f"run:{'0' * 32}/candidate/{ATTACK}",
        "sample": "00001",
    }

    view = links._with_run(
        links.Resolved(ViewState.from_dict(gone), (), (), (), auditor.attacks(), ()), auditor, notices := []
    ).view
    assert view.attack is None
    assert notices == [
        "Run 000000000000 is not in this store any more, so its images cannot be shown. Showing what is attacked anew."
    ]
