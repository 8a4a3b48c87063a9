"""The report and the bundle of a run: their figures are those of the run's files, and every change is named."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
import yaml
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

from engine.__main__ import main
from engine.audit import runs
from engine.errors import BadInput, harmless
from engine.review import bundle, content, exchange, report, schemas, sections
from engine.review.book import Book
from engine.review.records import DecisionDraft, Evidence, Facts, FindingDraft
from engine.store import Store
from tests import audits

EVIL = "<img src=x onerror=alert(1)> =cmd|' /C calc'!A0 ‮abc"
PLAN = (
    audits.PLAN
    + """
[[thresholds]]
name = "withstands"
condition = "worst-case"
at_least = 0.9
"""
)


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    """A store with a decided review, whose texts try to be markup."""
    store = audits.fill(tmp_path_factory.mktemp("report") / "store")
    run, state, _ = audits.drive(store, audits.planned(store, PLAN))
    assert state.state == "finished"
    book = Book(store, run.id)
    book.open("Ada", EVIL)
    book.declare("Ada", Facts(purpose=EVIL), seen=0)
    book.find("Ada", FindingDraft(EVIL, "high", EVIL * 100, evidence=Evidence("page=audits", EVIL, (("n", EVIL),))))
    book.hand_in("Ada")
    book.decide("Cem", DecisionDraft("reject", EVIL))
    return store, run


@pytest.fixture(scope="module")
def subject(reviewed):
    store, run = reviewed
    return content.subject(store, run.id, Book(store, run.id).read())


@pytest.fixture(scope="module")
def page(subject):
    return report.html(subject)


@pytest.fixture(scope="module")
def written(reviewed, subject, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "run.zip"
    bundle.write(reviewed[0], subject, path)
    return path


class Elements(HTMLParser):
    """Collects the elements of a page and the text of it."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_nothing_that_people_wrote_becomes_markup_and_all_of_it_stands_there(page):
    found = Elements()
    found.feed(page)
    assert not found.tags & {"img", "script", "iframe", "link", "object"}
    assert not {name for name in found.attributes if name.startswith("on")} and "src" not in found.attributes
    assert "".join(found.text).count("<img src=x onerror=alert(1)>") >= 104
    assert "http" not in re.sub(r"http-equiv|DOCTYPE[^>]*", "", page), "nothing is loaded from elsewhere"


def test_what_nobody_declared_is_said_to_be_missing(reviewed):
    store, run = reviewed
    plain = report.html(content.subject(store, run.id))
    assert plain.count("not stated") >= 17
    assert "Nobody has opened a review of this run" in plain
    assert (
        "The attack sanity checks were not run" in plain and "No validation report of the candidate is stored" in plain
    )


def test_every_section_of_the_outline_is_there(subject):
    assert [one.number for one in sections.written(subject)] == [*map(str, range(14)), "A"]


def test_the_reports_rates_are_those_of_the_bundles_csv_by_pandas_and_scipy(written, page):
    with zipfile.ZipFile(written) as archive:
        images = pd.read_csv(io.BytesIO(archive.read("tables/images.csv")), dtype={"true_class": str, "after": str})
    for _, own in images[images["role"] == "candidate"].groupby("condition"):
        right, n = int((own["true_class"] == own["after"]).sum()), len(own)
        low = stats.beta.ppf(0.025, right, n - right + 1) if right else 0.0
        high = stats.beta.ppf(0.975, right + 1, n - right) if right < n else 1.0
        assert f"{100 * right / n:.1f} % [{100 * low:.1f} %, {100 * high:.1f} %], n = {n}" in page


def test_thresholds_say_what_would_settle_them(subject):
    rows = sections.threshold_rows(subject.summary)
    assert [row[3] for row in rows] == [one.outcome for one in subject.summary.thresholds]
    for one, row in zip(subject.summary.thresholds, rows, strict=True):
        more = sections.more_images(one)
        assert (more is not None) == ("images, if the share stays" in row[4])
        if more:
            assert more > one.n


def test_a_changed_model_makes_the_evidence_stale(reviewed, tmp_path):
    shutil.copytree(reviewed[0].root, tmp_path / "store")
    store = Store(tmp_path / "store")
    assert content.stale(store, runs.Run.open(store, reviewed[1].id).manifest) == ()
    for card in (tmp_path / "store" / "models").glob("**/*"):
        if card.is_dir() and card.name == "digits-standard":
            shutil.rmtree(card)
    (sentence,) = content.stale(store, runs.Run.open(store, reviewed[1].id).manifest)
    assert sentence == "Model 'digits-standard' is no longer in the store."


def test_a_bundle_is_whole_and_its_sums_are_those_of_sha256sum(written, reviewed):
    found = bundle.verify(written)
    assert (found.problems, found.run, found.signed_by) == ((), reviewed[1].id, "")
    with zipfile.ZipFile(written) as archive:
        for line in archive.read("SHA256SUMS").decode().splitlines():
            value, name = line.split("  ")
            assert hashlib.sha256(archive.read(name)).hexdigest() == value
        listed = {line.split("  ")[1] for line in archive.read("SHA256SUMS").decode().splitlines()}
        assert set(archive.namelist()) == listed | {"SHA256SUMS"}


def rewritten(path, out, change):
    """Copy a bundle with its members' contents changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            made = change(info.filename, old.read(info))
            if made is not None:
                new.writestr(info, made)
    return out


def members():
    return (
        "README.md", "report.html", "declared.json", "findings.json", "decision.json", "junit.xml", "aiverify.json",
        "model-card.md", "summary.md", "manifest.json", "seal.json", "review.jsonl", "tables/rows.parquet", "tables/images.csv",
        "tables/conditions.csv", "tables/thresholds.csv", "tables/layers.csv", "tables/maps.csv", "bundle.json",
    )  # fmt: skip


@pytest.mark.parametrize("name", members())
def test_one_byte_of_any_file_is_named_with_its_place(written, tmp_path, name):
    def change(own, text):
        middle = len(text) // 2
        return text[:middle] + bytes([text[middle] ^ 1]) + text[middle + 1 :] if own == name else text

    found = bundle.verify(rewritten(written, tmp_path / "b.zip", change))
    assert any(problem.startswith((f"{name} was changed", f"{name} is no JSON")) for problem in found.problems)
    if name == "tables/images.csv":
        assert "first between bytes 0 and 65,535" in found.problems[0]


def test_missing_and_foreign_files_are_named(written, tmp_path):
    gone = rewritten(written, tmp_path / "a.zip", lambda name, text: None if name == "junit.xml" else text)
    assert bundle.verify(gone).problems == ("junit.xml is missing.",)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("more.txt", "x")
    assert "more.txt is not listed in SHA256SUMS." in bundle.verify(gone).problems


def forged(path, out, name, change):
    """Change a member and make the sums fit again, as somebody who knows the format would."""
    with zipfile.ZipFile(path) as archive:
        content_ = {one: archive.read(one) for one in archive.namelist()}
    content_[name] = change(content_[name])
    index = json.loads(content_["bundle.json"])
    piece = index["piece"]
    index["pieces"][name] = [
        hashlib.sha256(content_[name][k : k + piece]).hexdigest() for k in range(0, len(content_[name]), piece)
    ]
    content_["bundle.json"] = exchange.as_bytes(index)
    sums = {one: hashlib.sha256(text).hexdigest() for one, text in content_.items() if one != "SHA256SUMS"}
    content_["SHA256SUMS"] = "".join(f"{value}  {one}\n" for one, value in sorted(sums.items())).encode()
    with zipfile.ZipFile(out, "w") as archive:
        for one, text in content_.items():
            archive.writestr(one, text)
    return out


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("review.jsonl", b"Cem", b"Eve", "Line 5 of the log of the review was changed"),
        ("manifest.json", b'"seed":0', b'"seed":1', "manifest.json is not the one that the run is named after."),
        ("seal.json", b'"shards"', b'"sharda"', "seal.json is not the result"),
        ("tables/rows.parquet", b"PAR1", b"PAR2", "tables/rows.parquet is not the table that was sealed."),
    ],
)
def test_a_forger_who_makes_the_sums_fit_meets_the_chain_and_the_seal(written, tmp_path, name, old, new, problem):
    found = bundle.verify(forged(written, tmp_path / "f.zip", name, lambda text: text.replace(old, new)))
    assert any(own.startswith(problem) for own in found.problems), found.problems


def test_a_signature_names_its_key_and_no_other(reviewed, subject, tmp_path):
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    for number, key in enumerate(keys):
        private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        (tmp_path / f"{number}.pem").write_bytes(private)
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{number}.pub").write_bytes(public)
    path = tmp_path / "signed.zip"
    bundle.write(reviewed[0], subject, path, key=tmp_path / "0.pem")
    own = bundle.verify(path, key=tmp_path / "0.pub")
    assert (own.problems, own.is_trusted) == ((), True) and own.signed_by
    assert not bundle.verify(path).is_trusted, "a signature alone says nothing of whose it is"
    assert "another key" in bundle.verify(path, key=tmp_path / "1.pub").problems[0]
    broken = forged(path, tmp_path / "x.zip", "README.md", lambda text: text + b" ")
    assert any("The signature does not fit" in problem for problem in bundle.verify(broken).problems)
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(BadInput, match=r"no\.pem is no PEM file"):
        bundle.write(reviewed[0], subject, tmp_path / "y.zip", key=tmp_path / "no.pem")
    assert not (tmp_path / "y.zip").exists()


def test_a_disk_that_is_full_leaves_nothing_half_made(reviewed, subject, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "html", full)
    with pytest.raises(Exception, match=r"[Nn]o space|space left|full"):
        bundle.write(reviewed[0], subject, tmp_path / "b.zip")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle_is_said_to_be_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"a\.zip cannot be read as a zip file"):
        bundle.verify(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(BadInput, match=r"b\.zip is no bundle: it lacks SHA256SUMS"):
        bundle.verify(tmp_path / "b.zip")


def test_junit_fails_what_is_not_passed(subject):
    suite = ElementTree.fromstring(exchange.junit(subject)).find("testsuite")
    outcomes = [one.outcome for one in subject.summary.thresholds]
    assert int(suite.get("tests")) == len(outcomes) == len(suite.findall("testcase"))
    assert (
        int(suite.get("failures")) == len(suite.findall("testcase/failure")) == sum(one != "pass" for one in outcomes)
    )


def test_the_ai_verify_result_has_what_its_schema_asks_for(subject):
    value = exchange.ai_verify(subject)
    assert {"gid", "cid", "start_time", "time_taken", "test_arguments", "output"} <= set(value)
    for name in ("gid", "cid"):
        assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-._]*", value[name]) and len(value[name]) <= 128
    assert pd.Timestamp(value["start_time"]).tzinfo is not None
    arguments = value["test_arguments"]
    assert {"testDataset", "mode", "modelType"} <= set(arguments) and arguments["modelType"] == "classification"
    assert all(re.match(r"[a-z]+:", arguments[name]) for name in ("testDataset", "modelFile", "groundTruthDataset"))
    assert isinstance(value["time_taken"], float) and value["artifacts"] == ["report.html"]


def test_the_model_cards_head_is_yaml_in_the_shape_of_a_model_index(subject):
    _, head, _ = exchange.model_card(subject).split("---\n", 2)
    (model,) = yaml.safe_load(head)["model-index"]
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    clean = next(one for one in subject.summary.models[0].conditions if one.kind == "clean")
    assert result["metrics"][0]["value"] == clean.accuracy.value


def test_documents_have_the_fields_that_their_schemas_name(written):
    def check(schema, value, path):
        if "anyOf" in schema:
            options = [one for one in schema["anyOf"] if (one.get("type") == "null") == (value is None)]
            check(options[0], value, path)
        elif schema.get("type") == "object" and "properties" in schema:
            assert set(schema["required"]) <= set(value), path
            assert schema.get("additionalProperties", True) is not False or set(value) == set(schema["properties"]), (
                path
            )
            for name, inner in schema["properties"].items():
                check(inner, value[name], f"{path}/{name}")
        elif schema.get("type") == "array" and "items" in schema:
            for item in value:
                check(schema["items"], item, f"{path}/*")
        elif "enum" in schema:
            assert value in schema["enum"], path
        elif "const" in schema:
            assert value == schema["const"], path

    with zipfile.ZipFile(written) as archive:
        for name, schema in schemas.all_of().items():
            assert json.loads(archive.read(f"schemas/{name}")) == schema
            check(schema, json.loads(archive.read(name.replace(".schema", ""))), name)


def test_no_cell_of_the_tables_is_a_formula():
    assert harmless("=cmd") == "'=cmd" and harmless("\t=x") == "'\t=x" and harmless(-1.5) == -1.5


def test_report_and_bundle_go_by_commands(reviewed, tmp_path, capsys):
    where = [reviewed[1].id, "--store", str(reviewed[0].root)]
    assert main(["report", *where, "--out", str(tmp_path / "r.html")]) == 0
    assert main(["report", *where, "--out", str(tmp_path / "r.html")]) == 2, "a file is never written over"
    assert main(["report", *where, "--out", str(tmp_path / "r.pdf")]) == 2
    passed = all(one.outcome == "pass" for one in content.subject(reviewed[0], reviewed[1].id).summary.thresholds)
    assert main(["report", *where, "--gate", "--out", str(tmp_path / "r.xml")]) == (0 if passed else 1)
    assert main(["bundle", *where, "--out", str(tmp_path / "b.zip")]) == 0
    assert main(["verify-bundle", str(tmp_path / "b.zip")]) == 0
    said = capsys.readouterr()
    assert "files are as they were written; not signed." in said.out and "ends in none of .html, .md, .xml" in said.err
