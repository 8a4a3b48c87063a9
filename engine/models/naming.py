"""From the names in a weights file to those of a network: what stands before them, what beside them, and which part is meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from engine.models import weights

COUNTER: Final = "num_batches_tracked"
"""Of batch norm: a number that evaluation never reads, which older files lack and others keep as a float."""
NORMALISERS: Final = ("mean", "std", "new_mean", "new_std", "_mean", "_std", "mu", "sigma")
"""Last parts of the names under which modules keep what they subtract from pictures and divide them by."""
MOST_CHANNELS: Final = 4
NAMED: Final = 3
"""Of what a message lists."""
Tensors = Mapping[str, Tensor]


def placed(wanted: Tensors, got: Tensors) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of a network, as far as the names leave no doubt.

    What intake took off every name (`weights.short_names`) is put back where a network really has it; a prefix is taken off
    where all of the file stands behind it. Nothing of a file is ever left out.
    """
    places = {short: full for full, short in weights.short_names(wanted).items()}
    found = {key if key in wanted else places.get(key, key): tensor for key, tensor in got.items()}
    if len(found) < len(got):
        return dict(got)
    before = next(iter(prefixes(wanted, found)), "")
    if not all(key.startswith(before) for key in found):
        return found
    return {key.removeprefix(before): tensor for key, tensor in found.items()}


def prefixes(wanted: Tensors, got: Tensors) -> list[str]:
    """Return every prefix behind which a file has all names of a network, such as `student.` and `teacher.`."""
    needed = _needed(wanted)
    return [before for before in _candidates(needed, got) if all(f"{before}{key}" in got for key in needed)]


def hint(name: str, wanted: Tensors, got: Tensors) -> str:
    """Return what to do with a file whose names are not those of the network called `name`; empty where nothing is known."""
    found = prefixes(wanted, got)
    if len(found) > 1:
        return f" {_several(name, wanted, got, found)}"
    if found:
        return f" {_one(name, found[0], wanted, got)}"
    return _most(name, wanted, got)


def _needed(wanted: Tensors) -> list[str]:
    """All names but those of counters, the longest first: the fewest others end with it."""
    return sorted(
        (key for key in wanted if not key.endswith(COUNTER)), key=lambda key: (-key.count("."), -len(key), key)
    )


def _candidates(needed: list[str], got: Tensors) -> list[str]:
    """Prefixes of the names that are, or end with, a name of the network."""
    if not needed:
        return []
    ending = needed[0]
    return sorted(key.removesuffix(ending) for key in got if key == ending or key.endswith(f".{ending}"))


def _several(name: str, wanted: Tensors, got: Tensors, found: list[str]) -> str:
    ways = " and ".join(_behind(before) for before in found[:NAMED])
    first, *others = found
    is_equal = all(
        torch.equal(got[f"{first}{key}"], got[f"{other}{key}"]) for other in others for key in _needed(wanted)
    )
    what = "the same values, so either will do" if is_equal else "different values"
    return (
        f"The file holds the names of {name} {len(found)} times, {ways}, with {what}: save the one that is meant alone, "
        f"without its prefix.{_declaration(wanted, got, found)}"
    )


def _one(name: str, before: str, wanted: Tensors, got: Tensors) -> str:
    beside = sorted(key for key in got if not key.startswith(before) or key.removeprefix(before) not in wanted)
    more = ", …" if len(beside) > NAMED else ""
    listed = ", ".join(key[:80] for key in beside[:NAMED])
    way_out = "save that part alone, without the prefix" if before else "save the network without them"
    return (
        f"All names of {name} stand {_behind(before)}, and beside them {listed}{more}: {way_out}."
        f"{_declaration(wanted, got, [before])}"
    )


def _most(name: str, wanted: Tensors, got: Tensors) -> str:
    """Where more than half of the names stand behind one prefix."""
    needed = _needed(wanted)
    counts = Counter(before for key in got for before in _before(key, frozenset(needed)))
    (best, count), *_ = counts.most_common(1) or [("", 0)]
    if 2 * count <= len(needed):
        return ""
    lacking = [key for key in needed if f"{best}{key}" not in got]
    return (
        f" {count} of the {len(needed)} names of {name} stand {_behind(best)}, and not {', '.join(lacking[:NAMED])}"
        f"{', …' if len(lacking) > NAMED else ''}: rename them to be those of {name}."
    )


def _before(key: str, ends: frozenset[str]) -> Iterator[str]:
    """Yield each prefix of a name behind which one of the `ends` stands."""
    parts = key.split(".")
    for cut in range(1, len(parts)):
        if ".".join(parts[cut:]) in ends:
            yield f"{'.'.join(parts[:cut])}."


def _behind(before: str) -> str:
    return f"behind the prefix '{before[:80]}'" if before else "without a prefix"


def _declaration(wanted: Tensors, got: Tensors, found: list[str]) -> str:
    """What to declare where a file has a normaliser that the network has not: its values decide every answer."""
    own = {f"{before}{key}" for before in found for key in wanted}
    values = {key: tensor for key, tensor in got.items() if key not in own and _is_normaliser(key, tensor)}
    if not values:
        return ""
    told = "; ".join(
        f"{key[:80]} = {_listed(tensor)}" for key, tensor in sorted(values.items(), key=lambda one: one[0])[: 2 * NAMED]
    )
    return f" The file's normaliser is no part of this network: declare its values with --mean and --std ({told})."


def _is_normaliser(key: str, tensor: Tensor) -> bool:
    is_one = key.split(".")[-1] in NORMALISERS and tensor.is_floating_point()
    return is_one and 1 <= tensor.numel() <= MOST_CHANNELS


def _listed(tensor: Tensor) -> str:
    return ",".join(f"{value:.4g}" for value in tensor.flatten().tolist())
