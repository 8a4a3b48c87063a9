"""The log of a review: who said what of a run, and when. Entries are only added; each is chained to the one before.

Every entry's hash is written into the store's audit log too, so that a log that is cut off, emptied or written anew is found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from engine import serialization
from engine.audit import manifest as manifests
from engine.audit import results, runs
from engine.audit.runs import AuditLog, Event, Run
from engine.errors import BadInput, StoreError
from engine.review import records
from engine.review.records import (
    Decided,
    DecisionDraft,
    Declared,
    Facts,
    Finding,
    FindingDraft,
    Look,
    Review,
    ReviewState,
    Signed,
)
from engine.store import Store

FILE: Final = "review.jsonl"
TITLE: Final = "the log of the review"
OPENED, DECLARED, FINDING, HANDED_IN, DECISION, LOOK = (
    "review/1", "facts/1", "finding/1", "handed-in/1", "decision/1", "look/1",
)  # fmt: skip
KINDS: Final = (OPENED, DECLARED, FINDING, HANDED_IN, DECISION, LOOK)
LONGEST_NAME: Final = 80


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    body: dict[str, Any]
    signed: Signed


@final
class Book:
    """The review of one finished run. Raises UnknownName for a run that is not there, BadInput for an unfinished one."""

    def __init__(self, store: Store, run: str) -> None:
        self._opened = Run.open(store, run)
        self._root = store.root
        if not results.is_finished(self._opened.place):
            raise BadInput("The run is not finished: a review begins once every part of it is done.")
        self._log = AuditLog(self._opened.place.folder, FILE, TITLE)

    def is_open(self) -> bool:
        """Whether somebody has opened a review of the run."""
        return bool(self._log.events())

    def read(self) -> Review:
        """Return the review as it stands; raises BadInput where nobody opened one, StoreError for a changed log."""
        events = self._checked()
        if not events:
            raise BadInput(f"Nobody has opened a review of run {self._opened.id[:12]} yet.")
        review = _told(self._opened.id, [_entry(event) for event in events])
        if review.decision and self._opened.id in decided(self._root).values():
            return replace(review, state="superseded")
        return review

    def open(self, who: str, question: str) -> Review:
        """Begin the review with the question that it is to answer. Raises BadInput where there is one already."""
        records.require_line("question", question, is_needed=True)
        if self.is_open():
            raise BadInput("This run is under review already; add to that one.")
        self._add(OPENED, who, {"question": question})
        return self.read()

    def declare(self, who: str, facts: Facts, *, seen: int) -> Review:
        """Write down what is declared of the system. seen: number of the entry that the writer saw last."""
        self._require_open(self.read(), seen, DECLARED)
        self._add(DECLARED, who, serialization.flatten(facts).value)
        return self.read()

    def find(self, who: str, draft: FindingDraft) -> Review:
        """Add a finding; its evidence is bound to the run's sealed result."""
        review = self.read()
        self._require_open(review, None, FINDING)
        count = len({finding.id for finding in review.versions})
        self._write(who, f"F{count + 1}", 1, draft)
        return self.read()

    def correct(self, who: str, finding: str, draft: FindingDraft, *, seen: int) -> Review:
        """Add a version of a finding. seen: the version that the writer saw; raises BadInput where there is a later one."""
        review = self.read()
        self._require_open(review, None, FINDING)
        known = {own.id: own for own in review.findings}
        if finding not in known:
            raise BadInput(f"There is no finding '{finding[:20]}'; there are {', '.join(known) or 'none'}.")
        latest = known[finding]
        if latest.version != seen:
            raise BadInput(
                f"{finding} was changed by {latest.signed.who} at {latest.signed.at[:16]} while you wrote: version "
                f"{latest.version} instead of {seen}. Nothing of yours is lost; read theirs, then write yours anew."
            )
        self._write(who, finding, seen + 1, draft)
        return self.read()

    def hand_in(self, who: str) -> Review:
        """Ask for a decision."""
        review = self.read()
        self._require_open(review, None, HANDED_IN)
        if review.state == "in review":
            raise BadInput("The review is handed in already.")
        self._add(HANDED_IN, who, {})
        return self.read()

    def decide(self, who: str, draft: DecisionDraft) -> Review:
        """Write down the decision. Raises BadInput for who planned the run or wrote a part of the review."""
        review = self.read()
        self._require_open(review, None, DECISION)
        if review.state != "in review":
            raise BadInput("The review is a draft; hand it in before it is decided.")
        own = {review.opened.who, self.author(), *(finding.signed.who for finding in review.versions)}
        own |= {review.declared.signed.who} if review.declared else set()
        if who.casefold().strip() in {name.casefold().strip() for name in own}:
            raise BadInput(f"{who} planned the run or wrote a part of the review; somebody else decides.")
        if draft.supersedes and draft.supersedes not in decided(self._root):
            raise BadInput(f"Run '{draft.supersedes[:40]}' has no decision that could be superseded.")
        body = serialization.flatten(draft).value
        self._add(DECISION, who, {"decision": body, "result_hash": self.result_hash(), "head": review.head})
        return self.read()

    def look(self, who: str, link: str, title: str) -> None:
        """Note that somebody looked at a view; each is noted once for each person."""
        review = self.read()
        if not any((one.link, one.signed.who) == (link, who) for one in review.looks):
            self._add(LOOK, who, {"link": link[:4096], "title": title[:300]})

    def author(self) -> str:
        """Return who asked for the run, as the store's audit log tells."""
        known = runs.histories(AuditLog(self._root).events()).get(self._opened.id)
        return known.author if known else runs.COMMAND_LINE

    def result_hash(self) -> str:
        """Return the hash of the run's seal, which names the hashes of its result's files."""
        return results.seal_hash(self._opened.place)

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong with the review's log, one sentence each; none where it is as it was written."""
        try:
            self._checked()
        except StoreError as error:
            return (str(error),)
        return ()

    def _write(self, who: str, finding: str, version: int, draft: FindingDraft) -> None:
        bound = replace(draft, evidence=replace(draft.evidence, result_hash=self.result_hash()))
        self._add(FINDING, who, {"id": finding, "version": version, "finding": serialization.flatten(bound).value})

    def _add(self, kind: str, who: str, body: dict[str, Any]) -> None:
        if not who.strip() or len(who) > LONGEST_NAME or any(ord(letter) < 32 for letter in who):
            raise BadInput(f"Say who writes this: a name of 1 to {LONGEST_NAME} letters on one line.")
        detail = json.dumps({"who": who.strip(), "body": body}, ensure_ascii=False, allow_nan=False)
        added = self._log.append(self._opened.id, kind, detail)
        AuditLog(self._root).append(self._opened.id, runs.REVIEWED, added.hash)

    def _checked(self) -> tuple[Event, ...]:
        """Return the log. Raises StoreError where it was changed, or lacks what the store's audit log says it held."""
        events = self._log.events()
        held = [event.hash for event in events]
        anchored = [
            event.detail for event in AuditLog(self._root).events()
            if (event.run, event.event) == (self._opened.id, runs.REVIEWED)
        ]  # fmt: skip
        for number, expected in enumerate(anchored, start=1):
            if number > len(held) or held[number - 1] != expected:
                what = "is missing" if number > len(held) else "is another one"
                raise StoreError(
                    f"Entry {number} of the review's log ({FILE}) {what}: the store's audit log names {expected[:12]}. Restore "
                    f"{FILE} from a copy of the store."
                )
        return events

    def _require_open(self, review: Review, seen: int | None, kind: str) -> None:
        if review.decision is not None:
            raise BadInput(
                f"The review was decided by {review.decision.signed.who} at {review.decision.signed.at[:16]}; nothing is added "
                "to it. Review another run, and let its decision supersede this one."
            )
        declared = review.declared.signed if review.declared else None
        if kind == DECLARED and declared is not None and seen is not None and declared.number > seen:
            raise BadInput(
                f"The facts were changed by {declared.who} at {declared.at[:16]} while you wrote. Nothing of yours is lost; read "
                "theirs, then write yours anew."
            )


def decided(root: Path) -> dict[str, str]:
    """Return the runs of a store whose review is decided, each with the run whose decision it supersedes, or empty."""
    results: dict[str, str] = {}
    for run in manifests.listed(root):
        path = manifests.place(root, run).folder / FILE
        if path.exists():
            events = AuditLog(path.parent, FILE, TITLE).events()
            found = [_decided(_entry(event)) for event in events if event.event == DECISION]
            results |= {run: found[-1].draft.supersedes} if found else {}
    return results


def _entry(event: Event) -> _Entry:
    if event.event not in KINDS:
        raise StoreError(
            f"Entry {event.number} of the review's log has the schema '{event.event[:40]}', which this version does not know; open "
            "it with the version of Faultline that wrote it. Nothing was changed."
        )
    try:
        value = json.loads(event.detail)
        return _Entry(event.event, value["body"], Signed(value["who"], event.at, event.number, event.hash))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"Entry {event.number} of the review's log is no entry of a review.") from error


def _told(run: str, entries: Sequence[_Entry]) -> Review:
    """Return what the entries of a log add up to."""
    first, of_kind = entries[0], {kind: [entry for entry in entries if entry.kind == kind] for kind in KINDS}
    if first.kind != OPENED:
        raise StoreError("The log of the review does not begin with a question.")
    declared = [Declared(serialization.rebuild(Facts, entry.body), entry.signed) for entry in of_kind[DECLARED]]
    versions = tuple(_finding(entry) for entry in of_kind[FINDING])
    decisions = [_decided(entry) for entry in of_kind[DECISION]]
    looks = tuple(Look(entry.body["link"], entry.body["title"], entry.signed) for entry in of_kind[LOOK])
    state: ReviewState = "decided" if decisions else "in review" if of_kind[HANDED_IN] else "draft"
    return Review(
        run,
        first.body["question"],
        first.signed,
        state,
        declared[-1] if declared else None,
        tuple({finding.id: finding for finding in versions}.values()),
        versions,
        decisions[-1] if decisions else None,
        looks,
        entries[-1].signed.hash,
    )


def _finding(entry: _Entry) -> Finding:
    draft = serialization.rebuild(FindingDraft, entry.body["finding"])
    return Finding(entry.body["id"], entry.body["version"], draft, entry.signed)


def _decided(entry: _Entry) -> Decided:
    draft = serialization.rebuild(DecisionDraft, entry.body["decision"])
    return Decided(draft, entry.body["result_hash"], entry.body["head"], entry.signed)
