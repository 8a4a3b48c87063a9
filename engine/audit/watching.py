"""What the screens read of a store's runs. Any number of processes may watch; nothing here drives a run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from engine.attacks import rounding
from engine.audit import examples, places, results, summary
from engine.audit import manifest as manifests
from engine.audit.examples import Example
from engine.audit.manifest import CANDIDATE, Manifest
from engine.audit.places import Place
from engine.audit.runs import Run, State, state_of
from engine.audit.summary import Summary
from engine.audit.tiers import CHECKED_IMAGES
from engine.errors import EngineError
from engine.store import Store, durable

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
    examples: Mapping[tuple[str, str], Example] = field(default_factory=dict)
    """By role and condition: an image that stands for how it ended; none where no image was fooled or resisted."""


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
    specs = (*manifest.plan.attacks, *manifest.plan.survivors, *manifest.plan.curve)
    budgets = [spec.epsilon for spec in specs if spec.epsilon is not None and spec.norm is rounding.LINF]
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


def card(opened: Run) -> RunCard:
    """Return the card of a run as it is now."""
    return _about(opened.manifest).card(opened.state())


def view(opened: Run, now: RunCard) -> RunView:
    """Return a run with what its finished shards add up to; raises StoreError."""
    place, manifest = opened.place, opened.manifest
    if now.state.state == "finished":
        return RunView(now, manifest, results.read_summary(place, manifest), examples.of_run(place, manifest))
    found = results.gathered(place, manifest)
    return RunView(
        now, manifest, summary.summarise(manifest, found, is_interim=True), examples.of_rows(found, manifest)
    )


@dataclass(frozen=True, slots=True)
class _About:
    """What never changes on a run's card."""

    name: str
    model: str
    data: str
    images: int
    shards: int

    def card(self, state: State) -> RunCard:
        return RunCard(state.run, self.name, self.model, self.data, self.images, state)


def _about(manifest: Manifest) -> _About:
    count = len(manifest.images.samples)
    return _About(manifest.plan.name, manifest.model(CANDIDATE).name, manifest.images.data, count, manifest.shards)


@functools.lru_cache(maxsize=4096)
def _about_stored(place: Place, changed: int, size: int) -> _About:
    """Keep the little that a list shows: the manifest of 50,000 images takes megabytes, and a store may hold hundreds."""
    del changed, size
    return _about(manifests.read(place))


def _card_or_problem(store: Store, run: str) -> RunCard:
    try:
        place = places.place(store.root, run)
        with durable.disk_errors("reading a run"):
            status = place.manifest.stat()
        about = _about_stored(place, status.st_mtime_ns, status.st_size)
        return about.card(state_of(place, about.shards))
    except EngineError as error:
        return RunCard(run, run[:12], "", "", 0, State(run, "interrupted", 0, 0), str(error))
