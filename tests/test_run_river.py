"""The river of a run: its datapaths, floors and connections as its Parquet rows and its stored images give them again."""

from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from engine import Scope
from engine.attribution import baselines, datapaths, explain
from engine.attribution.baselines import Case
from engine.audit import connections, manifest, river, shards, verify
from engine.audit.runs import Run
from engine.errors import BadInput, StoreError
from engine.hashing import Schema
from engine.service import driver
from engine.service.answers import Answers
from engine.store import Store
from tests import audits, planted_runs, stores

PLAN = (
    audits.PLAN.replace(
        'attacks = ["fgsm-linf:eps=24/255"]', 'attacks = ["fgsm-linf:eps=8/255", "pgd-linf:eps=24/255,steps=3"]'
    )
    .replace("controls = false", "controls = true")
    .replace("count = 6\nblock = 2", "count = 20\nblock = 8")
)
SHARE = 0.2


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("river") / "store")


@pytest.fixture(scope="module")
def run(store, one_thread):
    run, state, _ = audits.drive(store, audits.planned(store, PLAN))
    assert state.state == "finished", state.message
    return run


@pytest.fixture(scope="module")
def runs(store):
    return driver.Runs(Answers(store, audits.Inline(store.root)))


def rows(run, places, status, role="candidate"):
    """Rows of some conditions, from the shards' Parquet: a table with one column of scores per site."""
    own = [run.manifest.of(role)[place] for place in places]
    table = pd.concat(
        pq.read_table(run.place.shard(one.folder, block) / "rows.parquet").to_pandas()
        for one in own
        for block in range(run.manifest.blocks)
    )
    return table[table["status"].isin(status) & table["is_scored"]]


def strength(table, weights=None):
    """Per site the mean |score|: over all rows, or over the means of classes with their weights."""
    names = sorted(name for name in table.columns if re.fullmatch(r"score_\d+", name))
    if weights is None:
        return [np.abs(np.stack(table[name]).astype(float)).mean(axis=0) for name in names]
    known = {label: part for label, part in table.groupby("label") if weights.get(label)}
    total = sum(weights[label] for label in known)
    return [
        sum(weights[label] * np.abs(np.stack(part[name]).astype(float)).mean(axis=0) for label, part in known.items())
        / total
        for name in names
    ]


def kept(site):
    order = sorted(range(len(site)), key=lambda k: (-site[k], k))
    return set(order[: max(1, round(SHARE * len(site)))])


def controls(run):
    return [place for place, one in enumerate(run.manifest.of("candidate")) if one.kind == "control"]


@pytest.mark.parametrize("scope", [Scope(), Scope(attacks=(1,), classes=(1, 3, 4, 8)), Scope(group="kept")])
def test_bars_distances_and_floors_are_those_of_the_rows(run, runs, scope):
    found = runs.river(run.id, scope, SHARE)
    status = {"fooled": ["fooled"], "kept": ["resisted"]}[scope.group]
    attacked = rows(run, scope.attacks or (1, 2), status)
    attacked = attacked[attacked["label"].isin(scope.classes or range(10))]
    assert found.inside.n == len(attacked) == found.comparison.images > 0
    weights = attacked["label"].value_counts().to_dict()
    adversarial = list(map(kept, strength(attacked)))
    clean = list(map(kept, strength(rows(run, (0,), ["unperturbed"]), weights)))
    noises = [list(map(kept, strength(rows(run, (place,), ["resisted"]), weights))) for place in controls(run)]
    assert len(noises) == 3
    for k, site in enumerate(found.comparison.sites):
        assert set(site.shared) == clean[k] & adversarial[k]
        assert set(site.clean_only) == clean[k] - adversarial[k]
        assert set(site.adversarial_only) == adversarial[k] - clean[k]
        assert site.distance == pytest.approx(1 - len(clean[k] & adversarial[k]) / len(clean[k] | adversarial[k]))
        floors = [1 - len(clean[k] & own[k]) / len(clean[k] | own[k]) for own in noises]
        assert (site.floor_low, site.floor_high) == pytest.approx((min(floors), max(floors)))
        assert set(site.noise_also) == (adversarial[k] - clean[k]) & set.union(*(own[k] for own in noises))
        assert site.flow == found.inside.layers[k].flow
        assert site.flow_floor == abs(found.inside.layers[k].noise_flow)


def test_the_classes_fooled_into_are_weighed_by_the_images(run, runs):
    found = runs.river(run.id, Scope(), SHARE)
    attacked = rows(run, (1, 2), ["fooled"])
    clean = rows(run, (0,), ["unperturbed"])
    weights = attacked["after"].value_counts().to_dict()
    present = set(clean["label"]) & set(weights)
    into, adversarial = list(map(kept, strength(clean, weights))), list(map(kept, strength(attacked)))
    assert found.into.n == sum(weights[label] for label in present)
    assert found.into.clean_n == clean["label"].isin(present).sum()
    assert found.into.classes == len(present)
    assert found.into.likeness == pytest.approx(
        [len(a & b) / len(a | b) for a, b in zip(into, adversarial, strict=True)]
    )
    assert [set(one.clean_only) for one in found.into.comparison.sites] == [
        a - b for a, b in zip(into, adversarial, strict=True)
    ]
    assert runs.river(run.id, Scope(group="kept"), SHARE).into is None


def explained(store, run, place, name):
    """The connections of one stored image under a condition, by the walk of an explanation, whole matrices by link."""
    bundle, own = audits.bundle(store.root, "digits-standard"), run.manifest
    (condition,) = [one for one in own.of("candidate") if one.name == name]
    held = store.dataset("digits")
    block, row = divmod(place, own.block)
    stored = torch.tensor(np.array(shards.images(run.place, condition.folder, block)[row])).permute(2, 0, 1)[None] / 255
    clean = torch.tensor(np.array(held.images((own.images.samples[place],)))).permute(0, 3, 1, 2) / 255
    before, after = (bundle.logits(images).argmax(1).detach() for images in (clean, stored))
    sides = Case(clean, before), Case(stored, after)
    played = frozenset({own.images.labels[place], int(before), int(after)})
    references = baselines.references(bundle, held, sides[1], avoid=played, seed=own.plan.seed)
    found = datapaths.with_edges(bundle, sides[1], references, method=own.plan.method, seed=own.plan.seed)
    head = explain.head(bundle, sides[1], references, sides)
    return {
        (link.source, link.target): (head.matrices[link.source] if link.target == len(bundle.sites) else
                                     found.matrices[link.source, link.target]).numpy()
        for link in bundle.links
    }  # fmt: skip


@pytest.mark.parametrize("classes", [(), (1, 2, 3, 4, 5, 7)])
def test_connections_are_means_over_the_sampled_images(store, run, runs, classes):
    """Made again from the stored images alone, one after another."""
    scope = Scope(attacks=(2,), classes=classes)
    found = runs.river(run.id, scope, SHARE)
    assert not found.without
    names = [one.name for one in run.manifest.of("candidate")]
    for side, place, status in (("clean", 0, "unperturbed"), ("adversarial", 2, "fooled")):
        table = rows(run, (place,), [status])
        sampled = [
            k for k in run.manifest.connected
            if run.manifest.images.samples[k] in set(table["sample"]) and (not classes or run.manifest.images.labels[k] in classes)
        ]  # fmt: skip
        assert found.connected[side] == len(sampled) > 0
        again = [explained(store, run, k, names[place]) for k in sampled]
        for link, connection in zip(found.links, found.connections, strict=True):
            whole = connection.whole(side, found.sites[link.source].channels)
            expected = np.mean([one[link.source, link.target] for one in again], axis=0)
            np.testing.assert_allclose(whole, expected, atol=1e-4 * np.abs(expected).max() + 1e-7)


def test_the_sample_is_in_the_manifest_and_holds_every_class(run):
    assert len(run.manifest.connected) == manifest.FEWEST_CONNECTED
    assert list(run.manifest.connected) == sorted(set(run.manifest.connected))
    assert len({run.manifest.images.labels[k] for k in run.manifest.connected}) >= 7
    assert audits.planned(Store(run.place.folder.parent.parent), PLAN).connected == run.manifest.connected


def test_two_workers_and_verification_agree_on_the_connections(store, run, tmp_path):
    own = stores.copied(store, tmp_path / "store")
    shutil.rmtree(own.root / "runs")
    again, _, _ = audits.drive(own, audits.planned(own, PLAN))
    assert audits.tables(again.place) == audits.tables(run.place)
    assert "result/connections-candidate-sums.npy" in audits.tables(run.place)


@pytest.mark.parametrize(
    "what", ["connections-candidate-sums.npy", "connections-candidate.json", "connections-candidate-sources.npy"]
)
def test_a_damaged_file_of_connections_is_named_and_the_bars_stand(store, run, tmp_path, what):
    own = stores.copied(store, tmp_path / "store")
    file = own.root / "runs" / run.id / "result" / what
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = driver.Runs(Answers(own, audits.Inline(own.root))).river(run.id, Scope(), SHARE)
    assert found.connections == () and f"{what} of the run's result is damaged" in found.without
    assert found.comparison.sites[0].shared
    assert f"{what} differs from what was sealed" in verify.verify(own, run.id, images=0, seed=0).damaged


def test_a_damaged_part_of_a_shard_is_named_and_made_again(store, run, tmp_path):
    own = stores.copied(store, tmp_path / "store")
    again = Run.open(own, run.id)
    block = run.manifest.connected[0] // run.manifest.block
    file = again.place.shard(run.manifest.of("candidate")[0].folder, block) / connections.PART
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    (said,) = verify.verify(own, run.id, images=0, seed=0).damaged
    assert f"{connections.PART} differs from what was written" in said
    with pytest.raises(StoreError, match="cannot be read"):
        connections.read_part(file)
    shutil.rmtree(again.place.result)
    again.drive(audits.Inline(own.root), driver.shard_task, lambda _state: None)
    assert file.read_bytes() == content


def test_a_run_of_a_version_without_connections_goes_on_and_is_drawn_without_bands(store, tmp_path):
    own = stores.copied(store, tmp_path / "store")
    shutil.rmtree(own.root / "runs", ignore_errors=True)
    planned = audits.planned(own, PLAN)
    older = manifest.unconnected(planned)
    assert b"connected" not in manifest.text(older)
    half, state, _ = audits.drive(own, older, lambda task: task["request"]["block"] == 0)
    assert state.state != "finished"
    taken = Run.of(own, planned)
    assert taken.id == half.id
    taken.drive(audits.Inline(own.root), driver.shard_task, lambda _state: None)
    assert not list(taken.place.folder.rglob("*connections*"))
    found = driver.Runs(Answers(own, audits.Inline(own.root))).river(taken.id, Scope(), SHARE)
    assert found.without == river.NOT_STORED
    assert found.inexact == {}
    assert verify.verify(own, taken.id, images=1, seed=0).is_sound
    assert Run.of(own, dataclasses.replace(planned, block=4)).id != half.id


def test_numbers_of_older_runs_are_the_same_to_the_last_bit(store, run, tmp_path):
    own = stores.copied(store, tmp_path / "store")
    shutil.rmtree(own.root / "runs")
    older, _, _ = audits.drive(own, manifest.unconnected(run.manifest))
    old, new = audits.tables(older.place), audits.tables(run.place)
    rows = {
        name: content for name, content in new.items() if name.startswith("result/cube") or name.endswith("_cube.npz")
    }
    assert rows and {name: old[name] for name in rows} == rows


def test_a_planted_map_is_in_the_adversarial_datapath_of_its_classes(store, tmp_path):
    own = stores.copied(store, tmp_path / "store")
    planted = planted_runs.finish(own)
    runs = driver.Runs(Answers(own, audits.Inline(own.root)))
    found = runs.river(planted.id, Scope(classes=planted_runs.CLASSES), SHARE)
    rows = found.comparison.sites
    assert planted_runs.CHANNEL in rows[planted_runs.LAYER].adversarial_only
    assert planted_runs.CHANNEL not in rows[planted_runs.LAYER].noise_also
    others = runs.river(planted.id, Scope(classes=(0, 1)), SHARE)
    assert planted_runs.CHANNEL not in others.comparison.sites[planted_runs.LAYER].adversarial_only
    largest = max(found.sites, key=lambda site: abs(rows[found.sites.index(site)].flow))
    assert found.sites.index(largest) == planted_runs.LAYER


def test_what_cannot_be_drawn_says_why(run, runs, store):
    with pytest.raises(BadInput, match=r"above 0 and at most at 0\.5, got 0\.9"):
        runs.river(run.id, Scope(), 0.9)
    with pytest.raises(BadInput, match="Condition 0 of this run is no attack"):
        runs.river(run.id, Scope(attacks=(0,)), SHARE)


def test_a_part_of_another_schema_is_refused(run, tmp_path, monkeypatch):
    block = run.manifest.connected[0] // run.manifest.block
    part = connections.read_part(run.place.shard(run.manifest.of("candidate")[0].folder, block) / connections.PART)
    with monkeypatch.context() as patched:
        patched.setattr(connections.Sampled, "SCHEMA", Schema("run-connections-part/9"))
        connections.write_part(tmp_path / "a.npz", part)
    with pytest.raises(StoreError, match="holds 'run-connections-part/9', and this Faultline looks for"):
        connections.read_part(tmp_path / "a.npz")
