"""Runs that a server drives: planned on the page, told what they will cost, begun, and taken up again."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, final

import numpy as np

from engine.audit import endings, held_out, inside, listing, plan, rebuild, report, river, tiers, versus
from engine.audit import manifest as manifests
from engine.audit.endings import Confusion
from engine.audit.held_out import Halves
from engine.audit.inside import Inside, Scope
from engine.audit.listing import Listing, Selection
from engine.audit.manifest import CANDIDATE, AuditedModel, Manifest
from engine.audit.plan import Threshold
from engine.audit.report import Forecast, RunCard, RunView
from engine.audit.river import RunRiver
from engine.audit.runs import BEGUN, AuditLog, Piece, Run
from engine.audit.versus import Versus
from engine.errors import EngineError
from engine.service import tasks
from engine.service.answers import Answers
from engine.service.tasks import Task
from engine.store import Store
from engine.types.core import Answer
from engine.types.requests import AttackSanityRequest, PaceRequest, ShardRequest
from engine.types.run_studies import HeldOutTest, MapMatching, RebuildRequest, Rebuilt

PATIENCE: Final = 10.0
"""Seconds in which a run notes that it was interrupted when the server ends."""
PAGE: Final = "page"
"""Who asks for a run on the page, in the log: its login has no names."""
Act = Literal["look", "begin", "stop"]
"""What to do about work that a button asks for: only say how far it is, hand it in, or end it."""
Request = TypeVar("Request")
Record = TypeVar("Record")
SEEN: Final = 8
"""Runs whose figures are kept at hand: those of 50,000 images take megabytes."""
log = logging.getLogger(__name__)


def shard_task(run: str, piece: Piece) -> dict[str, Any]:
    """Return what a worker is handed for a piece of a run."""
    return tasks.order(tasks.SHARD, piece.key, ShardRequest(run, piece.condition.folder, piece.block))


def forecast_of(answers: Answers, manifest: Manifest, patience: float) -> Answer[Forecast]:
    """Return what a run will cost, measuring the pace of its models where that is not known yet.

    patience: seconds to wait for a measurement.
    """
    paces = {}
    for model in manifest.models:
        answer = answers.ask(tasks.PACE, _pace_request(manifest, model), patience=patience)
        if answer.value is None:
            return Answer(answer.state, None, answer.done, answer.total, answer.message)
        paces[model.role] = answer.value
    return Answer("ready", report.forecast(manifest, paces))


def sanity_request(store: Store, run: str) -> AttackSanityRequest:
    """Return what the attack sanity checks of a run are asked with; raises UnknownName, StoreError."""
    checked = report.checked(store, run)
    reference = store.model_card(checked.reference) if checked.reference else None
    key = tasks.model_key(reference) if reference else ""
    return AttackSanityRequest(checked.model, checked.data, checked.samples, checked.epsilon, checked.reference, key)


def planned(store: Store, values: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a plan whose values are those of a plan's file; raises WrongPlan, BadInput."""
    return manifests.build(plan.understood(plan.Table("plan", {}, (), values), store), store)


def written(manifest: Manifest) -> dict[str, Any]:
    """Return the values of a plan from which `planned` makes a run of the same content."""
    own, side = manifest.plan, min(manifest.model(CANDIDATE).size)
    values: dict[str, Any] = {"name": own.name, "model": own.model, "data": own.data, "method": str(own.method)}
    given = own.attacks
    if own.tier != plan.CUSTOM:
        # The first attack of every tier is on pixels, at the epsilon of the tier.
        values |= {"tier": own.tier, "epsilon": own.attacks[0].epsilon_text}
        contents = tiers.contents(own.tier, own.attacks[0].budget, side)
        known = {*contents.everywhere, *(item for item in own.curve if item in contents.in_cascade)}
        given = tuple(item for item in given if item not in known)
    values |= {"baseline": own.baseline} if own.baseline else {}
    values |= {"attacks": [item.text for item in given], "controls": bool(own.controls)}
    values |= {"seed": own.seed, "device": own.device, "threads": own.threads}
    values["images"] = {
        "count": own.images.count, "seed": own.images.seed, "keep": own.images.is_kept, "block": own.images.block,
    }  # fmt: skip
    if own.curve:
        values["curve"] = {"attack": own.curve[0].text, "epsilons": [item.epsilon_text for item in own.curve]}
    values["precomputed"] = [dataclasses.asdict(item) for item in own.precomputed]
    values["thresholds"] = [_agreed(item) for item in own.thresholds]
    return values


def _agreed(threshold: Threshold) -> dict[str, Any]:
    named = {value: name for name, value in reversed(plan.METRICS.items())}
    values = dataclasses.asdict(threshold) | {"metric": named[threshold.metric]}
    label = values.pop("label")
    return values | ({"class": label} if label else {})


@final
class Runs:
    """The audit runs of a store, as the screen asks for them. Thread-safe; several processes may open one store."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._store = answers.store
        self._jobs = answers.jobs
        self._seen: dict[str, tuple[tuple[bool, int], RunView]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def cards(self) -> tuple[RunCard, ...]:
        """Return the cards of all audit runs, the newest first. One that cannot be read says why."""
        return tuple(map(self._as_driven, report.listed(self._store)))

    def view(self, run: str) -> RunView:
        """Return a run with what its finished shards add up to; raises UnknownName, StoreError.

        Interim results are added up anew only when another shard has been finished.
        """
        opened = Run.open(self._store, run)
        card = self._as_driven(report.card(self._store, opened))
        mark = (card.state.state == "finished", card.state.done)
        held = self._seen.get(run)
        if held is None or held[0] != mark:
            held = (mark, report.view(opened, card))
            self._seen[run] = held
            for oldest in list(self._seen)[:-SEEN]:
                self._seen.pop(oldest, None)
        return dataclasses.replace(held[1], card=card)

    def inside(self, run: str, scope: Scope) -> Inside:
        """Return where attacks take hold over all images of a finished run; raises UnknownName, BadInput, StoreError."""
        return inside.of_run(Run.open(self._store, run).place, scope)

    def river(self, run: str, scope: Scope, share: float) -> RunRiver:
        """Return the clean and the adversarial datapath of all images of a scope, at a share of kept maps of each layer.

        Raises UnknownName, BadInput, StoreError.
        """
        return river.of_run(self._store, Run.open(self._store, run).place, scope, share)

    def confusion(self, run: str, scope: Scope, most: int | None = None) -> Confusion:
        """Return where fooled images of a run end, also while it goes on; raises UnknownName, BadInput, StoreError."""
        return endings.confusion(Run.open(self._store, run).place, scope, most)

    def versus(self, run: str, scope: Scope, most: int | None = None) -> Versus:
        """Return candidate beside baseline, also while the run goes on; raises UnknownName, BadInput, StoreError."""
        return versus.of_run(Run.open(self._store, run).place, scope, most)

    def matching(self, run: str, act: Act) -> Answer[MapMatching] | None:
        """Return the feature maps of both models of a run, matched; None where that was not asked for yet.

        Raises UnknownName, also for a model that is no longer there, BadInput, StoreError.
        """
        return self._acted(tasks.MATCHING, versus.match_request(Run.open(self._store, run).place), act)

    def held_out(self, run: str, scope: Scope, count: int, act: Act) -> Answer[HeldOutTest] | None:
        """Return what patching the ranked maps of a run does in held-out images; None where that was not asked for yet.

        Raises UnknownName, BadInput for a scope that cannot be tested, StoreError.
        """
        place = Run.open(self._store, run).place
        asked = held_out.request(place, scope, count)
        held_out.halves(place, asked)
        return self._acted(tasks.HELD_OUT, asked, act)

    def halves(self, run: str, scope: Scope) -> tuple[str, Halves]:
        """Return the attack of such a test, and on which fooled images it ranks and which it holds out; raises the same."""
        place = Run.open(self._store, run).place
        asked = held_out.request(place, scope, 1)
        return asked.condition, held_out.halves(place, asked)

    def damaged(self, run: str) -> tuple[str, ...]:
        """Return the damaged files of a finished run's result; raises UnknownName, StoreError."""
        return rebuild.damaged(Run.open(self._store, run).place)

    def rebuilt(self, run: str, act: Act) -> Answer[Rebuilt] | None:
        """Return how far the rebuilding of a damaged result is; None where that was not asked for. Raises UnknownName."""
        place = Run.open(self._store, run).place
        return self._acted(tasks.REBUILD, RebuildRequest(run, rebuild.mark(place)), act)

    def _acted(self, task: Task[Request, Record], request: Request, act: Act) -> Answer[Record] | None:
        if act == "begin":
            self._answers.retry(task, request)
            return self._answers.ask(task, request)
        if act == "stop":
            self._answers.stop(task, request)
        return self._answers.known(task, request)

    def images(self, run: str, selection: Selection) -> Listing:
        """Return the images of a run that a selection chooses, finished or not; raises UnknownName, BadInput, StoreError."""
        return listing.listing(manifests.place(self._store.root, run), selection)

    def picture(self, run: str, folder: str, sample: str, expected: str) -> np.ndarray:
        """Return the stored image of a sample under a condition, (height, width, channels) uint8.

        folder: of the condition; expected: the hash of the picture. Raises UnknownName, BadInput, StoreError.
        """
        return listing.picture(manifests.place(self._store.root, run), folder, sample, expected)

    def forecast(self, values: Mapping[str, Any]) -> Answer[Forecast]:
        """Return what a plan will cost; values are those of a plan's file. Raises WrongPlan, BadInput."""
        return forecast_of(self._answers, planned(self._store, values), 0.0)

    def start(self, values: Mapping[str, Any]) -> str:
        """Begin the run of a plan, or take it up, and return its id; raises WrongPlan, BadInput, StoreError."""
        return self.begin(planned(self._store, values), PAGE)

    def begin(self, manifest: Manifest, author: str) -> str:
        """Begin a run, or take it up, and return its id; author: who asked for it, in the log. Raises StoreError."""
        run = Run.of(self._store, manifest)
        if not run.place.manifest.exists():
            AuditLog(self._store.root).append(run.id, BEGUN, author)
        run.begin()
        self._drive(run)
        return run.id

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise WrongPlan or BadInput where a plan cannot be run; nothing is begun or measured."""
        planned(self._store, values)

    def values(self, run: str) -> dict[str, Any]:
        """Return the values of a run's plan, as a plan's file has them; raises UnknownName, StoreError."""
        return written(Run.open(self._store, run).manifest)

    def resume(self, run: str) -> None:
        """Take up a run that was interrupted or cancelled; raises UnknownName, StoreError."""
        self._drive(Run.open(self._store, run))

    def cancel(self, run: str) -> None:
        """Ask whoever drives a run to stop between two batches; raises UnknownName, BadInput, StoreError."""
        Run.open(self._store, run).cancel()

    def close(self) -> None:
        """Wait until the runs that are driven here have noted that they were interrupted, once the workers are gone."""
        for thread in self._threads.values():
            thread.join(PATIENCE)

    def _as_driven(self, card: RunCard) -> RunCard:
        """Return a run's card as going on from the moment it is taken up here, before its driver has noted so."""
        thread = self._threads.get(card.run)
        if card.state.state in ("running", "finished") or thread is None or not thread.is_alive():
            return card
        return dataclasses.replace(
            card, state=dataclasses.replace(card.state, state="running", message="Being taken up.")
        )

    def _drive(self, run: Run) -> None:
        """Drive a run in a thread of its own, which watches where another process drives it already."""
        with self._lock:
            known = self._threads.get(run.id)
            if known is None or not known.is_alive():
                thread = threading.Thread(target=self._driven, args=(run,), name=f"run-{run.id[:8]}", daemon=True)
                self._threads[run.id] = thread
                thread.start()

    def _driven(self, run: Run) -> None:
        try:
            run.drive(self._jobs, shard_task, lambda _state: None)
        except EngineError as error:
            log.warning("Run %s could not be driven: %s", run.id[:12], error)


def _pace_request(manifest: Manifest, model: AuditedModel) -> PaceRequest:
    return PaceRequest(model.name, manifest.images.data, manifest.plan.method, manifest.plan.threads)
