"""Files in and out: tables as CSV that no spreadsheet runs, and files sent into the import folder past the guard."""

from __future__ import annotations

import csv
import io

import pytest

from dashboard import app, guard, markup, transfers
from dashboard.auth import Login
from dashboard.settings import Settings
from engine import BadInput, Entry
from engine.service import driver
from engine.service.answers import Answers
from tests import audits, fakes, stores


@pytest.fixture(scope="module")
def store(small_demo_store, tmp_path_factory):
    return stores.copied(small_demo_store, tmp_path_factory.mktemp("transfers") / "store")


@pytest.fixture(scope="module")
def view(store):
    plan = audits.PLAN.replace(
        'model = "digits-standard"', 'name = "=1+1"\nmodel = "digits-standard"\nbaseline = "digits-robust"'
    )
    curve = '\n[curve]\nattack = "fgsm-linf"\nepsilons = ["4/255", "8/255"]\n'
    run = audits.drive(store, audits.planned(store, plan.replace('name = "clean"', 'name = "=HYPERLINK(1)"') + curve))[
        0
    ]
    return driver.Runs(Answers(store, audits.Inline(store.root))).view(run.id)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", transfers.TABLES)
def test_every_table_has_its_rows_and_as_many_cells_as_heads(view, name):
    heads, rows = transfers.table(name, view)
    assert rows
    assert {len(row) for row in rows} == {len(heads)}


def test_the_table_of_classes_holds_every_number_in_full(view):
    rows = read(markup.csv_text(*transfers.table("classes", view)))
    for model in view.summary.models:
        for condition in model.conditions:
            for own in condition.classes:
                (row,) = [
                    one for one in rows
                    if (one["role"], one["condition"], one["class"]) == (model.role, condition.name, own.name)
                ]  # fmt: skip
                assert (float(row["accuracy"]), float(row["low"]), int(row["n"])) == (
                    own.accuracy.value, own.accuracy.low, own.accuracy.n,
                )  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_run_by_a_spreadsheet_and_numbers_stay_numbers(start):
    (row,) = csv.reader(
        io.StringIO(markup.csv_text(("a", "b"), [(f"{start}1+1", -0.5)]).split("\r\n", 1)[1], newline="")
    )
    assert row[0].startswith("'")
    assert row[1] == "-0.5"


def test_a_threshold_named_like_a_formula_is_escaped(view):
    assert read(markup.csv_text(*transfers.table("thresholds", view)))[0]["threshold"] == "'=HYPERLINK(1)"


class Shelf(fakes.BareRegistry):
    """A registry that keeps what it was sent."""

    has_import_folder = takes_uploads = True

    def __init__(self) -> None:
        self.received = []

    def receive(self, name, stream, size):
        if name == "bad":
            raise BadInput("'bad' cannot be added.")
        self.received.append((name, stream.read(size)))
        return Entry("k" * 16, name, "weights", size)


class Auditor(fakes.FakeAuditor):
    def __init__(self, view=None) -> None:
        self.model_registry = Shelf()
        self.audits = self
        self._view = view

    def view(self, run):
        if self._view is None or run != self._view.card.run:
            return fakes.NoRuns().view(run)
        return self._view


def client(root, auditor, **changes):
    """A logged-in browser of a guarded server with an import folder."""
    folder = root / "import"
    folder.mkdir(exist_ok=True)
    chosen = Settings(root / "login-store", import_folder=folder, **changes)
    made = app.create_app(auditor, chosen).server.test_client()
    login = Login.open(chosen.store)
    made.set_cookie(login.cookie_name, login.new_cookie(), domain="localhost")
    return made


@pytest.fixture
def shelf():
    return Auditor()


HEADERS = {"Origin": "http://localhost", "Content-Type": "application/octet-stream"}
PATH = f"{guard.UPLOAD_PATH}?name=net.pt"


def test_a_file_sent_by_our_page_is_taken_in(shelf, tmp_path):
    body = b"x" * (3 * 2**20)
    assert len(body) > Settings(tmp_path).body_limit
    answer = client(tmp_path, shelf).post(PATH, data=body, headers=HEADERS)
    assert (answer.status_code, answer.json["name"], answer.json["bytes"]) == (200, "net.pt", len(body))
    assert shelf.model_registry.received == [("net.pt", body)]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Origin": "http://evil.example"}, 403), ({"Origin": ""}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415), ({"Content-Type": "multipart/form-data"}, 415),
        ({"Content-Type": "application/json"}, 415),
    ],
)  # fmt: skip
def test_a_file_from_elsewhere_or_of_another_form_is_refused(shelf, tmp_path, changes, status):
    answer = client(tmp_path, shelf).post(PATH, data=b"abc", headers={**HEADERS, **changes})
    assert answer.status_code == status
    assert shelf.model_registry.received == []


def test_a_file_larger_than_any_is_refused_before_it_is_read(shelf, tmp_path):
    size = {"CONTENT_LENGTH": str(17 * 2**30)}
    answer = client(tmp_path, shelf).post(PATH, data=b"abc", headers=HEADERS, environ_overrides=size)
    assert answer.status_code == 413


def test_nobody_who_is_not_logged_in_sends_a_file(shelf, tmp_path):
    stranger = client(tmp_path, shelf)
    stranger.delete_cookie(Login.open(tmp_path / "login-store").cookie_name, domain="localhost")
    assert stranger.post(PATH, data=b"abc", headers=HEADERS).status_code == 401
    assert shelf.model_registry.received == []


def test_where_an_administrator_switched_it_off_bodies_stay_small(shelf, tmp_path):
    answer = client(tmp_path, shelf, takes_uploads=False).post(PATH, data=b"x" * (3 * 2**20), headers=HEADERS)
    assert answer.status_code == 413


def test_a_file_is_taken_nowhere_else(shelf, tmp_path):
    answer = client(tmp_path, shelf).post(guard.CALLBACKS, data=b"abc", headers=HEADERS)
    assert answer.status_code == 415


def test_why_a_file_is_not_taken_is_said(shelf, tmp_path):
    answer = client(tmp_path, shelf).post(f"{guard.UPLOAD_PATH}?name=bad", data=b"abc", headers=HEADERS)
    assert (answer.status_code, answer.json) == (422, {"error": "'bad' cannot be added."})


def test_a_table_is_a_file_named_after_its_run(view, tmp_path):
    browser = client(tmp_path, Auditor(view))
    answer = browser.get(f"/audits/{view.card.run}/classes.csv")
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    assert (
        answer.headers["Content-Disposition"]
        == f'attachment; filename="faultline-1-1-{view.card.run[:12]}-classes.csv"'
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert browser.get(f"/audits/{view.card.run}/nothing.csv").status_code == 404
    assert browser.get(f"/audits/{'0' * 32}/classes.csv").status_code == 404
