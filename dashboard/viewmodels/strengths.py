"""How strongly the columns of the river are connected, run by run and group by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine import Comparison, Examination

GROUPS = ("adversarial", "shared", "clean")
"""From top to bottom: maps only in the adversarial datapath, in both, only in the clean one."""
RUN_GROUPS = {"clean": ("shared", "clean"), "adversarial": ("adversarial", "shared")}
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


def members(examination: Examination, comparison: Comparison, run: str) -> tuple[np.ndarray, ...]:
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


Incoming = dict[int, list[tuple[int, np.ndarray]]]
"""Per target site its sources with the signed contributions (target maps, source maps)."""


def _of_run(examination: Examination, comparison: Comparison, columns: Sequence[int], run: str) -> Strengths:
    belongs = members(examination, comparison, run)
    incoming: Incoming = {}
    for connection in examination.connections:
        signed = connection.clean if run == "clean" else connection.adversarial
        incoming.setdefault(connection.target, []).append((connection.source, signed))
    known: dict[int, dict[int, np.ndarray]] = {site: {site: belongs[site]} for site in columns}
    found: Strengths = {}
    for target in columns:
        kept = np.flatnonzero(belongs[target].any(axis=1))
        links = [(source, np.abs(signed[kept])) for source, signed in incoming.get(target, ())]
        for column, part in _gather(links, incoming, known).items():
            found[column, target] = belongs[target][kept].T @ part
    return found


def _gather(
    links: list[tuple[int, np.ndarray]], incoming: Incoming, known: dict[int, dict[int, np.ndarray]]
) -> dict[int, np.ndarray]:
    """Return per shown source site (maps, groups): what its groups contribute to each map the links lead to."""
    found: dict[int, np.ndarray] = {}
    for source, strength in links:
        for column, part in _origins(source, incoming, known).items():
            found[column] = found.get(column, 0.0) + strength @ part
    return found


def _origins(source: int, incoming: Incoming, known: dict[int, dict[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Return per shown site (maps of `source`, groups): which share of each map is owed to which group."""
    if source not in known:
        links = [(before, np.abs(signed)) for before, signed in incoming.get(source, ())]
        total = sum((strength.sum(axis=1) for _, strength in links), start=np.zeros(1, np.float32))
        scale = 1.0 / np.maximum(total, 1e-12)
        gathered = _gather(links, incoming, known)
        known[source] = {column: part * scale[:, None] for column, part in gathered.items()}
    return known[source]
