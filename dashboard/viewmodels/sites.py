"""The river's twin: one row of exact numbers per site, as a table and as a file."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields

from engine import Comparison, Examination

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is run as a formula by spreadsheets, so it is quoted with an apostrophe."""


@dataclass(frozen=True, slots=True)
class Row:
    """One site; the field names are the columns of the file."""

    site: str
    stage: str
    maps: int
    clean_only: int
    shared: int
    adversarial_only: int
    distance: float
    floor_low: float
    floor_high: float
    flow: float
    flow_floor: float
    role: str
    """`stem` and `evidence` (maps that are the classes themselves) are left out of claims."""
    is_cut: bool
    """Every path runs through it, so its flow is the whole margin whatever the attack."""


def build(examination: Examination, comparison: Comparison) -> tuple[Row, ...]:
    """Return one row per site in network order, whatever the river shows."""
    return tuple(
        Row(
            place.name,
            place.stage,
            place.channels,
            len(sets.clean_only),
            len(sets.shared),
            len(sets.adversarial_only),
            round(sets.distance, 6),
            round(sets.floor_low, 6),
            round(sets.floor_high, 6),
            round(sets.flow, 6),
            round(sets.flow_floor, 6),
            place.role,
            place.is_cut,
        )
        for place, sets in zip(examination.sites, comparison.sites, strict=True)
    )


def to_csv(rows: tuple[Row, ...]) -> str:
    """Return the rows as CSV with a header; text that a spreadsheet would run is escaped, numbers stay numbers."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows([_safe(cell) for cell in astuple(row)] for row in rows)
    return buffer.getvalue()


def _safe(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def summary(examination: Examination, comparison: Comparison) -> str:
    """Return what the river shows in words, for those who cannot see it."""
    first, last = comparison.sites[0], comparison.sites[-1]
    widest = max(comparison.sites, key=lambda site: site.distance - site.floor_high)
    return (
        f"Network of {len(examination.sites)} sites at {100 * comparison.share:.0f} % kept maps. "
        f"At {first.site} {len(first.shared)} maps are shared and {len(first.clean_only)} clean only; "
        f"at {last.site} {len(last.shared)} are shared and {len(last.clean_only)} clean only. "
        f"Most above noise: {widest.site}, distance {widest.distance:.2f} against at most {widest.floor_high:.2f}."
    )
