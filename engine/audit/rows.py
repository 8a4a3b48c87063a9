"""What a block of images under one condition gives, and its Parquet form that needs no Faultline to be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StoreError

LARGEST: Final = 65504.0
"""Largest float16; a score is one on average, so only a network of that many maps could reach it."""
NO_TARGET: Final = -1
PLAIN: Final[tuple[tuple[str, Any], ...]] = (
    ("sample", pa.string()),
    ("name", pa.string()),
    ("label", pa.int32()),
    ("before", pa.int32()),
    ("before_confidence", pa.float64()),
    ("after", pa.int32()),
    ("after_confidence", pa.float64()),
    ("status", pa.string()),
    ("linf", pa.float64()),
    ("l2", pa.float64()),
    ("in_budget", pa.bool_()),
    ("target", pa.int32()),
    ("image_hash", pa.string()),
    ("is_scored", pa.bool_()),
    ("score_total", pa.float64()),
    ("flow_total", pa.float64()),
)
"""The columns before those of the feature maps."""


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """One entry per image in every field, sorted by class."""

    samples: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    """(images,) int32 class indices."""
    before: np.ndarray
    """(images,) int32: what the model says of the image."""
    before_confidence: np.ndarray
    after: np.ndarray
    """(images,) int32: what it says of the stored 8-bit image."""
    after_confidence: np.ndarray
    status: tuple[str, ...]
    """`engine.records.Status`; without attack `clean_wrong` or `unperturbed`."""
    linf: np.ndarray
    """(images,) float64: largest change of a pixel, in [0, 1] units."""
    l2: np.ndarray
    in_budget: np.ndarray
    """(images,) bool."""
    targets: np.ndarray
    """(images,) int32: the class a targeted attack aimed at, `NO_TARGET` where there was none."""
    image_hashes: tuple[str, ...]
    """Of the stored image, (height, width, channels) uint8 as the model takes it."""
    is_scored: np.ndarray
    """(images,) bool: whether its feature maps were scored; elsewhere they are zero."""
    score_total: np.ndarray
    """(images,) float64: what |score| sums to over all maps before scaling."""
    flow_total: np.ndarray
    scores: tuple[np.ndarray, ...]
    """Per site (images, channels) float16, signed: 1 is what a map has on average over the network. Empty if unscored."""
    flow: tuple[np.ndarray, ...]
    """Attack flow, scaled alike. Empty where nothing is attacked."""


def scaled(per_site: Sequence[np.ndarray]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return per site (images, channels) float16 scaled to a mean |value| of one per image, and (images,) the totals."""
    maps = sum(site.shape[1] for site in per_site)
    total = sum((np.abs(site.astype(np.float64)).sum(axis=1) for site in per_site), np.zeros(len(per_site[0])))
    factor = np.divide(maps, total, out=np.zeros_like(total), where=total > 0)[:, None]
    return tuple(np.clip(site * factor, -LARGEST, LARGEST).astype(np.float16) for site in per_site), total


def write(path: Path, rows: Rows, sites: Sequence[str], about: dict[str, str]) -> None:
    """Write rows as Parquet: plain columns, then `score_003` and `flow_003` per site, named in the file's metadata."""
    arrays = [pa.array(column, type=kind) for column, (_, kind) in zip(_columns(rows), PLAIN, strict=True)]
    fields = [pa.field(name, kind, nullable=False) for name, kind in PLAIN]
    for kind, values in (("score", rows.scores), ("flow", rows.flow)):
        for index, site in enumerate(values):
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(site)), site.shape[1]))
            known = {"site": sites[index], "meaning": f"{kind} of each feature map, 1 is the mean over the network"}
            fields.append(pa.field(f"{kind}_{index:03d}", arrays[-1].type, nullable=False, metadata=known))
    schema = pa.schema(fields, metadata={**about, "sites": json.dumps(list(sites))})
    table = pa.Table.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, fields, strict=True)], schema=schema
    )
    # No byte-stream-split: DuckDB and Polars fail on float16 in it. No dictionaries: they double what a reader holds.
    pq.write_table(table, path, compression="zstd", use_dictionary=False, use_byte_stream_split=False)


def read(path: Path) -> Rows:
    """Return the rows of one file. Raises StoreError."""
    return _rows(_table(path, None))


def read_plain(path: Path) -> pa.Table:
    """Return the rows of one file without the maps, as a table: a tenth of what `Rows` takes. Raises StoreError."""
    return _table(path, [name for name, _ in PLAIN])


def from_plain(tables: Sequence[pa.Table]) -> Rows:
    """Return the rows of several plain tables behind one another."""
    return _rows(pa.concat_tables(tables))


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several blocks behind one another, with maps where every block has them."""
    found = _rows(pa.concat_tables([plain_table(part) for part in parts]))
    scores = tuple(np.concatenate(site) for site in zip(*(part.scores for part in parts), strict=True))
    flow = tuple(np.concatenate(site) for site in zip(*(part.flow for part in parts), strict=True))
    return replace(found, scores=scores, flow=flow)


def plain_table(rows: Rows) -> pa.Table:
    """Return rows without maps as a table."""
    arrays = [pa.array(column, type=kind) for column, (_, kind) in zip(_columns(rows), PLAIN, strict=True)]
    return pa.Table.from_arrays(arrays, names=[name for name, _ in PLAIN])


def picked(rows: Rows, chosen: Sequence[int]) -> Rows:
    """Return some rows, by index."""
    index = np.asarray(chosen, dtype=np.int64)
    found = _rows(plain_table(rows).take(index))
    scores, flow = (tuple(site[index] for site in values) for values in (rows.scores, rows.flow))
    return replace(found, scores=scores, flow=flow)


def judged(rows: Rows) -> np.ndarray:
    """Return (images,) bool: the attack did not break down, and a pre-made image keeps its budget."""
    return rows.in_budget & np.array([status != "failed" for status in rows.status], dtype=bool)


def right(rows: Rows) -> np.ndarray:
    """Return (images,) bool: right without attack and still right, here and under every attack that this one came after.

    A wrong image that noise puts right by chance is no success.
    """
    is_unbroken = np.array([status != "broken_before" for status in rows.status], dtype=bool)
    return (rows.before == rows.labels) & (rows.after == rows.labels) & is_unbroken


def _table(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path.name} cannot be read as Parquet.") from error


def _columns(rows: Rows) -> list[Any]:
    return [
        rows.samples, rows.names, rows.labels, rows.before, rows.before_confidence, rows.after, rows.after_confidence,
        rows.status, rows.linf, rows.l2, rows.in_budget, rows.targets, rows.image_hashes, rows.is_scored,
        rows.score_total, rows.flow_total,
    ]  # fmt: skip


def _rows(table: pa.Table) -> Rows:
    found: list[Any] = [_plain(table[name]) for name, _ in PLAIN]
    return Rows(*found, *(_maps(table, prefix) for prefix in ("score_", "flow_")))


def _plain(column: pa.ChunkedArray) -> Any:
    if column.type == pa.string():
        return tuple(column.to_pylist())
    return column.to_numpy()


def _maps(table: pa.Table, prefix: str) -> tuple[np.ndarray, ...]:
    found = []
    for name in table.column_names:
        if name.startswith(prefix) and name != f"{prefix}total":
            column = table[name].combine_chunks()
            found.append(column.flatten().to_numpy().reshape(len(column), -1))
    return tuple(found)
