"""Checking a run: that its files are what was written, and that a sample of it comes out the same when computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine import serialization
from engine.audit import compute, results, shards
from engine.audit import manifest as manifests
from engine.audit.manifest import Condition, Manifest, Place
from engine.audit.runs import AuditLog
from engine.audit.shards import NoShard, Rows
from engine.errors import BadInput, EngineError
from engine.store import Store, files

LEAST_AGREEMENT: Final = 0.98
"""Share of recomputed images whose answer must be the stored one: other devices and batch sizes may move single pixels."""
MOST_IMAGES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Replicated:
    """How the recomputed images of one condition agree with the stored ones."""

    condition: str
    role: str
    images: int
    same_answer: int
    """Same class and same status."""
    same_pixels: int
    """The stored image to the last bit."""
    largest_score_change: float
    """Of any map, where 1 is a map of average importance; 0 where nothing is scored."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked and found."""

    run: str
    state: str
    damaged: tuple[str, ...]
    """What is not as it was written, one sentence each."""
    shards: int
    """Shards whose files were all checked."""
    replicated: tuple[Replicated, ...]
    is_sound: bool
    """Finished, whole, and of the images that were computed again (at least one) hardly any differ."""


def verify(store: Store, run: str, *, images: int, seed: int) -> Verification:
    """Check every file of a run and compute some images of every condition again. Imports torch.

    Raises UnknownName for a run that is not there and BadInput where this machine computes something else.
    """
    if not 0 <= images <= MOST_IMAGES:
        raise BadInput(f"The number of images must lie in 0 to {MOST_IMAGES}, got {images}.")
    place = manifests.place(store.root, run)
    manifest = manifests.read(place)
    damaged, whole = _damaged_shards(place, manifest)
    damaged += _damaged_result(place, manifest, is_comparable=not damaged) + _damaged_log(store)
    state = "finished" if results.is_finished(place) else "interrupted"
    result = () if damaged else _replicated(store, (place, manifest), images, seed)
    agreed = all(item.same_answer >= LEAST_AGREEMENT * item.images for item in result)
    is_sound = bool(result) and agreed and not damaged and state == "finished"
    return Verification(run, state, tuple(damaged), whole, result, is_sound)


def text(verification: Verification) -> str:
    """Return what `verify` prints."""
    lines = [f"Run {verification.run}: {verification.state}; {verification.shards} shards are whole."]
    lines += [f"  DAMAGED: {item}" for item in verification.damaged]
    for item in verification.replicated:
        lines.append(
            f"  {item.role} {item.condition}: {item.same_answer} of {item.images} recomputed images have the stored answer, "
            f"{item.same_pixels} are the same to the last bit; largest change of a map's score {item.largest_score_change:.2g}"
        )
    return "\n".join([*lines, _verdict(verification)])


def _verdict(verification: Verification) -> str:
    if verification.is_sound:
        return "The run is sound."
    if not verification.damaged and not verification.replicated and verification.state == "finished":
        return "The files are whole, but no image was computed again, so the run was NOT verified."
    return "The run is NOT sound."


def as_json(verification: Verification) -> dict[str, Any]:
    """Return what `verify --json` prints."""
    return serialization.flatten(verification).value


def _damaged_shards(place: Place, manifest: Manifest) -> tuple[list[str], int]:
    """Check every shard without taking anything away: verifying changes nothing."""
    damaged, whole = [], 0
    for condition in manifest.conditions:
        for block in range(manifest.blocks):
            try:
                shards.require_whole(place, condition.folder, block)
                whole += 1
            except NoShard as error:
                damaged.append(f"block {block} of {condition.folder}: {error or 'it is missing'}")
    return damaged, whole


def _damaged_result(place: Place, manifest: Manifest, *, is_comparable: bool) -> list[str]:
    """Check the result's files against its seal and, where all shards are whole, against what those add up to."""
    if not results.is_finished(place):
        return []
    try:
        _, hashes = results.read_seal(place)
    except EngineError as error:
        return [str(error)]
    wrong = [
        f"{name} differs from what was sealed"
        for name, expected in hashes.items()
        if not (place.result / name).is_file() or files.file_hash(place.result / name) != expected
    ]
    return wrong or (results.contradictions(place, manifest) if is_comparable else [])


def _damaged_log(store: Store) -> list[str]:
    try:
        AuditLog(store.root).events()
    except EngineError as error:
        return [str(error)]
    return []


def _replicated(store: Store, run: tuple[Place, Manifest], images: int, seed: int) -> tuple[Replicated, ...]:
    """Compute a random sample of every condition again, without its batch mates, and compare."""
    from engine.models import register

    place, manifest = run
    chosen = np.sort(np.random.default_rng(seed).permutation(len(manifest.images.samples))[:images])
    if not len(chosen):
        return ()
    bundles = {model.role: register.bundle(store, model.name) for model in manifest.models}
    results = []
    for condition in manifest.conditions:
        bundle = bundles[condition.role]
        compute.require_fit(manifest, condition, bundle)
        broken = shards.broken(place, condition, [int(item) for item in np.unique(chosen // manifest.block)])
        subject = compute.Subject(bundle, store.dataset(manifest.images.data), manifest, condition, broken)
        again = compute.compute(subject, store, [int(k) for k in chosen], lambda _done: None).rows
        results.append(_compared(condition, _stored(place, manifest, condition, chosen), again))
    return tuple(results)


def _stored(place: Place, manifest: Manifest, condition: Condition, chosen: np.ndarray) -> Rows:
    parts = []
    for block in np.unique(chosen // manifest.block):
        held = shards.read(place.shard(condition.folder, int(block)) / shards.ROWS)
        own = chosen[chosen // manifest.block == block] - block * manifest.block
        parts.append(shards.picked(held, [int(k) for k in own]))
    return shards.joined(parts)


def _compared(condition: Condition, stored: Rows, again: Rows) -> Replicated:
    same = (stored.after == again.after) & (np.array(stored.status) == np.array(again.status))
    pixels = np.array(stored.image_hashes) == np.array(again.image_hashes)
    changes = [
        float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
        for a, b in zip(stored.scores, again.scores, strict=True)
        if a.size
    ]
    return Replicated(
        condition.name, condition.role, len(same), int(same.sum()), int(pixels.sum()), max(changes, default=0.0)
    )
