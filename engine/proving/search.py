"""The search for few maps that suffice: double, bisect, leave out what is not needed. Every answer is a real pass.

A problem is one image, or a whole group that shares its maps; all problems are searched side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
    found = tried(high)
    while bool((~found & (high < most)).any()):
        grows = ~found & (high < most)
        low, high = torch.where(grows, high, low), torch.where(grows, (2 * high).clamp(max=most), high)
        found = found | (grows & tried(high))
    while bool((found & (high - low > 1)).any()):
        middle = torch.where(found, (low + high) // 2, high)
        is_enough = tried(middle)
        low, high = torch.where(is_enough, low, middle), torch.where(is_enough & found, middle, high)
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
