"""The curves above the river: how far the datapaths lie apart, whom they resemble, and what the attack pushes where."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.viewmodels.river import River
from engine import Comparison, Examination, Kinship


@dataclass(frozen=True, slots=True)
class Mark:
    """A site that a finding names, where it stands on the x axis."""

    position: float
    site: str
    text: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Attack flow through one site that other paths pass by."""

    site: str
    share: float
    """Of the margin lost, signed."""
    floor: float
    """Largest share under noise of the same size."""


@dataclass(frozen=True, slots=True)
class Curves:
    """One value per shown site (the head has none); every tuple has the length of `names`."""

    names: tuple[str, ...]
    distance: tuple[float, ...]
    """1 - Jaccard of the clean and the adversarial datapath."""
    interval: tuple[tuple[float, float], ...] | None
    """95 % of it over the images of a group; None for a single pair."""
    floor_low: tuple[float, ...]
    floor_high: tuple[float, ...]
    flow: tuple[Flow | None, ...]
    """What passes through the branch of each column's block; None where every path runs through the one site."""
    true_class: tuple[float, ...] | None
    """Jaccard with the true class's datapath; None until it has been computed."""
    fooled_into: tuple[float, ...] | None
    true_name: str
    fooled_name: str
    parts: Mark | None
    merges: Mark | None


def build(examination: Examination, comparison: Comparison, drawn: River, kinship: Kinship | None) -> Curves:
    """Return the curves at the columns of the river; the marks may lie between them."""
    sites = [column.site for column in drawn.columns if not column.is_head]
    rows = [comparison.sites[k] for k in sites]
    places = dict(drawn.places)
    fooled_name = examination.classes[examination.adversarial.target]
    return Curves(
        names=tuple(row.site for row in rows),
        distance=tuple(row.distance for row in rows),
        interval=tuple((row.distance_low, row.distance_high) for row in rows) if comparison.images > 1 else None,
        floor_low=tuple(row.floor_low for row in rows),
        floor_high=tuple(row.floor_high for row in rows),
        flow=tuple(_flow(examination, comparison, k, set(sites)) for k in sites),
        true_class=tuple(kinship.true_class[k] for k in sites) if kinship else None,
        fooled_into=tuple(kinship.fooled_into[k] for k in sites) if kinship else None,
        true_name=examination.classes[examination.clean.target],
        fooled_name=fooled_name,
        parts=_mark(places, comparison.parts_at, "part at"),
        merges=_mark(places, kinship.merges_at if kinship else None, f"nearer to '{fooled_name}' from"),
    )


def _flow(examination: Examination, comparison: Comparison, site: int, shown: set[int]) -> Flow | None:
    """The flow of a site, or for a block's output, where it is the whole margin by construction, of the block's branch."""
    inside = range(site) if examination.sites[site].is_cut else range(site + 1)
    block = examination.sites[site].name
    places = [
        k
        for k in inside
        if not examination.sites[k].is_cut
        and (k == site or (k not in shown and examination.sites[k].name.startswith(f"{block}.")))
    ]
    if not places:
        return None
    row = comparison.sites[places[-1]]
    return Flow(row.site, row.flow, row.flow_floor)


def _mark(places: dict[str, float], site: str | None, text: str) -> Mark | None:
    return Mark(places[site], site, f"{text} {site}") if site is not None else None
