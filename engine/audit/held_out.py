"""Which fooled images of a run rank its feature maps, and which are held out to test the ranking causally."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine import statistics
from engine.audit import endings, results, shards
from engine.audit import manifest as manifests
from engine.audit.inside import Scope
from engine.audit.manifest import Condition, Manifest, Place, Role
from engine.errors import BadInput, BadSetting, UnknownName
from engine.types.patching import MapSet
from engine.types.run_studies import HeldOutRequest

FEWEST: Final = 4
"""Fooled images below which no half says anything."""
MOST_TESTED: Final = 64
"""Held-out images that maps are patched in, evenly spread over all that are held out."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Fooled images of a run, as places among its images: every other one ranks, those between are held out."""

    ranking: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def tested(self) -> tuple[int, ...]:
        """The held-out images that maps are patched in."""
        count = min(MOST_TESTED, len(self.held_out))
        return tuple(self.held_out[k] for k in np.linspace(0, len(self.held_out) - 1, count).astype(int).tolist())


def request(place: Place, scope: Scope, count: int) -> HeldOutRequest:
    """Return what is asked of a scope: its first attack, and so many maps. Raises UnknownName, BadInput, StoreError."""
    manifest = manifests.read(place)
    own = manifest.of(scope.role)
    attacks = [
        own[k] for k in endings.attacks_of(manifest, scope) if own[k].kind == "attack" and manifest.scores(own[k])
    ]
    if not attacks:
        raise BadInput(
            "None of the chosen attacks can be made again on held-out images with its feature maps scored: choose an attack "
            "that the run made itself, of a run with a scoring method."
        )
    return HeldOutRequest(place.run, scope.role, attacks[0].name, tuple(sorted(scope.classes)), count)


def halves(place: Place, asked: HeldOutRequest) -> Halves:
    """Return the two halves of the images that the attack fooled; raises BadInput for too few, and as `request`."""
    manifest = manifests.read(place)
    if not results.is_finished(place):
        raise BadInput(
            "The run is not finished: its feature maps are tested on held-out images once every part is done."
        )
    condition = condition_of(manifest, asked)
    ended, labels = endings.of_run(place), np.array(manifest.images.labels)
    fooled = ended.is_fooled([manifest.conditions.index(condition)])[0]
    if asked.classes:
        fooled &= np.isin(labels, asked.classes)
    places = np.flatnonzero(fooled).tolist()
    if len(places) < FEWEST:
        raise BadInput(
            f"{condition.name} fooled {len(places)} image{'' if len(places) == 1 else 's'} of these classes; to rank feature maps "
            f"on one half and test them on the other takes at least {FEWEST}."
        )
    return Halves(tuple(places[::2]), tuple(places[1::2]))


def condition_of(manifest: Manifest, asked: HeldOutRequest) -> Condition:
    """Return the condition of a request; raises UnknownName."""
    roles: dict[str, Role] = {model.role: model.role for model in manifest.models}
    known = {one.name: one for one in manifest.of(roles[asked.role])} if asked.role in roles else {}
    if asked.condition not in known:
        raise UnknownName("condition", asked.condition, known)
    return known[asked.condition]


def strongest(
    place: Place,
    asked: HeldOutRequest,
    ranking: Sequence[int],
    eligible: Collection[str],
    report: Callable[[int, int, str], None],
) -> MapSet:
    """Return the maps that stand out in their layers, in the mean over some images, of the layers that claims may use.

    By the default ranking of activation patching: the size of the attack conductance divided by its mean over the layer, image
    by image. Conductance alone fills narrow layers, of which any maps restore a label.

    Raises BadSetting for more than there are, StoreError for a damaged shard.
    """
    manifest = manifests.read(place)
    condition = condition_of(manifest, asked)
    mean = _standing_out(place, manifest, condition, ranking, report)
    sites = manifest.model(condition.role).sites
    names = [(name, channel) for name, channels in sites for channel in range(channels)]
    usable = [k for k in np.argsort(-mean, kind="stable").tolist() if names[k][0] in eligible]
    if not 1 <= asked.count <= len(usable):
        raise BadSetting(f"From 1 to {len(usable)} channels can be patched, got {asked.count}.")
    chosen = {names[k] for k in usable[: asked.count]}
    parts = [(name, tuple(k for k in range(channels) if (name, k) in chosen)) for name, channels in sites]
    used = [(name, channels) for name, channels in parts if channels]
    return MapSet(tuple(name for name, _ in used), tuple(channels for _, channels in used))


def _standing_out(
    place: Place,
    manifest: Manifest,
    condition: Condition,
    ranking: Sequence[int],
    report: Callable[[int, int, str], None],
) -> np.ndarray:
    """Return (all maps,) float64 from the stored rows: means over images, where 1 is a map of average size in its layer."""
    images = np.array(ranking)
    blocks = np.unique(images // manifest.block).tolist()
    total: np.ndarray = np.zeros(manifest.model(condition.role).maps)
    for done, block in enumerate(blocks):
        report(done, len(blocks), "Ranking channels on one half of the fooled images")
        rows = shards.read(place.shard(condition.folder, block) / shards.ROWS)
        own = images[images // manifest.block == block] - block * manifest.block
        total += np.concatenate(
            [statistics.standing_out(site[own].astype(np.float64)).sum(axis=0) for site in rows.flow]
        )
    return total / len(images)
