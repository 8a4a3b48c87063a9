"""Which images an attack leaves out because attacks before it have fooled them: read from the shards of those."""

from __future__ import annotations

from collections.abc import Sequence

from engine.audit import shards
from engine.audit.manifest import Condition
from engine.audit.places import Place
from engine.audit.shards import NoShard
from engine.errors import StoreError


def broken(place: Place, condition: Condition, blocks: Sequence[int]) -> frozenset[str]:
    """Return the samples of some blocks that an attack before this condition has fooled; none where it runs on all.

    Raises StoreError where one of those shards is not there or is damaged: the same audit, taken up again, makes it anew.
    """
    found: set[str] = set()
    for folder in condition.after:
        for block in blocks:
            try:
                fared = shards.statuses(place, folder, block)
            except NoShard as error:
                raise StoreError(f"Block {block} of {folder} is missing or damaged; run the audit again.") from error
            found |= {sample for sample, status in fared.items() if status == "fooled"}
    return frozenset(found)
