"""What a report is made of: a run with its review and checks, and the parts that a section may have, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.audit import inside as insides
from engine.audit import manifest as manifests
from engine.audit import report, results
from engine.audit.inside import Inside, Scope
from engine.audit.manifest import Manifest
from engine.audit.report import RunCard
from engine.audit.runs import Run
from engine.audit.summary import Summary
from engine.errors import BadInput
from engine.review.records import Review
from engine.store import Store
from engine.types.checks import AttackSanity, ValidationReport
from engine.types.core import DatasetCard, ModelCard


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph. kind: `note`, `warning`, `quote`, or empty."""

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names and values. declared: whether people state them and nothing here verified them."""

    rows: tuple[tuple[str, str], ...]
    declared: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns whose index is in `numbers` are set to the right."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A share with its interval, 0 to 1."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    text: str
    is_grey: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Shares beside each other on one scale from 0 to 1."""

    title: str
    rows: tuple[Bar, ...]
    note: str = ""


Block = Text | Pairs | Table | Bars


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report."""

    number: str
    title: str
    serves: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """Everything a report is made of."""

    run: Run
    card: RunCard
    summary: Summary
    seal: str
    inside: Inside | None
    missing_inside: str
    """Why there is nothing of the inside of the model; empty where there is."""
    review: Review | None
    sanity: AttackSanity | None
    validation: ValidationReport | None
    stale: tuple[str, ...] = ()

    @property
    def manifest(self) -> Manifest:
        """Of the run."""
        return self.run.manifest


def subject(
    store: Store,
    run: str,
    review: Review | None = None,
    sanity: AttackSanity | None = None,
    validation: ValidationReport | None = None,
) -> Subject:
    """Return what a report of a finished run is made of. Raises BadInput for an unfinished run, UnknownName, StoreError."""
    opened = Run.open(store, run)
    if not results.is_finished(opened.place):
        raise BadInput("The run is not finished: a report is made of a finished run.")
    summary = results.read_summary(opened.place, opened.manifest)
    try:
        inside, missing = insides.of_run(opened.place, Scope()), ""
    except BadInput as error:
        inside, missing = None, str(error)
    return Subject(
        opened, report.card(store, opened), summary, results.seal_hash(opened.place), inside, missing, review, sanity,
        validation, stale(store, opened.manifest),
    )  # fmt: skip


def stale(store: Store, manifest: Manifest) -> tuple[str, ...]:
    """Return what of the evidence is no longer what lies in the store or is installed, one sentence each."""
    found: list[str] = []
    for model in manifest.models:
        found += _changed(f"Model '{model.name}'", model.content_hash, _known(store.models(), model.name))
    images = manifest.images
    found += _changed(f"Data set '{images.data}'", images.content_hash, _known(store.datasets(), images.data))
    difference = manifests.difference(manifest.versions, manifests.installed())
    return (*found, f"Software: {difference}.") if difference else tuple(found)


def _known(cards: Iterable[ModelCard | DatasetCard], name: str) -> str:
    return next((card.content_hash for card in cards if card.name == name), "")


def _changed(what: str, audited: str, now: str) -> list[str]:
    if now == audited:
        return []
    return [f"{what} is no longer the one that was audited." if now else f"{what} is no longer in the store."]
