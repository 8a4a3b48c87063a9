"""What the page shows, as one value, the same in link, store and callback; and what of it exists: defaults, names dropped."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from dashboard import strengths
from dashboard.auditor import Auditor
from engine import (
    LACKING,
    STATUSES,
    VALIDATION_CHECKS,
    Answer,
    Attack,
    AttackCard,
    AttackResults,
    AttackResultsRequest,
    BadInput,
    DatasetCard,
    ExplanationRequest,
    ModelCard,
    Outcome,
    attack,
    attack_at,
    class_handles,
    class_places,
    method,
    plain_name,
)

SHARES = (0.05, 0.1, 0.2, 0.3)
NEAR = 0.05
"""A share this far from one that is offered stands for it; others are refused."""
GROUP = "group"
"""The sample name that stands for up to `GROUP_SIZE` images together."""
PAIR = "into:"
"""Before a class, the sample name that stands for those of them that were fooled into it."""
GROUP_SIZE = 16
LONGEST = 200
"""Characters of a link value that are looked at; more is nobody's name."""
LONGEST_CHOICE = 2000
"""Characters of values that may list feature maps, attacks or classes."""
CHANNEL_LIMIT = 1_000_000
MOST_OPENINGS = 20
"""Classes whose first image is looked at to open the page on one that its checks bear out."""
CHOICES: dict[str, tuple[str, ...]] = {
    "outcome": ("fooled", "resisted"),
    "detail": ("blocks", "sites"),
    "lane": ("flow", "localisation"),
    "theme": ("light", "dark"),
    "page": ("explain", "audits", "models"),
    "study": ("curve", "faithfulness", "localisation", "profile", "smallest", "defence"),
    "drawer": ("checks", "test", "study", "layers", "evidence", "closed"),
    "role": ("candidate", "baseline"),
    "ended": ("fooled", "kept"),
    "status": ("all", *STATUSES),
    "tab": ("patches", "links", "feature", "growth", "histogram", "numbers"),
}
LISTS = {"attacks": re.compile(r"\d{1,4}(,\d{1,4}){0,399}"), "classes": re.compile(r"\d{1,4}(,\d{1,4}){0,399}")}
"""Fields that list places in the shown run; whether they are there is seen once the run is read."""
OF_RUN = "run:"
"""What names images begin with that a run stored, where an attack is named."""
FIRST_ATTACK = "pgd-linf"
FIRST_METHOD = "two-run"
DOUBTFUL = {
    "function": "whatever is said of the module that was handed in, which answers otherwise than the network audited",
    "edges": "connections (bands between layers, a channel's neighbours), which may not be what changing one channel does",
    "fields": "patches and boxes in pictures, which may show another part of them than what a channel sees",
}
"""What cannot be trusted of a model that fails a check."""
GROUPS = {"class": "the fooled-into class", "noise": "noise of the same size"}
"""What of the same explanation can be drawn beside, by the value of `versus`."""


ALIASES = {"prove": "patch", "intake": "report"}
"""What links of older versions call a field: still read, no longer written."""


@dataclass(frozen=True, slots=True)
class ViewState:
    """One view of the page. None means "choose for me"; every field is one parameter of the link."""

    model: str | None = None
    data: str | None = None
    label: str | None = None
    """Class name; None is any class that has an image of the outcome."""
    attack: str | None = None
    epsilon: str | None = None
    """As written: `8/255` or `0.05`."""
    outcome: str = "fooled"
    sample: str | None = None
    """Sample key, `group`, or None for the first one."""
    method: str | None = None
    share: float = 0.2
    detail: str = "blocks"
    lane: str = "flow"
    """What is drawn between the distance and the river: attack conductance, or the localisation layer by layer."""
    versus: str | None = None
    """Another attack, or strength of it, drawn beside: `mifgsm-linf@8/255`."""
    folded: str | None = None
    """Stages of the river that are drawn as one column, their names joined by commas."""
    layer: str | None = None
    channel: int | None = None
    theme: str = "light"
    patch: str | None = None
    """Which maps are patched, as `dashboard.panels.patching.model` reads it."""
    study: str | None = None
    """What is asked of all fooled images of the class together."""
    page: str = "explain"
    run: str | None = None
    """Id of the audit run that the audits page shows."""
    role: str | None = None
    """Which model of the run is looked into; None is the candidate."""
    attacks: str | None = None
    """Its attacks, as places among its conditions joined by commas; None is all of them."""
    classes: str | None = None
    """True classes, as their indices joined by commas; None is all of them."""
    ended: str | None = None
    """Images that were `fooled` (None is the same), or that `kept` their right answer."""
    within: str | None = None
    """Layer of the run's model whose feature maps are listed; None is every layer."""
    under: str | None = None
    status: str | None = None
    into: str | None = None
    find: str | None = None
    order: str | None = None
    """These five choose and sort the table of the run's images, as `dashboard.panels.images.model` reads them."""
    report: str | None = None
    """Model and data set whose validation report the models page shows: `MODEL@DATA`."""
    drawer: str | None = None
    """Which part of the drawer is open; None opens the one that the link asks something of."""
    tab: str | None = None
    """Which part of the neuron panel is shown."""
    group: str | None = None
    sort: str | None = None
    scale: str | None = None

    @classmethod
    def from_dict(cls, stored: object) -> ViewState:
        """Return the view in `stored`; what is unusable is dropped, the share goes to the nearest one offered."""
        given = _current(stored)
        values: dict[str, Any] = {field.name: _read(field.name, given.get(field.name)) for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})

    def to_query(self) -> str:
        """Return the view as a query string; fields that are not set or equal to the default are left out."""
        default = asdict(ViewState())
        results = {name: value for name, value in asdict(self).items() if value is not None and value != default[name]}
        return urlencode(results)


def complaints(stored: object) -> tuple[str, ...]:
    """Return one sentence for each value of a link that `from_dict` could not use as it stood."""
    given = _current(stored)
    view = asdict(ViewState.from_dict(given))
    results = []
    for name in (*CHOICES, *LISTS, "share", "channel"):
        value = given.get(name)
        number = _number(value)
        is_as_asked = str(value) == str(view[name]) or (number is not None and number == view[name])
        if value not in (None, "") and not is_as_asked:
            shown = "what is shown without it" if view[name] is None else f"'{view[name]}'"
            results.append(f"The link asked for {name} '{str(value)[:80]}', which does not exist; showing {shown}.")
    return tuple(results)


def _current(stored: object) -> Mapping[str, Any]:
    """Return the values of a link under the names of this version; whatever is no set of values holds none."""
    given = stored if isinstance(stored, Mapping) else {}
    return {ALIASES[name]: value for name, value in given.items() if name in ALIASES} | {
        name: value for name, value in given.items() if name not in ALIASES
    }


def _read(name: str, value: object) -> str | float | int | None:
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if name == "share":
        return _nearest_share(value)
    if name == "channel":
        return _channel(value)
    text = str(value)[: LONGEST_CHOICE if name in ("patch", "attack", *LISTS) else LONGEST].strip()
    if name in CHOICES and text not in CHOICES[name]:
        return None
    if name in LISTS and not LISTS[name].fullmatch(text):
        return None
    return text or None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _nearest_share(value: object) -> float | None:
    number = _number(value)
    if number is None or number != number:
        return None
    nearest = min(SHARES, key=lambda share: abs(share - number))
    return nearest if abs(nearest - number) <= NEAR else None


def _channel(value: object) -> int | None:
    number = _number(value)
    if number is None or not 0 <= number < CHANNEL_LIMIT or number != int(number):
        return None
    return int(number)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a view comes to: names that exist, the attack results of its class, and the explanation to ask for."""

    view: ViewState
    notices: tuple[str, ...]
    models: tuple[ModelCard, ...]
    datasets: tuple[DatasetCard, ...]
    """Those whose classes fit the model."""
    attacks: tuple[AttackCard, ...]
    methods: tuple[str, ...]
    model: ModelCard | None = None
    data: DatasetCard | None = None
    attack: AttackCard | None = None
    attack_results: Answer[AttackResults] | None = None
    outcomes: tuple[Outcome, ...] = ()
    """The images of the shown class that ended as the view's outcome."""
    request: ExplanationRequest | None = None
    rival: ExplanationRequest | None = None
    """The same images under the other attack that is drawn beside."""


def resolve(
    view: ViewState, auditor: Auditor, holds: Callable[[ExplanationRequest], bool] = lambda _: False
) -> Resolved:
    """Return what can be shown of `view`; nothing in a link is trusted, and what is dropped is named in `notices`.

    holds: whether the checks of a stored explanation bear it out; a view without class and image opens on the first such.
    """
    notices: list[str] = []
    models = auditor.models()
    names = [card.name for card in models]
    archived = _unless_known(view.model, names, lambda: auditor.model_registry.models(archived=True))
    name = choose("model", view.model, names, names[0] if names else None, notices, archived)
    model = next((card for card in models if card.name == name), None)
    datasets = tuple(card for card in auditor.datasets() if model and fits(card, model))
    data = _dataset(view, datasets, auditor, notices, model)
    chosen = Resolved(
        replace(view, model=name, data=data.name if data else None),
        (),
        models,
        datasets,
        auditor.attacks(),
        auditor.methods(),
        model,
        data,
    )
    if model and data:
        notices += failed_validation(model, data, auditor)
        chosen = _with_attack(_with_run(chosen, auditor, notices), notices)
        chosen = _with_attack_results(_with_layer(chosen, model, notices), auditor, notices, holds)
    return replace(chosen, notices=tuple(notices))


def fits(data: DatasetCard, model: ModelCard) -> bool:
    """Whether every class of the data is one of the model's and the images are grey or have as many channels."""
    return not misfit(data, model)


def misfit(data: DatasetCard, model: ModelCard) -> str:
    """Return why a data set cannot be shown to a model, as the end of a sentence; empty where it can."""
    if data.channels not in (1, model.channels):
        return f"its images have {data.channels} channels, and the model takes {model.channels}"
    places = class_places(data.classes, model.classes)
    lacking = [name for name, place in zip(data.classes, places, strict=True) if place == LACKING]
    if not lacking:
        return ""
    others = f" and {len(lacking) - 1} more are" if len(lacking) > 1 else " is"
    return f"its class '{lacking[0][:40]}'{others} not among the model's, such as '{model.classes[0][:40]}'"


def failed_validation(model: ModelCard, data: DatasetCard, auditor: Auditor) -> list[str]:
    """Return a sentence for each validation report, on this data set or on noise, that the shown model has failed.

    After them stands what can therefore not be trusted.
    """
    titles = {check.name: check.title for check in VALIDATION_CHECKS}
    reports = [report for report in auditor.model_registry.reports(model.name, [data.name]) if report.verdict == "fail"]
    sentences = [
        f"'{model.name}' failed its validation report on {report.data or 'noise'} "
        f"({', '.join(titles[name] for name in report.with_outcome('fail'))}): read it under Models and data first."
        for report in reports
    ]
    failed = {name for report in reports for name in report.with_outcome("fail")}
    doubts = [text for name, text in DOUBTFUL.items() if name in failed]
    return [*sentences, *([f"What cannot be trusted here: {'; '.join(doubts)}."] if doubts else [])]


def choose(
    kind: str,
    asked: str | None,
    known: Sequence[str],
    default: str | None,
    notices: list[str],
    archived: Collection[str] = (),
) -> str | None:
    """Return `asked` where it is known, else `default`; a name that is archived or not known is named in `notices`."""
    if asked is None or asked in known:
        return default if asked is None else asked
    shown = f"showing '{default}'" if default is not None else "showing the first that fits"
    is_where = "is archived (restore it under Models and data)" if asked in archived else "is not here"
    notices.append(f"The link asked for {kind} '{asked[:80]}', which {is_where}; {shown}.")
    return default


def _unless_known(
    asked: str | None, known: Sequence[str], archived: Callable[[], tuple[ModelCard | DatasetCard, ...]]
) -> list[str]:
    """Return the names of what is archived, looked up only for a name that is not among those in use."""
    return [] if asked is None or asked in known else [card.name for card in archived()]


def _dataset(
    view: ViewState,
    datasets: tuple[DatasetCard, ...],
    auditor: Auditor,
    notices: list[str],
    model: ModelCard | None,
) -> DatasetCard | None:
    names = [card.name for card in datasets]
    other = next((card for card in auditor.datasets() if card.name == view.data and card.name not in names), None)
    if other is not None and model is not None:
        shown = f"; showing '{names[0]}'" if names else ""
        notices.append(f"Data '{other.name}' does not fit {model.name}: {misfit(other, model)}{shown}.")
        return next(iter(datasets), None)
    archived = _unless_known(view.data, names, lambda: auditor.model_registry.datasets(archived=True))
    name = choose("data", view.data, names, names[0] if names else None, notices, archived)
    return next((card for card in datasets if card.name == name), None)


def _with_run(chosen: Resolved, auditor: Auditor, notices: list[str]) -> Resolved:
    """Add the images of a run that a link names to the attacks; without them the view falls back, saying why."""
    asked = chosen.view.attack
    if asked is None or not asked.startswith(OF_RUN):
        return chosen
    try:
        own = auditor.attack_of_run(asked, str(chosen.view.model), str(chosen.view.data))
        return replace(chosen, attacks=(*chosen.attacks, own))
    except BadInput as error:
        notices.append(f"{error} Showing what is attacked anew.")
        return replace(chosen, view=replace(chosen.view, attack=None, epsilon=None, sample=None))


def _with_attack(chosen: Resolved, notices: list[str]) -> Resolved:
    view = chosen.view
    names = [card.name for card in chosen.attacks]
    first = FIRST_ATTACK if FIRST_ATTACK in names else names[0]
    name = choose("attack", view.attack, names, first, notices)
    card = next(item for item in chosen.attacks if item.name == name)
    methods = chosen.methods
    first = FIRST_METHOD if FIRST_METHOD in methods else methods[0]
    scored = choose("method", view.method, methods, first, notices)
    epsilon = _epsilon(chosen, card, notices)
    return replace(chosen, attack=card, view=replace(view, attack=name, method=scored, epsilon=epsilon))


def _epsilon(chosen: Resolved, card: AttackCard, notices: list[str]) -> str | None:
    view, setting = chosen.view, strengths.epsilon_setting(card)
    first = strengths.first_strength(chosen.data, card)
    if view.epsilon is None or setting is None:
        return first
    value = strengths.strength(view.epsilon)
    if value is not None and setting.low <= value <= setting.high:
        try:
            attack_at(card.name, view.epsilon)
            return view.epsilon
        except BadInput as error:
            notices.append(str(error))
    notices.append(
        f"The link asked for epsilon '{view.epsilon[:80]}', which is not an epsilon between {setting.low:g} and "
        f"{setting.high:g}; showing {first}."
    )
    return first


def _with_layer(chosen: Resolved, model: ModelCard, notices: list[str]) -> Resolved:
    view = chosen.view
    site = next((site for site in model.sites if site.name == view.layer), None)
    if view.layer is not None and site is None:
        notices.append(
            f"The link asked for layer '{view.layer[:80]}', which this model does not have; showing the default layer."
        )
    channel = view.channel
    if channel is not None and site is not None and channel >= site.channels:
        notices.append(
            f"The link asked for channel {channel} of {site.name}, which has {site.channels}; showing the strongest."
        )
        channel = None
    if channel is not None and site is None:
        notices.append(f"The link asked for channel {channel} without its layer; showing the strongest.")
    return replace(chosen, view=replace(view, layer=site.name if site else None, channel=channel if site else None))


def _with_attack_results(
    chosen: Resolved, auditor: Auditor, notices: list[str], holds: Callable[[ExplanationRequest], bool]
) -> Resolved:
    data = chosen.data
    if data is None:
        return chosen
    called = zip(class_handles(data.classes), data.class_counts, strict=True)
    filled = {plain_name(name): name for name, count in called if count}
    wanted = chosen.view.label and plain_name(chosen.view.label)
    asked = choose("class", wanted, tuple(filled), None, notices)
    asked = None if asked is None else filled[asked]
    labels = [asked] if asked is not None else list(filled.values())
    if asked is None and chosen.view.sample is None:
        labels = _opening(chosen, auditor, labels, holds)
    label, answer = _search(chosen, auditor, labels)
    chosen = replace(chosen, attack_results=answer, view=replace(chosen.view, label=label))
    if answer is None or answer.state != "ready" or answer.value is None:
        return chosen
    outcomes = tuple(entry for entry in answer.value.outcomes if entry.status == chosen.view.outcome)
    return _with_sample(replace(chosen, outcomes=outcomes), notices)


def _opening(
    chosen: Resolved, auditor: Auditor, labels: list[str], holds: Callable[[ExplanationRequest], bool]
) -> list[str]:
    """Return the classes, before all others the first whose first image is explained already and whose checks hold.

    Only the store is asked: nothing is computed to find it, and where nothing is known the order stays.
    """
    for label in labels[:MOST_OPENINGS]:
        results = _results_request(chosen, label)
        known = auditor.attack_results(results).value if auditor.is_stored(results) else None
        ended = [one.sample for one in known.outcomes if one.status == chosen.view.outcome] if known else []
        request = _explanation_request(chosen, tuple(ended[:1]))
        if ended and auditor.is_stored(request) and holds(request):
            return [label, *(other for other in labels if other != label)]
    return labels


def _search(chosen: Resolved, auditor: Auditor, labels: list[str]) -> tuple[str | None, Answer[AttackResults] | None]:
    """Return the first class that holds an image of the outcome (or is still at work), else the first class."""
    first: tuple[str | None, Answer[AttackResults] | None] = (None, None)
    for label in labels:
        answer = auditor.attack_results(_results_request(chosen, label))
        if answer.state != "ready" or answer.value is None:
            return label, answer
        if any(entry.status == chosen.view.outcome for entry in answer.value.outcomes):
            return label, answer
        first = first if first[1] is not None else (label, answer)
    return first


def _attack(chosen: Resolved) -> Attack:
    name = str(chosen.view.attack)
    return attack_at(name, chosen.view.epsilon) if chosen.view.epsilon else attack(name)


def _results_request(chosen: Resolved, label: str) -> AttackResultsRequest:
    view, own = chosen.view, chosen.data.classes if chosen.data else ()
    places = class_places(own, chosen.model.classes if chosen.model else ())
    place = places[class_handles(own).index(label)]
    return AttackResultsRequest(str(view.model), str(view.data), _attack(chosen), place)


def _with_sample(chosen: Resolved, notices: list[str]) -> Resolved:
    keys = [entry.sample for entry in chosen.outcomes]
    if not keys:
        return replace(chosen, view=replace(chosen.view, sample=None))
    groups = scopes(chosen)
    sample = _same_group(chosen, groups)
    if sample is not None and sample not in (*keys, *groups):
        notices.append(
            f"Sample '{sample[:80]}' is not among the {chosen.view.outcome} images of class "
            f"'{chosen.view.label}' under this attack{_left_out(chosen)}; showing '{keys[0]}'."
        )
        sample = keys[0]
    sample = sample or keys[0]
    view = replace(chosen.view, sample=sample)
    samples = groups.get(sample, (sample,))[:GROUP_SIZE]
    return _with_rival(replace(chosen, view=view, request=_explanation_request(chosen, samples)), notices)


def _same_group(chosen: Resolved, groups: dict[str, tuple[str, ...]]) -> str | None:
    """Return the sample that is asked for; the whole class where all of it went into the class that is asked for."""
    sample = chosen.view.sample
    if sample is None or sample in groups or not sample.startswith(PAIR) or chosen.model is None:
        return sample
    called = class_handles(chosen.model.classes)
    into = {called[entry.after.label] for entry in chosen.outcomes}
    return GROUP if into == {sample.removeprefix(PAIR)} else sample


def _explanation_request(chosen: Resolved, samples: tuple[str, ...]) -> ExplanationRequest:
    view = chosen.view
    return ExplanationRequest(str(view.model), str(view.data), _attack(chosen), samples, method(str(view.method)))


def scopes(chosen: Resolved) -> dict[str, tuple[str, ...]]:
    """Return the groups that can be looked at together, with all of their images: each pair of classes, then the class.

    Images that were fooled into different classes are split: their means over two targets would be of neither.
    """
    pairs: dict[int, list[str]] = {}
    for entry in chosen.outcomes:
        pairs.setdefault(entry.after.label, []).append(entry.sample)
    called = class_handles(chosen.model.classes) if chosen.model else ()
    split = sorted(pairs.items(), key=lambda pair: -len(pair[1])) if len(pairs) > 1 else []
    groups = {f"{PAIR}{called[label]}": tuple(samples) for label, samples in split if len(samples) > 1}
    whole = tuple(entry.sample for entry in chosen.outcomes)
    return {**groups, GROUP: whole} if whole else {}


def _left_out(chosen: Resolved) -> str:
    """Return that a large class is attacked in part, where that is so: the sample may be one of the others."""
    data, attack_results = chosen.data, chosen.attack_results.value if chosen.attack_results else None
    called = class_handles(data.classes) if data else ()
    if data is None or attack_results is None or chosen.view.label not in called:
        return ""
    count = data.class_counts[called.index(chosen.view.label)]
    attacked = len(attack_results.outcomes)
    return f", for which {attacked} of the {count} images of the class are attacked here" if attacked < count else ""


def rivals(chosen: Resolved) -> dict[str, str]:
    """Return what can be drawn beside, titled: groups of the same images, other strengths, other attacks as strong."""
    own, view = chosen.attack, chosen.view
    if own is None or view.epsilon is None:
        return dict(GROUPS)
    setting = strengths.epsilon_setting(own)
    result = dict(GROUPS)
    for text in strengths.offered(own, view.epsilon):
        if setting and text != view.epsilon:
            result[f"{own.name}@{text}"] = f"{own.title} {strengths.strength_title(setting, text)}"
    for card in chosen.attacks:
        other = strengths.epsilon_setting(card)
        if card.name != own.name and setting and other and strengths.scale(other) == strengths.scale(setting):
            result[f"{card.name}@{view.epsilon}"] = f"{card.title} {strengths.strength_title(setting, view.epsilon)}"
    return result


def _with_rival(chosen: Resolved, notices: list[str]) -> Resolved:
    asked = chosen.view.versus
    if asked is None or chosen.request is None:
        return replace(chosen, view=replace(chosen.view, versus=None))
    if asked not in rivals(chosen):
        notices.append(
            f"The link asked to draw '{asked[:80]}' to compare with, which is not possible here; showing none."
        )
        return replace(chosen, view=replace(chosen.view, versus=None))
    if asked in GROUPS:
        return chosen
    name, _, epsilon = asked.partition("@")
    return replace(chosen, rival=replace(chosen.request, attack=attack_at(name, epsilon)))
