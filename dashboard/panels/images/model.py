"""The images of a run as rows of plain values: what is asked for, what each row says, where it leads, and the whole as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from dashboard import markup
from dashboard.links import CHOICES
from dashboard.panels.audits.counted import image_query
from dashboard.panels.inside import model as insides
from dashboard.panels.inside.model import OUTCOMES
from dashboard.wording import percent
from engine import SORTABLE, STATUSES, BadInput, Condition, Listing, Manifest, Selection, class_handles, listing_parquet

FIELDS: Final = ("role", "attacks", "classes", "ended", "under", "status", "into", "find", "order")
"""Of a view: what decides which rows are listed."""
EVERY: Final = "all"
MOST_ROWS: Final = 500
"""Rows that one question may ask for."""
STATUS_TITLES: Final = {
    "fooled": "Fooled",
    "resisted": "Resisted",
    "clean_wrong": "Wrong without attack",
    "unperturbed": "Not changed",
    "failed": "Attack failed",
    "broken_before": "Not attacked: broken already",
}


@dataclass(frozen=True, slots=True)
class Menu:
    """The options of a menu, and which is chosen."""

    options: tuple[tuple[str, str], ...]
    """Value and title; an empty value takes the choice back."""
    value: str


def selection(stored: Mapping[str, Any]) -> Selection:
    """Return the checked rows that the page asks about; raises BadInput, which says what was wrong."""
    scope, under, status = insides.scope(stored), _text(stored, "under"), _text(stored, "status")
    if status and status not in CHOICES["status"]:
        raise BadInput(f"Images are listed by status {', '.join(CHOICES['status'])}; got '{status[:40]}'.")
    by_status = () if status == EVERY else (status or OUTCOMES[scope.group],)
    order = _text(stored, "order")
    if order and order.removeprefix("-") not in SORTABLE:
        raise BadInput(f"Images are sorted by {', '.join(SORTABLE)}; got '{order[:40]}'.")
    return Selection(
        scope.role,
        () if under == EVERY else _places(under, "under") or scope.attacks,
        under == EVERY,
        scope.classes,
        tuple(name for name in STATUSES if name in by_status),
        next(iter(_places(_text(stored, "into"), "into")), None),
        _text(stored, "find"),
        order,
    )


def block(stored: Mapping[str, Any]) -> tuple[int, int]:
    """Return which rows of a listing are asked for, from the first to before the last; raises BadInput."""
    first, last = (_places(_text(stored, name), name) for name in ("from", "to"))
    if not first or not last or not 0 < last[0] - first[0] <= MOST_ROWS:
        raise BadInput(
            f"Rows are asked for from one number to a larger one, at most {MOST_ROWS} at a time; reload the page."
        )
    return first[0], last[0]


def _text(stored: Mapping[str, Any], name: str) -> str:
    value = stored.get(name)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"The page asked for {name} {value!r:.40}, which is no text; reload it.")
    return value or ""


def _places(text: str, name: str) -> tuple[int, ...]:
    if not text:
        return ()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise BadInput(f"The page asked for {name} '{text[:40]}', which is no whole number; reload it.")
    return (int(text),)


def menus(manifest: Manifest, stored: Mapping[str, Any]) -> dict[str, Menu]:
    """Return the menus by the field that they set."""
    scope = insides.scope(stored)
    conditions = [(str(place), one.name) for place, one in enumerate(manifest.of(scope.role))]
    classes = [(str(label), name) for label, name in enumerate(class_handles(manifest.classes))]
    chosen = ",".join(map(str, scope.classes))
    several = [(chosen, f"{len(scope.classes)} classes chosen above")] if len(scope.classes) > 1 else []
    ended = STATUS_TITLES[OUTCOMES[scope.group]].lower()
    statuses = [(name, STATUS_TITLES[name]) for name in STATUSES]
    return {
        "under": Menu((("", "Attacks chosen above"), (EVERY, "Every condition"), *conditions), _text(stored, "under")),
        "status": Menu(
            (("", f"As chosen above: {ended}"), (EVERY, "However it ended"), *statuses), _text(stored, "status")
        ),
        "classes": Menu((("", "All classes"), *several, *classes), chosen),
        "into": Menu((("", "Any answer"), *classes), _text(stored, "into")),
    }


def lead(listing: Listing) -> str:
    """Return how many rows are listed, and of how many images."""
    if not listing.count:
        return "No image of this run is like that: change what is chosen above."
    rows, images = listing.count, len(listing.manifest.images.samples)
    return f"{rows:,} row{'' if rows == 1 else 's'}: one for each image and condition; the run has {images:,} images."


def interim(listing: Listing) -> str:
    """Return what must be said while rows are still to come; empty for a finished run."""
    return "Interim: rows of the parts that are done; more are added as the run goes on." if listing.is_interim else ""


def rows(listing: Listing, run: str, first: int, last: int) -> list[dict[str, Any]]:
    """Return some rows as the table shows them."""
    manifest, folders = listing.manifest, listing.folders(first, last)
    known = {one.folder: one for one in manifest.conditions}
    found = listing.block(first, last).to_pylist()
    return [_row(manifest, run, known[folder], row) for folder, row in zip(folders, found, strict=True)]


def _row(manifest: Manifest, run: str, condition: Condition, row: Mapping[str, Any]) -> dict[str, Any]:
    sample = row["sample"]
    kept = f"/media/run/{run}/{quote(condition.folder)}/{sample}/{row['image_hash']}.png"
    return {
        "clean": f"/media/strip/{quote(manifest.images.data)}/{sample}.png",
        "adversarial": kept if manifest.plan.images.is_kept else "",
        "sample": sample,
        "name": row["name"],
        "true_class": row["true_class"],
        "condition": row["condition"],
        "status": STATUS_TITLES[row["status"]],
        "before": row["before"],
        "before_confidence": percent(row["before_confidence"]),
        "after": row["after"],
        "after_confidence": percent(row["after_confidence"]),
        "linf": f"{255 * row['linf']:.3g}/255",
        "l2": f"{row['l2']:.3g}",
        "in_budget": "yes" if row["in_budget"] else "no: left out",
        "target": row["target"] or "–",
        "link": link(manifest, run, condition, (sample, row["true_class"], row["status"])),
    }


def link(manifest: Manifest, run: str, condition: Condition, image: tuple[str, str, str]) -> str:
    """Return the query of Explain at an image of a run under a condition; empty where nothing of it can be shown.

    image: its sample, its true class and how it ended. A run that kept its images shows those; of one that kept hashes only,
    the levels attack anew where that is the same attack.
    """
    sample, label, status = image
    if status not in OUTCOMES.values():
        return ""
    own = condition.kind, condition.name, condition.role
    return image_query(manifest, run, own, {"label": label, "outcome": status, "sample": sample}, is_stored=True)


def csv(listing: Listing) -> Iterator[bytes]:
    """Yield the whole listing as CSV; text that a spreadsheet would run is escaped."""
    heads: list[str] | None = None
    for part in listing.blocks():
        names = part.column_names
        rows = zip(*(column.to_pylist() for column in part.columns), strict=True)
        text = markup.csv_text(names, rows)
        yield (text if heads is None else text.partition("\r\n")[2]).encode()
        heads = names


FILES: Final[dict[str, tuple[str, Callable[[Listing], Iterator[bytes]]]]] = {
    "csv": ("text/csv", csv),
    "parquet": ("application/vnd.apache.parquet", listing_parquet),
}
"""By the ending of the file: its type, and what makes it."""
