"""The subcommands `audit` and `verify`: options in, one line per step to people, JSON to programs."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from engine.audit import manifest as manifests
from engine.audit import plan, report, results, shards, summary
from engine.audit.report import Forecast
from engine.audit.runs import Run, State
from engine.cli.command import DONE, FAILED, INTERRUPTED, TLS_VARIABLES, Reply
from engine.errors import BadInput, EngineError, StoreError, WorkFailed
from engine.jobs import Jobs
from engine.jobs.connection import TlsFiles
from engine.review.book import Book
from engine.service import driver, worker
from engine.service.answers import Answers
from engine.store import Store

TOLD_EVERY: Final = 2.0
PAUSE: Final = 0.2
INTERIM_EVERY: Final = 20.0
"""Seconds between two interim results: each reads the rows of all finished shards."""


def audit(options: argparse.Namespace) -> Reply:
    """Run or resume the audit of a plan."""
    store = Store(options.store, create=False)
    run = Run.of(store, manifests.build(plan.read(options.plan, store), store))
    started = time.monotonic()
    if options.cancel:
        run.cancel()
        return Reply(f"Run {run.id} is told to stop.", {"run": run.id, "status": "cancelled"})
    jobs = Jobs(
        store.root, worker.perform, scheduler=options.scheduler, allow_plain=options.allow_plain, tls=_tls(options)
    )
    answers = Answers(store, jobs)
    try:
        with _terminable():
            if options.estimate:
                return _costing(run, _forecast(answers, run))
            if not run.place.manifest.exists():
                sys.stderr.write(f"{_cost(answers, run)}\n")
            shards.load_libraries()
            state = run.drive(jobs, driver.shard_task, _Teller(run).tell)
    finally:
        jobs.close()
    return _reply(run, state, time.monotonic() - started)


def verify(options: argparse.Namespace) -> Reply:
    """Check that a run's files are what was written, and compute a sample of it again."""
    from engine.audit import verify as verification

    root, run = located(options)
    store = Store(root, create=False)
    result = verification.verify(store, run, images=options.images, seed=options.seed)
    problems = Book(store, run).problems() if result.state == "finished" else ()
    result = dataclasses.replace(
        result, damaged=(*result.damaged, *problems), is_sound=result.is_sound and not problems
    )
    return Reply(verification.text(result), verification.as_json(result), DONE if result.is_sound else FAILED)


def rebuild(options: argparse.Namespace) -> Reply:
    """Put back the damaged files of a finished run's result, from its shards."""
    from engine.audit import rebuild as rebuilding

    root, run = located(options)
    shards.load_libraries()
    names = rebuilding.rebuild(Store(root, create=False).root, run, lambda _done, _total, _message: None)
    text = (
        f"Rebuilt {', '.join(names)} as sealed; verify checks the run."
        if names
        else "Nothing of the result is damaged."
    )
    return Reply(text, {"run": run, "rebuilt": list(names)})


def export(options: argparse.Namespace) -> Reply:
    """Write the tables of a run, finished or not, as CSV."""
    from engine.audit import frames

    root, run = located(options)
    written = frames.export(Store(root, create=False), run, options.out)
    listed = ", ".join(f"{name}.csv ({count} rows)" for name, count in written.items())
    return Reply(f"Wrote {listed}.", {"run": run, "rows": written})


def _forecast(answers: Answers, run: Run) -> Forecast:
    """Return what a run will cost; raises WorkFailed where its pace cannot be measured."""
    forecast = driver.forecast_of(answers, run.manifest, PAUSE)
    while forecast.state == "working":
        forecast = driver.forecast_of(answers, run.manifest, PAUSE)
    if forecast.value is None:
        raise WorkFailed(forecast.message)
    return forecast.value


def _cost(answers: Answers, run: Run) -> str:
    try:
        return report.forecast_text(run.manifest.plan.tier, _forecast(answers, run))
    except EngineError as error:
        return f"What the run will cost cannot be told: {error}"


def _costing(run: Run, forecast: Forecast) -> Reply:
    results = {"run": run.id, "plan": run.manifest.plan.name, "tier": run.manifest.plan.tier}
    return Reply(report.forecast_text(run.manifest.plan.tier, forecast), {**results, **dataclasses.asdict(forecast)})


def _reply(run: Run, state: State, seconds: float) -> Reply:
    manifest = run.manifest
    is_finished = state.state == "finished"
    result = results.read_summary(run.place, manifest) if is_finished else results.interim(run.place, manifest)
    value = report.as_json(run, state, result, seconds)
    is_passed = summary.verdict(result) in ("pass", "nothing to decide")
    code = (DONE if is_passed else FAILED) if is_finished else INTERRUPTED
    return Reply(report.text(run, state, result), value, code)


def _tls(options: argparse.Namespace) -> TlsFiles | None:
    given = [getattr(options, name) or os.environ.get(variable) for name, variable in TLS_VARIABLES.items()]
    if not any(given):
        return None
    if not all(given):
        raise BadInput("A TLS connection needs all of --tls-ca, --tls-cert and --tls-key.")
    return TlsFiles(*(Path(str(item)) for item in given))


def located(options: argparse.Namespace) -> tuple[Path, str]:
    """Return the store's folder and the id of the run that RUN stands for."""
    if options.store is None:
        folder = Path(options.run).resolve()
        if folder.parent.name != manifests.RUNS:
            raise BadInput("RUN must be the folder of a run, STORE/runs/ID, or an id together with --store.")
        return folder.parent.parent, folder.name
    return options.store, manifests.whole_id(options.store, options.run)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a polite request to end the process be handled as Ctrl-C is."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@final
class _Teller:
    """Tells how far a run is, on one line of a terminal or on a new line every few seconds."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._is_terminal = sys.stderr.isatty()
        self._reply = self._summed = -INTERIM_EVERY
        self._interim = ""

    def tell(self, state: State) -> None:
        """Tell a state, seldom enough to be read."""
        now = time.monotonic()
        if now - self._reply < TOLD_EVERY and state.state == "running":
            return
        self._reply = now
        if now - self._summed >= INTERIM_EVERY and state.state == "running":
            self._summed, self._interim = now, self._summary()
        line = report.progress_line(state) + self._interim
        sys.stderr.write(f"\r\x1b[2K{line}" if self._is_terminal else f"{line}\n")
        if self._is_terminal and state.state != "running":
            sys.stderr.write("\n")
        sys.stderr.flush()

    def _summary(self) -> str:
        try:
            return report.interim_line(results.interim(self._run.place, self._run.manifest))
        except StoreError:
            return ""
