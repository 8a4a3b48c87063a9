"""Measured on the network itself: exact edges, receptive fields, the same function as handed in."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from engine.attribution import edges as connections
from engine.attribution import scorers
from engine.attribution.edges import Edges, Gradients
from engine.errors import Unsupported
from engine.models import hooks, register
from engine.models import network as precision
from engine.models.hooks import Maps
from engine.models.network import ModelBundle, Probe
from engine.models.register import Agreement
from engine.types.checks import CheckOutcome, CheckResult, Figure, InexactLink

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


def measure_edges(bundle: ModelBundle, images: Tensor) -> Exactness:
    """Return how exact a model's connections are; images: at least two (channels, height, width) in [0, 1] that differ."""
    network, dtype = _twin(bundle)
    pair = images[:2].cpu().to(dtype)
    image, start = pair[:1], pair[1:]
    gradients = _gradients(network, image, start)
    edges = connections.between(network, image, start, gradients)
    folded = precision.folded(network)
    run, other = hooks.record(folded, image), hooks.record(folded, start)
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
    question = scorers.Question(image, target, rival)
    donor = hooks.record(network, image)
    return scorers.into_runs(network, question, start, donor, taps=connections.taps(network), steps=1).gradients


def _head(network: ModelBundle, run: hooks.Trace, other: hooks.Trace) -> float:
    classes = torch.stack([run.logits[0].argmax(), other.logits[0].argmax()])
    return connections.head(network, run, other, classes).completeness


@torch.no_grad()
def _is_head_linear(network: ModelBundle, run: hooks.Trace, other: hooks.Trace) -> bool:
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
        results: dict[int, Tensor] = {}
        for site, taps in enumerate(self.network.arrivals):
            for probe in taps:
                gradient = self.gradients.get(next_taps.get(probe, probe))
                if gradient is not None:
                    change = ((before[probe] - after[probe]) * gradient).sum(dim=(2, 3))
                    results[site] = results.get(site, 0) + change
        return results

    def _arriving(self, chosen: Tensor) -> dict[int, Tensor]:
        seen: dict[int, Tensor] = {}
        taps = {probe for each in self.network.arrivals for probe in each}
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
    errors = _errors(trial, edges, chosen)
    suspects = [target for target, error in errors.items() if not error <= EXACT]
    misses = _one_by_one(trial, edges, chosen, suspects)
    explained = {miss.target for miss in misses if miss.through} - {miss.target for miss in misses if not miss.through}
    return {target: error for target, error in errors.items() if target not in explained}, misses


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
    errors = {}
    for target in {end for _, end in edges.matrices}:
        columns = [
            matrix[:, chosen[:, source].clamp(min=0)] * (chosen[:, source] >= 0)
            for (source, end), matrix in edges.matrices.items()
            if end == target
        ]
        expected, mass = sum(columns), sum(column.abs() for column in columns)
        error = (changes[target].T - expected).abs().max() / mass.max().clamp(min=1e-12)  # type: ignore[union-attr]
        errors[target] = float(error)
    return errors


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


aten = torch.ops.aten
SITES = 6
"""Sites that are looked at, spread over the network; the first and the last are among them."""
PICTURES = 6
"""Over whose gradients supports are united: a largest value is taken from another place in each."""
SLACK = 1.0
"""Pixels by which a declared field may be too large on a side: interpolation reaches half-way between pixels."""
ROUNDING = 1e-6
"""Share of the largest gradient below which it may be what rounding leaves of parts that cancel."""
Span = tuple[int, int]
DARKEST = 0.6
"""Of the values that are put in: a network that subtracts a mean first still gets positive ones."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How far declared receptive fields are those that were found."""

    sites: int
    missing: float
    """Most pixels on one side that a position depends on and that its field does not hold."""
    missing_at: int
    excess: float
    """Most pixels on one side by which a field is larger than what its position depends on."""
    excess_at: int

    @property
    def holds(self) -> bool:
        """Whether fields hold all that positions depend on, and no more."""
        return self.missing <= 0 and self.excess <= SLACK


def measure_fields(bundle: ModelBundle) -> Sight:
    """Return how the declared receptive fields of some sites agree with the gradient's support, inside the picture."""
    sites = sorted({round(k * (len(bundle.sites) - 1) / (SITES - 1)) for k in range(SITES)})
    twin = _positive(bundle)
    missing: dict[int, float] = {}
    excess: dict[int, float] = {}
    for site, maps, image in _recorded(twin, bundle, sites):
        for place in _places(tuple(maps.shape[2:])):
            declared = bundle.sites[site].sees(*place)
            surely, at_all = _reached(maps, image, place)
            lost = [_outside(*item) for item in zip(declared, surely, bundle.size, strict=True)]
            more = [_beyond(*item) for item in zip(declared, at_all, bundle.size, strict=True)]
            missing[site] = max(missing.get(site, 0.0), *lost)
            excess[site] = max(excess.get(site, 0.0), *more)
    missing_at, excess_at = (max(each, key=lambda site: each[site]) for each in (missing, excess))
    return Sight(len(sites), missing[missing_at], missing_at, excess[excess_at], excess_at)


def _outside(declared: tuple[float, float], span: Span | None, side: int) -> float:
    """Pixels of a span that a declared field lacks, on the worse side; inside a picture of `side` pixels."""
    if span is None:
        return 0.0
    return max(max(declared[0], 0.0) - span[0], span[1] + 1 - min(declared[1], float(side)), 0.0)


def _beyond(declared: tuple[float, float], span: Span | None, side: int) -> float:
    """Pixels that a declared field has beyond a span, on the worse side; inside a picture of `side` pixels."""
    if span is None:
        return 0.0
    return max(span[0] - max(declared[0], 0.0), min(declared[1], float(side)) - span[1] - 1, 0.0)


def _places(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    height, width = shape
    middle = height // 2, width // 2
    return list(dict.fromkeys([middle, (min(middle[0] + 1, height - 1), max(middle[1] - 1, 0)), (0, width - 1)]))


def _recorded(twin: nn.Module, bundle: ModelBundle, sites: list[int]) -> list[tuple[int, Tensor, Tensor]]:
    shape = PICTURES, bundle.channels, *bundle.size
    drawn = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    image = (DARKEST + (1 - DARKEST) * drawn).requires_grad_()
    seen: dict[int, Tensor] = {}

    def visit(number: int, tensor: Tensor) -> Tensor:
        if number in sites:
            seen[number] = tensor
        return tensor

    taps = [module for module in twin.modules() if isinstance(module, Probe)]
    for probe in taps:
        probe.visit = visit
    with torch.enable_grad():
        twin(image)
    return [(site, seen[site], image) for site in sites]


def _reached(maps: Tensor, image: Tensor, place: tuple[int, int]) -> tuple[list[Span | None], list[Span | None]]:
    """The first and the last row, and column, that one position depends on by more than rounding, and at all; None for none."""
    weights = torch.rand(maps.shape[1], generator=torch.Generator("cpu").manual_seed(1), device="cpu") + 0.5
    total = (maps[:, :, place[0], place[1]] * weights).sum()
    (gradient,) = torch.autograd.grad(total, image, retain_graph=True)
    strength = gradient.abs().sum(dim=(0, 1))
    return _spans(strength > ROUNDING * strength.max()), _spans(strength > 0)


def _spans(touched: Tensor) -> list[Span | None]:
    spans: list[Span | None] = []
    for axis in (1, 0):
        rows = touched.any(dim=axis).nonzero()[:, 0]
        spans.append((int(rows[0]), int(rows[-1])) if len(rows) else None)
    return spans


def _positive(bundle: ModelBundle) -> fx.GraphModule:
    """The network as a twin through which every pixel's part is seen."""
    twin = copy.deepcopy(bundle.network).to(device="cpu", dtype=torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            weight = (
                torch.rand(module.weight.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu") + 0.5
            )
            module.weight = nn.Parameter(weight / weight[0].numel(), requires_grad=False)
            module.bias = None
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean, module.running_var = (
                torch.zeros_like(module.running_mean),
                torch.ones_like(module.running_var),
            )
            if module.affine:
                module.weight, module.bias = (
                    nn.Parameter(value, requires_grad=False)
                    for value in (torch.ones_like(module.weight), torch.zeros_like(module.bias))
                )
    for node in list(twin.graph.nodes):
        if node.target is aten.max_pool2d.default and len(node.args) < 5:
            # A largest value may come from any place of its window; few pictures do not show them all.
            tensor, kernel, stride, padding = (*node.args, [], 0)[:4] if len(node.args) == 2 else (*node.args, 0)[:4]
            node.target, node.args = aten.avg_pool2d.default, (tensor, kernel, stride or kernel, padding)
        if node.meta.get("is_scaling"):
            _hold_gates(twin, node)
    twin.recompile()
    return twin


def _hold_gates(twin: fx.GraphModule, node: fx.Node) -> None:
    for source in node.all_input_nodes:
        if source.meta.get("shape") != node.meta["shape"]:
            with twin.graph.inserting_before(node):
                held = twin.graph.call_function(aten.detach.default, (source,))
            node.replace_input_with(source, held)


HEAD = "several layers compute the logits"


def of_function(handed_in: nn.Module | Agreement, bundle: ModelBundle, pictures: Tensor) -> CheckResult:
    """Return whether the audited network answers as the module handed in; pictures: (pictures, channels, height, width).

    handed_in: the module, or how both agree where that is known.
    """
    try:
        compare = handed_in
        if not isinstance(compare, Agreement):
            compare = register.compare(compare, bundle, pictures)
    except Unsupported as error:
        return CheckResult("function", "fail", str(error))
    figures = {
        "pictures": compare.pictures,
        "together": compare.together,
        "alone": compare.alone,
        "batch": compare.beside_others,
    }
    return _result("function", "pass" if compare.holds else "fail", register.sentence(compare), **figures)


def of_edges(bundle: ModelBundle, pictures: Tensor) -> tuple[CheckResult, tuple[InexactLink, ...]]:
    """Return whether connections are exact between two of the pictures, and the links where they are not."""
    try:
        edges = measure_edges(bundle, _unlike(bundle, pictures))
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        return CheckResult(
            "edges", "not run", f"Channels cannot be changed one at a time: {type(error).__name__}: {reason}."
        ), ()
    if not all(error < float("inf") for error in (edges.added_up, edges.changed, edges.head)):
        return CheckResult("edges", "not run", "Answers that are not finite have no connections."), ()
    inexact = tuple(InexactLink(miss.source, miss.target, miss.error, ", ".join(miss.through)) for miss in edges.misses)
    if not edges.mass:
        text = "The pictures at hand are answered by the same channels, or no gradient flows: no connection could be tried."
        return CheckResult("edges", "not run", text), ()
    if edges.head > EXACT:
        reason = "" if edges.is_head_linear else HEAD
        inexact += tuple(InexactLink(head, len(bundle.sites), edges.head, reason) for head in bundle.heads)
    unexplained = [link for link in inexact if not link.reason]
    fails = bool(unexplained) or edges.added_up > EXACT or edges.changed > EXACT
    figures = {
        "links": edges.links,
        "added_up": edges.added_up,
        "changed": edges.changed,
        "head": edges.head,
        "inexact": len(inexact),
    }
    text = " ".join((_sums(bundle, edges), *_missing(bundle, inexact)))
    return _result("edges", "fail" if fails else "pass", text, **figures), inexact


def of_fields(bundle: ModelBundle) -> CheckResult:
    """Return whether the receptive fields of some sites are what their positions really depend on."""
    try:
        fields = measure_fields(bundle)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        return CheckResult(
            "fields", "not run", f"Gradients cannot be followed to the pixels: {type(error).__name__}: {reason}."
        )
    text = _seen(bundle, fields)
    figures = {"sites": fields.sites, "missing": fields.missing, "excess": fields.excess}
    return _result("fields", "pass" if fields.holds else "fail", text, **figures)


def _seen(bundle: ModelBundle, sight: Sight) -> str:
    names = [site.name for site in bundle.sites]
    if sight.missing > 0:
        return (
            f"At {names[sight.missing_at]} a position depends on {sight.missing:g} pixels beyond its receptive field: patches are "
            "cut too small."
        )
    if not sight.holds:
        return (
            f"At {names[sight.excess_at]} the receptive field is {sight.excess:g} pixels larger than what its position depends on: "
            "patches are cut too large."
        )
    return (
        f"At {sight.sites} layers receptive fields are what positions depend on, along the height and along the width"
        f"{_but(sight.excess)}; gates, which see the whole picture, are held still."
    )


def _but(excess: float) -> str:
    return f", or up to {excess:g} pixels larger" if excess else ""


def _unlike(bundle: ModelBundle, pictures: Tensor) -> Tensor:
    """Two pictures, answered differently where there are such."""
    first = pictures[:: max(1, len(pictures) // 8)][:8]
    answers = bundle.logits(first).argmax(1)
    other = (answers != answers[0]).nonzero()[:, 0]
    return first[[0, int(other[0]) if len(other) else 1]]


def _sums(bundle: ModelBundle, exactness: Exactness) -> str:
    names = [*(site.name for site in bundle.sites), "logits"]
    return (
        f"At every layer contributions add up to what arrives there: the error is {exactness.added_up:.0e} of all "
        "contributions to one "
        f"channel (worst at {names[exactness.added_up_at]}), at the logits {exactness.head:.0e}. Those of {DRAWS} "
        "channels of every "
        f"layer are what changing each channel alone does: the error is {exactness.changed:.0e} (worst at "
        f"{names[exactness.changed_at]})."
    )


def _missing(bundle: ModelBundle, inexact: tuple[InexactLink, ...]) -> list[str]:
    names = [*(site.name for site in bundle.sites), "logits"]
    results = []
    for explained in (False, True):
        links = [link for link in inexact if bool(link.reason) is explained]
        if not links:
            continue
        worst = max(links, key=lambda link: link.error)
        why = f" ({worst.reason})" if explained else ""
        results.append(
            f"{len(links)} of {len(bundle.links)} links miss by up to {worst.error:.0%}, from {names[worst.source]} to "
            f"{names[worst.target]}{why}, and are drawn as not exact."
        )
    return results


def _result(check: str, outcome: CheckOutcome, sentence: str, **figures: float) -> CheckResult:
    shown = tuple(Figure(name.replace("_", " "), float(value)) for name, value in figures.items())
    return CheckResult(check, outcome, sentence, shown)
