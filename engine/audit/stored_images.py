"""The images that a run stored, for whoever explains them: found by run, condition and sample, and checked by their hashes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.audit import listing, shards
from engine.audit import manifest as manifests
from engine.audit.listing import Selection
from engine.audit.manifest import Condition, Manifest, Place
from engine.audit.shards import NoShard
from engine.errors import BadInput, StoreError, UnknownName
from engine.specs.catalogue import AttackCard
from engine.specs.of_run import OfRun
from engine.store import Store, files
from engine.types.core import AttackResults, AttackResultsRequest, Outcome, Prediction


def found(store: Store, attack: OfRun) -> tuple[Place, Manifest, Condition]:
    """Return the run, and the condition that is named of it; raises BadInput, which says what is not there any more."""
    place = manifests.place(store.root, attack.run)
    try:
        manifest = manifests.read(place)
    except UnknownName as error:
        raise BadInput(
            f"Run {attack.run[:12]} is not in this store any more, so its images cannot be shown."
        ) from error
    for condition in manifest.conditions:
        if (condition.role, condition.name) == (attack.role, attack.condition):
            return place, manifest, condition
    raise BadInput(f"Run {attack.run[:12]} has no condition '{attack.condition[:80]}' of its {attack.role}.")


def require(store: Store, attack: OfRun, model: str, data: str) -> Condition:
    """Return the condition whose images can be explained with a stored model and data set.

    Raises BadInput where they are not those of the run, UnknownName where they are not there.
    """
    _, manifest, condition = found(store, attack)
    audited, images = manifest.model(condition.role), manifest.images
    if store.model_card(model).content_hash != audited.content_hash:
        raise BadInput(
            f"The {attack.role} of run {attack.run[:12]} was '{audited.name}' as it was then, not '{model[:80]}'."
        )
    if store.data_card(data).content_hash != images.content_hash:
        raise BadInput(f"Run {attack.run[:12]} attacked '{images.data}' as it was then, not '{data[:80]}'.")
    if not manifest.plan.images.is_kept:
        raise BadInput(
            f"Run {attack.run[:12]} kept hashes of its images only (images.keep = false), so they cannot be shown."
        )
    return condition


def card(store: Store, attack: OfRun, model: str, data: str) -> AttackCard:
    """Return what menus show of stored images of a model and data set; raises as `require`."""
    condition = require(store, attack, model, data)
    name = found(store, attack)[1].plan.name
    title = f"{attack.condition}, stored by run {name[:40] or attack.run[:12]}"
    return AttackCard(attack.text, title, attack.norm.name, condition.kind == "control", ())


def hashes(store: Store, attack: OfRun, samples: Sequence[str]) -> tuple[str, ...]:
    """Return the hash of the stored image of each sample. Raises BadInput for one that is not there, StoreError for damage."""
    place, manifest, condition = found(store, attack)
    places = listing.image_places(place)
    results = []
    for sample in samples:
        if sample not in places:
            raise BadInput(f"Run {attack.run[:12]} did not attack sample '{sample[:40]}'.")
        results.append(_hash(place, condition, places[sample] // manifest.block, sample))
    return tuple(results)


def _hash(place: Place, condition: Condition, block: int, sample: str) -> str:
    try:
        expected = shards.glance(place, condition.folder, block).rows_hash
    except NoShard as error:
        raise BadInput(f"Run {place.run[:12]} has not finished the part that holds sample {sample} yet.") from error
    return _hashes(place.shard(condition.folder, block) / shards.ROWS, expected)[sample]


@functools.lru_cache(maxsize=256)
def _hashes(path: Path, expected: str) -> dict[str, str]:
    """The hash of the image of each sample of a shard, which never changes: a page asks for its images again and again."""
    with files.disk_errors("reading a shard"):
        if files.file_hash(path) != expected:
            raise StoreError(
                f"{path.name} in {path.parent.parent.name}, {path.parent.name} is damaged; verify the run."
            )
    table = shards.read_plain(path)
    return dict(zip(table["sample"].to_pylist(), table["image_hash"].to_pylist(), strict=True))


def pictures(store: Store, attack: OfRun, samples: Sequence[str]) -> np.ndarray:
    """Return the stored images, (samples, height, width, channels) uint8 as the model takes them.

    Raises BadInput for what the run does not hold and StoreError for an image that is not the one the run judged.
    """
    place, _, condition = found(store, attack)
    expected = hashes(store, attack, samples)
    return np.stack([listing.picture(place, condition.folder, *one) for one in zip(samples, expected, strict=True)])


def attack_results(store: Store, request: AttackResultsRequest, attack: OfRun) -> AttackResults:
    """Return how the images of a class ended in the run, as far as it has come: its rows, nothing computed anew.

    Only what the run says of an answer is known: its class and confidence. Raises as `require`.
    """
    condition = require(store, attack, request.model, request.data)
    place, manifest, _ = found(store, attack)
    own = [one.folder for one in manifest.of(condition.role)].index(condition.folder)
    selection = Selection(condition.role, (own,), classes=(request.label,))
    listed = listing.listing(place, selection)
    rows, at = listed.rows, listed.chosen
    samples, targets = listed.block(0, listed.count)["sample"].to_pylist(), rows.columns["target"][at].tolist()
    statuses = listed.block(0, listed.count)["status"].to_pylist()
    values = {name: rows.columns[name][at].tolist() for name in ("before", "after", *listing.NUMBERS)}
    return AttackResults(
        request,
        tuple(
            Outcome(
                sample=sample,
                label=request.label,
                status=statuses[k],
                before=_said(values["before"][k], values["before_confidence"][k]),
                after=_said(values["after"][k], values["after_confidence"][k]),
                linf=values["linf"][k],
                l2=values["l2"][k],
                target=None if targets[k] == shards.NO_TARGET else targets[k],
            )
            for k, sample in enumerate(samples)
        ),
    )


def _said(label: int, confidence: float) -> Prediction:
    return Prediction(label, confidence, ((label, confidence),))
