"""What the screens read of a store's runs. Any number of processes may watch; nothing here drives a run."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from engine.attacks import catalogue
from engine.attacks.catalogue import Budgeted
from engine.audit import places, results
from engine.audit.manifest import CANDIDATE, Manifest
from engine.audit.runs import Run, State
from engine.audit.summary import Summary
from engine.audit.tiers import CHECKED_IMAGES
from engine.errors import EngineError
from engine.store import Store

USUAL = Fraction(8, 255)
"""Budget of the checks where a run has no attack on pixels."""


@dataclass(frozen=True, slots=True)
class RunCard:
    """One run in a list."""

    run: str
    name: str
    model: str
    data: str
    images: int
    state: State
    problem: str = ""
    """Why the run cannot be read, when that is so; its other fields are then empty."""


@dataclass(frozen=True, eq=False, slots=True)
class RunView:
    """One run as far as it has come."""

    card: RunCard
    manifest: Manifest
    summary: Summary
    """Interim until the run is finished."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the credibility checks of a run are made on."""

    model: str
    data: str
    samples: tuple[str, ...]
    epsilon: str
    reference: str
    """The baseline, or empty."""


def checked(store: Store, run: str) -> Checked:
    """Return the candidate, evenly spread images of a run, and its largest pixel budget; raises UnknownName, StoreError."""
    manifest = Run.open(store, run).manifest
    samples = manifest.images.samples
    step = max(1, len(samples) // CHECKED_IMAGES)
    specs = [catalogue.attack(one) for one in (*manifest.plan.attacks, *manifest.plan.survivors, *manifest.plan.curve)]
    budgets = [spec.epsilon for spec in specs if isinstance(spec, Budgeted) and spec.norm == "linf"]
    return Checked(
        manifest.model(CANDIDATE).name,
        manifest.images.data,
        samples[::step][:CHECKED_IMAGES],
        str(max(budgets, default=USUAL)),
        manifest.plan.baseline,
    )


def listed(store: Store) -> tuple[RunCard, ...]:
    """Return the cards of all runs: those that go on first, then by name. One that cannot be read says why."""
    cards = [_card_or_problem(store, run) for run in places.listed(store.root)]
    return tuple(sorted(cards, key=lambda card: (card.state.state != "running", card.name, card.run)))


def view(store: Store, run: str) -> RunView:
    """Return a run with what its finished shards add up to; raises UnknownName, StoreError."""
    opened = Run.open(store, run)
    card = _card(opened)
    is_finished = card.state.state == "finished"
    found = results.read_summary(opened.place) if is_finished else results.interim(opened.place, opened.manifest)
    return RunView(card, opened.manifest, found)


def state(store: Store, run: str) -> State:
    """Return how far a run is; raises UnknownName, StoreError."""
    return Run.open(store, run).state()


def cancel(store: Store, run: str) -> None:
    """Ask whoever drives a run to stop; raises UnknownName, StoreError."""
    Run.open(store, run).cancel()


def _card(opened: Run) -> RunCard:
    manifest = opened.manifest
    return RunCard(
        opened.id,
        manifest.plan.name,
        manifest.model(CANDIDATE).name,
        manifest.images.data,
        len(manifest.images.samples),
        opened.state(),
    )


def _card_or_problem(store: Store, run: str) -> RunCard:
    try:
        return _card(Run.open(store, run))
    except EngineError as error:
        return RunCard(run, run[:12], "", "", 0, State(run, "interrupted", 0, 0), str(error))
