"""Attacks that run in the cascade leave out what is broken, say so, and come to the same worst case whoever computes them."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

import engine
from engine.audit import manifest, report, results, shards, verify
from engine.audit.manifest import Manifest
from engine.audit.shards import Rows
from engine.errors import StoreError
from engine.store import Store
from tests import audits, stores

WEAK, STRONG, LAST = "fgsm-linf:eps=10/255", "pgd-linf:eps=12/255,steps=5", "mifgsm-linf:eps=14/255,steps=3,decay=1"
FOLDERS = ("01-candidate-fgsm-linf", "02-candidate-pgd-linf", "03-candidate-mifgsm-linf")
COUNT = 12


@pytest.fixture(scope="module")
def filled(small_demo_store, tmp_path_factory):
    """A store with models and data, to be copied."""
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("audit") / "store").root


@pytest.fixture
def store(filled, tmp_path):
    return Store(shutil.copytree(filled, tmp_path / "store"))


def planned(store: Store, attacks: tuple[str, ...], left: tuple[str, ...], block: int = 4) -> Manifest:
    """A plan whose later attacks run on what the earlier ones leave."""
    text = audits.PLAN.replace('"fgsm-linf:eps=24/255"', "").replace("attacks = []", f"attacks = {list(attacks)}")
    plan = audits.planned(store, text.replace("count = 6", f"count = {COUNT}").replace("block = 2", f"block = {block}"))
    return manifest.build(dataclasses.replace(plan.plan, in_cascade=tuple(map(engine.attack, left))), store)


@pytest.fixture(scope="module")
def cascade(filled, tmp_path_factory):
    """A finished run of three attacks, two of them in the cascade."""
    store = Store(shutil.copytree(filled, tmp_path_factory.mktemp("cascade") / "store"))
    run, state, _ = audits.drive(store, planned(store, (WEAK,), (STRONG, LAST)))
    assert state.state == "finished", state.message
    return store, run


@pytest.fixture(scope="module")
def full(filled, tmp_path_factory):
    """The same attacks, each on every image."""
    store = Store(shutil.copytree(filled, tmp_path_factory.mktemp("full") / "store"))
    run, state, _ = audits.drive(store, planned(store, (WEAK, STRONG, LAST), ()))
    assert state.state == "finished", state.message
    return run


def gathered(run) -> dict[str, Rows]:
    return results.gathered(run.place, run.manifest)


def fooled(held: Rows) -> set[str]:
    return {sample for sample, status in zip(held.samples, held.status, strict=True) if status == "fooled"}


def test_an_attack_on_cascade_leaves_out_exactly_what_was_fooled_before(cascade):
    _, run = cascade
    found, before = gathered(run), set()
    for folder in FOLDERS:
        held = found[folder]
        spared = {sample for sample, status in zip(held.samples, held.status, strict=True) if status == "broken_before"}
        assert spared == before
        for k in np.flatnonzero(np.isin(held.samples, list(spared))):
            assert (held.linf[k], held.after[k], held.is_scored[k]) == (0, held.before[k], False)
            assert (
                held.image_hashes[k] == run.manifest.images.hashes[run.manifest.images.samples.index(held.samples[k])]
            )
        before |= fooled(held)
    assert fooled(found[FOLDERS[0]]) and fooled(found[FOLDERS[1]]), "each stage must have something to break"


def test_what_is_attacked_fares_as_if_every_image_had_been(cascade, full):
    _, run = cascade
    for folder, own in gathered(run).items():
        other = gathered(full)[folder]
        for k, status in enumerate(own.status):
            if status != "broken_before":
                assert (status, own.image_hashes[k]) == (other.status[k], other.image_hashes[k])


def test_the_worst_case_is_that_of_all_attacks_on_all_images(cascade, full):
    _, run = cascade
    own, other = (results.read_summary(item.place, item.manifest).models[0].worst_case for item in (run, full))
    assert (own.accuracy, own.resistance) == (other.accuracy, other.resistance)
    assert own.statuses == other.statuses
    assert own.statuses["broken_before"] == 0


def test_accuracy_under_an_attack_on_cascade_counts_what_was_broken_before(cascade):
    _, run = cascade
    clean, weak, strong, last = results.read_summary(run.place, run.manifest).models[0].conditions
    assert [item.is_cumulative for item in (clean, weak, strong, last)] == [False, False, True, True]
    assert {item.accuracy.n for item in (clean, weak, strong, last)} == {COUNT}
    assert strong.statuses["broken_before"] == weak.statuses["fooled"]
    assert last.accuracy == results.read_summary(run.place, run.manifest).models[0].worst_case.accuracy
    left = clean.accuracy.value - (weak.statuses["fooled"] + strong.statuses["fooled"]) / COUNT
    assert strong.accuracy.value == pytest.approx(left)


def test_the_table_says_what_was_not_attacked(cascade):
    _, run = cascade
    found = results.read_summary(run.place, run.manifest)
    told = report.text(run, run.state(), found)
    count = found.models[0].conditions[2].statuses["broken_before"]
    assert f"{count} not attacked: broken already" in told
    assert told.count("(in the cascade)") == 2
    assert "count as broken here too" in told


@pytest.mark.parametrize("block", [1, 5, COUNT])
def test_blocks_of_any_size_give_the_same_answers(store, cascade, block):
    run, state, _ = audits.drive(store, planned(store, (WEAK,), (STRONG, LAST), block))
    assert state.state == "finished", state.message
    for folder, own in gathered(cascade[1]).items():
        other = gathered(run)[folder]
        assert (own.status, own.image_hashes, own.samples) == (other.status, other.image_hashes, other.samples)


def test_the_order_in_which_shards_are_made_changes_nothing(store, cascade):
    seen = []

    def first_time_only_unbroken(task):
        seen.append(task["key"])
        return seen.count(task["key"]) > 1 or not task["request"]["condition"].startswith("01")

    run, state, workers = audits.drive(store, planned(store, (WEAK,), (STRONG, LAST)), first_time_only_unbroken)
    assert state.state == "finished", state.message
    assert audits.tables(run.place) == audits.tables(cascade[1].place)
    done = [(item["request"]["block"], item["request"]["condition"]) for item in workers.submitted]
    for block in range(run.manifest.blocks):
        order = [condition for own, condition in done if own == block and condition in FOLDERS]
        assert order == [FOLDERS[0], *FOLDERS], "an attack on survivors waits for those before it"


def test_a_block_that_cannot_be_attacked_ends_the_run_instead_of_hanging_it(store):
    _, state, workers = audits.drive(
        store, planned(store, (WEAK,), (STRONG, LAST)), lambda task: not task["request"]["condition"].startswith("01")
    )
    assert state.state == "interrupted"
    assert not [item for item in workers.submitted if item["request"]["condition"] in FOLDERS[1:]]


def test_a_missing_or_damaged_shard_before_it_is_never_taken_for_nothing_broken(cascade, tmp_path):
    store = Store(shutil.copytree(cascade[0].root, tmp_path / "store"))
    run = type(cascade[1]).open(store, cascade[1].id)
    condition = run.manifest.conditions[2]
    assert shards.broken(run.place, condition, range(run.manifest.blocks)) == fooled(gathered(run)[FOLDERS[0]])
    file = run.place.shard(FOLDERS[0], 1) / shards.ROWS
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="Block 1 of 01-candidate-fgsm-linf is missing or damaged"):
        shards.broken(run.place, condition, [1])
    shutil.rmtree(run.place.shard(FOLDERS[0], 1))
    with pytest.raises(StoreError, match="missing or damaged"):
        shards.broken(run.place, condition, [1])


def test_verify_computes_cascade_again(cascade):
    store, run = cascade
    found = verify.verify(store, run.id, images=5, seed=1)
    assert found.is_sound, verify.text(found)
    assert {item.same_pixels for item in found.replicated} == {5}


def test_a_targeted_attack_says_what_it_aimed_at(store):
    plain, targeted = "mifgsm-linf:eps=8/255,steps=2", "mifgsm-linf:eps=8/255,steps=2,target=next"
    run, state, _ = audits.drive(store, planned(store, (plain, targeted), ()))
    assert state.state == "finished", state.message
    found = gathered(run)
    aimed = found["02-candidate-mifgsm-linf"]
    right = aimed.before == aimed.labels
    assert set(found["01-candidate-mifgsm-linf"].targets) == {shards.NO_TARGET}
    assert np.array_equal(aimed.targets[right], (aimed.labels[right] + 1) % 10)
