"""Where attacks take hold in a run: numbers as its rows add up to with pandas alone, and a planted map that is found."""

from __future__ import annotations

import dataclasses
import re
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats

from engine import Scope
from engine.audit import inside, shards
from engine.audit.inside import Question
from engine.audit.shards import Cube, Part
from engine.errors import BadInput, StoreError, UnknownName
from engine.service import driver
from engine.service.answers import Answers
from tests import audits, planted_runs, stores

ATTACKS = (1, 2)


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("inside") / "store")


@pytest.fixture(scope="module")
def run(store):
    return planted_runs.finish(store)


@pytest.fixture(scope="module")
def runs(store):
    return driver.Runs(Answers(store, audits.Inline(store.root)))


def kept(run, role, places, measure, *, status, classes=()):
    """Rows of some conditions with one column per feature map, read from the shards' Parquet."""
    conditions = [run.manifest.of(role)[place] for place in places]
    table = pd.concat(
        pq.read_table(run.place.shard(one.folder, block) / "rows.parquet").to_pandas()
        for one in conditions
        for block in range(run.manifest.blocks)
    )
    table = table[table["status"].isin(status)]
    table = table[table["label"].isin(classes)] if classes else table
    columns = sorted(name for name in table.columns if re.fullmatch(rf"{measure}_\d+", name))
    return table["label"].to_numpy(), [np.stack(table[name].to_list()).astype(np.float64) for name in columns]


@pytest.mark.parametrize("role", ["candidate", "baseline"])
@pytest.mark.parametrize(("attacks", "classes"), [((), ()), ((1,), (3, 5, 8)), ((1, 2), (0,))])
def test_layers_are_the_means_of_the_rows(run, runs, role, attacks, classes):
    found = runs.inside(run.id, Scope(role, attacks, classes))
    controls = [place for place, one in enumerate(run.manifest.of(role)) if one.kind == "control"]
    maps = run.manifest.model(role).maps
    ask = {"classes": classes}
    labels, flow = kept(run, role, attacks or ATTACKS, "flow", status=["fooled"], **ask)
    _, score = kept(run, role, attacks or ATTACKS, "score", status=["fooled"], **ask)
    _, clean = kept(run, role, (0,), "score", status=["unperturbed"], **ask)
    noisy, noise = kept(run, role, controls, "flow", status=["resisted"], **ask)
    _, noise_score = kept(run, role, controls, "score", status=["resisted"], **ask)
    assert (found.n, found.noise_n, found.clean_n) == (len(labels), len(noisy), len(clean[0]))
    for k, layer in enumerate(found.layers):
        assert layer.flow == pytest.approx(flow[k].sum(axis=1).mean() / maps, abs=1e-12)
        assert layer.noise_flow == pytest.approx(noise[k].sum(axis=1).mean() / maps, abs=1e-12)
        base = np.abs(clean[k]).sum(axis=1).mean()
        assert layer.score == pytest.approx((np.abs(score[k]).sum(axis=1).mean() - base) / maps, abs=1e-12)
        assert layer.noise_score == pytest.approx((np.abs(noise_score[k]).sum(axis=1).mean() - base) / maps, abs=1e-12)


def test_classes_are_normalised_sums_of_their_rows(run, runs):
    found = runs.inside(run.id, Scope())
    labels, flow = kept(run, "candidate", ATTACKS, "flow", status=["fooled"])
    assert planted_runs.EMPTY not in [one.label for one in found.classes]
    assert (len(found.classes), found.with_images) == (9, 9)
    for own in found.classes:
        assert own.n == (labels == own.label).sum()
        layers = np.array([site[labels == own.label].sum() for site in flow])
        np.testing.assert_allclose(own.layers, layers / np.abs(layers).sum(), atol=1e-9)


@pytest.mark.parametrize(("attacks", "classes"), [((1,), ()), ((1, 2), ()), ((1, 2), (3, 8))])
def test_a_map_has_the_interval_and_the_test_of_its_rows(run, runs, attacks, classes):
    """An image that met two attacks, or two noises, counts once: its values may all agree."""
    found = runs.inside(run.id, Scope(attacks=attacks, classes=classes))
    values, noise = (
        np.concatenate(kept(run, "candidate", places, "flow", status=[status], classes=classes)[1], axis=1)
        for places, status in ((attacks, "fooled"), (found.controls, "resisted"))
    )
    images, noisy = len(values) / len(attacks), len(noise) / len(found.controls)
    names = [(name, k) for name, count in run.manifest.model("candidate").sites for k in range(count)]
    p_values = stats.ttest_ind_from_stats(
        values.mean(axis=0), values.std(axis=0, ddof=1), images, noise.mean(axis=0), noise.std(axis=0, ddof=1), noisy,
        equal_var=False, alternative="greater",
    ).pvalue  # fmt: skip
    steps = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    adjusted = dict(zip(np.argsort(p_values), np.minimum(1, np.maximum.accumulate(steps)), strict=True))
    assert [one.flow.value for one in found.maps] == pytest.approx(sorted(values.mean(axis=0))[::-1][: len(found.maps)])
    for one in found.maps:
        place = names.index((one.layer, one.channel))
        own = values[:, place]
        low, high = stats.t.interval(0.95, images - 1, own.mean(), own.std(ddof=1) / np.sqrt(images))
        assert (one.flow.low, one.flow.high, one.flow.n) == pytest.approx((low, high, len(own)), abs=1e-7)
        assert one.noise.value == pytest.approx(noise[:, place].mean())
        assert one.p_value == pytest.approx(adjusted[place], rel=1e-5)
        layer = [k for k, (name, _) in enumerate(names) if name == one.layer]
        assert one.layer_mean == pytest.approx(values[:, layer].mean(), abs=1e-9)


def test_the_planted_map_is_named_first_and_its_classes_cluster(run, runs):
    found = runs.inside(run.id, Scope())
    layer = run.manifest.model("candidate").sites[planted_runs.LAYER][0]
    assert (found.maps[0].layer, found.maps[0].channel) == (layer, planted_runs.CHANNEL)
    assert found.clusters.is_better, found.clusters
    clusters = {own.label: own.cluster for own in found.classes}
    assert len({clusters[label] for label in planted_runs.CLASSES}) == 1
    others = {cluster for label, cluster in clusters.items() if label not in planted_runs.CLASSES}
    assert clusters[planted_runs.CLASSES[0]] not in others
    assert set(clusters.values()) == {1, 2}, "cut where joining costs most"
    own = runs.inside(run.id, Scope(classes=planted_runs.CLASSES))
    assert own.maps[0].p_value < 0.05 < own.maps[1].p_value
    assert own.clusters is None, "two classes have no tree to compare"


@pytest.mark.parametrize("causes", [0, 1, 3])
def test_classes_that_differ_by_chance_are_not_said_to_cluster(causes):
    """Also where a few causes make layers vary together, as they do in a network."""
    mixing = np.random.default_rng(99).normal(size=(causes, 13))
    p_values = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        own = generator.normal(size=(10, 13)) * (0.3 if causes else 1)
        p_values.append(inside.clustered(own + generator.normal(size=(10, causes)) @ mixing).p_value)
    assert sum(p_value <= inside.BY_CHANCE for p_value in p_values) <= 4, p_values
    assert inside.clustered(np.ones((5, 3))).p_value == 1


def test_a_class_without_images_says_zero(run, runs):
    found = runs.inside(run.id, Scope(classes=(planted_runs.EMPTY,)))
    assert (found.n, found.layers, found.classes, found.maps) == (0, (), (), ())
    assert runs.inside(run.id, Scope(classes=(planted_runs.EMPTY,), group="kept")).n == 8


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        (Scope(attacks=(0,)), "Condition 0 of this run is no attack; attacks are 1, 2"),
        (Scope(classes=(10,)), "classes 0 to 9, got 10"),
    ],
)
def test_what_is_not_there_is_named(run, runs, scope, says):
    with pytest.raises(BadInput, match=says):
        runs.inside(run.id, scope)


def test_a_run_without_scores_and_none_say_why_and_a_stopped_one_shows_what_it_has(store, runs):
    plan = planted_runs.PLAN.replace('method = "gradient"', 'method = "none"')
    with pytest.raises(BadInput, match="'none'"):
        runs.inside(planted_runs.finish(store, plan).id, Scope())
    half = audits.drive(store, audits.planned(store, audits.PLAN), lambda task: task["request"]["block"] == 0)[0]
    assert runs.inside(half.id, Scope()).n == 2
    with pytest.raises(BadInput, match="no baseline"):
        runs.inside(half.id, Scope("baseline"))
    with pytest.raises(UnknownName):
        runs.inside("0" * 32, Scope())


def test_a_run_without_noise_has_no_floor(store, runs):
    run = planted_runs.finish(store, planted_runs.PLAN.replace("controls = true", "controls = false"))
    found = runs.inside(run.id, Scope())
    assert (found.controls, found.noise_n) == ((), 0)
    assert {one.noise_flow for one in found.layers} == {one.noise_score for one in found.layers} == {None}
    assert {one.noise for one in found.maps} == {one.p_value for one in found.maps} == {None}


@pytest.mark.parametrize("what", inside.FILES)
def test_a_damaged_and_a_missing_file_of_the_cube_are_named(store, tmp_path, what, run):
    own = stores.copied(store, tmp_path / "store")
    runs, path = driver.Runs(Answers(own, audits.Inline(own.root))), f"cube-candidate-{what}.npy"
    file = own.root / "runs" / run.id / "result" / path
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match=f"{path} of the run's result is damaged"):
        runs.inside(run.id, Scope())
    file.unlink()
    with pytest.raises(StoreError, match=f"{path} of the run's result is missing"):
        runs.inside(run.id, Scope())
    file.write_bytes(content)
    assert runs.inside(run.id, Scope()).n


def test_a_large_cube_is_never_walked_in_python(tmp_path):
    generator = np.random.default_rng(0)

    def parts():
        for place in range(6 * 20):
            sums = generator.normal(size=(1, 2, 5000))
            yield place // 20, Part(np.array([[place % 2, place // 2 % 10]]), np.array([60.0]), sums, 99 + sums**2)

    shards.merge(tmp_path, "candidate", (6, 10, 5000), parts())
    sites = tuple((f"layer{k}", 100) for k in range(50))
    question = Question(Scope(), sites, 0, (1, 2, 3), (4, 5))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        found = inside.measured(Cube(tmp_path, "candidate"), question)
        seconds.append(time.process_time() - started)
    assert len(found.maps) == inside.MOST_MAPS
    assert min(seconds) < 0.5, "ten times what it takes: only work per image or per map in Python takes that"
    assert dataclasses.asdict(found)["tested"] == 5000
