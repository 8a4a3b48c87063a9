"""A network as a graph of functions: captured by torch.export, so that Python decides as it would and nothing works in place.

`torch.export` runs the network's own forward on tensors without values: type tests, `len(x)`, shapes, options and assertions
come out as in any call, and its functionalisation turns in-place operations into functions, aliases and slices included.
Symbolic tracing (`torch.fx`) puts a stand-in in place of the tensor, which answers `isinstance(x, Tensor)` with no, and keeps
in-place operations.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import operator
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from engine.errors import Unsupported
from engine.models import layers

aten = torch.ops.aten
BATCH: Final = 997
"""Pictures in the example that is captured: no layer has a size that is divided by it, so every such number is the batch's."""
NOTHING_DONE: Final = (
    aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default, aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
)  # fmt: skip
"""Operations that only copy, or stop a gradient: what the network answers does not depend on them."""
LIKE: Final = {
    aten.zeros_like.default: 0.0, aten.ones_like.default: 1.0, aten.new_zeros.default: 0.0, aten.new_ones.default: 1.0,
    aten.empty_like.default: 0.0, aten.new_empty.default: 0.0, aten.empty.memory_format: 0.0,
    aten.zeros.default: 0.0, aten.ones.default: 1.0,
}  # fmt: skip
"""Operations that take of a tensor its shape alone, and what they fill it with."""
FULL: Final = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}
"""Operations that fill a shape with a number, and at which place it is given."""
WIDEST_MAXOUT: Final = 8
"""Maps of a group of which the largest is taken one by one; of more, the operation is refused by its name."""


def _largest(x: Tensor, dims: list[int] | tuple[int, ...] = (), keepdim: bool = False) -> Any:
    """Maxout: the largest of each group of maps, (batch, groups, maps of a group, height, width), pair by pair."""
    if x.ndim != 5 or len(dims) != 1 or dims[0] % 5 not in (1, 2) or not 1 < x.shape[dims[0]] <= WIDEST_MAXOUT:
        return NotImplemented
    out = functools.reduce(torch.maximum, x.unbind(dims[0]))
    return out.unsqueeze(dims[0]) if keepdim else out


DECOMPOSED: Final = {**get_decompositions([aten.glu.default]), aten.amax.default: _largest}
"""Operations that are taken apart, so that their parts can be followed."""
PLAIN: Final = frozenset({
    aten.conv2d.default, aten.linear.default, aten.batch_norm.default, aten.relu.default, aten.relu6.default,
    aten.add.Tensor, aten.mul.Tensor, aten.cat.default, aten.max_pool2d.default, aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default, aten.mean.dim, aten.view.default, aten.flatten.using_ints, aten.slice.Tensor,
    aten.pad.default, aten.permute.default, aten.layer_norm.default, aten.gelu.default, aten.silu.default,
    aten.sigmoid.default,
})  # fmt: skip
"""Operations of programs that are functional as they are captured."""
LIBRARIES: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
"""Folders whose frames say nothing about the network's own source."""


def batch_size(images: Tensor) -> int:
    """Return the number of pictures that go through together."""
    return images.shape[0]


def captured(network: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Return `network`, in evaluation mode, as a graph of functions whose node `x` takes (batch, *shape) pictures.

    Convolutions, fully connected layers and batch norm with fixed weights are modules, whatever they were written as; what
    depends on weights alone is computed once. Every node's
    `meta` holds `shape` (of one picture), `name` (as sites are named), `stack` (the modules around it) and `live` (whether
    it depends on the picture). Raises Unsupported with the operation and the line of the network's source.
    """
    program = _exported(network, shape)
    return _Builder(network, program).build(_answer(program))


def _exported(network: nn.Module, shape: tuple[int, int, int]) -> ExportedProgram:
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    example = torch.empty(BATCH, *shape, device=device)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(network, (example,), strict=False)
            # Making a program functional takes longer than capturing it, and most networks are so as they are.
            return program if _is_plain(program) else program.run_decompositions(DECOMPOSED)
    except Exception as error:
        raise _refused(network, shape, error) from error


def _is_plain(program: ExportedProgram) -> bool:
    """Whether a program consists of usual operations alone, of which none works in place."""
    return all(node.target in PLAIN for node in program.graph.nodes if node.op == "call_function")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what torch prints and logs of a network that it cannot capture: the error tells it in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refused(network: nn.Module, shape: tuple[int, int, int], error: Exception) -> Unsupported:
    kind, place = type(network).__name__, source_line(error)
    text = str(error)
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return Unsupported(
            f"{kind} cannot be traced{place}: its forward branches on values in tensors, such as what a picture shows, so that "
            "it is another network for another picture."
        )
    reason = " ".join((text.strip() or type(error).__name__).splitlines()[0].split())[:160]
    reason = reason.replace(str(BATCH), "batch")
    size = "x".join(map(str, shape[1:]))
    return Unsupported(f"The network cannot answer an image of {size} pixels in a batch of others{place}: {reason}.")


def source_line(error: BaseException) -> str:
    """Return ` (own.py, line 12)`, the innermost place outside of torch and Faultline where an error arose, or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES) and not frame.filename.startswith("<")]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _answer(program: ExportedProgram) -> fx.Node:
    """The node of the logits: all that the network answers."""
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    by_name = {node.name: node for node in output.all_input_nodes}
    answers = [by_name[name] for name in program.graph_signature.user_outputs if name in by_name]
    spec = program.call_spec.out_spec
    _require_rows(
        [tuple(node.meta["val"].shape) for node in answers], BATCH, _form(spec.type, len(answers), spec.is_leaf())
    )
    return answers[0]


def _form(kind: Any, count: int, is_tensor: bool) -> str:
    return "" if is_tensor else f" a {getattr(kind, '__name__', kind)} of {count}:"


def logits(answer: Any, batch: int) -> Tensor:
    """Return what an untouched network answers, (batch, classes). Raises Unsupported where that is no such tensor."""
    leaves = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]
    form = _form(type(answer), len(leaves), isinstance(answer, Tensor))
    _require_rows([tuple(leaf.shape) for leaf in leaves], batch, form)
    return leaves[0]


def _require_rows(shapes: list[tuple[int, ...]], batch: int, form: str) -> None:
    """Require one tensor with a row per picture and a logit per class in it."""
    if form or len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != batch:
        result = " and ".join(f"({', '.join(_side(side, batch) for side in shape)})" for shape in shapes) or "no tensor"
        raise Unsupported(
            f"The network answers{form} {result}; one tensor of shape (batch, classes), a logit per class, is needed. Wrap it in a "
            "module that answers its logits alone."
        )


def _side(side: int, batch: int) -> str:
    return "batch" if side == batch else str(side)


def without_unused(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the graph without what no answer depends on."""
    for node in reversed(list(traced.graph.nodes)):
        if not node.users and node.op not in ("output", "placeholder"):
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Builder:
    """Copies an exported program into a graph of its own, with modules where weights are fixed."""

    def __init__(self, network: nn.Module, program: ExportedProgram) -> None:
        self.program = program
        self.paths = {
            id(module): path for path, module in reversed(list(network.named_modules(remove_duplicate=False)))
        }
        self.modules = dict(network.named_modules(remove_duplicate=False))
        self.known = _weights(program)
        """Tensors that are the same for every picture, and numbers."""
        self.graph = fx.Graph()
        self.root: dict[str, Any] = {}
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.constants: dict[fx.Node, fx.Node] = {}
        self.batch: fx.Node | None = None

    def build(self, answer: fx.Node) -> fx.GraphModule:
        """Return everything that `answer` depends on."""
        needed = _needed(answer)
        user_inputs = self.program.graph_signature.user_inputs
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in user_inputs:
                self.nodes[node] = self._described(self.graph.placeholder("x"), node)
                self.nodes[node].meta["live"] = True
            elif node in needed and node.op == "call_function":
                self._copy(node)
        self.graph.output(self._read(answer))
        return without_unused(fx.GraphModule(self.root, self.graph))

    def _copy(self, node: fx.Node) -> None:
        sources = node.all_input_nodes
        if all(source in self.known for source in sources) and not _has_batch(node):
            self.known[node] = node.target(*self._values(node.args), **self._values(node.kwargs))  # type: ignore[operator]
        elif node.target in NOTHING_DONE or _is_identity(node):
            self._alias(node, node.args[0])
        elif node.target is aten.copy.default:
            self._written(node)
        else:
            self.nodes[node] = self._described(self._call(node), node)

    def _alias(self, node: fx.Node, source: Any) -> None:
        if source in self.known:
            self.known[node] = self.known[source]
        else:
            self.nodes[node] = self.nodes[source]

    def _written(self, node: fx.Node) -> None:
        """What was written over a tensor in place (`maps[:, :2] = other`), stretched to its shape: `copy` has no gradient."""
        before, value = node.args[1].meta["val"], node.meta["val"]  # type: ignore[union-attr]
        if (before.shape, before.dtype) == (value.shape, value.dtype):
            self._alias(node, node.args[1])
            return
        described = self._read(node.args[1])  # type: ignore[arg-type]
        if before.dtype != value.dtype:
            described = self._described(self.graph.call_function(aten.to.dtype, (described, value.dtype)), node)
        size = self._arguments(list(value.shape))
        self.nodes[node] = self._described(self.graph.call_function(aten.expand.default, (described, size)), node)

    def _values(self, arguments: Any) -> Any:
        return fx.map_arg(arguments, lambda source: self.known[source])

    def _call(self, node: fx.Node) -> fx.Node:
        maker = layers.MAKERS.get(node.target)
        result = maker(node, self.known) if maker else None
        if result is not None:
            module, tensor = result
            return self.graph.call_module(self._registered(module, node), (self._read(tensor),))
        if node.target in LIKE:
            return self._filled(node, LIKE[node.target])
        if node.target in FULL:
            return self._filled(node, node.args[FULL[node.target]])
        if node.target is aten.conv2d.padding and layers.padding_around(node, self.known) is not None:
            return self._padded(node)
        arguments = self._arguments(node.args), self._arguments(node.kwargs)
        if node.target in (aten.view.default, aten._unsafe_view.default):
            # What lies in memory another way than the network was written for cannot be viewed, but be reshaped.
            return self.graph.create_node("call_function", aten.reshape.default, *arguments, name=node.name)
        return self.graph.create_node("call_function", node.target, *arguments, name=node.name)

    def _filled(self, node: fx.Node, value: Any) -> fx.Node:
        """One number, stretched: a buffer goes along to another device and to another precision."""
        whole, name = node.meta["val"], f"{node.name}_value"
        self.root[name] = torch.full((), value, dtype=whole.dtype, device=whole.device)
        number = self.graph.get_attr(name)
        number.meta = {"shape": torch.Size(), "live": False, "stack": (), "name": name}
        return self.graph.call_function(aten.expand.default, (number, self._arguments(list(whole.shape))))

    def _padded(self, node: fx.Node) -> fx.Node:
        """A convolution whose padding differs between two sides, as padding and a convolution without any."""
        tensor, widths = self._read(node.args[0]), layers.padding_around(node, self.known)  # type: ignore[arg-type]
        padded = self.graph.call_function(aten.constant_pad_nd.default, (tensor, widths))
        height, width = node.args[0].meta["val"].shape[2:]  # type: ignore[union-attr]
        left, right, top, bottom = widths  # type: ignore[misc]
        shape = (*tensor.meta["shape"][:2], height + top + bottom, width + left + right)
        padded.meta = tensor.meta | {"shape": torch.Size(shape), "live": True}
        module, _ = layers.convolution(node, self.known, padding=(0, 0))  # type: ignore[misc]
        return self.graph.call_module(self._registered(module, node), (padded,))

    def _registered(self, module: nn.Module, node: fx.Node) -> str:
        """The name under which the graph holds a module: that of the network's own, where it is called once or alike."""
        path, is_leaf = self._place(node)
        name = path if is_leaf and path else node.name
        if hasattr(fx.GraphModule, name.partition(".")[0]) or name.partition(".")[0] in ("graph", "code", "meta"):
            name = f"own_{name}"
        if name in self.root and not layers.are_alike(self.root[name], module):
            name = next(f"{name}_{k}" for k in range(2, len(self.root) + 3) if f"{name}_{k}" not in self.root)
        self.root.setdefault(name, module)
        return name

    def _arguments(self, arguments: Any) -> Any:
        """The same arguments over the new graph's nodes, the batch's size in place of every number that is it."""
        if isinstance(arguments, fx.Node):
            known = self.known.get(arguments)
            return known if isinstance(known, int | float) else self._read(arguments)
        if isinstance(arguments, tuple | list):
            return type(arguments)(self._arguments(argument) for argument in arguments)
        if isinstance(arguments, dict):
            return {key: self._arguments(one) for key, one in arguments.items()}
        if type(arguments) is int and arguments and arguments % BATCH == 0:
            return self._batches(arguments // BATCH)
        return arguments

    def _batches(self, times: int) -> fx.Node:
        if self.batch is None:
            image = next(node for node in self.graph.nodes if node.op == "placeholder")
            with self.graph.inserting_after(image):
                self.batch = self.graph.call_function(batch_size, (image,))
        return self.batch if times == 1 else self.graph.call_function(operator.mul, (self.batch, times))

    def _read(self, source: fx.Node) -> fx.Node:
        if source in self.nodes:
            return self.nodes[source]
        if source not in self.constants:
            name = f"faultline_constant_{len(self.constants)}"
            self.root[name] = self.known[source].detach()
            attr = self.graph.get_attr(name)
            attr.meta = {"shape": self.known[source].shape, "live": False, "stack": (), "name": name}
            self.constants[source] = attr
        return self.constants[source]

    def _described(self, result: fx.Node, node: fx.Node) -> fx.Node:
        value = node.meta.get("val")
        path, is_leaf = self._place(node)
        kind = kind_of(node)
        result.meta = {
            "shape": _of_one(value.shape) if isinstance(value, Tensor) else torch.Size(),
            "is_batch": _is_of_batch(value),
            "live": any(source.meta.get("live", False) for source in result.all_input_nodes),
            "stack": self._stack(node),
            "path": path,
            "name": path if is_leaf and path else ".".join(part for part in (path, kind) if part),
            "line": _line(node),
        }
        return result

    def _stack(self, node: fx.Node) -> tuple[tuple[str, type], ...]:
        """(dotted name, class) of the modules around a node, the outermost first."""
        names = [name.partition("@")[0] for name, _ in node.meta.get("nn_module_stack", {}).values()]
        own = [(self.paths.get(id(self.modules.get(name)), name), self.modules.get(name)) for name in names]
        return tuple((path, type(module)) for path, module in own if module is not None)

    def _place(self, node: fx.Node) -> tuple[str, bool]:
        """The dotted name of the innermost module around a node, and whether it is one of torch's own layers."""
        stack = self._stack(node)
        if not stack:
            return "", False
        leaf = next((k for k, (_, kind) in enumerate(stack) if is_layer(kind)), None)
        path, _ = stack[-1 if leaf is None else leaf]
        return path, leaf is not None


def is_layer(kind: type) -> bool:
    """Tell whether a class is one of torch's own layers, not a list of others."""
    return kind.__module__.startswith("torch.nn") and not issubclass(
        kind, nn.Sequential | nn.ModuleList | nn.ModuleDict
    )


def kind_of(node: fx.Node) -> str:
    """Return what an operation is called; of one of several answers, what answers them."""
    if node.target is operator.getitem:
        return kind_of(node.args[0])  # type: ignore[arg-type]
    name = str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", None) or node.target)
    return "batch_norm" if "batch_norm" in name else name


def _weights(program: ExportedProgram) -> dict[fx.Node, Any]:
    signature = program.graph_signature
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    held = {**program.state_dict, **program.constants}
    return {
        node: held[named[node.name]].detach()
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in named
    }


def _needed(answer: fx.Node) -> set[fx.Node]:
    pending, needed = [answer], {answer}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    return needed


def _has_batch(node: fx.Node) -> bool:
    """Whether an argument of a node is the batch's size, or a multiple of it."""
    numbers: list[int] = []
    fx.node.map_aggregate((node.args, node.kwargs), lambda one: numbers.append(one) if type(one) is int else None)
    return any(number and number % BATCH == 0 for number in numbers)


def _is_identity(node: fx.Node) -> bool:
    """Whether a node hands on what it is given: dropout in evaluation, a change to the type that it has, or to its own shape."""
    if node.target in (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default):
        return node.args[2] is False
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or node.target not in SAME_IF_ALIKE:
        return False
    return _are_alike_tensors(node, source)


def _are_alike_tensors(node: fx.Node, source: Any) -> bool:
    if not isinstance(source, fx.Node):
        return False
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return (before.shape, before.dtype, before.device) == (after.shape, after.dtype, after.device)


SAME_IF_ALIKE: Final = (
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default, aten.to.dtype,
    aten._to_copy.default, aten.to.device, aten.to.dtype_layout, aten.to.other, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.default, aten.squeeze.dims, aten.flatten.using_ints,
)  # fmt: skip
"""Operations that do nothing where what comes out has the shape and the type of what went in."""


def _is_of_batch(value: object) -> bool:
    """Whether a tensor holds real numbers, a row per picture."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0 and value.shape[0] == BATCH


def _of_one(shape: torch.Size) -> torch.Size:
    return torch.Size(side // BATCH if side % BATCH == 0 and side else side for side in shape)


def _line(node: fx.Node) -> str:
    """` (own.py, line 12)` of the innermost line of the network's own source, or nothing."""
    findall = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in findall if not file.startswith(LIBRARIES)]
    return f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
