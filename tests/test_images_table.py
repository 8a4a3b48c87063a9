"""The table of a run's images: the rows that pandas finds in the run, chosen, sorted and saved whole, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask import Flask

from dashboard import transfers
from dashboard.links import ViewState, complaints
from dashboard.panels.audits import model as audits_model
from dashboard.panels.images import model as images
from dashboard.panels.images import view as images_view
from dashboard.panels.inside import model as insides
from engine import BadInput, Selection, StoreError
from engine.audit import frames, listing, results
from tests import audits, planted_runs, stores
from tests.watched import Watched


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("images") / "store")


@pytest.fixture(scope="module")
def run(store):
    return planted_runs.finish(store)


@pytest.fixture(scope="module")
def auditor(store):
    return Watched(store)


@pytest.fixture(scope="module")
def table(store, run) -> pd.DataFrame:
    return frames.images(store, run.id)


@pytest.fixture(scope="module")
def client(auditor):
    server = Flask(__name__)
    transfers.register_images(server, auditor)
    return server.test_client()


def listed(auditor, run, **fields) -> pd.DataFrame:
    found = auditor.audits.images(run.id, Selection(**fields))
    return pd.concat([part.to_pandas() for part in found.blocks()], ignore_index=True)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(found) == len(expected) > 0
    for name in listing.COLUMNS:
        own, other = (one[name].astype(object).where(one[name].notna(), None).tolist() for one in (found, expected))
        assert own == other, name


def test_every_row_of_a_model_is_the_one_that_pandas_has(auditor, run, table):
    for role in ("candidate", "baseline"):
        same(listed(auditor, run, role=role, is_every_condition=True), table[table["role"] == role])


def test_rows_are_chosen_as_pandas_chooses_them(auditor, run, table):
    own = table[table["role"] == "candidate"]
    attacks = own[own["condition"].isin([one.name for one in run.manifest.of("candidate") if one.kind == "attack"])]
    same(listed(auditor, run), attacks)
    fooled = attacks[(attacks["status"] == "fooled") & attacks["true_class"].isin(["3", "8"])]
    same(listed(auditor, run, statuses=("fooled",), classes=(3, 8)), fooled)
    same(
        listed(auditor, run, conditions=(1,), into=4),
        attacks[(attacks["condition"] == "fgsm-linf:eps=24/255") & (attacks["after"] == "4")],
    )
    part = own["name"].iloc[0][-3:]
    named = attacks[attacks["name"].str.contains(part, regex=False) | attacks["sample"].str.contains(part, regex=False)]
    same(listed(auditor, run, name=part), named)


@pytest.mark.parametrize("column", listing.SORTABLE)
@pytest.mark.parametrize("sign", ["", "-"])
def test_rows_are_sorted_as_pandas_sorts_them(auditor, run, table, column, sign):
    own = table[table["role"] == "candidate"].reset_index(drop=True)
    found = listed(auditor, run, is_every_condition=True, order=sign + column)
    if column == "condition":
        places = {one.name: place for place, one in enumerate(run.manifest.of("candidate"))}
        order = own["condition"].map(places)
    else:
        order = own[column]
    assert len(found) == len(own)
    expected = own.loc[
        order.sort_values(ascending=not sign, kind="stable", na_position="first" if sign else "last").index
    ]
    same(found[[*listing.COLUMNS]], expected)
    assert found["sample"].tolist() == expected["sample"].tolist()


def test_blocks_put_together_are_the_whole(auditor, run):
    found = auditor.audits.images(run.id, Selection(order="-name"))
    parts = [found.block(first, first + 7) for first in range(0, found.count, 7)]
    assert sum(map(len, parts)) == found.count
    assert [name for part in parts for name in part["name"].to_pylist()] == found.block(0, found.count)[
        "name"
    ].to_pylist()


def test_what_is_asked_wrongly_is_said_in_a_sentence(auditor, run, client):
    for field, value, said in (
        ("status", "broken", "listed by status"),
        ("order", "weight", "sorted by"),
        ("order", "--sample", "sorted by"),
        ("into", "-1", "no whole number"),
        ("into", "99", "classes 0 to 9, got 99"),
        ("under", "77", "conditions 0 to"),
        ("under", "../x", "no whole number"),
        ("role", "judge", "does not exist"),
        ("attacks", "1;2", "no list of numbers"),
        ("find", "x" * 300, "at most 200 characters"),
    ):
        reply = client.get(f"/audits/{run.id}/images.json", query_string={field: value, "from": "0", "to": "100"})
        assert reply.status_code == 400, field
        assert said in reply.json["error"], (field, reply.json)
        assert said in json.dumps(images_view.answer(auditor, {"run": run.id, field: value})["lead"])
    for first, last in (("0", "100000"), ("5", "5"), ("-1", "5"), ("x", "9"), ("", "")):
        assert client.get(f"/audits/{run.id}/images.json?from={first}&to={last}").status_code == 400
    with pytest.raises(BadInput, match="no text"):
        images.selection({"order": ["sample"]})
    assert client.get(f"/audits/{'0' * 32}/images.json?from=0&to=9").status_code == 400
    assert client.get(f"/audits/{run.id}/images.exe").status_code == 404
    alone = dataclasses.replace(run.manifest, models=run.manifest.models[:1])
    with pytest.raises(BadInput, match="no baseline"):
        listing.require(alone, Selection(role="baseline"))


def test_files_hold_every_row_in_the_order_shown(auditor, run, client, table):
    query = {"classes": "3,8", "order": "-after_confidence"}
    expected = listed(auditor, run, statuses=("fooled",), classes=(3, 8), order="-after_confidence")
    reply = client.get(f"/audits/{run.id}/images.csv", query_string=query)
    rows = list(csv.DictReader(io.StringIO(reply.get_data(as_text=True))))
    assert [row["sample"] for row in rows] == expected["sample"].tolist()
    assert [float(row["linf"]) for row in rows] == expected["linf"].tolist()
    assert "images.csv" in reply.headers["Content-Disposition"]
    reply = client.get(f"/audits/{run.id}/images.parquet", query_string=query)
    same(pq.read_table(io.BytesIO(reply.data)).to_pandas(), expected)
    empty = client.get(f"/audits/{run.id}/images.parquet", query_string={"find": "nowhere"})
    assert pq.read_table(io.BytesIO(empty.data)).column_names == list(listing.COLUMNS)


def test_files_of_many_blocks_are_whole(auditor, run, monkeypatch):
    monkeypatch.setattr(listing, "BATCH", 9)
    found = auditor.audits.images(run.id, Selection())
    rows = list(csv.reader(io.StringIO(b"".join(images.csv(found)).decode())))
    assert len(rows) == found.count + 1
    content = b"".join(listing.parquet(found))
    assert len(pq.read_table(io.BytesIO(content))) == found.count
    assert pq.ParquetFile(io.BytesIO(content)).num_row_groups == -(-found.count // 9)


def test_text_that_a_spreadsheet_would_run_is_escaped(auditor, run):
    found = auditor.audits.images(run.id, Selection())
    texts = ["=1+1", "+2", "-3", "@SUM(A1)", "\tx", "plain"]
    names = found.rows.texts["name"]
    swapped = pa.DictionaryArray.from_arrays(pa.array([k % 6 for k in range(len(names))]), pa.array(texts))
    rows = dataclasses.replace(found.rows, texts={**found.rows.texts, "name": swapped})
    text = b"".join(images.csv(dataclasses.replace(found, rows=rows))).decode()
    written = {row["name"] for row in csv.DictReader(io.StringIO(text))}
    assert written <= {"'=1+1", "'+2", "'-3", "'@SUM(A1)", "'\tx", "plain"}
    assert len(written) == 6


def test_a_row_says_what_the_run_says_and_leads_to_explain(auditor, run, table):
    found = auditor.audits.images(run.id, images.selection({"run": run.id}))
    row = images.rows(found, run.id, 0, 1)[0]
    own = table[(table["role"] == "candidate") & (table["status"] == "fooled")].iloc[0]
    assert (row["sample"], row["true_class"], row["after"]) == (own["sample"], own["true_class"], own["after"])
    assert row["adversarial"].startswith(f"/media/run/{run.id}/01-candidate-fgsm-linf/{own['sample']}/")
    assert "outcome=fooled" in row["link"]


def test_menus_say_what_is_chosen_and_links_carry_it(auditor, run):
    facts = images_view.answer(auditor, {"run": run.id, "classes": "3,8", "status": "all", "under": "all"})
    assert facts["menus"]["classes"]["value"] == "3,8"
    assert facts["menus"]["under"]["value"] == facts["menus"]["status"]["value"] == "all"
    assert facts["query"] == "?classes=3%2C8&under=all&status=all"
    view = ViewState.from_dict({"under": "2", "status": "fooled", "into": "3", "find": "x", "order": "-linf"})
    assert view.to_query() == "under=2&status=fooled&into=3&find=x&order=-linf"
    assert "status 'odd'" in complaints({"status": "odd"})[0]


def test_an_unfinished_run_lists_what_is_done_and_says_so(store, auditor):
    text = planted_runs.PLAN.replace("threads = 1", "threads = 1\nseed = 9")
    done = planted_runs.finish(store, text)
    seal = done.place.result
    whole = auditor.audits.images(done.id, Selection(is_every_condition=True)).count
    hidden = seal.rename(seal.with_name("elsewhere"))
    try:
        shard = done.place.shard(done.manifest.conditions[1].folder, 0)
        gone = shard.rename(shard.with_name("gone"))
        facts = images_view.answer(auditor, {"run": done.id, "under": "all", "status": "all"})
        assert facts["again"]
        assert facts["count"] == whole - done.manifest.block
        assert "Interim" in json.dumps(facts["lead"])
        gone.rename(shard)
        assert images_view.answer(auditor, {"run": done.id, "under": "all", "status": "all"})["count"] == whole
    finally:
        hidden.rename(seal)


def test_a_damaged_table_is_named_and_not_read(store, auditor):
    done = planted_runs.finish(store, planted_runs.PLAN.replace("threads = 1", "threads = 1\nseed = 11"))
    path = done.place.result / results.TABLE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"rows\.parquet of the run's result was changed"):
        auditor.audits.images(done.id, Selection())
    assert "was changed after it was written" in json.dumps(images_view.answer(auditor, {"run": done.id})["lead"])


@pytest.fixture(scope="module")
def plain(store):
    """A run without scores, really driven."""
    run, state, _ = audits.drive(store, audits.planned(store, audits.PLAN.replace('"gradient"', '"none"')))
    assert state.state == "finished"
    return run


def test_a_run_without_scores_is_listed_with_the_pictures_it_kept(auditor, plain):
    found = auditor.audits.images(plain.id, images.selection({"status": "all"}))
    assert found.count == 6
    folder, sample = found.folders(0, 1)[0], found.block(0, 1)["sample"][0].as_py()
    expected = found.block(0, 1)["image_hash"][0].as_py()
    picture = auditor.audits.picture(plain.id, folder, sample, expected)
    assert picture.dtype == np.uint8
    assert picture.shape[:2] == plain.manifest.model("candidate").size
    with pytest.raises(StoreError, match="not the one the run judged"):
        auditor.audits.picture(plain.id, folder, sample, "0" * 32)


def test_numbers_of_the_page_lead_to_just_the_images_they_count(auditor, run):
    view = auditor.audits.view(run.id)
    inside = auditor.audits.inside(run.id, insides.scope({"classes": "3,8"}))

    def count(query: str) -> int:
        fields = dict(parse_qsl(query))
        assert fields.pop("page") == "audits"
        assert fields.pop("run") == run.id
        return auditor.audits.images(run.id, images.selection(fields)).count

    assert count(insides.images_query(view, inside)) == inside.n
    assert [count(insides.images_query(view, inside, one.label)) for one in inside.classes] == [
        one.n for one in inside.classes
    ]
    for model in view.summary.models:
        part = audits_model.panel(view).models[[one.role for one in view.summary.models].index(model.role)]
        for row, condition in zip(part.rows, model.conditions, strict=False):
            assert count(row.images) == condition.attempted
            flows = condition.confusion[: len(row.into)]
            assert [count(query) for _, query in row.into] == [flow.images for flow in flows]
        for (name, cells), others in zip(part.heat.rows, model.conditions[0].classes, strict=True):
            assert name == others.name
            assert count(cells[0].images) == cells[0].accuracy.n
