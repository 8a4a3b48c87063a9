"""How strongly the columns of the river are connected, run by run and group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine import Comparison, Connection, Examination, Side

GROUPS = ("adversarial", "shared", "clean")
"""From top to bottom: maps only in the adversarial datapath, in both, only in the clean one."""
RUN_GROUPS: dict[Side, tuple[str, str]] = {"clean": ("shared", "clean"), "adversarial": ("adversarial", "shared")}
HEAD_ROWS = {"clean": 0, "adversarial": 1}
"""Row of a run in the matrices that lead to the logits: true class, fooled-into class."""

Strengths = dict[tuple[int, int], np.ndarray]
"""(source site, target site) -> (target groups, source groups), both in the order of `GROUPS`."""


def between(examination: Examination, comparison: Comparison, columns: Sequence[int]) -> Strengths:
    """Return the strength of the connections between shown sites; the head is site `len(sites)`.

    The clean run's contributions count for maps of the clean datapath, the adversarial run's for maps of the
    adversarial one, each run scaled to the same total; what joins two shared maps is the mean of both. So a map that
    is only in one datapath is never joined to one that is only in the other.

    Sites that are not shown are passed through: the absolute contribution an inner map makes to its target is handed
    back to the inner map's own sources in proportion to their absolute contributions to it (proportional attribution),
    and added to what the skip link contributes directly. Where no linear link leads on, the strength ends there.
    """
    runs = []
    for run in RUN_GROUPS:
        found = _of_run(examination, comparison, columns, run)
        total = sum(float(matrix.sum()) for matrix in found.values())
        runs.append({pair: matrix / total for pair, matrix in found.items()} if total else found)
    clean, adversarial = runs
    zero = np.zeros((len(GROUPS), len(GROUPS)))
    pairs = sorted(set(clean) | set(adversarial))
    return {pair: _joined(clean.get(pair, zero), adversarial.get(pair, zero)) for pair in pairs}


def _joined(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Sum of both runs, where only the shared-to-shared entry has parts of both: there the mean."""
    total = clean + adversarial
    shared = GROUPS.index("shared")
    total[shared, shared] /= 2
    return total


Reasons = dict[tuple[int, int], tuple[str, ...]]
"""(source site, target site) -> why what lies between them is not exact, in words."""


def inexact(examination: Examination, columns: Sequence[int]) -> Reasons:
    """Return the shown pairs of sites between which any link on the way, through sites not shown too, is not exact."""
    why = examination.inexact
    if not why:
        return {}
    sources: dict[int, list[int]] = {}
    for link in examination.links:
        sources.setdefault(link.target, []).append(link.source)
    found: Reasons = {}
    origins: dict[int, _Origins] = {}
    for target in range(len(examination.sites) + 1):
        reached = _reached([(origins[source], why.get((source, target))) for source in sources.get(target, ())])
        origins[target] = {target: {}} if target in columns else reached
        if target in columns:
            found |= {(column, target): tuple(reasons) for column, reasons in reached.items() if reasons}
    return found


_Origins = dict[int, dict[str, None]]
"""Per shown site from which a site is reached without passing another: the reasons met on the way, each once, in order."""


def _reached(links: Sequence[tuple[_Origins, str | None]]) -> _Origins:
    """Return from where a site is reached; links: what is known of each one's source, and why it is not exact."""
    reached: _Origins = {}
    for origins, reason in links:
        own = {} if reason is None else {reason: None}
        for column, before in origins.items():
            reached[column] = {**reached.get(column, {}), **before, **own}
    return reached


def members(examination: Examination, comparison: Comparison, run: Side) -> tuple[np.ndarray, ...]:
    """Return per site (channels, groups) float32: one where a map of the run's datapath is in the group; head last."""
    found = []
    for site, sets in zip(examination.sites, comparison.sites, strict=True):
        belongs = np.zeros((site.channels, len(GROUPS)), np.float32)
        kept = {"adversarial": sets.adversarial_only, "shared": sets.shared, "clean": sets.clean_only}
        for group in RUN_GROUPS[run]:
            belongs[list(kept[group]), GROUPS.index(group)] = 1.0
        found.append(belongs)
    head = np.zeros((len(HEAD_ROWS), len(GROUPS)), np.float32)
    same = examination.clean.target == examination.adversarial.target
    head[HEAD_ROWS[run], GROUPS.index("shared" if same else run)] = 1.0
    return (*found, head)


Incoming = dict[int, list[Connection]]
"""Per target site the connections that lead there."""


def _of_run(examination: Examination, comparison: Comparison, columns: Sequence[int], run: Side) -> Strengths:
    belongs = members(examination, comparison, run)
    incoming: Incoming = {}
    for connection in examination.connections:
        incoming.setdefault(connection.target, []).append(connection)
    walk = _Walk(run, incoming, {site: {site: belongs[site]} for site in columns})
    found: Strengths = {}
    for target in columns:
        kept = np.flatnonzero(belongs[target].any(axis=1))
        for column, part in walk.gathered(target, kept).items():
            found[column, target] = belongs[target][kept].T @ part
    return found


@dataclass(frozen=True, slots=True)
class _Walk:
    """Follows the connections of one run back to the sites that are shown."""

    run: Side
    incoming: Incoming
    known: dict[int, dict[int, np.ndarray]]
    """Per site, per shown site (maps, groups): which share of each map is owed to which group."""

    def gathered(self, target: int, kept: np.ndarray | slice = slice(None)) -> dict[int, np.ndarray]:
        """Return per shown source site (kept maps, groups): what its groups contribute to each kept map of the target."""
        found: dict[int, np.ndarray] = {}
        for connection in self.incoming.get(target, ()):
            for column, shares in self._origins(connection.source).items():
                found[column] = found.get(column, 0.0) + connection.carried_back(self.run, shares, kept)
        return found

    def _origins(self, source: int) -> dict[int, np.ndarray]:
        if source not in self.known:
            strengths = [np.abs(one.run(self.run)).sum(axis=1) for one in self.incoming.get(source, ())]
            scale = 1.0 / np.maximum(sum(strengths, start=np.zeros(1, np.float32)), 1e-12)
            self.known[source] = {column: part * scale[:, None] for column, part in self.gathered(source).items()}
        return self.known[source]
