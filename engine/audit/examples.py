"""One image per condition of a run that stands for how it ended: where a link to look inside leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from engine import class_names
from engine.audit import results, rows
from engine.audit.manifest import Manifest
from engine.audit.places import Place
from engine.audit.rows import Rows

COLUMNS: Final = ("role", "condition", "sample", "label", "after", "status")


@dataclass(frozen=True, slots=True)
class Example:
    """An image of a condition: of the most frequent confusion where any was fooled, else the first that resisted."""

    sample: str
    label: str
    """Name of its class, or `name@index` where the name stands twice."""
    outcome: Literal["fooled", "resisted"]


Examples = dict[tuple[str, str], Example]
"""By role and condition; one under which no image was fooled or resisted has none."""


def of_run(place: Place, manifest: Manifest) -> Examples:
    """Return the examples of a finished run; raises StoreError."""
    table = results.read_table(place, COLUMNS)
    handles = class_names.handles(manifest.classes)
    is_own = {
        (one.role, one.name): pc.and_(pc.equal(table["role"], one.role), pc.equal(table["condition"], one.name))
        for one in manifest.conditions
    }
    return _examples({where: table.filter(mask) for where, mask in is_own.items()}, handles)


def of_rows(found: Mapping[str, Rows], manifest: Manifest) -> Examples:
    """Return the examples of what a run has so far, its rows by condition folder."""
    tables: dict[tuple[str, str], pa.Table] = {
        (one.role, one.name): rows.plain_table(found[one.folder]) for one in manifest.conditions if one.folder in found
    }
    return _examples(tables, class_names.handles(manifest.classes))


def _examples(tables: Mapping[tuple[str, str], pa.Table], classes: Sequence[str]) -> Examples:
    found = {where: _fooled(table, classes) or _resisted(table, classes) for where, table in tables.items()}
    return {where: one for where, one in found.items() if one is not None}


def _fooled(table: pa.Table, classes: Sequence[str]) -> Example | None:
    fooled = table.filter(pc.equal(table["status"], "fooled"))
    if not len(fooled):
        return None
    flows = fooled.group_by(["label", "after"]).aggregate([([], "count_all")]).to_pylist()
    largest = min(flows, key=lambda flow: (-flow["count_all"], flow["label"], flow["after"]))
    is_in = pc.and_(pc.equal(fooled["label"], largest["label"]), pc.equal(fooled["after"], largest["after"]))
    return Example(fooled.filter(is_in)["sample"][0].as_py(), classes[largest["label"]], "fooled")


def _resisted(table: pa.Table, classes: Sequence[str]) -> Example | None:
    resisted = table.filter(pc.equal(table["status"], "resisted"))
    if not len(resisted):
        return None
    return Example(resisted["sample"][0].as_py(), classes[resisted["label"][0].as_py()], "resisted")
