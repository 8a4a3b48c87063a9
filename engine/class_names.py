"""Names of classes: compared in one Unicode form, and never one of two in silence.

ImageNet itself has two classes called `crane` and two called `maillot`, so a name may stand twice in a list. What is asked by
name is then refused, and `crane@134`, the name with its index, says which one is meant.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from engine.errors import BadInput, UnknownName

LACKING: Final = -1
LONGEST_INDEX: Final = 9
"""Digits."""
INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)
"""What Unicode counts as letters or marks, though nothing is drawn (Default_Ignorable_Code_Point)."""


def plain(name: str) -> str:
    """Return a name in the form in which names are compared: composed letters (NFC), nothing before and behind.

    Macs write `é` of a file's name as two characters; most files of class names hold it as one.
    """
    return unicodedata.normalize("NFC", name).strip()


def is_visible(name: str) -> bool:
    """Tell whether anything of a name is drawn."""
    return any(not item.isspace() and item not in INVISIBLE for item in name)


@functools.lru_cache(maxsize=16)
def handles(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to call each class so that no two are called the same: its name, or `name@index` where it stands twice."""
    often = Counter(map(plain, names))
    return tuple(name if often[plain(name)] == 1 else f"{name}@{index}" for index, name in enumerate(names))


def index(text: str, names: Sequence[str]) -> int:
    """Return the class that a text means: by its name, its index, or both as `name@index`.

    Raises UnknownName, and BadInput where the name stands twice, or is the index of another class.
    """
    known = tuple(names)
    named = _places(known).get(plain(text), ())
    result = sorted({*named, *_numbered(text, known)})
    if len(result) == 1:
        return result[0]
    if not result:
        raise UnknownName("class", text, known)
    ways = ", ".join(f"'{known[item][:80]}@{item}'" for item in result[:6])
    if len(named) > 1:
        raise BadInput(f"The class '{text[:80]}' stands twice in the list of classes; say which one is meant: {ways}.")
    raise BadInput(f"'{text[:80]}' is the name of one class and the index of another; say which one is meant: {ways}.")


def matched(own: tuple[str, ...], among: tuple[str, ...]) -> tuple[int, ...]:
    """Return the index of each of `own` names among others; of equal lists each has its own index.

    LACKING for a name that is not there, or that stands twice in either list: it could mean either.
    """
    if same(own, among):
        return tuple(range(len(own)))
    places, often = _places(among), Counter(map(plain, own))
    results = [places.get(plain(name), ()) for name in own]
    return tuple(
        one[0] if len(one) == 1 and often[plain(name)] == 1 else LACKING for name, one in zip(own, results, strict=True)
    )


def same(first: Sequence[str], second: Sequence[str]) -> bool:
    """Tell whether two lists name the same classes in the same order."""
    return len(first) == len(second) and all(map(_is_same, first, second))


def remarks(names: Sequence[str]) -> Iterator[str]:
    """Yield one sentence each for names that stand twice in a list, and for names that only look the same."""
    places = _places(tuple(names))
    twice = [result for result in places.values() if len(result) > 1]
    if twice:
        first, second = twice[0][:2]
        yield (
            f"{len(twice)} class name{'s stand' if len(twice) > 1 else ' stands'} twice (first: '{names[first][:80]}', "
            f"classes {first} and {second}); asked by name such a class is refused, '{names[first][:80]}@{first}' is one."
        )
    alike = [result for result in _grouped(places).values() if len(result) > 1]
    if alike:
        one, other = alike[0][:2]
        yield (
            f"{len(alike)} class name{'s look' if len(alike) > 1 else ' looks'} like another one (first: "
            f"{one[:40]!r} and {other[:40]!r}); they are taken as different classes."
        )


def _is_same(first: str, second: str) -> bool:
    return first == second or plain(first) == plain(second)


@functools.lru_cache(maxsize=16)
def _places(names: tuple[str, ...]) -> Mapping[str, tuple[int, ...]]:
    """The indices of each name."""
    results: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        results.setdefault(plain(name), []).append(place)
    return {name: tuple(places) for name, places in results.items()}


def _numbered(text: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """The class that `2` or `crane@2` means by its number, if there is one."""
    name, mark, number = text.rpartition("@")
    if not (number.isascii() and number.isdigit() and len(number) <= LONGEST_INDEX and int(number) < len(names)):
        return ()
    place = int(number)
    return (place,) if not mark or plain(name) == plain(names[place]) else ()


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by what the eye makes of them: without regard to case, width, white space and what is not drawn."""
    results: dict[str, list[str]] = {}
    for name in names:
        drawn = "".join(item for item in unicodedata.normalize("NFKC", name) if item not in INVISIBLE)
        results.setdefault("".join(drawn.casefold().split()), []).append(name)
    return results
