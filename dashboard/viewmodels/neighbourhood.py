"""The strongest incoming and outgoing connections of one feature map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dashboard.viewmodels import layer
from engine import Comparison, Examination, Side

NEIGHBOURS = 8


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A map, or a class's logit, one step before or behind the one that is looked at."""

    name: str
    """`layer2.1 · 12`, or the class."""
    layer: str | None
    """None for a logit."""
    channel: int | None
    group: int | None
    contribution: float
    """Signed, in logits of the margin explained."""
    inexact: str = ""
    """Why the contribution is not what changing the one map alone does, in words; empty where it is."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """One map between its neighbours, strongest first on either side."""

    name: str
    group: int
    side: Side
    incoming: tuple[Neighbour, ...]
    outgoing: tuple[Neighbour, ...]
    incoming_total: int
    """All incoming connections, of which the strongest are listed."""
    outgoing_total: int

    @property
    def largest(self) -> float:
        """Largest |contribution| listed; 0 without neighbours."""
        return max((abs(one.contribution) for one in (*self.incoming, *self.outgoing)), default=0.0)


def build(examination: Examination, comparison: Comparison, site: int, channel: int, side: Side) -> Neighbourhood:
    """Return the neighbourhood of a map in one datapath."""
    why = examination.inexact
    into = {source: reason for (source, target), reason in why.items() if target == site}
    out_of = {target: reason for (source, target), reason in why.items() if source == site}
    incoming, all_incoming = _strongest(examination, comparison, _incoming(examination, site, channel, side), into)
    outgoing, all_outgoing = _strongest(examination, comparison, _outgoing(examination, site, channel, side), out_of)
    group = int(layer.groups(comparison.sites[site], examination.sites[site].channels)[channel])
    name = _map_name(examination, site, channel)
    return Neighbourhood(name, group, side, incoming, outgoing, all_incoming, all_outgoing)


Candidates = list[tuple[int, np.ndarray, np.ndarray]]
"""Per link the site at its other end, maps there, and their contributions."""


def _incoming(examination: Examination, site: int, channel: int, side: Side) -> Candidates:
    return [(one.source, *one.into(side, channel)) for one in examination.connections if one.target == site]


def _outgoing(examination: Examination, site: int, channel: int, side: Side) -> Candidates:
    found = []
    for connection in examination.connections:
        if connection.source == site:
            values = connection.out_of(side, channel)
            is_one_class = connection.target == len(examination.sites) and _has_one_class(examination)
            values = values[:1] if is_one_class else values
            found.append((connection.target, np.arange(len(values)), values))
    return found


def _has_one_class(examination: Examination) -> bool:
    """Whether both rows of the logits are the same class, as for an image that resisted."""
    return examination.clean.target == examination.adversarial.target


def _strongest(
    examination: Examination, comparison: Comparison, candidates: Candidates, why: Mapping[int, str]
) -> tuple[tuple[Neighbour, ...], int]:
    """Return the strongest neighbours that contribute at all, over all links together, and how many contribute.

    why: by the site at a link's other end, why the link is not exact.
    """
    if not candidates:
        return (), 0
    sites = np.concatenate([np.full(len(values), site) for site, _, values in candidates])
    rows = np.concatenate([rows for _, rows, _ in candidates])
    values = np.concatenate([values for _, _, values in candidates])
    best = [int(i) for i in np.argsort(-np.abs(values), kind="stable")[:NEIGHBOURS] if values[i] != 0]
    found = [_neighbour(examination, comparison, int(sites[i]), int(rows[i]), float(values[i])) for i in best]
    marked = [replace(one, inexact=why.get(int(sites[i]), "")) for i, one in zip(best, found, strict=True)]
    return tuple(marked), int(np.count_nonzero(values))


def _neighbour(examination: Examination, comparison: Comparison, site: int, row: int, value: float) -> Neighbour:
    if site == len(examination.sites):
        return Neighbour(f"class {_logit_class(examination, row)}", None, None, None, value)
    group = int(layer.groups(comparison.sites[site], examination.sites[site].channels)[row])
    return Neighbour(_map_name(examination, site, row), examination.sites[site].name, row, group, value)


def _map_name(examination: Examination, site: int, channel: int) -> str:
    return f"{examination.sites[site].name} · {channel}"


def _logit_class(examination: Examination, row: int) -> str:
    """Return the class of a row of the logits: the true class, then the fooled-into class."""
    label = examination.clean.target if row == 0 else examination.adversarial.target
    return examination.classes[label]
