"""The maps a link chooses to put back: `flow:32`, `adversarial:LAYER`, `map:LAYER:3.5-9`, several joined by `~`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dashboard.viewmodels import layer
from engine import BadInput, Comparison, Direction, Examination, MapSet

FLOW = re.compile(r"flow:(\d{1,12})")
GROUP = re.compile(r"(adversarial|shared|clean):(.{1,150})")
MAPS = re.compile(r"map:(.{1,150}):([\d.-]{1,1800})")
RUN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
JOIN = "~"
INJECT = "inject:"
"""Before a choice: adversarial maps into the clean run instead of clean ones into the adversarial run."""
WORDS = {"adversarial": "adversarial-only", "shared": "shared", "clean": "clean-only"}
Places = frozenset[tuple[int, int]]
"""Site index and channel of every chosen map."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A choice of maps as a link writes it."""

    chosen: MapSet
    direction: Direction
    title: str


def asked(text: str, examination: Examination, comparison: Comparison) -> Asked:
    """Return the choice of a link, the maps of all its terms together.

    Raises BadInput for what is not written so or names nothing, UnknownName for a layer or map that is not there.
    """
    direction: Direction = "inject" if text.startswith(INJECT) else "restore"
    whose = "adversarial" if direction == "inject" else "clean"
    terms = [_term(one, examination, comparison) for one in text.removeprefix(INJECT).split(JOIN)]
    chosen = _gathered(frozenset().union(*(places for places, _ in terms)), examination)
    what = terms[0][1] if len(terms) == 1 else f"{chosen.count} chosen maps of {_layers(len(chosen.sites))}"
    return Asked(chosen, direction, f"{whose} values of {what}")


def written(chosen: MapSet) -> str:
    """Return the link text of a set of maps."""
    pairs = zip(chosen.sites, chosen.channels, strict=True)
    return JOIN.join(f"map:{name}:{'.'.join(_runs(channels))}" for name, channels in pairs)


def _term(text: str, examination: Examination, comparison: Comparison) -> tuple[Places, str]:
    """Return the maps of one term, and what they are in words."""
    if found := FLOW.fullmatch(text):
        count = int(found[1])
        return _by_flow(examination, count), f"the {count} maps with the most attack flow"
    if found := GROUP.fullmatch(text):
        group, name = found.groups()
        site = layer.site_index(examination, name)
        members = _members(comparison, site, group)
        return frozenset((site, one) for one in members), f"the {len(members)} {WORDS[group]} maps of {name}"
    if found := MAPS.fullmatch(text):
        name = found[1]
        site = layer.site_index(examination, name)
        channels = _channels(found[2], examination.sites[site].channels, name)
        what = f"feature map {channels[0]}" if len(channels) == 1 else f"{len(channels)} chosen maps"
        return frozenset((site, one) for one in channels), f"{what} of {name}"
    raise BadInput(
        f"'{text[:60]}' names no maps to put back; it is flow:NUMBER, adversarial:LAYER or map:LAYER:NUMBER."
    )


def _channels(text: str, count: int, name: str) -> list[int]:
    """Return the channels of `3.5-9`; raises BadInput for what is written otherwise or is not there."""
    found: set[int] = set()
    for part in text.split("."):
        run = RUN.fullmatch(part)
        first, last = (int(run[1]), int(run[2] or run[1])) if run else (0, -1)
        if not first <= last:
            raise BadInput(f"'{part[:20]}' is no feature map; maps are written like 3.5-9.")
        if last >= count:
            raise BadInput(f"{name} has feature maps 0 to {count - 1}, asked for {last}.")
        found.update(range(first, last + 1))
    return sorted(found)


def _runs(channels: Iterable[int]) -> list[str]:
    runs: list[list[int]] = []
    for one in sorted(channels):
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]


def _by_flow(examination: Examination, count: int) -> Places:
    """The maps that claims may use with the largest mean |attack flow| over the images; ties go to the earlier one."""
    sizes = [site.channels if site.is_claimable else 0 for site in examination.sites]
    if not 1 <= count <= sum(sizes):
        raise BadInput(f"From 1 to {sum(sizes)} maps can be put back, got {count}.")
    strength = np.concatenate([
        np.abs(flow).mean(axis=0) if site.is_claimable else np.full(site.channels, -1.0)
        for site, flow in zip(examination.sites, examination.flow, strict=True)
    ])  # fmt: skip
    best = np.argsort(-strength, kind="stable")[:count]
    starts = np.cumsum([0] + [site.channels for site in examination.sites])
    sites = np.searchsorted(starts, best, side="right") - 1
    return frozenset((int(site), int(one - starts[site])) for site, one in zip(sites, best, strict=True))


def _members(comparison: Comparison, site: int, group: str) -> tuple[int, ...]:
    sets = comparison.sites[site]
    members = {"adversarial": sets.adversarial_only, "shared": sets.shared, "clean": sets.clean_only}[group]
    if not members:
        raise BadInput(f"{sets.site} has no {WORDS[group]} map to put back.")
    return members


def _gathered(places: Places, examination: Examination) -> MapSet:
    """Return the maps by site, both in the order of the network."""
    used = sorted({site for site, _ in places})
    return MapSet(
        tuple(examination.sites[site].name for site in used),
        tuple(tuple(sorted(channel for at, channel in places if at == site)) for site in used),
    )


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''}"
