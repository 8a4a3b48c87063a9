"""Candidate against baseline inside one run: their layers side by side, and which images changed side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from engine import statistics
from engine.audit import endings, inside, results
from engine.audit import manifest as manifests
from engine.audit.endings import Endings
from engine.audit.inside import Inside, Scope
from engine.audit.manifest import BASELINE, CANDIDATE, AuditedModel, Manifest, Place, Role
from engine.errors import BadInput, EngineError
from engine.statistics import Estimate
from engine.types.run_studies import MatchRequest

MATCH_IMAGES: Final = 128
"""Images on which feature maps are matched, at most."""
Pairing = Literal["name", "depth"]
ROLES: Final[tuple[Role, Role]] = (CANDIDATE, BASELINE)
Side = Literal["candidate only", "baseline only"]
"""Which of the models an image is fooled in; in the other it is right."""


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer of the candidate and the layer of the baseline that it is laid beside."""

    layer: str
    other: str
    share: float | None
    """Net attack conductance of the layer as a share of the size of all of an image; None where there is none to show."""
    other_share: float | None


@dataclass(frozen=True, slots=True)
class Changed:
    """One image that is fooled in one model and right in the other."""

    sample: str
    name: str
    label: int
    side: Side
    into: int
    """What it was fooled into."""
    condition: int
    """Place, among the conditions of the model that it is fooled in, of the attack that did it."""


@dataclass(frozen=True, slots=True)
class Versus:
    """What two models of a run say of one scope."""

    scope: Scope
    attacks: tuple[int, ...]
    paired_by: Pairing
    """`name` for two models of one architecture, else the nearest relative depth, which claims no more than that."""
    layers: tuple[LayerPair, ...]
    counts: tuple[int, int]
    """Images, once for each attack that they met, behind the shares of either model."""
    problem: str
    """Why there are no shares; empty where there are."""
    both_right: int
    candidate_only: int
    baseline_only: int
    both_fooled: int
    left_out: int
    """Images that one of the models got wrong without attack, or that could not be judged in both."""
    difference: Estimate | None
    """Share fooled in the candidate minus share fooled in the baseline, on the same images (Newcombe, 95 %)."""
    p_value: float
    """Exact McNemar."""
    changed: tuple[Changed, ...]
    """The images that are named of those that changed side, those of the candidate first."""
    is_interim: bool

    @property
    def n(self) -> int:
        """Images that were judged in both models."""
        return self.both_right + self.candidate_only + self.baseline_only + self.both_fooled


def of_run(place: Place, scope: Scope, most: int | None = None) -> Versus:
    """Return what both models of a run say of its attacks and classes. Raises UnknownName, BadInput, StoreError.

    most: images of each side that are named, the first of them; None is all.
    """
    manifest = manifests.read(place)
    _require_two(manifest)
    scope = replace(scope, role=CANDIDATE)
    attacks = endings.attacks_of(manifest, scope)
    ended = endings.of_run(place)
    sides = [_Sides.of(manifest, ended, replace(scope, role=role), attacks) for role in ROLES]
    layers, counts, problem = _layers(place, manifest, scope)
    return _versus(manifest, replace(scope, role=CANDIDATE), (attacks, sides), (layers, counts, problem, place), most)


def _require_two(manifest: Manifest) -> None:
    if len(manifest.models) < len(ROLES):
        raise BadInput("This run has one model: a plan with a baseline lays two beside each other.")


def _versus(
    manifest: Manifest,
    scope: Scope,
    ends: tuple[tuple[int, ...], list[_Sides]],
    shares: tuple[tuple[LayerPair, ...], tuple[int, int], str, Place],
    most: int | None,
) -> Versus:
    attacks, (own, other) = ends
    layers, counts, problem, place = shares
    both = own.is_fooled & other.is_fooled
    first, second = own.is_fooled & other.is_right, own.is_right & other.is_fooled
    neither = own.is_right & other.is_right
    numbers = [int(one.sum()) for one in (both, first, second, neither)]
    return Versus(
        scope=scope,
        attacks=attacks,
        paired_by=paired_by(manifest),
        layers=layers,
        counts=counts,
        problem=problem,
        both_right=numbers[3],
        candidate_only=numbers[1],
        baseline_only=numbers[2],
        both_fooled=numbers[0],
        left_out=int(own.in_scope.sum()) - sum(numbers),
        difference=statistics.paired_difference(*numbers) if sum(numbers) else None,
        p_value=statistics.mcnemar(numbers[1], numbers[2]),
        changed=(*own.changed(first, "candidate only", most), *other.changed(second, "baseline only", most)),
        is_interim=not results.is_finished(place),
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Sides:
    """On which side every image stands in one model."""

    manifest: Manifest
    attacks: tuple[int, ...]
    in_scope: np.ndarray
    after: np.ndarray
    """(attacks, images)."""
    fooled: np.ndarray
    """(attacks, images) bool."""
    is_right: np.ndarray
    """(images,) bool: right without attack and under every chosen attack, judged under each."""

    @classmethod
    def of(cls, manifest: Manifest, ended: Endings, scope: Scope, attacks: tuple[int, ...]) -> _Sides:
        own, labels = endings.own_places(manifest, scope), np.array(manifest.images.labels)
        rows = [own[k] for k in attacks]
        in_scope = inside.in_classes(manifest, scope)
        kept = np.array([ended.is_right(row, labels) & ended.is_judged[row] for row in rows])
        fooled, right = ended.is_fooled(rows) & in_scope, np.all(kept, axis=0) & in_scope
        return cls(manifest, attacks, in_scope, ended.after[rows], fooled, np.asarray(right))

    @property
    def is_fooled(self) -> np.ndarray:
        return np.asarray(self.fooled.any(axis=0))

    def changed(self, chosen: np.ndarray, side: Side, most: int | None) -> list[Changed]:
        images, results = self.manifest.images, []
        for image in np.flatnonzero(chosen)[:most].tolist():
            row = int(self.fooled[:, image].argmax())
            into, label = int(self.after[row, image]), images.labels[image]
            found = Changed(images.samples[image], images.names[image], label, side, into, self.attacks[row])
            results.append(found)
        return results


def paired_by(manifest: Manifest) -> Pairing:
    """Return how layers of the two models are laid beside each other."""
    first, second = (manifest.model(role) for role in ROLES)
    is_same = first.architecture == second.architecture and _names(first) == _names(second)
    return "name" if is_same else "depth"


def layer_pairs(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Return every layer of the candidate with that of the baseline: by name, or by the nearest relative depth."""
    first, second = (_names(manifest.model(role)) for role in ROLES)
    if paired_by(manifest) == "name":
        return tuple((name, name) for name in first)
    return tuple((name, second[_nearest(place, len(first), len(second))]) for place, name in enumerate(first))


def _names(model: AuditedModel) -> list[str]:
    return [name for name, _ in model.sites]


def _nearest(place: int, count: int, other: int) -> int:
    """Return the place among `other` layers at the same relative depth, from 0 for the first to 1 for the last."""
    return round(place / max(1, count - 1) * (other - 1))


def _layers(place: Place, manifest: Manifest, scope: Scope) -> tuple[tuple[LayerPair, ...], tuple[int, int], str]:
    try:
        first, second = (inside.of_run(place, replace(scope, role=role)) for role in ROLES)
    except EngineError as error:
        return (), (0, 0), str(error)
    pairs, shares = layer_pairs(manifest), (_shares(first), _shares(second))
    layers = tuple(LayerPair(own, other, shares[0].get(own), shares[1].get(other)) for own, other in pairs)
    return layers, (first.n, second.n), ""


def _shares(one: Inside) -> dict[str, float]:
    return {layer.layer: layer.flow for layer in one.layers}


def match_request(place: Place) -> MatchRequest:
    """Return what is matched of a run: every pair of layers, on images that both models get right; raises BadInput."""
    manifest = manifests.read(place)
    _require_two(manifest)
    ended, labels = endings.of_run(place), np.array(manifest.images.labels)
    clean = [_clean(manifest, role) for role in ROLES]
    right = np.flatnonzero(np.array([ended.is_right(row, labels) for row in clean]).all(axis=0))
    chosen = (
        right[np.unique(np.linspace(0, len(right) - 1, min(MATCH_IMAGES, len(right))).astype(int))]
        if len(right)
        else right
    )
    names = [manifest.model(role).name for role in ROLES]
    samples = tuple(manifest.images.samples[k] for k in _mixed(chosen.tolist()))
    return MatchRequest(names[0], names[1], manifest.images.data, samples, layer_pairs(manifest))


def _clean(manifest: Manifest, role: Role) -> int:
    return next(k for k, one in enumerate(manifest.conditions) if one.role == role and one.kind == "clean")


def _mixed(chosen: Sequence[int]) -> list[int]:
    """Return images in an order drawn by a fixed seed: every other one is then no class alone."""
    return [chosen[k] for k in np.random.default_rng(0).permutation(len(chosen))]
