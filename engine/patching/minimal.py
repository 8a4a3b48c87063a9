"""Small sufficient sets of channels: searched by re-scored flow, pruned, swapped, and bounded from below."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from engine import statistics
from engine.attribution import scorers
from engine.attribution.explain import Report
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, patch, subjects, trials
from engine.patching.patch import Exchange, Exchanges, Tried
from engine.patching.subjects import FooledGroup
from engine.statistics import Estimate
from engine.store.store import Dataset
from engine.types.faithfulness import Monotone, PoolName, PoolSearch
from engine.types.patching import FooledRequest, SharedSet, SmallestSet, SmallestSets

Suffices = Callable[[Tensor, Tensor], Tensor]
"""Given choices (problems, all maps) bool and which problems they are for (problems,), says of each whether it suffices."""


def smallest_prefix(ranks: Tensor, most: int, suffices: Suffices) -> Tensor:
    """Return (problems,) the fewest first-ranked maps found that suffice, `most` where none do.

    ranks: (problems, all maps), 0 for the first. Sizes are doubled until one suffices; bisection takes it that more maps
    suffice too, so another, smaller prefix may exist, but the one that is returned was tried.
    """
    every = torch.arange(len(ranks), device=ranks.device)

    def tried(sizes: Tensor) -> Tensor:
        return suffices(ranks < sizes[:, None], every)

    low, high = torch.zeros_like(every), torch.ones_like(every)
    result = tried(high)
    while bool((~result & (high < most)).any()):
        grows = ~result & (high < most)
        low, high = torch.where(grows, high, low), torch.where(grows, (2 * high).clamp(max=most), high)
        result = result | (grows & tried(high))
    while bool((result & (high - low > 1)).any()):
        middle = torch.where(result, (low + high) // 2, high)
        is_enough = tried(middle)
        low, high = torch.where(is_enough, low, middle), torch.where(is_enough & result, middle, high)
    return high


def pruned(chosen: Tensor, ranks: Tensor, suffices: Suffices) -> Tensor:
    """Return choices (problems, all maps) that still suffice and from which no single map can be left out.

    Maps are tried from the last-ranked on, again and again until none can go. A choice that does not suffice stays as it is.
    """
    chosen = chosen.clone()
    open_ = torch.arange(len(chosen), device=chosen.device)
    open_ = open_[suffices(chosen, open_)]
    while len(open_):
        before = chosen[open_]
        _round(chosen, ranks, open_, suffices)
        open_ = open_[(chosen[open_] != before).any(dim=1)]
    return chosen


def _round(chosen: Tensor, ranks: Tensor, problems: Tensor, suffices: Suffices) -> None:
    """Try to leave out each map of each problem's choice once, the last-ranked first; changes `chosen`."""
    sizes = chosen[problems].sum(dim=1)
    order = ranks[problems].masked_fill(~chosen[problems], -1).argsort(dim=1, descending=True)
    for step in range(int(sizes.max())):
        rows = (sizes > step).nonzero()[:, 0]
        # The last map of a choice stays: an empty choice restores nothing, every image was fooled.
        rows = rows[chosen[problems[rows]].sum(dim=1) > 1]
        if not len(rows):
            continue
        trial = chosen[problems[rows]]
        trial[torch.arange(len(rows), device=rows.device), order[rows, step]] = False
        is_enough = suffices(trial, problems[rows])
        chosen[problems[rows[is_enough]]] = trial[is_enough]


WIDTH = 64
"""Maps with the most re-scored flow among which swaps and pairs are looked for."""
ONE_BY_ONE = 16
"""Size up to which a set grows map by map; from there by a quarter at a time, and pruning takes back what was too much."""


def missing(block: Exchange, chosen: Tensor) -> Tensor:
    """Return (images, all maps) the flow of what is still missing, signed, once maps (images, all maps) are patched.

    It is the conductance along the line from the adversarial image to the clean one while the chosen maps stay clean.
    """
    bundle, images = block.fooled.bundle, block.fooled.images
    question = scorers.Question(images.clean, block.fooled.true, block.fooled.into)

    def flow(rows: Tensor) -> scorers.Contributions:
        clean = tuple(site[rows] for site in block.giving.maps)
        held = hooks.Transplant.of(hooks.split(chosen[rows], bundle), clean)
        return scorers.conductance(bundle, question.rows(rows), images.adversarial[rows], held=held)

    return hooks.join(scorers.batched(bundle, len(chosen), flow).scores)


def grown(block: Exchange, pool: Tensor) -> Tensor:
    """Return choices (images, all maps): the map with the most missing flow of each image's pool added until it restores.

    pool: (images, all maps), of equally many maps. A choice is the whole pool where that does not restore either.
    """
    most, chosen = int(pool[0].sum()), torch.zeros_like(pool)
    open_ = torch.arange(len(chosen), device=pool.device)
    while len(open_):
        rest = block.rows(open_)
        held = chosen[open_]
        size = int(held[0].sum())
        count = min(size // 4 if size >= ONE_BY_ONE else 1, most - size)
        flow = missing(rest, held).masked_fill(~pool[open_] | held, -torch.inf)
        chosen[open_] = held.scatter(1, flow.topk(count, dim=1).indices, True)
        if size + count == most:
            break
        open_ = open_[~rest.restores(chosen[open_])]
    return chosen


def swapped(single: Exchange, chosen: Tensor, pool: Tensor, passes: int) -> Tensor:
    """Return a choice (all maps,) that restores one image with no more maps, by swaps, in about so many passes.

    The map that is missed least is left out, then the swap of one map in for one out that wins back most is made, again and
    again, until the smaller choice restores or no swap wins anything: two out and one in, and further from there.
    """
    spent = 0
    while int(chosen.sum()) > 1 and spent < passes:
        smaller, used = _smaller(single, chosen, pool, passes - spent)
        spent += used
        if smaller is chosen:
            break
        chosen = smaller
    return pruned(chosen[None], torch.zeros_like(chosen, dtype=torch.int64)[None], _suffices(single))[0]


def _smaller(single: Exchange, chosen: Tensor, pool: Tensor, passes: int) -> tuple[Tensor, int]:
    """Return a choice with one map fewer that restores, or the same one, and the passes used."""
    without = _each_left_out(chosen)
    tried, used = single.tried(without[:, None]), len(without)
    is_enough = tried.labels[:, 0] == single.aim
    if bool(is_enough.any()):
        return without[int(is_enough.int().argmax())], used
    best = int(tried.recovered[:, 0].argmax())
    at_hand, margin = without[best], float(tried.recovered[best, 0])
    while used < passes:
        swaps = _swaps(single, at_hand, pool, passes - used)
        tried, used = single.tried(swaps[:, None]), used + len(swaps)
        is_enough = tried.labels[:, 0] == single.aim
        if bool(is_enough.any()):
            return swaps[int(is_enough.int().argmax())], used
        best = int(tried.recovered[:, 0].argmax())
        if float(tried.recovered[best, 0]) <= margin + patch.SMALLEST_LOSS:
            break
        at_hand, margin = swaps[best], float(tried.recovered[best, 0])
    return chosen, used


def _each_left_out(chosen: Tensor) -> Tensor:
    """Return (maps, all maps): the choice without each of its maps."""
    places = chosen.nonzero()[:, 0]
    without = chosen.repeat(len(places), 1)
    without[torch.arange(len(places)), places] = False
    return without


def _swaps(single: Exchange, chosen: Tensor, pool: Tensor, most: int) -> Tensor:
    """Return (swaps, all maps): each map out, each of the maps with the most missing flow in; about `most`, at least one in."""
    without = _each_left_out(chosen)
    width = min(max(1, most // len(without)), WIDTH, int((pool & ~chosen).sum()))
    flow = missing(single, chosen[None])[0].masked_fill(~pool | chosen, -torch.inf)
    swaps = without[:, None].repeat(1, width, 1)
    swaps[:, torch.arange(width), flow.topk(width).indices] = True
    return swaps.flatten(0, 1)


AT_ONCE = 16
"""Failing sets grown at a time."""
PAIRED = 4096
"""Maps up to which all their pairs are kept account of."""
PASSES_PER_MAP = 4
"""Image-passes per map from which on pairs are looked at: getting through all pairs of ResNet-20's 672 takes 2 to 7."""
JITTER = 0.5
"""Standard deviation of the logarithm by which the order of growing is shaken, so that sets grown at a time differ."""
SOLVED = 12
"""Hitting sets of more than two maps solved for; each takes a second with hundreds of failing sets."""
NODES = 200
"""Branchings of one solution: a limit in seconds would give another bound on another machine."""


@final
class Below:
    """What is known of the sets smaller than one that restores an image: those within a set that fails, if more maps never undo.

    Every sufficient set has a map outside each failing set, so the fewest maps that hit all those outsides are a bound (an
    implicit hitting set, Moreno-Centeno and Karp 2013). Sets of one and two maps are kept account of in a table, since what
    hits all outsides is then what no failing set holds; larger ones are solved for as an integer programme.
    """

    def __init__(self, single: Exchange, chosen: Tensor, strength: Tensor, *, passes: int) -> None:
        """`passes` decides whether pairs are looked at; strength: (all maps,)."""
        self.single, self.chosen = single, chosen
        self.pool = scorers.eligible(single.fooled.bundle).nonzero()[:, 0].cpu()
        self.strength = strength.cpu()[self.pool].abs() + 1e-12
        self.generator = torch.Generator().manual_seed(single.fooled.seed)
        self.spent = self.singles = self.pairs = 0
        self.failing: list[Tensor] = []
        """Each (pool,) bool."""
        count = len(self.pool)
        columns = count if count <= PAIRED and passes >= PASSES_PER_MAP * count else 1
        self.open = torch.ones(count, columns, dtype=torch.bool)
        """Single maps (the diagonal, or the one column) and pairs that no failing set holds yet."""
        self.solved = 1

    @property
    def size(self) -> int:
        """Maps of the smallest set known."""
        return int(self.chosen.sum())

    @property
    def bound(self) -> int:
        """No set of fewer maps restores."""
        if bool(self._open_singles().any()):
            return 1
        if not self.is_paired or bool(self.open.any()):
            return min(self.size, 2)
        return min(self.size, max(3, self.solved))

    def try_singles(self) -> None:
        """Try every map alone."""
        eye = torch.eye(len(self.pool), dtype=torch.bool)
        self._restoring(eye)
        self.singles = len(self.pool)
        self._close_singles()

    def try_pairs(self, flow: Tensor, most: int) -> None:
        """Try all pairs of the maps with the most flow (all maps,), about `most`."""
        width = min(WIDTH, int((1 + math.sqrt(1 + 8 * most)) / 2), len(self.pool))
        places = flow.cpu()[self.pool].topk(width).indices
        first, second = (places[side] for side in torch.triu_indices(width, width, 1))
        self._restoring(self._sets_of(first, second))
        self.pairs = len(first)
        self.open[first, second] = self.open[second, first] = False

    def raise_bound(self, passes: int) -> None:
        """Grow failing sets until no set smaller than the one at hand is left, or about so many passes are used."""
        until, solutions = self.spent + passes, 0
        while self.bound < self.size and self.spent < until:
            seeds = self._uncovered()
            if not len(seeds):
                if solutions == SOLVED or not self.is_paired:
                    break
                solutions += 1
                seeds = self._hitting()
                if not len(seeds):
                    break
            if self._restoring(seeds):
                continue
            self._keep(self._grown(seeds.expand(AT_ONCE, -1) if len(seeds) == 1 else seeds))

    @property
    def is_paired(self) -> bool:
        """Whether pairs are kept account of."""
        return self.open.shape[1] > 1

    def _open_singles(self) -> Tensor:
        return self.open.diagonal() if self.is_paired else self.open[:, 0]

    def _close_singles(self) -> None:
        self._open_singles().fill_(False)

    def _sets_of(self, *places: Tensor) -> Tensor:
        """Return (sets, pool) bool."""
        sets = torch.zeros(len(places[0]), len(self.pool), dtype=torch.bool)
        for part in places:
            sets[torch.arange(len(part)), part] = True
        return sets

    def _fails(self, sets: Tensor) -> Tensor:
        """Return (sets,) bool by real passes; sets (sets, pool)."""
        choices = torch.zeros(len(sets), len(self.chosen), dtype=torch.bool)
        choices[:, self.pool] = sets
        self.spent += len(sets)
        return (self.single.tried(choices[:, None].to(self.chosen.device)).labels[:, 0] != self.single.aim).cpu()

    def _restoring(self, sets: Tensor) -> bool:
        """Say whether one of some sets (sets, pool) restores; the smallest such, if smaller, is the set from now on."""
        works = sets[~self._fails(sets)]
        if not len(works):
            return False
        best = works[works.sum(dim=1).argmin()]
        if int(best.sum()) < self.size:
            places = self.pool[best].to(self.chosen.device)
            self.chosen = torch.zeros_like(self.chosen).index_fill(0, places, True)
        return True

    def _uncovered(self) -> Tensor:
        """Return (sets, pool): single maps, then pairs, that no failing set holds and that are smaller than the set at hand."""
        first = second = self._open_singles().nonzero()[:, 0]
        if not len(first) and self.is_paired and self.size > 2:
            first, second = self.open.triu().nonzero(as_tuple=True)
        worth = (self.strength[first] + self.strength[second]) * self._shaken(len(first))
        most = worth.topk(min(AT_ONCE, len(first))).indices
        return self._sets_of(first[most], second[most])

    def _shaken(self, *shape: int) -> Tensor:
        return torch.exp(JITTER * torch.randn(*shape, generator=self.generator))

    def _grown(self, seeds: Tensor) -> Tensor:
        """Return failing sets (sets, pool): each failing seed with as many more maps, in an order, as still fail together.

        First come maps that stand with many others in no failing set, and weak ones before strong ones.
        """
        gain = self._open_singles()[None].float()
        if self.is_paired and not bool(gain.any()):
            gain = self.open.sum(dim=1)[None] / 20 + 10 * (seeds.float() @ self.open.float())
        worth = (gain + 1e-3) / self.strength.sqrt() * self._shaken(*seeds.shape)
        places = worth.masked_fill(seeds, torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
        low, high = seeds.sum(dim=1), torch.full((len(seeds),), len(self.pool) + 1)
        while bool((high - low > 1 + low // 16).any()):
            middle = (low + high) // 2
            fails = self._fails(places < middle[:, None])
            is_open = high - low > 1
            low, high = torch.where(is_open & fails, middle, low), torch.where(is_open & ~fails, middle, high)
        return places < low[:, None]

    def _keep(self, failing: Tensor) -> None:
        """Keep failing sets (sets, pool); one that holds the set at hand only shows that more maps may undo it."""
        own = self.chosen.cpu()[self.pool]
        failing = failing[(own & ~failing).any(dim=1)]
        self.failing += failing.unbind()
        if self.is_paired:
            self.open &= failing.float().T @ failing.float() == 0
        else:
            self.open[:, 0] &= ~failing.any(dim=0)

    def _hitting(self) -> Tensor:
        """Return (1, pool) the fewest maps that hit the outside of every failing set, or (0, pool) where none was solved for."""
        if not self.failing:
            return self._sets_of(self.strength.argmax()[None])
        outside = ~torch.stack(self.failing)
        # Among equally few maps those with more flow, which are the likelier to restore.
        preference = 1 - 0.5 * (self.strength / self.strength.sum()).double().numpy()
        solution = milp(
            preference,
            constraints=LinearConstraint(outside.numpy().astype(float), lb=1),
            integrality=np.ones(len(preference)),
            bounds=Bounds(0, 1),
            options={"node_limit": NODES},
        )
        if solution.status:
            return torch.zeros(0, len(self.pool), dtype=torch.bool)
        hits = torch.from_numpy(solution.x > 0.5)[None]
        self.solved = max(self.solved, int(hits.sum()))
        return hits


def exact_greedy(single: Exchange, pool: Tensor, passes: int) -> int | None:
    """Return the maps it takes one image when every map of a pool is tried at every step; None beyond so many passes."""
    chosen, spent = torch.zeros_like(pool), 0
    while True:
        places = (pool & ~chosen).nonzero()[:, 0]
        spent += len(places)
        if spent > passes or not len(places):
            return None
        choices = chosen.repeat(len(places), 1)
        choices[torch.arange(len(places)), places] = True
        tried = single.tried(choices[:, None])
        is_enough = tried.labels[:, 0] == single.aim
        if bool(is_enough.any()):
            return int(chosen.sum()) + 1
        chosen = choices[int(tried.recovered[:, 0].argmax())]


DRAWS = 20
"""Random sets per image, and random supersets of each set."""
WANTED = 0.9
"""Share of a group's images that its one set has to restore."""
PASSES = 10
"""Image-passes per image, in batches: 960 at 32 pixels, 80 from 112 on. The bound gets half of them, every other part a quarter."""
EXACT = 20
"""Images on which every map is tried at every step, where the passes allow it, and on which other pools are searched."""


@dataclass(frozen=True, eq=False, slots=True)
class Searched:
    """What the search made of some images; choices are (images, all maps)."""

    prefix: Tensor
    """(images,)."""
    ranked: Tensor
    chosen: Tensor
    below: tuple[Below | None, ...]
    """None where no set restores."""
    exact: tuple[int | None, ...]


def find(
    bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report, passes: int | None = None
) -> SmallestSets:
    """Return the smallest sets found for the images of a request that the attack fools, with what no set can be below.

    passes: image-passes per image, about. Raises BadInput where the attack fools none.
    """
    report(0, 1, "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request)
    passes = passes or PASSES * hooks.batch_limit(bundle)
    pairs, flow = patch.exchanges(fooled, "restore"), ranking(fooled)
    steps = _Steps(report, fooled.images.count + 2 * min(EXACT, fooled.images.count) + 1)
    searched = _joined([_searched(block, flow, rows, passes, steps) for block, rows in pairs.blocks()])
    halves = controls.halves(bundle, flow, fooled.seed)
    few = patch.exchange(fooled.rows(torch.arange(min(EXACT, fooled.images.count))), "restore")
    pools = tuple(_pool_search(few, name, pool, passes // 4, steps) for name, pool in halves.items())
    report(steps.total - 1, steps.total, "Searching one set for all images")
    return _record(pairs, flow, searched, pools, len(request.samples), passes)


def ranking(fooled: FooledGroup) -> PerMap:
    """Return the scores per site (images, channels) by which each image's maps are ranked before any is patched."""
    return trials.attack_conductance(fooled)


@final
class _Steps:
    """Tells how many images are done."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def next(self, message: str) -> None:
        self.report(self.done, self.total, message)
        self.done += 1


def _searched(block: Exchange, flow: PerMap, rows: Tensor, passes: int, steps: _Steps) -> Searched:
    """Return the sets of a block's images, each searched from the static ranking and from the re-scored flow."""
    bundle = block.fooled.bundle
    flat, pool = hooks.join(flow)[rows], scorers.eligible(bundle)
    ranks = scorers.ranks(bundle, hooks.split(flat, bundle))
    prefix, ranked = _by_ranking(block, ranks)
    by_flow = _by_flow(block, pool.expand(len(ranks), -1), ranks)
    chosen = torch.where((ranked.sum(dim=1) < by_flow.sum(dim=1))[:, None], ranked, by_flow)
    below: list[Below | None] = []
    exact: list[int | None] = []
    for k, is_restored in enumerate(block.restores(chosen).tolist()):
        steps.next("Searching the channels of each image")
        single = block.rows(torch.tensor([k], device=rows.device))
        under = _below(single, chosen[k], flat[k], passes) if is_restored else None
        below.append(under)
        chosen[k] = chosen[k] if under is None else under.chosen
        is_affordable = int(rows[k]) < EXACT and int(pool.sum()) * int(chosen[k].sum()) <= passes
        exact.append(exact_greedy(single, pool, passes) if is_affordable else None)
    return Searched(prefix, ranked, chosen, tuple(below), tuple(exact))


def _below(single: Exchange, chosen: Tensor, flow: Tensor, passes: int) -> Below:
    """Return what is below a choice that restores one image, after swaps; its `chosen` may be smaller."""
    pool = scorers.eligible(single.fooled.bundle)
    below = Below(single, swapped(single, chosen, pool, passes // 4), flow, passes=passes)
    if int(pool.sum()) <= passes // 4:
        below.try_singles()
    if below.size > 2 and below.is_paired:
        below.try_pairs(missing(single, torch.zeros_like(chosen)[None])[0], passes // 4)
    below.raise_bound(passes // 2)
    return below


def _by_ranking(block: Exchange, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prefix sizes (images,) and the pruned choices (images, all maps) of some images."""
    prefix = smallest_prefix(ranks, int(scorers.eligible(block.fooled.bundle).sum()), _suffices(block))
    return prefix, pruned(ranks < prefix[:, None], ranks, _suffices(block))


def _by_flow(block: Exchange, pool: Tensor, ranks: Tensor) -> Tensor:
    """Return the pruned choices (images, all maps) that the re-scored flow leads to."""
    return pruned(grown(block, pool), ranks, _suffices(block))


def _suffices(block: Exchange) -> Suffices:
    def suffices(choices: Tensor, problems: Tensor) -> Tensor:
        few = block if len(problems) == len(block.start) else block.rows(problems)
        return few.restores(choices)

    return suffices


def for_all(pairs: Exchanges, flow: PerMap, wanted: float) -> SharedSet:
    """Return the smallest set found that restores the wanted share of all images, or all maps where none does."""
    fooled, ranks = pairs.fooled, trials.shared_ranks(pairs.fooled, flow)
    images = fooled.images.count
    needed = math.ceil(wanted * images - 1e-9)

    def suffices(choices: Tensor, _problems: Tensor) -> Tensor:
        labels = pairs.tried(choices[:, None].expand(-1, images, -1)).labels
        return (labels == fooled.true).sum(dim=1) >= needed

    prefix = smallest_prefix(ranks, int(scorers.eligible(fooled.bundle).sum()), suffices)
    chosen = pruned(ranks < prefix[:, None], ranks, suffices)[0]
    tried = pairs.tried(chosen.expand(1, images, -1))
    drawn = controls.random_ranks(fooled.bundle, DRAWS, images, fooled.seed) < int(chosen.sum())
    return SharedSet(
        wanted=wanted,
        is_reached=int((tried.labels == fooled.true).sum()) >= needed,
        chosen=patch.map_set(fooled.bundle, chosen),
        prefix=int(prefix),
        effect=tried.effect(fooled.true),
        random=pairs.tried(drawn).effect(fooled.true),
    )


def _joined(parts: list[Searched]) -> Searched:
    prefix, ranked, chosen = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("prefix", "ranked", "chosen")
    )
    below = tuple(under for part in parts for under in part.below)
    return Searched(prefix, ranked, chosen, below, tuple(size for part in parts for size in part.exact))


def _pool_search(few: Exchange, name: PoolName, pool: Tensor, passes: int, steps: _Steps) -> PoolSearch:
    """Return what the same search finds for few images among some maps alone; pool: (images, all maps), of all images."""
    pool, sizes = pool[: len(few.start)], []
    chosen = _by_flow(few, pool, torch.zeros_like(pool, dtype=torch.int64))
    for k, is_restored in enumerate(few.restores(chosen).tolist()):
        steps.next(f"The same search among other maps: {name}")
        single = few.rows(torch.tensor([k], device=pool.device))
        sizes.append(int(swapped(single, chosen[k], pool[k], passes).sum()) if is_restored else 0)
    return PoolSearch(name, tuple(sizes), _mean([size for size in sizes if size]))


def _monotone(pairs: Exchanges, chosen: Tensor, is_restored: Tensor) -> Monotone:
    """Return how often a set that restores still does with random maps added."""
    held = (
        pairs.tried(controls.supersets(pairs.fooled.bundle, chosen, DRAWS, pairs.fooled.seed)).labels
        == pairs.fooled.true
    )
    return Monotone(DRAWS * int(is_restored.sum()), int(held[:, is_restored].sum()))


def _record(
    pairs: Exchanges, flow: PerMap, searched: Searched, pools: tuple[PoolSearch, ...], attempted: int, passes: int
) -> SmallestSets:
    """Try each set once more beside its controls, and return the record."""
    fooled, chosen = pairs.fooled, searched.chosen
    tried = pairs.tried(chosen[None])
    is_restored = tried.labels[0] == fooled.true
    counts = chosen.sum(dim=1, keepdim=True)
    random = pairs.tried(controls.random_ranks(fooled.bundle, DRAWS, len(chosen), fooled.seed) < counts)
    generator = torch.Generator().manual_seed(fooled.seed)
    layers = [controls.layer_matched(hooks.split(chosen, fooled.bundle), generator) for _ in range(DRAWS)]
    matched = pairs.tried(torch.stack([hooks.join(draw) for draw in layers]))
    images = tuple(_image(fooled, searched, k, tried, (random, matched)) for k in range(len(chosen)))
    restored = [single for single in images if single.is_restored]
    return SmallestSets(
        group=subjects.group(fooled, attempted),
        images=images,
        sizes=_mean([single.chosen.count for single in restored]),
        prefixes=_mean([single.prefix for single in restored]),
        effect=tried.effect(fooled.true),
        random=random.effect(fooled.true),
        draws=DRAWS,
        shared=for_all(pairs, flow, WANTED),
        matched=matched.effect(fooled.true),
        ranked=_mean([int(count) for count in searched.ranked.sum(dim=1)[is_restored]]),
        bounds=_mean([single.bound for single in restored]),
        monotone=_monotone(pairs, chosen, is_restored),
        pools=pools,
        passes=passes,
    )


def _image(fooled: FooledGroup, searched: Searched, k: int, tried: Tried, drawn: tuple[Tried, Tried]) -> SmallestSet:
    random, matched = (float((draws.labels[:, k] == fooled.true[k]).float().mean()) for draws in drawn)
    below = searched.below[k]
    return SmallestSet(
        sample=fooled.images.samples[k],
        chosen=patch.map_set(fooled.bundle, searched.chosen[k]),
        prefix=int(searched.prefix[k]),
        is_restored=below is not None,
        recovery=float(tried.recovered[0, k]),
        random=random,
        matched=matched,
        ranked=int(searched.ranked[k].sum()),
        bound=1 if below is None else below.bound,
        singles=0 if below is None else below.singles,
        pairs=0 if below is None else below.pairs,
        exact=searched.exact[k],
    )


def _mean(counts: list[int]) -> Estimate | None:
    return statistics.mean_of_several(np.array(counts))
