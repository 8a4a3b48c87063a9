"""Random plug-in networks as source text, the same for the same seed; `python -m tests.generated` tells how they are read."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies
from torch import Tensor, nn

from engine.checks import equality
from engine.errors import EngineError
from engine.models import network as bundles
from engine.models import register
from engine.models.network import Identity, ModelBundle, Preprocessing
from tests.operations import ANSWERS, CONVOLUTIONS, HEADS, INPUTS, PREAMBLE, STEPS, Maps, Operation

CLASSES = ("ant", "bee", "cat")
FEW = 16
"""Made-up pictures on which both networks are compared, in batches and alone."""
SIZES = ((32, 32), (24, 20))
WIDTHS = (4, 6, 8, 12)
FEWEST, MOST = 3, 12
RARE = ("normalisation", "full gate", "attention", "mixing", "branch on data")
"""Groups of which most operations mix maps as the picture demands: no network with one of them may be followed exactly."""
USUAL = tuple(group for group in STEPS if group not in RARE)
GROUPS = (*USUAL * 6, *("convolution", "activation") * 18, *("addition", "concatenation", "norm") * 6, *RARE)
"""From which each step is drawn."""
RECTIFIER = next(step for step in STEPS["activation"] if step.forward == "F.relu($x)")
SIGNED = next(step for step in STEPS["activation"] if step.forward == "torch.tanh($x)")
"""Behind it stand numbers of both signs: behind a ReLU another one would be left out unseen."""
UNLIKE_CONTIGUOUS = (
    "permute", "transpose", "movedim", ".mT", "channels_last", "expand", "[", "chunk", "split", "narrow", "unbind", "einsum",
    "unfold", "rot90", "Permute", "CNBlock", "flip", "hook", "v2.",
)  # fmt: skip
"""What may leave a tensor in another order in memory, so that `view` no longer serves."""

Choose = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A network as the source of a plug-in, and what was drawn for it."""

    source: str
    operations: tuple[str, ...]
    channels: int
    size: tuple[int, int]


@dataclass(slots=True)
class _Draft:
    """The text of one network while it grows."""

    choose: Choose
    channels: int
    size: tuple[int, int]
    setup: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    kept: dict[str, Maps] = field(default_factory=dict)
    """Tensors of maps by name, in order."""
    is_contiguous: bool = True

    def step(self, operation: Operation) -> None:
        """Append an operation on the latest tensor."""
        taken, maps = next(reversed(self.kept.items()))
        out, name = self.choose(WIDTHS), f"x{len(self.operations)}"
        names = {"x": taken, "v": name, "image": "image", "k": len(self.operations), "o": out}
        names |= {"c": maps.channels, "h": maps.height, "w": maps.width}
        if operation.is_join:
            names["y"] = self._second(taken, maps)
        setup, forward = operation.lines(names)
        if not self.is_contiguous:
            forward = forward.replace(".view(", ".reshape(").replace(".view_as(", ".reshape_as(")
        self.setup += setup.splitlines()
        self.forward += forward.splitlines()
        self.operations.append(operation.name)
        self.kept[name] = operation.after(maps, out)
        self.is_contiguous &= not any(part in setup + forward for part in UNLIKE_CONTIGUOUS)

    def _second(self, taken: str, maps: Maps) -> str:
        """A tensor as large as the one taken: one from before, or a branch that begins there."""
        like = [name for name, shape in self.kept.items() if shape == maps and name not in (taken, "image")]
        second = self.choose([*like, "plain branch", "branch"])
        if second in like:
            return second
        k, c = len(self.operations), maps.channels
        self.setup.append(f"self.side{k} = nn.Conv2d({c}, {c}, 3, padding=1)")
        call = f"self.side{k}({taken})"
        self.forward.append(f"y{k} = {call}" if second == "plain branch" else f"y{k} = F.relu({call})")
        return f"y{k}"

    def written(self) -> Written:
        """Return the plug-in."""
        lines = [
            PREAMBLE.strip(), "", f"SIZE = {self.size}", f"MEAN, STD = (0.0,) * {self.channels}, (1.0,) * {self.channels}",
            "", "", "class Net(nn.Module):", "    def __init__(self, classes):", "        super().__init__()",
            *(f"        {line}" for line in self.setup),
            "", "    def forward(self, image):",
            *(f"        {line}" for line in self.forward),
            "", "", "def build(weights, classes):", "    torch.manual_seed(0)", "    return Net(classes)",
        ]  # fmt: skip
        return Written("\n".join(lines) + "\n", tuple(self.operations), self.channels, self.size)


def _begun(choose: Choose, channels: int, size: tuple[int, int]) -> _Draft:
    return _Draft(choose, channels, size, kept={"image": Maps(channels, *size)})


def _fitting(draft: _Draft, found: Iterable[Operation]) -> list[Operation]:
    maps = next(reversed(draft.kept.values()))
    return [operation for operation in found if operation.fits(maps)]


def _ended(draft: _Draft, head: Operation, answer: Operation) -> Written:
    draft.step(head)
    last = next(reversed(draft.kept))
    draft.forward += answer.lines({"x": last, "v": "_", "image": "image"})[1].removeprefix("_ = ").splitlines()
    draft.operations.append(answer.name)
    return draft.written()


def drawn(choose: Choose) -> Written:
    """Return a random network; every decision is one of `choose` among a few, the plainest first."""
    draft = _begun(choose, choose((3, 3, 3, 1)), choose(SIZES))
    if choose((False, False, True)):
        draft.step(choose(_fitting(draft, INPUTS)))
    draft.step(choose([item for item in _fitting(draft, CONVOLUTIONS) if item.after(Maps(3, 32, 32), 4).channels == 4]))
    for _ in range(choose(range(FEWEST, MOST + 1))):
        draft.step(choose(_fitting(draft, STEPS[choose(GROUPS)])))
    return _ended(draft, choose(HEADS), choose((ANSWERS[0],) * 30 + ANSWERS))


def written(seed: int) -> Written:
    """Return the random network of a seed."""
    return drawn(random.Random(seed).choice)


def source(seed: int) -> str:
    """Return the source of a seed's plug-in."""
    return written(seed).source


def operations(seed: int) -> tuple[str, ...]:
    """Return the operations of a seed's network, in order."""
    return written(seed).operations


@strategies.composite
def networks(draw: Callable[[Any], Any]) -> Written:
    """Random networks that hypothesis can make smaller."""
    return drawn(lambda options: draw(strategies.sampled_from(options)))


def every() -> dict[str, Operation]:
    """Every operation by name, heads and answers included."""
    return {one.name: one for group in (INPUTS, *STEPS.values(), HEADS, ANSWERS) for one in group}


def around(operation: Operation) -> Written:
    """Return a network with one operation among the plainest others: it shows whether that one is read."""
    draft = _begun(lambda options: options[0], 3, (16, 12))
    first = (operation,) if operation.group == "input" else ()
    middle = (operation,) if operation.group in STEPS else ()
    for step in (*first, CONVOLUTIONS[0], SIGNED, *middle, CONVOLUTIONS[0], RECTIFIER):
        draft.step(step)
    head = operation if operation.group == "head" else HEADS[0]
    return _ended(draft, head, operation if operation.group == "answer" else ANSWERS[0])


def beside(operation: Operation) -> Written:
    """Return a network that adds what an operation took to what it gives: what it changes in place shows there."""
    draft = _begun(lambda options: options[0], 3, (16, 12))
    for step in (CONVOLUTIONS[0], RECTIFIER, CONVOLUTIONS[0], operation):
        draft.step(step)
    (taken, before), (given, after) = list(draft.kept.items())[-2:]
    like = f"F.adaptive_avg_pool2d({taken}[:, :1], {after.height, after.width})" if before != after else taken
    draft.forward.append(f"{given} = {given} + {like}")
    for step in (CONVOLUTIONS[0], RECTIFIER):
        draft.step(step)
    return _ended(draft, HEADS[0], ANSWERS[0])


def built(text: str) -> nn.Module:
    """Return the network of a plug-in's source, in eval mode, as its module builds it."""
    module = ModuleType("generated_plugin")
    exec(compile(text, "generated_plugin.py", "exec"), module.__dict__)
    return module.build({}, len(CLASSES)).eval()


def network(made: Written) -> nn.Module:
    """Return a network with weights of the size that training leaves: what it answers differs between pictures."""
    found = built(made.source)
    with torch.no_grad():
        for module in found.modules():
            _enliven(module)
        answers = logits(found(pictures(16, made)))
        # Otherwise the bias decides alone, and every reader is right.
        found.fc.weight /= answers.std(dim=0).mean().clamp(1e-4, 1e4)
    return found.eval()


def _enliven(module: nn.Module) -> None:
    """Draw the weights of a plain layer so that maps keep their spread, and statistics that are not those at rest."""
    if type(module) in (nn.Conv2d, nn.Linear, nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight)
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        module.running_mean.normal_(0.0, 0.3)
        module.running_var.uniform_(0.5, 2.0)
    if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
        module.weight.uniform_(0.5, 1.5)
        module.bias.normal_(0.0, 0.2)


def trained(made: Written, steps: int = 8) -> nn.Module:
    """Return a network after a few steps of Adam on random pictures; as drawn where in-place operations forbid gradients."""
    found = network(made).train()
    images, labels = pictures(16, made), torch.arange(16) % len(CLASSES)
    before = {key: tensor.clone() for key, tensor in found.state_dict().items()}
    optimizer = torch.optim.Adam(found.parameters(), lr=1e-3)
    try:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(logits(found(images)), labels).backward()
            optimizer.step()
    except RuntimeError:
        found.load_state_dict(before)
    return found.eval()


def logits(answer: Any) -> Tensor:
    """Return the logits (batch, classes) in what a network answers: alone, or the first of several."""
    if isinstance(answer, dict):
        answer = answer["logits"]
    tensor = answer if isinstance(answer, Tensor) else answer[0]
    return tensor.reshape(-1, len(CLASSES))


def pictures(count: int, made: Written, seed: int = 1) -> Tensor:
    """Return smooth random pictures (count, channels, height, width) of 8-bit values in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((count, made.channels, 4, 4), generator=generator)
    large = F.interpolate(small, size=made.size, mode="bicubic", align_corners=True)
    return (large.clamp(0, 1) * 255).round() / 255


def preprocessing(made: Written) -> Preprocessing:
    """Return the preprocessing of a generated network: none."""
    return Preprocessing(made.channels, made.size, (0.0,) * made.channels, (1.0,) * made.channels)


class SaidSo(Exception):
    """What the report says itself: a field larger than what its position depends on, or units so silent that nothing was tried."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the reader took a network."""

    kind: str
    """`right`, `refused`, `told` (the report says that fields are too large), `wrong` (a causal test fails) or `traceback`."""
    reason: str = ""


def outcome(made: Written) -> Outcome:
    """Read a network with drawn weights and prove what is said of it."""
    return _outcome(made, network)


def outcome_after_training(made: Written) -> Outcome:
    """Read a network after a few steps of training and prove what is said of it."""
    return _outcome(made, trained)


def _outcome(made: Written, weighted: Callable[[Written], nn.Module]) -> Outcome:
    original, read = weighted(made), weighted(made)
    try:
        bundle = bundles.bundle(read, preprocessing(made), Identity(CLASSES, "generated"))
        intervene(original, bundle, pictures(4, made))
    except EngineError as error:
        return Outcome("refused", str(error))
    except SaidSo as error:
        return Outcome("told", str(error))
    except AssertionError as error:
        return Outcome("wrong", _first_line(error))
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {_first_line(error)}")
    return Outcome("right")


def intervene(network: nn.Module, bundle: ModelBundle, images: Tensor) -> None:
    """Claim all that must hold of a bundle; whatever else can be proved of one belongs here. Raises AssertionError."""
    prove_logits(network, bundle, images)
    register.require(network, bundle, register.pictures_to_compare(bundle, FEW))
    edges, inexact = equality.of_edges(bundle, images)
    if edges.sentence.endswith("no connection could be tried."):
        raise SaidSo(edges.sentence)
    assert edges.outcome == "pass", f"edges {edges.outcome}: {edges.sentence}"
    assert all(link.reason for link in inexact)
    sight = equality.of_fields(bundle)
    missing = next((figure.value for figure in sight.figures if figure.name == "missing"), 1.0)
    assert not missing, f"fields {sight.outcome}: {sight.sentence}"
    if sight.outcome != "pass":
        raise SaidSo(sight.sentence)


def prove_logits(network: nn.Module, bundle: ModelBundle, images: Tensor) -> None:
    """Claim that a bundle answers as its network does, on a batch and on one picture alone."""
    with torch.no_grad():
        for batch in (images, images[:1], images[1:2], images[:3]):
            expected, told = logits(network(batch.clone())), bundle.logits(batch.clone())
            assert isinstance(told, Tensor), f"the answer is a {type(told).__name__}"
            assert told.shape == expected.shape, f"answers {tuple(told.shape)}, not {tuple(expected.shape)}"
            error = (told.cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
            assert error < 1e-5, f"logits differ by {error:.1e} of their size for a batch of {len(batch)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else ""


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the outcomes as lines of Markdown, what is not right first."""
    order = ("traceback", "wrong", "told", "refused", "right")
    ranked = sorted(outcomes.items(), key=lambda pair: order.index(pair[1].kind))
    return "\n".join(f"| `{name}` | {found.kind} | {found.reason} |".replace("\n", " ") for name, found in ranked)


def shares(outcomes: Iterable[Outcome]) -> str:
    """Return how many outcomes there are of each kind."""
    kinds = Counter(found.kind for found in outcomes)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def reasons(outcomes: Iterable[Outcome]) -> str:
    """Return the kinds of reasons, numbers and names left out, the most frequent first."""
    counts = Counter((found.kind, _kind_of(found.reason)) for found in outcomes if found.reason)
    return "\n".join(f"{count:4} {kind}: {reason}" for (kind, reason), count in counts.most_common())


def _kind_of(reason: str) -> str:
    """A reason without what names one network: digits, and what stands in quotes."""
    words = "".join("#" if letter.isdigit() else letter for letter in reason)
    parts = words.split("'")
    return "'…'".join(parts[::2])[:110] if len(parts) % 2 else words[:110]


def main() -> None:
    """Print how every operation alone, and so many random networks, are read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=200)
    count = parser.parse_args().networks
    torch.set_num_threads(1)
    alone = {name: outcome(around(one)) for name, one in every().items()}
    steps = [one for group in STEPS.values() for one in group]
    alone |= {f"{step.name}, with a shortcut": outcome(beside(step)) for step in steps}
    random_ones = [outcome(written(seed)) for seed in range(count)]
    text = (table(alone), shares(alone.values()), shares(random_ones), reasons(random_ones))
    sys.stdout.write("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
