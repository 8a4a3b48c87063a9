"""Proof that connections are exact: they add up at every site, and those of a map are what changing that map alone does.

In float64, from one run to another: a few maps are given the values of the other run, all other sites are held, and what then
arrives at the next sites is compared with the edges of those maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import connections, tracing
from engine.connections import Edges, Gradients
from engine.datapaths import scores
from engine.models import precision
from engine.models.bundle import ModelBundle
from engine.tracing import Maps

EXACT = 1e-5
"""Largest error, as a share of the largest mass of edges into one map, of a connection that is said to be exact."""
DRAWS = 3
"""Maps of every site that are changed, one at a time."""
LINKS = 200
"""Most links that are looked at one by one where a site's edges miss."""


@dataclass(frozen=True, slots=True)
class Miss:
    """A link whose edges are not what changing one map alone does."""

    source: int
    target: int
    error: float
    """As a share of the largest mass of edges into one map."""
    through: tuple[str, ...]
    """The gates and norms that explain it; empty where nothing does."""


@dataclass(frozen=True, slots=True)
class Exactness:
    """What holds of a model's connections."""

    links: int
    added_up: float
    """Largest error of the edges' sum against what really arrives, over all sites and the logits."""
    added_up_at: int
    changed: float
    """Largest error of the edges of a changed map against what really changes, where no gate or norm reads other maps."""
    changed_at: int
    head: float
    """Error of the contributions to the logits, which several layers may compute."""
    is_head_linear: bool
    """Whether what follows the last feature maps is linear: nothing then explains an error."""
    mass: float
    """Of all edges together; 0 where the two pictures are the same, or no gradient flows, so that nothing was tried."""
    misses: tuple[Miss, ...]


def measure(bundle: ModelBundle, images: Tensor) -> Exactness:
    """Return how exact a model's connections are; images: at least two (channels, height, width) in [0, 1] that differ."""
    network, dtype = _twin(bundle)
    pair = images[:2].cpu().to(dtype)
    image, start = pair[:1], pair[1:]
    gradients = _gradients(network, image, start)
    edges = connections.between(network, image, start, gradients)
    folded = precision.folded(network)
    run, other = tracing.record(folded, image), tracing.record(folded, start)
    trial = _Trial(folded, run.maps, other.maps, gradients)
    sums = connections.completeness(edges)
    head = _head(network, run, other)
    errors, misses = _compared(trial, edges)
    added_up_at = max(sums, key=lambda target: sums[target], default=0)
    changed_at = max(errors, key=lambda target: errors[target], default=0)
    return Exactness(
        links=len(bundle.links),
        added_up=sums.get(added_up_at, 0.0),
        added_up_at=added_up_at,
        changed=errors.get(changed_at, 0.0),
        changed_at=changed_at,
        head=head,
        is_head_linear=_is_head_linear(network, run, other),
        mass=float(sum(matrix.abs().sum() for matrix in edges.matrices.values())),
        misses=misses,
    )


def _twin(bundle: ModelBundle) -> tuple[ModelBundle, torch.dtype]:
    """The network in float64; in float32 where something in it cannot be computed so."""
    twin = precision.double(bundle)
    try:
        with torch.no_grad():
            twin.logits(torch.zeros(1, bundle.channels, *bundle.size, dtype=torch.float64, device="cpu"))
    except RuntimeError:
        return bundle, torch.float32
    return twin, torch.float64


def _gradients(network: ModelBundle, image: Tensor, start: Tensor) -> Gradients:
    with torch.no_grad():
        target, rival = network.logits(image).argmax(1), network.logits(start).argmax(1)
    if bool((target == rival).all()):
        rival = torch.full_like(rival, -1)
    question = scores.Question(image, target, rival)
    donor = tracing.record(network, image)
    return scores.into_runs(network, question, start, donor, taps=connections.taps(network), steps=1).gradients


def _head(network: ModelBundle, run: tracing.Trace, other: tracing.Trace) -> float:
    classes = torch.stack([run.logits[0].argmax(), other.logits[0].argmax()])
    return connections.head(network, run, other, classes).completeness


@torch.no_grad()
def _is_head_linear(network: ModelBundle, run: tracing.Trace, other: tracing.Trace) -> bool:
    tail = network.tail()
    halfway = tail(*((run.maps[site] + other.maps[site]) / 2 for site in network.heads))
    ends = (run.logits + other.logits) / 2
    change = (run.logits - other.logits).abs().max().clamp(min=1e-12)
    return bool(((halfway - ends).abs() <= EXACT * change).all())


@dataclass(frozen=True, eq=False, slots=True)
class _Trial:
    """Runs in which every site's maps are held, but for some that are given the values of the other run."""

    network: ModelBundle
    maps: Maps
    others: Maps
    gradients: Gradients

    def changes(self, chosen: Tensor) -> dict[int, Tensor]:
        """Return per site (rows, channels): what arrives less when maps change, times the gradient there, summed over positions.

        chosen: (rows, sites) int64, per row the map of each site that is changed; -1 for none.
        """
        blank = torch.full((1, len(self.maps)), -1)
        with torch.no_grad():
            before, after = self._arriving(blank), self._arriving(chosen)
        next_taps = connections.next_taps(self.network)
        found: dict[int, Tensor] = {}
        for site, taps in enumerate(self.network.arrivals):
            for tap in taps:
                gradient = self.gradients.get(next_taps.get(tap, tap))
                if gradient is not None:
                    change = ((before[tap] - after[tap]) * gradient).sum(dim=(2, 3))
                    found[site] = found.get(site, 0) + change
        return found

    def _arriving(self, chosen: Tensor) -> dict[int, Tensor]:
        seen: dict[int, Tensor] = {}
        taps = {tap for each in self.network.arrivals for tap in each}
        sites = len(self.maps)

        def visit(number: int, tensor: Tensor) -> Tensor:
            if number in taps:
                seen[number] = tensor
            return self._held(number, chosen[:, number]) if number < sites else tensor

        picture = torch.zeros(len(chosen), self.network.channels, *self.network.size, dtype=self.maps[0].dtype)
        with self.network.visiting(visit):
            self.network.logits(picture)
        return seen

    def _held(self, site: int, channels: Tensor) -> Tensor:
        held = self.maps[site].repeat(len(channels), 1, 1, 1)
        rows = (channels >= 0).nonzero()[:, 0]
        held[rows, channels[rows]] = self.others[site][0, channels[rows]]
        return held


def _compared(trial: _Trial, edges: Edges) -> tuple[dict[int, float], tuple[Miss, ...]]:
    """The largest error of every site whose edges no gate or norm explains, and all links that miss."""
    chosen = _drawn(trial)
    found = _errors(trial, edges, chosen)
    suspects = [target for target, error in found.items() if not error <= EXACT]
    misses = _one_by_one(trial, edges, chosen, suspects)
    explained = {miss.target for miss in misses if miss.through} - {miss.target for miss in misses if not miss.through}
    return {target: error for target, error in found.items() if target not in explained}, misses


def _drawn(trial: _Trial) -> Tensor:
    """(draws, sites): among the maps of a site that differ between the two runs, some drawn by a fixed seed."""
    generator = torch.Generator("cpu").manual_seed(0)
    columns = []
    for own, other in zip(trial.maps, trial.others, strict=True):
        weights = (own - other).abs().sum(dim=(0, 2, 3)).cpu().float()
        weights = torch.where(weights > 0, weights + weights.mean(), 1e-9)
        columns.append(torch.multinomial(weights, DRAWS, replacement=True, generator=generator))
    return torch.stack(columns, dim=1)


def _errors(trial: _Trial, edges: Edges, chosen: Tensor) -> dict[int, float]:
    """Per site the largest difference between what changes there and the edges of all maps that were changed before it."""
    changes = trial.changes(chosen)
    found = {}
    for target in {end for _, end in edges.matrices}:
        columns = [
            matrix[:, chosen[:, source].clamp(min=0)] * (chosen[:, source] >= 0)
            for (source, end), matrix in edges.matrices.items()
            if end == target
        ]
        expected, mass = sum(columns), sum(column.abs() for column in columns)
        error = (changes[target].T - expected).abs().max() / mass.max().clamp(min=1e-12)  # type: ignore[union-attr]
        found[target] = float(error)
    return found


def _one_by_one(trial: _Trial, edges: Edges, chosen: Tensor, suspects: list[int]) -> tuple[Miss, ...]:
    """The links into some sites that miss, each with its source alone changed."""
    through = {(link.source, link.target): link.through for link in trial.network.links}
    gates = {target: _gates_before(trial.network, target) for target in suspects}
    links = [pair for pair in edges.matrices if pair[1] in suspects][:LINKS]
    misses = []
    for source, target in links:
        alone = torch.full_like(chosen, -1)
        alone[:, source] = chosen[:, source]
        of_link = Edges({(source, target): edges.matrices[source, target]}, edges.arriving, {})
        error = _errors(trial, of_link, alone)[target]
        if not error <= EXACT:
            # A gate on the way of one link may read the maps of another site: what it does is seen there, too.
            misses.append(Miss(source, target, error, through.get((source, target)) or gates[target]))
    return tuple(misses)


def _gates_before(network: ModelBundle, target: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for link in network.links if link.target == target for name in link.through))
