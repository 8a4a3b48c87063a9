"""The subcommands of a review: `review`, `report`, `bundle`, `verify-bundle`."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from engine import serialization
from engine.audit import report as reports
from engine.audit import summary
from engine.audit.manifest import CANDIDATE
from engine.audit.runs import Run
from engine.cli.audit import located
from engine.cli.command import DONE, FAILED, Reply, require_new
from engine.errors import BadInput
from engine.review import bundle as bundles
from engine.review import content, exchange, records
from engine.review import report as html_reports
from engine.review.book import Book
from engine.review.content import Subject
from engine.review.records import NOT_STATED, DecisionDraft, Facts, FindingDraft, Review
from engine.service import driver, tasks
from engine.service.answers import Answers, answers
from engine.store import NotStored, Store, files
from engine.types.requests import Place

FORMS: Final[dict[str, Callable[[Subject], bytes]]] = {
    ".html": lambda subject: html_reports.html(subject).encode(),
    ".md": lambda subject: exchange.markdown(subject).encode(),
    ".xml": exchange.junit,
}
"""What a report can be, by the ending of its file."""


def review(options: argparse.Namespace) -> Reply:
    """Open the review of a finished run, add to it, decide it, or show it."""
    root, run = located(options)
    book = Book(Store(root, create=False), run)
    told = _acted(book, options)
    return Reply(_text(told), serialization.flatten(told).value)


def _acted(book: Book, options: argparse.Namespace) -> Review:
    acts = [name for name in ("question", "facts", "finding", "hand_in", "decide") if getattr(options, name)]
    if not acts:
        return book.read()
    if not options.who:
        raise BadInput("Say who writes this: --as NAME.")
    if len(acts) > 1:
        raise BadInput(
            f"One step at a time: {', '.join(f'--{name}'.replace('_', '-') for name in acts)} were given together."
        )
    if options.question:
        return book.open(options.who, options.question)
    if options.facts:
        declared = book.read().declared
        facts = records.read(Facts, _values(options.facts), "facts")
        return book.declare(options.who, facts, seen=declared.signed.number if declared else 0)
    if options.finding:
        return _found(book, options)
    if options.hand_in:
        return book.hand_in(options.who)
    draft = DecisionDraft(
        options.decide,
        options.reason or "",
        options.conditions or "",
        options.valid_until or "",
        options.supersedes or "",
    )
    return book.decide(options.who, draft)


def _found(book: Book, options: argparse.Namespace) -> Review:
    draft = records.read(FindingDraft, _values(options.finding), "finding")
    if not options.corrects:
        return book.find(options.who, draft)
    name, _, version = options.corrects.partition(".")
    if not version.isdecimal():
        raise BadInput(
            f"'{options.corrects[:20]}' names no version of a finding; write F2.1 for the first version of F2."
        )
    return book.correct(options.who, name, draft, seen=int(version))


def _values(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read as TOML: {error}") from error


def _text(told: Review) -> str:
    declared = told.declared.facts if told.declared else Facts()
    lines = [
        f"Review of run {told.run}: {told.state}",
        f"Question: {told.question} ({_signed(told.opened)})",
        *(f"  {title}: {getattr(declared, name) or NOT_STATED}" for name, title in records.FACT_TITLES.items()),
        *(
            f"{one.id}.{one.version} {one.draft.severity}, {one.draft.status}: {one.draft.title} ({_signed(one.signed)})"
            for one in told.findings
        ),
    ]
    if told.decision:
        decided, signed = told.decision.draft, told.decision.signed
        lines.append(f"Decision: {decided.outcome.upper()}: {decided.reason} ({_signed(signed)})")
    return "\n".join(lines)


def _signed(signed: records.Signed) -> str:
    return f"{signed.who}, {signed.at[:16]} UTC"


def report(options: argparse.Namespace) -> Reply:
    """Write the report of a finished run: HTML, or by the ending of --out a summary in Markdown or JUnit XML."""
    require_new(options.out)
    if options.out.suffix not in FORMS:
        raise BadInput(f"{options.out.name} ends in none of {', '.join(FORMS)}.")
    _, subject = _subject(options)
    with files.disk_errors("writing a report"):
        files.write_file(options.out, FORMS[options.out.suffix](subject))
    outcome = summary.verdict(subject.summary)
    values = {"run": subject.card.run, "verdict": outcome, "bytes": options.out.stat().st_size}
    is_passed = outcome in ("pass", "nothing to decide") or not options.gate
    return Reply(
        f"Wrote {options.out.name}. {reports.run_verdict(subject.summary)}", values, DONE if is_passed else FAILED
    )


def bundle(options: argparse.Namespace) -> Reply:
    """Write the evidence of a finished run as one zip file."""
    require_new(options.out)
    store, subject = _subject(options)
    sums = bundles.write(store, subject, options.out, key=options.sign)
    size = options.out.stat().st_size
    signed = " and signed it" if options.sign else ""
    return Reply(
        f"Wrote {options.out.name}, {len(sums)} files in {size / 1e6:.1f} MB{signed}.",
        {"run": subject.card.run, "bytes": size, "sha256": sums},
    )


def verify_bundle(options: argparse.Namespace) -> Reply:
    """Check a bundle without the store that it came from."""
    found = bundles.verify(options.bundle, key=options.key)
    if found.problems:
        text = "\n".join((f"Run {found.run}: NOT what was written.", *found.problems))
    else:
        doubt = "" if found.is_trusted else " (compare it with the one you trust)"
        signed = f"signed by key {found.signed_by}{doubt}" if found.signed_by else "not signed"
        text = f"Run {found.run}: all {found.members} files are as they were written; {signed}."
    return Reply(text, serialization.flatten(found).value, FAILED if found.problems else DONE)


def _subject(options: argparse.Namespace) -> tuple[Store, Subject]:
    root, run = located(options)
    store = Store(root, create=False)
    book = Book(store, run)
    answering = answers(store, lambda *_: None)
    manifest = Run.open(store, run).manifest
    place = Place(manifest.model(CANDIDATE).name, manifest.images.data)
    return store, content.subject(
        store,
        run,
        book.read() if book.is_open() else None,
        _stored(answering, tasks.ATTACK_SANITY, driver.sanity_request(store, run)),
        _stored(answering, tasks.VALIDATION, place),
    )


def _stored(answering: Answers, task: tasks.Task[Any, Any], request: Any) -> Any:
    """Return a result that lies in the store; a report computes nothing."""
    try:
        return answering.stored(task, task.key(answering.store, request))
    except NotStored:
        return None
