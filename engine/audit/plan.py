"""Plans: TOML files and forms read, every line checked, and what they ask of a run."""

from __future__ import annotations

import functools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, final

import tree_sitter
import tree_sitter_toml

from engine import class_names, parameters
from engine.audit import tiers
from engine.errors import BadInput, EngineError, UnknownName
from engine.hashing import stored_as
from engine.specs import catalogue, methods, threat_model
from engine.specs.catalogue import StoredAttack
from engine.specs.methods import Method, StoredMethodOrNone
from engine.specs.of_run import OfRun
from engine.specs.threat_model import Attack, Norm
from engine.store import Store, files
from engine.types.core import ModelCard

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value, for example ("thresholds", 1, "at_least")."""
T = TypeVar("T")
MOST_BYTES = 1_000_000
AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


class WrongPlan(BadInput):
    """A value of a plan cannot be used; the text names file, line and key."""

    def __init__(self, text: str, place: Place, problem: str) -> None:
        super().__init__(text)
        self.place = place
        """Where the value stands or should, for example ("thresholds", 1, "at_least")."""
        self.problem = problem
        """The same without file, line and key."""


@final
@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file. Every getter raises WrongPlan, which names file, line and key."""

    file: str
    lines: Mapping[Place, int]
    place: Place
    values: Mapping[str, Any]

    def only(self, *known: str) -> None:
        """Refuse keys that are not among `known`: a misspelt key would otherwise be ignored."""
        for key in self.values:
            if key not in known:
                raise self.wrong(str(UnknownName("key", key, known)), key)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text of 1 to 200 printable characters."""
        if default is not None and key not in self.values:
            return default
        result = self._value_of(key, default)
        if not isinstance(result, str) or not 1 <= len(result) <= 200 or not result.isprintable():
            raise self.wrong(f"must be a text of 1 to 200 printable characters, got {_shown(result)}", key)
        return result

    def texts(self, key: str) -> list[str]:
        """Return a list of texts, empty where the key is absent."""
        result = self.values.get(key, [])
        if not isinstance(result, list):
            raise self.wrong(f"must be a list of texts, got {_shown(result)}", key)
        for index, item in enumerate(result):
            if not isinstance(item, str):
                raise self.wrong(f"must be a text, got {_shown(item)}", key, index)
        return result

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number in [low, high]."""
        result = self._value_of(key, default)
        if type(result) is not int or not low <= result <= high:
            raise self.wrong(f"must be a whole number from {low} to {high}, got {_shown(result)}", key)
        return result

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number in [low, high]."""
        result = self._value_of(key, default)
        if type(result) not in (int, float) or not math.isfinite(result) or not low <= result <= high:
            raise self.wrong(f"must be a number from {low:g} to {high:g}, got {_shown(result)}", key)
        return float(result)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        result = self._value_of(key, default)
        if type(result) is not bool:
            raise self.wrong(f"must be true or false, got {_shown(result)}", key)
        return result

    def choice(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        """Return one of some texts."""
        result = self.text(key, default)
        if result not in known:
            raise self.wrong(str(UnknownName("choice", result, known)), key)
        return result

    def table(self, key: str) -> Table:
        """Return the table under a key, an empty one where it is absent."""
        result = self.values.get(key, {})
        if not isinstance(result, dict):
            raise self.wrong(f"must be a table [{key}], got {_shown(result)}", key)
        return Table(self.file, self.lines, (*self.place, key), result)

    def tables(self, key: str) -> list[Table]:
        """Return the tables of a [[list]], none where it is absent."""
        result = self.values.get(key, [])
        if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
            raise self.wrong(f"must be tables, each headed [[{key}]], got {_shown(result)}", key)
        return [Table(self.file, self.lines, (*self.place, key, index), item) for index, item in enumerate(result)]

    def checked(self, check: Callable[[], T], *below: str | int) -> T:
        """Return what `check` does; an EngineError of it is told with the line of the value it was about."""
        try:
            return check()
        except EngineError as error:
            raise self.wrong(str(error), *below) from error

    def wrong(self, problem: str, *below: str | int) -> WrongPlan:
        """Return the error that names file, line and key of a value below this table."""
        place = (*self.place, *below)
        return self._wrong(place, place, problem.rstrip("."))

    def _value_of(self, key: str, default: Any) -> Any:
        if key not in self.values and default is None:
            raise self._wrong(self.place, (*self.place, key), f"the key '{key}' is missing")
        return self.values.get(key, default)

    def _wrong(self, result: Place, place: Place, problem: str) -> WrongPlan:
        name = _named(result)
        text = f"{self.file} line {self._line(result)}: {name}{': ' if name else ''}{problem}."
        return WrongPlan(text, place, problem)

    def _line(self, place: Place) -> int:
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_file(path: Path) -> Table:
    """Return the whole of a TOML file. Raises BadInput for what is not one, with the line."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path.name} has over {MOST_BYTES:,} bytes; a plan is far shorter.")
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read as text in UTF-8.") from error


def parse(text: str, file: str) -> Table:
    """Return the whole of a TOML text. Raises BadInput with the line."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(_syntax(str(error), file, text)) from error
    return Table(file, dict(_positions(text)), (), values)


def _syntax(message: str, file: str, text: str) -> str:
    match = AT_LINE.search(message)
    line = match[1] if match else str(text.count("\n") + 1)
    return f"{file} line {line}: this is not TOML: {AT_LINE.sub('', message)}."


def _positions(text: str) -> Iterator[tuple[Place, int]]:
    """Yield where every table and value begins; Python's own parser reads values without saying where they stand."""
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
    counts: dict[Place, int] = {}
    for node in parser.parse(text.encode()).root_node.named_children:
        place: Place = ()
        if node.type in ("table", "table_array_element"):
            place = _keys(node.named_children[0])
            if node.type == "table_array_element":
                counts[place] = counts.get(place, -1) + 1
                place = (*place, counts[place])
            yield place, node.start_point.row + 1
        pairs = [node] if node.type == "pair" else [child for child in node.named_children if child.type == "pair"]
        for pair in pairs:
            yield from _pair(pair, place)


def _pair(pair: tree_sitter.Node, above: Place) -> Iterator[tuple[Place, int]]:
    yield from _value(pair.named_children[1], (*above, *_keys(pair.named_children[0])))


def _value(node: tree_sitter.Node, place: Place) -> Iterator[tuple[Place, int]]:
    yield place, node.start_point.row + 1
    items = [child for child in node.named_children if child.type not in ("comment", "escape_sequence")]
    if node.type == "array":
        for index, item in enumerate(items):
            yield from _value(item, (*place, index))
    elif node.type == "inline_table":
        for item in items:
            yield from _pair(item, place)


def _keys(node: tree_sitter.Node) -> Place:
    if node.type == "dotted_key":
        return tuple(key for child in node.named_children for key in _keys(child))
    text = (node.text or b"").decode()
    return (text.strip("\"'"),)


def _named(place: Place) -> str:
    name = ""
    for part in place:
        name += f"[{part}]" if isinstance(part, int) else f"{'.' if name else ''}{part}"
    return name


def _shown(value: object) -> str:
    kinds: dict[type, str] = {dict: "a table", list: "a list", bool: str(value).lower()}
    return kinds.get(type(value), repr(value)[:60])


Metric = Literal["accuracy", "resistance"]
METRICS: Final[dict[str, Metric]] = {
    "accuracy": "accuracy",
    "robust-on-correct": "resistance",
    "resistance": "resistance",
}
"""What a plan calls each metric; `resistance` is the word of version 0.1, still read."""
METRIC_TITLES: Final[dict[Metric, str]] = {
    "accuracy": "accuracy",
    "resistance": "robust accuracy on clean-correct images",
}
CUSTOM: Final = "custom"
DEVICES: Final = ("cpu", "cuda")
CLEAN, WORST_CASE = "clean", "worst-case"
CONTROLS: Final = {
    "linf": ("noise-sign", "noise-gaussian", "noise-shuffled"),
    "l1": ("noise-sparse",),
    "area": ("noise-patch",),
}
"""Of attacks in a norm, by its name."""
LARGEST_SEED: Final = 2**31 - 1
MOST_IMAGES: Final = 10_000_000
LARGEST_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Images:
    """Which images are attacked: a sample of each class in proportion to its share."""

    count: int
    seed: int = 0
    is_kept: bool = True
    """Keep attacked images as 8-bit arrays; without them only their hashes are kept."""
    block: int = 0
    """Images of one piece of work; 0 for what lasts seconds."""


@dataclass(frozen=True, slots=True)
class Precomputed:
    """Adversarial images that somebody else made: a data set of the store whose images are named as the originals are."""

    name: str
    data: str
    norm: str
    epsilon: str
    """Budget they should keep, for example `8/255`."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What the candidate must reach, agreed before there are results."""

    name: str
    condition: str
    """`clean`, `worst-case`, the full id of an attack, or the name of a precomputed set."""
    metric: Metric
    """`accuracy`: share of all images still classified right; `resistance`: the same among those right without attack."""
    at_least: float
    confidence: float
    label: str = ""
    """A class name, or `name@index` where the name stands twice; empty for all classes."""


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """A plan that was checked against the store."""

    name: str
    model: str
    baseline: str
    """The model it is compared with on the same images, or empty."""
    data: str
    method: StoredMethodOrNone
    """How feature maps are scored."""
    tier: str
    """Name of the tier whose attacks were taken over, or `custom`."""
    attacks: tuple[StoredAttack, ...]
    """Each on every image; they decide the worst case, with `in_cascade`."""
    in_cascade: tuple[StoredAttack, ...] = field(metadata=stored_as("survivors"))
    """In order, each on the images that no attack before has fooled."""
    curve: tuple[StoredAttack, ...]
    """One attack at growing strength, for the curve alone."""
    controls: tuple[StoredAttack, ...]
    """The noise controls."""
    precomputed: tuple[Precomputed, ...] = field(metadata=stored_as("premade"))
    images: Images
    thresholds: tuple[Threshold, ...]
    seed: int
    device: str
    threads: int
    """Threads torch computes with, wherever the run goes on: the last bits of a sum depend on them."""


def _precomputed_key(table: Table) -> str:
    """Return what the plan calls its precomputed sets: `premade` is the word of version 0.1, still read."""
    if "premade" in table.values and "precomputed" in table.values:
        raise table.wrong("[[premade]] is the old name of [[precomputed]]; use the new one alone", "premade")
    return "premade" if "premade" in table.values else "precomputed"


def read(path: Path, store: Store) -> AuditPlan:
    """Return the plan of a TOML file. Raises BadInput naming file, line and key of what is wrong."""
    return understood(read_file(path), store)


def understood(table: Table, store: Store) -> AuditPlan:
    """Return the plan that a file's table stands for. Raises BadInput naming file, line and key of what is wrong."""
    table.only(
        "name", "model", "baseline", "data", "method", "tier", "epsilon", "attacks", "controls", "seed", "device",
        "threads", "images", "curve", "precomputed", "premade", "thresholds",
    )  # fmt: skip
    card = store.model_card(_model(table, "model", store))
    tier = table.choice("tier", (CUSTOM, *tiers.TIERS), CUSTOM)
    curve = _curve(table.table("curve"), len(card.classes))
    attacks, in_cascade = _with_tier(table, tier, (_attacks(table, card), curve), card)
    precomputed = tuple(_precomputed(item, store, card) for item in table.tables(_precomputed_key(table)))
    plan = AuditPlan(
        name=table.text("name", Path(table.file).stem or "audit"),
        model=card.name,
        baseline=_model(table, "baseline", store) if "baseline" in table.values else "",
        data=_data(table, store),
        method=_method(table),
        tier=tier,
        attacks=attacks,
        in_cascade=in_cascade,
        curve=curve,
        controls=_controls((*attacks, *in_cascade)) if table.flag("controls", True) else (),
        precomputed=precomputed,
        images=_images(table.table("images")),
        thresholds=(),
        seed=table.whole("seed", 0, LARGEST_SEED, 0),
        device=table.choice("device", DEVICES, "cpu"),
        threads=table.whole("threads", 1, 256, 2),
    )
    _require_sound(table, plan, store)
    return replace(plan, thresholds=tuple(_threshold(item, plan, card) for item in _distinct(table, "thresholds")))


def _require_sound(table: Table, plan: AuditPlan, store: Store) -> None:
    if not (plan.attacks or plan.precomputed or plan.curve):
        raise table.wrong(
            "a plan needs attacks, a curve or a precomputed set; for example attacks = ['pgd-linf']", "attacks"
        )
    if len(store.model_card(plan.model).classes) < 2:
        raise table.wrong(f"'{plan.model}' has a single class and is right whatever it is shown", "model")
    if plan.baseline and plan.baseline == plan.model:
        raise table.wrong("must be another model than 'model'", "baseline")
    if plan.baseline and not _has_same_classes(plan, store):
        raise table.wrong(f"'{plan.baseline}' has other classes than '{plan.model}', or in another order", "baseline")
    _distinct(table, _precomputed_key(table))


def _has_same_classes(plan: AuditPlan, store: Store) -> bool:
    return class_names.same(store.model_card(plan.baseline).classes, store.model_card(plan.model).classes)


def _model(table: Table, key: str, store: Store) -> str:
    name = table.text(key)
    return table.checked(lambda: store.model_card(name), key).name


def _data(table: Table, store: Store) -> str:
    name = table.text("data")
    return table.checked(lambda: store.data_card(name), "data").name


def _method(table: Table) -> Method:
    name = table.text("method", methods.TWO_RUN.name)
    return table.checked(lambda: methods.method_or_none(name), "method")


def _attacks(table: Table, card: ModelCard) -> tuple[Attack, ...]:
    attacks: list[Attack] = []
    for index, text in enumerate(table.texts("attacks")):
        spec = table.checked(functools.partial(_effective, text, card), "attacks", index)
        if spec in attacks:
            raise table.wrong(f"'{spec.text}' stands here twice", "attacks", index)
        attacks.append(spec)
    return tuple(attacks)


def _effective(text: str, card: ModelCard) -> Attack:
    """Return an attack that applies to a model and can change a picture."""
    spec = _applicable(text, len(card.classes))
    if not spec.is_control:
        _require_a_step(spec.name, (spec.norm, spec.budget), card)
    return spec


def _applicable(text: str, classes: int) -> Attack:
    spec = catalogue.attack(text)
    if isinstance(spec, OfRun):
        raise BadInput("Images that a run stored are no attack that could be planned; name them as a precomputed set")
    catalogue.check_applicable(spec, classes)
    return spec


def _require_a_step(name: str, budget: tuple[Norm, Fraction], card: ModelCard) -> None:
    """Raise BadInput where no stored picture of the model's size can be changed within a budget."""
    (norm, epsilon), pixels = budget, card.size[0] * card.size[1]
    if epsilon >= norm.step(pixels):
        return
    if norm is threat_model.AREA:
        raise BadInput(
            f"{name} with epsilon {parameters.fraction_text(epsilon, 'area')} can change no picture: one pixel is 1/{pixels} of "
            f"the area. Give for example {norm.example}"
        )
    doubt = "Was it divided by 255 twice? " if norm is threat_model.LINF else ""
    raise BadInput(
        f"{name} with epsilon {parameters.fraction_text(epsilon, '1/255')} can change no picture: one step of 8 bits is "
        f"1/255. {doubt}Give for example {norm.example}"
    )


def _with_tier(
    table: Table, tier: str, own: tuple[tuple[Attack, ...], tuple[Attack, ...]], card: ModelCard
) -> tuple[tuple[Attack, ...], tuple[Attack, ...]]:
    """Return a tier's attacks on every image, then the plan's own, and its attacks on what those leave unbroken.

    As far as they apply to the model. own: attacks and curve of the plan, which run on every image whatever the tier says.
    """
    attacks, curve = own
    if tier == CUSTOM:
        if "epsilon" in table.values:
            raise table.wrong(
                "belongs to a tier; give each attack its own, for example 'pgd-linf:eps=8/255'", "epsilon"
            )
        return attacks, ()
    epsilon = table.checked(functools.partial(parameters.read_fraction, "epsilon", table.text("epsilon")), "epsilon")
    checked = table.checked(functools.partial(tiers.contents, tier, epsilon, min(card.size)), "epsilon")
    budget = threat_model.LINF, epsilon
    table.checked(functools.partial(_require_a_step, f"the tier '{tier}'", budget, card), "epsilon")
    classes = len(card.classes)
    every = [item for item in checked.everywhere if not catalogue.obstacle(item, classes)]
    applicable = [item for item in checked.in_cascade if not catalogue.obstacle(item, classes)]
    in_cascade = [item for item in applicable if item not in (*attacks, *curve)]
    asked = [item for item in curve if item in checked.in_cascade]
    return tuple(dict.fromkeys((*every, *asked, *attacks))), tuple(in_cascade)


def _controls(attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
    """The noise controls of every norm that has some, at epsilon of the strongest attack in it."""
    controls: list[Attack] = []
    for norm, names in CONTROLS.items():
        strongest = max((spec.budget for spec in attacks if spec.norm.name == norm and not spec.is_control), default=0)
        if strongest:
            controls += [catalogue.ATTACKS[name]().at(Fraction(strongest)) for name in names]
    return tuple(item for item in controls if item not in attacks)


def _curve(table: Table, classes: int) -> tuple[Attack, ...]:
    """The attack of [curve] at each of its strengths, weakest first."""
    if not table.values:
        return ()
    table.only("attack", "epsilons")
    spec = table.checked(functools.partial(_applicable, table.text("attack"), classes), "attack")
    results: dict[Fraction, Attack] = {}
    for index, text in enumerate(table.texts("epsilons")):
        checked = table.checked(functools.partial(_at, spec, text), "epsilons", index)
        if checked.budget in results:
            raise table.wrong(f"epsilon {text} stands here twice", "epsilons", index)
        results[checked.budget] = checked
    if not results:
        raise table.wrong("a curve needs epsilons, for example epsilons = ['1/255', '2/255']", "epsilons")
    return tuple(results[epsilon] for epsilon in sorted(results))


def _at(spec: Attack, epsilon: str) -> Attack:
    if spec.epsilon is None:
        raise BadInput(f"{spec} has no epsilon and makes no curve")
    return spec.at(parameters.read_fraction("epsilon", epsilon))


def _images(table: Table) -> Images:
    table.only("count", "seed", "keep", "block")
    return Images(
        count=table.whole("count", 1, MOST_IMAGES),
        seed=table.whole("seed", 0, LARGEST_SEED, 0),
        is_kept=table.flag("keep", True),
        block=table.whole("block", 0, LARGEST_BLOCK, 0),
    )


def _precomputed(table: Table, store: Store, card: ModelCard) -> Precomputed:
    table.only("name", "data", "norm", "epsilon")
    name, epsilon = table.text("name"), table.text("epsilon")
    table.checked(lambda: files.require_name("precomputed set", name), "name")
    if name in (CLEAN, WORST_CASE):
        raise table.wrong(f"'{name}' already means something else; choose another name", "name")
    budget = table.checked(lambda: parameters.read_fraction("epsilon", epsilon), "epsilon")
    norm = table.choice("norm", tuple(threat_model.BUDGETED), threat_model.LINF.name)
    size = threat_model.BUDGETED[norm], budget
    table.checked(lambda: _require_a_step(f"the precomputed set '{name}'", size, card), "epsilon")
    return Precomputed(name, _data(table, store), norm, epsilon)


def _distinct(table: Table, key: str) -> list[Table]:
    """Return the tables of a list; each must have a name of its own."""
    texts: set[str] = set()
    for item in table.tables(key):
        name = item.text("name")
        if name in texts:
            raise item.wrong(f"another one is called '{name}' already", "name")
        texts.add(name)
    return table.tables(key)


def _threshold(table: Table, plan: AuditPlan, card: ModelCard) -> Threshold:
    table.only("name", "condition", "metric", "at_least", "confidence", "class")
    asked = table.text("class", "")
    label = table.checked(lambda: _class(asked, card.classes), "class") if asked else ""
    condition = table.checked(lambda: _condition(table.text("condition"), plan), "condition")
    if condition == WORST_CASE and not (
        plan.precomputed or plan.in_cascade or not all(attack.is_control for attack in plan.attacks)
    ):
        raise table.wrong("the plan has no attack and no precomputed set, so it has no worst case", "condition")
    for spec in plan.curve:
        if condition == spec.text:
            table.checked(functools.partial(_require_a_step, spec.name, (spec.norm, spec.budget), card), "condition")
    named = table.choice("metric", tuple(METRICS), "accuracy")
    metric = METRICS[named]
    if metric == "resistance" and condition == CLEAN:
        raise table.wrong(f"'{named}' compares with the images without attack; use 'accuracy' for those", "metric")
    at_least, confidence = table.number("at_least", 0.0, 1.0), table.number("confidence", 0.5, 0.9999, 0.95)
    if not at_least:
        raise table.wrong("must be above 0: every model reaches 0, so passing it would say nothing", "at_least")
    return Threshold(table.text("name"), condition, metric, at_least, confidence, label)


def _class(text: str, classes: tuple[str, ...]) -> str:
    return class_names.handles(classes)[class_names.index(text, classes)]


def _condition(text: str, plan: AuditPlan) -> str:
    """Return the condition a threshold speaks of; a bare attack name will do where the plan has one of that name."""
    specs = (*plan.attacks, *plan.in_cascade, *plan.curve, *plan.controls)
    known = {CLEAN, WORST_CASE, *(spec.text for spec in specs), *(item.name for item in plan.precomputed)}
    if text in known:
        return text
    try:
        spec = catalogue.attack(text)
    except UnknownName as error:
        raise UnknownName("condition of this plan", text, known) from error
    same = {item for item in specs if item.name == text}
    full = same.pop() if len(same) == 1 else spec
    if full.text not in known:
        raise BadInput(f"the plan has no attack '{full}'. It has: {', '.join(sorted(known))}.")
    return full.text
