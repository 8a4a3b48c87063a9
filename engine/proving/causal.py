"""Putting feature maps of one run into another: what really happens, beside the controls that must do less."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from engine import controls, tracing
from engine import examination as examinations
from engine.datapaths import choosing, scores
from engine.datapaths.scores import Question
from engine.errors import BadInput
from engine.models.bundle import ModelBundle
from engine.proving import evidence as evidences
from engine.proving import exchanges
from engine.proving import fooled as fooled_images
from engine.proving.exchanges import Exchange, Exchanges, Tried
from engine.proving.fooled import FooledGroup
from engine.records import Examination
from engine.records.proof import Control, ControlName, Direction, MapResponse, MapSet, Proof
from engine.records.restoration import GroupProofRequest
from engine.store.dataset import Dataset

DRAWS = 20
"""Random sets per image."""
NAMED = 8
"""Chosen maps whose answers are told one by one, at most."""
NOISES = 2
"""Noisy copies per image."""


def prove(
    bundle: ModelBundle, dataset: Dataset, examination: Examination, chosen: MapSet, direction: Direction
) -> Proof:
    """Return what putting the chosen maps in does to the images of an examination, with all controls.

    Raises UnknownName for sites and maps that are not there, BadInput for an empty choice and where the attack took nothing.
    """
    picked = exchanges.mask(bundle, chosen)
    fooled = fooled_images.of_examination(evidences.shared(bundle, dataset, examination))
    return _proof(examination.key, fooled, picked, direction)


def prove_group(
    bundle: ModelBundle, dataset: Dataset, request: GroupProofRequest, report: examinations.Report
) -> Proof:
    """Return the same for all images of a group that the attack fools, of however many classes; raises as `prove`."""
    picked = exchanges.mask(bundle, request.chosen)
    report(0, 2, "Attacking")
    fooled = fooled_images.gather(bundle, dataset, request.group)
    report(1, 2, "Putting maps back, with controls")
    return _proof("", fooled, picked, request.direction)


def _proof(examination: str, fooled: FooledGroup, picked: Tensor, direction: Direction) -> Proof:
    bundle, pairs = fooled.bundle, exchanges.exchanges(fooled, direction)
    tried = pairs.tried(_for_each(picked, fooled)[None])
    compared, missing = _controls(pairs, picked)
    chosen = exchanges.map_set(bundle, picked)
    return Proof(
        examination=examination,
        direction=direction,
        chosen=chosen,
        effect=tried.effect(_aim(pairs)),
        recoveries=tuple(tried.recovered[0].tolist()),
        labels=tuple(tried.labels[0].tolist()),
        confidences=tuple(tried.confidences[0].tolist()),
        controls=tuple(compared),
        missing=tuple(missing),
        trivial=tuple(site.name for site in bundle.sites if site.name in chosen.sites and not site.is_claimable),
        samples=fooled.images.samples,
        responses=responses(fooled, chosen) if chosen.count <= NAMED else (),
    )


def responses(fooled: FooledGroup, chosen: MapSet) -> tuple[MapResponse, ...]:
    """Return how each chosen map answers to the attacked images beside the clean ones."""
    bundle, names = fooled.bundle, [site.name for site in fooled.bundle.sites]
    places = [
        (names.index(name), channel)
        for name, channels in zip(chosen.sites, chosen.channels, strict=True)
        for channel in channels
    ]

    def peaks(rows: Tensor) -> Tensor:
        runs = (tracing.record(bundle, side[rows]).maps for side in (fooled.images.clean, fooled.images.adversarial))
        return torch.stack([_peaks(maps, places) for maps in runs])

    clean, adversarial = tracing.batched(bundle, fooled.images.count, peaks, dim=1)
    changed = clean != adversarial
    silenced = ((adversarial <= clean / 2) & changed).sum(0).tolist()
    roused = ((adversarial >= 2 * clean) & changed).sum(0).tolist()
    return tuple(
        MapResponse(names[site], channel, *counts)
        for (site, channel), counts in zip(places, zip(silenced, roused, strict=True), strict=True)
    )


def _peaks(maps: tracing.Maps, places: list[tuple[int, int]]) -> Tensor:
    """Return (images, places): the largest absolute value of each map."""
    return torch.stack([maps[site][:, channel].abs().amax(dim=(1, 2)) for site, channel in places], dim=1)


def _aim(pairs: Exchanges) -> Tensor:
    return pairs.fooled.true if pairs.direction == "restore" else pairs.fooled.into


def _for_each(picked: Tensor, fooled: FooledGroup) -> Tensor:
    return picked.expand(fooled.images.count, -1)


def _controls(pairs: Exchanges, picked: Tensor) -> tuple[list[Control], list[str]]:
    makers: dict[ControlName, Callable[[Exchanges, Tensor], Control]] = {
        "random": _random,
        "same layers": _same_layers,
        "largest change": _largest_change,
        "third class": _third_class,
        "noisy copy": _noisy_copy,
        "another image": _another_image,
    }
    found, missing = [], []
    for name, make in makers.items():
        try:
            found.append(make(pairs, picked))
        except BadInput as error:
            missing.append(f"{name}: {error}")
    return found, missing


def _random(pairs: Exchanges, picked: Tensor) -> Control:
    bundle, count = pairs.fooled.bundle, int(picked.sum())
    available = int(choosing.claimable(bundle).sum())
    if count > available:
        raise BadInput(f"{count} maps were chosen, and claims may use only {available}.")
    drawn = controls.random_ranks(bundle, DRAWS, pairs.fooled.images.count, pairs.fooled.seed) < count
    return Control("random", pairs.tried(drawn).effect(_aim(pairs)), DRAWS)


def _same_layers(pairs: Exchanges, picked: Tensor) -> Control:
    fooled = pairs.fooled
    drawn = controls.same_layers(fooled.bundle, picked, (DRAWS, fooled.images.count), fooled.seed)
    return Control("same layers", pairs.tried(drawn).effect(_aim(pairs)), DRAWS)


def _largest_change(pairs: Exchanges, picked: Tensor) -> Control:
    """The maps whose change is largest in the mean over all images."""
    fooled = pairs.fooled
    mean = changes(fooled).mean(dim=0, keepdim=True)
    chosen = choosing.ranks(fooled.bundle, tracing.split(mean, fooled.bundle)) < int(picked.sum())
    return Control("largest change", pairs.tried(_for_each(chosen[0], fooled)[None]).effect(_aim(pairs)), 1)


def changes(fooled: FooledGroup) -> Tensor:
    """Return (images, all maps): the relative change of each map from the clean to the adversarial run, 0 to 2."""
    bundle, images = fooled.bundle, fooled.images

    def change(rows: Tensor) -> tracing.PerMap:
        runs = (tracing.record(bundle, side[rows]) for side in (images.clean, images.adversarial))
        return examinations.changes(*runs)

    return tracing.join(tracing.batched_maps(bundle, images.count, change))


def _third_class(pairs: Exchanges, picked: Tensor) -> Control:
    """The maps that flow most towards a third class: counted is how often that class comes out."""
    third = thirds(pairs.fooled)
    chosen = choosing.ranks(pairs.fooled.bundle, third_flow(pairs.fooled, pairs.direction, third)) < int(picked.sum())
    return Control("third class", pairs.tried(chosen[None]).effect(third), 1)


def third_flow(fooled: FooledGroup, direction: Direction, third: Tensor) -> tracing.PerMap:
    """Return the flow (images, channels) per site of the receiving run's evidence for a third class."""
    sides = fooled.images.adversarial, fooled.images.clean
    receiving, other = sides if direction == "restore" else sides[::-1]
    question = Question(receiving, third, torch.full_like(third, -1))

    def flow(rows: Tensor) -> scores.Contributions:
        return scores.conductance(fooled.bundle, question.rows(rows), other[rows])

    return scores.batched(fooled.bundle, len(third), flow).scores


def thirds(fooled: FooledGroup) -> Tensor:
    """Return (images,) a class for each image that is neither the true nor the fooled-into one, drawn by seed.

    Raises BadInput for a network of two classes.
    """
    classes = len(fooled.bundle.classes)
    if classes < 3:
        raise BadInput(f"a third class is needed, and the network has {classes}.")
    generator = torch.Generator().manual_seed(fooled.seed)
    barred = torch.stack([fooled.true, fooled.into], dim=1)
    return controls.drawn(torch.arange(classes, device=barred.device), barred, generator, draws=1)[:, 0]


def _noisy_copy(pairs: Exchanges, picked: Tensor) -> Control:
    """The same maps from copies of the receiving image under noise of the attack's length."""
    tried = noisy_copies(pairs, _for_each(picked, pairs.fooled)[None])
    return Control("noisy copy", exchanges.stacked(tried).effect(_aim(pairs)), len(tried))


def noisy_copies(pairs: Exchanges, choices: Tensor) -> list[Tried]:
    """Return, per noisy copy, what the values of that copy do in each of some choices (draws, images, all maps)."""

    def work(k: int, block: Exchange, rows: Tensor) -> Tried:
        copies = block.fooled.images.noisy(block.receiving, NOISES)[k::NOISES]
        return block.giving_runs_of(copies).tried(choices[:, rows])

    return [pairs.each(functools.partial(work, k)) for k in range(NOISES)]


def _another_image(pairs: Exchanges, picked: Tensor) -> Control:
    """The same maps from clean images of other classes."""
    found = other_images(pairs, _for_each(picked, pairs.fooled)[None])
    own = torch.cat([tried.labels[0] == labels for tried, labels in found])
    tried = exchanges.stacked([tried for tried, _ in found])
    return Control("another image", tried.effect(_aim(pairs)), len(found), float(own.float().mean()))


def other_images(pairs: Exchanges, choices: Tensor) -> list[tuple[Tried, Tensor]]:
    """Return the same with clean images of other classes as the giving ones, each with those images' classes (images,).

    Raises BadInput where an image has none.
    """
    others = pairs.fooled.others
    if not others.rows.shape[1]:
        raise BadInput("the data set has no correctly classified image of a class that plays no part.")

    def work(k: int, block: Exchange, rows: Tensor) -> Tried:
        return block.giving_runs_of(others.images[others.rows[rows, k]]).tried(choices[:, rows])

    labels = others.labels[others.rows]
    return [(pairs.each(functools.partial(work, k)), labels[:, k]) for k in range(others.rows.shape[1])]
