"""The tables of a run for notebooks say what its Parquet files say, computed by hand."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats

from engine import results
from engine.audit import results as files
from engine.errors import BadInput, UnknownName
from tests import audits

FGSM = "fgsm-linf:eps=24/255"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = audits.fill(tmp_path_factory.mktemp("results") / "store")
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "finished"
    return store, run


@pytest.fixture(scope="module")
def opened(finished):
    store, run = finished
    return results.open(store.root, run.id[:12])


@pytest.fixture(scope="module")
def rows(finished):
    """What lies in the run's one table, read with pyarrow alone."""
    return pq.read_table(finished[1].place.result / files.TABLE).to_pandas()


def test_rows_conditions_and_thresholds_are_those_of_the_files(opened, rows):
    assert opened.rows["sample"].tolist() == rows["sample"].tolist()
    assert opened.rows["image_hash"].tolist() == rows["image_hash"].tolist()
    fooled = rows[(rows["role"] == "candidate") & (rows["condition"] == FGSM)]["status"].eq("fooled").sum()
    own = opened.conditions
    assert own[(own["role"] == "candidate") & (own["name"] == FGSM)]["fooled"].item() == fooled
    assert len(opened.thresholds) == len(opened.run.manifest.plan.thresholds)
    assert opened.rows is opened.rows, "read once"


def test_confusion_counts_every_image_once(opened, rows):
    table = opened.confusion(FGSM)
    own = rows[(rows["role"] == "candidate") & (rows["condition"] == FGSM)]
    assert table.to_numpy().sum() == len(own)
    classes = opened.run.manifest.classes
    for true, after in zip(own["label"], own["after"], strict=True):
        assert table.loc[classes[true], classes[after]] >= 1
    assert list(table.index) == list(table.columns) == list(classes)


@pytest.mark.parametrize("group", ["fooled", "kept"])
def test_maps_are_means_over_the_images_of_the_shards(opened, group):
    place, manifest = opened.run.place, opened.run.manifest
    (condition,) = [one for one in manifest.of("candidate") if one.name == FGSM]
    held = pd.concat(
        pq.read_table(place.shard(condition.folder, block) / "rows.parquet").to_pandas()
        for block in range(manifest.blocks)
    )
    chosen = held[held["status"] == {"fooled": "fooled", "kept": "resisted"}[group]]
    table = opened.maps(FGSM, group=group)
    assert table["n"].unique().tolist() == [len(chosen)]
    if not len(chosen):
        assert table[["score", "flow"]].eq(0).all(axis=None)
        return
    for measure, change in (("score", np.abs), ("flow", lambda values: values)):
        columns = sorted(name for name in held.columns if re.fullmatch(rf"{measure}_\d+", name))
        assert columns, held.columns
        values = np.concatenate([np.stack(chosen[name].to_list()) for name in columns], axis=1).astype(np.float64)
        values = change(values)
        np.testing.assert_allclose(table[measure], values.mean(axis=0), atol=1e-9)
        if len(chosen) > 1:
            low, high = stats.t.interval(0.95, len(chosen) - 1, values.mean(axis=0), stats.sem(values, axis=0))
            np.testing.assert_allclose(
                table[f"{measure}_low"], np.where(np.isnan(low), values.mean(axis=0), low), atol=1e-7
            )
            np.testing.assert_allclose(
                table[f"{measure}_high"], np.where(np.isnan(high), values.mean(axis=0), high), atol=1e-7
            )


def test_classes_are_chosen_by_name(opened):
    names = opened.run.manifest.classes
    every, first = opened.maps(FGSM), opened.maps(FGSM, classes=[names[0]])
    rest = opened.maps(FGSM, classes=list(names[1:]))
    assert first["n"].iloc[0] + rest["n"].iloc[0] == every["n"].iloc[0]
    nothing = opened.maps("clean", classes=[names[0]], group="fooled")
    assert nothing["n"].eq(0).all()
    assert nothing["score_low"].isna().all()


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda run: run.maps("pgd"), UnknownName, "pgd"),
        (lambda run: run.maps(FGSM, classes=["x"]), UnknownName, "x"),
        (lambda run: run.maps(FGSM, group="all"), BadInput, "fooled, kept"),
        (lambda run: run.confusion(FGSM, role="judge"), UnknownName, "condition"),
    ],
)
def test_what_is_not_there_is_named(opened, ask, error, says):
    with pytest.raises(error, match=says):
        ask(opened)


def test_a_run_without_scores_says_so(finished):
    store, _ = finished
    text = audits.PLAN.replace('method = "gradient"', 'method = "none"')
    assert text != audits.PLAN
    run, state, _ = audits.drive(store, audits.planned(store, text))
    assert state.state == "finished", state.message
    with pytest.raises(BadInput, match="not scored"):
        results.open(store, run.id).maps(FGSM)
