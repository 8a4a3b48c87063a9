"""A review: who may say what, what the log keeps, and what is named when somebody changes it by hand."""

from __future__ import annotations

import json
import shutil

import pytest

from engine.__main__ import main
from engine.audit import runs
from engine.audit.runs import AuditLog
from engine.errors import BadInput, StoreError
from engine.review import book, records
from engine.review.book import Book
from engine.review.records import DecisionDraft, Evidence, Facts, FindingDraft
from engine.store import Store
from tests import audits

FINDING = FindingDraft(
    "Eights are read as ones", "high", "Three of seven.", evidence=Evidence("page=audits", "FGSM fools 6.")
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = audits.fill(tmp_path_factory.mktemp("review") / "store")
    run, state, _ = audits.drive(store, audits.planned(store))
    assert state.state == "finished"
    return store, run


@pytest.fixture
def review(finished, tmp_path):
    """A copy of the store with its finished run under review by Ada."""
    shutil.copytree(finished[0].root, tmp_path / "store")
    own = Book(Store(tmp_path / "store"), finished[1].id)
    own.open("Ada", "May it go into production?")
    return own


def logged(own: Book):
    return own._opened.place.folder / book.FILE


def test_a_review_is_told_in_the_order_in_which_it_was_written(review):
    review.declare("Ada", Facts(purpose="Reads forms."), seen=0)
    told = review.find("Ben", FINDING)
    assert (told.state, told.question, told.opened.who) == ("draft", "May it go into production?", "Ada")
    assert told.declared.facts.purpose == "Reads forms."
    (finding,) = told.findings
    assert (finding.id, finding.version, finding.signed.who) == ("F1", 1, "Ben")
    assert finding.draft.evidence.claim == "FGSM fools 6."
    assert finding.draft.evidence.result_hash == review.result_hash(), "bound to the result of that moment"
    assert [told.opened.number, told.declared.signed.number, finding.signed.number] == [1, 2, 3]


def test_a_correction_is_a_new_version_and_the_first_one_stays(review):
    review.find("Ada", FINDING)
    told = review.correct("Ben", "F1", FindingDraft("Eights are read as ones", "medium"), seen=1)
    assert [(one.version, one.draft.severity) for one in told.versions] == [(1, "high"), (2, "medium")]
    assert [one.version for one in told.findings] == [2]


def test_the_second_of_two_who_write_at_once_is_told(review):
    review.find("Ada", FINDING)
    review.correct("Ben", "F1", FindingDraft("Ben's", "low"), seen=1)
    with pytest.raises(
        BadInput, match=r"F1 was changed by Ben at .* version 2 instead of 1\. Nothing of yours is lost"
    ):
        review.correct("Ada", "F1", FindingDraft("Ada's", "low"), seen=1)
    review.declare("Ada", Facts(purpose="one"), seen=0)
    with pytest.raises(BadInput, match="The facts were changed by Ada"):
        review.declare("Ben", Facts(purpose="two"), seen=0)


def test_nobody_decides_what_they_wrote_or_planned(review):
    review.find("Ben", FINDING)
    review.hand_in("Ada")
    draft = DecisionDraft("reject", "The worst case is too low.")
    for who in ("Ada", "ben ", runs.COMMAND_LINE):
        with pytest.raises(BadInput, match="somebody else decides"):
            review.decide(who, draft)
    told = review.decide("Cem", draft)
    assert (told.state, told.decision.draft.outcome, told.decision.signed.who) == ("decided", "reject", "Cem")
    assert told.decision.result_hash == review.result_hash()
    for act in (
        lambda: review.find("Ben", FINDING),
        lambda: review.decide("Dan", draft),
        lambda: review.hand_in("Ada"),
    ):
        with pytest.raises(BadInput, match="The review was decided by Cem"):
            act()


def test_a_draft_is_not_decided(review):
    with pytest.raises(BadInput, match="hand it in before"):
        review.decide("Cem", DecisionDraft("approve", "Fine."))


def test_conditions_and_reasons_are_asked_for():
    with pytest.raises(BadInput, match="The reason is empty"):
        DecisionDraft("approve", "  ")
    with pytest.raises(BadInput, match="The text of the conditions is empty"):
        DecisionDraft("approve with conditions", "Fine.")
    with pytest.raises(BadInput, match="'soon' is no date"):
        DecisionDraft("approve", "Fine.", valid_until="soon")
    with pytest.raises(BadInput, match="The severity is one of"):
        FindingDraft("x", "terrible")
    with pytest.raises(BadInput, match="at most 100,000"):
        FindingDraft("x", "low", "a" * 100_001)


def test_who_and_when_are_the_books_own(review):
    with pytest.raises(BadInput, match="Say who writes this"):
        review.find(" ", FINDING)
    with pytest.raises(BadInput, match="no field called 'signed'"):
        records.read(FindingDraft, {"title": "x", "severity": "low", "signed": {"who": "Cem"}}, "finding")


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_line_that_was_changed_by_hand_is_named(review, line):
    review.find("Ada", FINDING)
    review.hand_in("Ada")
    lines = logged(review).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"Ada", b"Eve")
    logged(review).write_bytes(b"".join(lines))
    (problem,) = review.problems()
    assert problem.startswith(f"Line {line + 1} of the log of the review was changed")
    with pytest.raises(StoreError):
        review.read()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_log_that_is_cut_off_or_emptied_is_named(review, kept):
    review.find("Ada", FINDING)
    lines = logged(review).read_bytes().splitlines(keepends=True)
    logged(review).write_bytes(b"".join(lines[:kept]))
    (problem,) = review.problems()
    assert problem.startswith(f"Entry {kept + 1} of the review's log (review.jsonl) is missing")


def test_a_log_that_was_written_anew_is_named(review):
    """Whoever writes a whole new chain cannot know the hashes in the store's audit log."""
    logged(review).unlink()
    AuditLog(logged(review).parent, book.FILE, book.TITLE).append(
        review._opened.id, book.OPENED, json.dumps({"who": "Eve", "body": {"question": "Is all fine?"}})
    )
    (problem,) = review.problems()
    assert problem.startswith("Entry 1 of the review's log (review.jsonl) is another one")


def test_verify_names_a_changed_review(review, capsys):
    review.find("Ada", FINDING)
    logged(review).write_bytes(logged(review).read_bytes().replace(b"Eights", b"Nights"))
    command = ["verify", review._opened.id, "--store", str(review._root), "--images", "1"]
    assert main(command) == 1
    assert "DAMAGED: Line 2 of the log of the review was changed" in capsys.readouterr().out


def test_a_newer_kind_of_entry_is_an_error_and_is_kept(review):
    AuditLog(logged(review).parent, book.FILE, book.TITLE).append(review._opened.id, "finding/9", "{}")
    before = logged(review).read_bytes()
    with pytest.raises(StoreError, match="schema 'finding/9', which this version does not know"):
        review.read()
    assert logged(review).read_bytes() == before


def test_a_decision_supersedes_another_one(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "store")
    store = Store(tmp_path / "store")
    second, _, _ = audits.drive(store, audits.planned(store, audits.PLAN.replace("count = 6", "count = 4")))
    first = Book(store, finished[1].id)
    for own, supersedes in ((first, ""), (Book(store, second.id), finished[1].id)):
        own.open("Ada", "May it?")
        own.hand_in("Ada")
        with pytest.raises(BadInput, match="has no decision"):
            own.decide("Cem", DecisionDraft("approve", "Fine.", supersedes="f" * 32))
        own.decide("Cem", DecisionDraft("approve", "Fine.", supersedes=supersedes))
    assert first.read().state == "superseded"
    assert Book(store, second.id).read().state == "decided"


def test_what_was_looked_at_is_noted_once_for_each_person(review):
    for who in ("Ada", "Ada", "Ben"):
        review.look(who, "page=audits", "The run")
    assert [one.signed.who for one in review.read().looks] == ["Ada", "Ben"]


def test_reviewing_changes_neither_when_a_run_was_driven_nor_by_whom(finished, review):
    before = runs.histories(AuditLog(finished[0].root).events())
    review.find("Ada", FINDING)
    root = review._root
    assert runs.histories(AuditLog(root).events()) == before


def test_an_unfinished_run_has_no_review(tmp_path):
    store = audits.fill(tmp_path / "store")
    run = runs.Run(store, audits.planned(store))
    run.begin()
    with pytest.raises(BadInput, match="The run is not finished"):
        Book(store, run.id)


def test_a_review_goes_by_commands(finished, tmp_path, capsys):
    shutil.copytree(finished[0].root, tmp_path / "store")
    command = ["review", finished[1].id, "--store", str(tmp_path / "store")]
    (tmp_path / "f.toml").write_text('title = "Eights"\nseverity = "low"\n')
    assert main([*command]) == 2
    assert main([*command, "--question", "May it?"]) == 2, "nobody says who writes"
    assert main([*command, "--as", "Ada", "--question", "May it?"]) == 0
    assert main([*command, "--as", "Ada", "--finding", str(tmp_path / "f.toml")]) == 0
    assert main([*command, "--as", "Ada", "--finding", str(tmp_path / "f.toml"), "--corrects", "F1"]) == 2
    assert main([*command, "--as", "Ada", "--finding", str(tmp_path / "f.toml"), "--corrects", "F1.1"]) == 0
    assert main([*command, "--as", "Ada", "--hand-in"]) == 0
    assert main([*command, "--as", "Cem", "--decide", "approve", "--reason", "Fine."]) == 0
    said = capsys.readouterr()
    assert "F1.2 low, open: Eights (Ada, " in said.out and "Decision: APPROVE: Fine. (Cem, " in said.out
    assert "Say who writes this: --as NAME." in said.err and "write F2.1 for the first version of F2" in said.err
