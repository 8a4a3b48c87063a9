"""Tables of runs and evaluations say what their JSON says, row by row, and go to CSV whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from engine import __main__ as command_line
from engine import serialization
from engine.audit import frames, results
from engine.audit.runs import Run
from engine.errors import BadInput, UnknownName
from engine.types.faithfulness import FAITHFULNESS_SIZES
from tests import audits, fake_studies


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = audits.fill(tmp_path_factory.mktemp("frames") / "store")
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "finished"
    return store, run.id


def test_there_is_a_row_per_image_and_condition(finished):
    store, run = finished
    opened = Run.open(store, run)
    table = frames.images(store, run)
    assert len(table) == len(opened.manifest.conditions) * len(opened.manifest.images.samples)
    sealed = results.read_table(opened.place, ["sample", "status", "after"]).to_pandas()
    assert table["sample"].tolist() == sealed["sample"].tolist()
    assert table["status"].tolist() == sealed["status"].tolist()
    classes = opened.manifest.classes
    assert table["after"].tolist() == [classes[place] for place in sealed["after"]]


def test_rates_follow_from_the_rows_of_the_images(finished):
    rows, table = frames.images(*finished), frames.conditions(*finished)
    attack = table[(table["kind"] == "attack") & (table["role"] == "candidate")].iloc[0]
    own = rows[(rows["role"] == "candidate") & (rows["condition"] == attack["name"])]
    assert attack["attempted"] == len(own)
    assert attack["fooled"] == (own["status"] == "fooled").sum()
    assert attack["accuracy"] == pytest.approx((own["after"] == own["true_class"]).mean())
    assert attack["accuracy_low"] <= attack["accuracy"] <= attack["accuracy_high"]


def test_thresholds_stand_with_what_they_decide(finished):
    table = frames.thresholds(*finished)
    assert set(table["outcome"]) <= {"pass", "fail", "inconclusive"}
    assert len(table) == len(Run.open(*finished).manifest.plan.thresholds)


def test_an_evaluation_has_a_row_per_method_question_and_size():
    group = {"restored": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3], "wrong_class": None}
    found = {
        "kept": [0.1, 0.3], "maps": [8, 16],
        "methods": [{"name": "two-run", "restore": group, "sufficient": {"agreement": [0.5, 0.9]}}],
        "rankings": [{"name": "flow/layer", "largest_at": 8, **group}],
    }  # fmt: skip
    table = frames.evaluation(found)
    assert table[["question", "size"]].values.tolist() == [
        ["sufficient", 0.1], ["sufficient", 0.3], ["restore", 8], ["restore", 16], ["ranking", 8], ["ranking", 16],
    ]  # fmt: skip
    assert table.loc[table["question"] == "restore", "restored"].tolist() == [0.1, 0.2]


def test_faithfulness_has_a_row_per_method_intervention_choice_and_size():
    row = {"name": "two-run", "measures": serialization.flatten(fake_studies.measures()).value}
    row["measures"]["sizes"] = list(FAITHFULNESS_SIZES)
    table = frames.faithfulness({"methods": [row, {"name": "random"}]})
    assert len(table) == 2 * 2 * len(FAITHFULNESS_SIZES)
    last = table[(table["intervention"] == "noising") & (table["choice"] == "random")].iloc[-1]
    assert (last["size"], last["maps"], last["faithfulness"], last["cpr"]) == (1.0, 156, 0.6, 0.3)
    assert last["low"] < last["faithfulness"] < last["high"]


def test_export_writes_every_table_and_overwrites_none(finished, tmp_path, capsys):
    store, run = finished
    arguments = ["export", run[:8], "--store", str(store.root), "--out", str(tmp_path / "csv"), "--json"]
    assert command_line.main(arguments) == 0
    written = json.loads(capsys.readouterr().out)["rows"]
    for name, count in written.items():
        assert len(pd.read_csv(tmp_path / "csv" / f"{name}.csv")) == count
    assert set(written) == set(frames.TABLES)
    assert command_line.main(arguments) == 2
    assert "images.csv exists already" in capsys.readouterr().err


def test_an_unfinished_run_has_tables_of_what_is_done(tmp_path):
    store = audits.fill(tmp_path / "store")
    with pytest.raises(UnknownName):
        frames.images(store, "0" * 32)
    run, _, _ = audits.drive(store, audits.planned(store), lambda _task: False)
    with pytest.raises(BadInput, match="no finished shard"):
        frames.images(store, run.id)


@pytest.mark.cluster
@pytest.mark.parametrize("package", ["engine", "dashboard", "engine.__main__", "engine.service.auditor"])
def test_only_who_asks_for_tables_loads_pandas(package):
    program = f"import sys, {package}; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
