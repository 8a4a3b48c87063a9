"""The command line: `python -m engine COMMAND --help` explains each. Exit codes stand in `engine.told`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import audit_options
from engine.errors import BadInput, EngineError
from engine.records import ExaminationRequest, ModelCard
from engine.told import BAD_INPUT, INTERRUPTED, Told

Command = Callable[[argparse.Namespace], Told]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever is wrong with the input is told in one line."""
    options = _parser().parse_args(arguments)
    try:
        told = options.command(options)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    except OSError as error:
        sys.stderr.write(f"error: {error.strerror or error}: {error.filename or 'the store'}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is half-written, the same command goes on.\n")
        return INTERRUPTED
    sys.stdout.write((json.dumps(told.found, indent=2) if options.json else told.text) + "\n")
    return told.code


def _demo(options: argparse.Namespace) -> Told:
    from engine import demo
    from engine.store.store import Store

    store = Store(options.store)
    demo.install(store)
    models = [f"{card.name} ({_maps(card)} feature maps)" for card in store.models()]
    found = {"models": [card.name for card in store.models()], "data": demo.DATA}
    return Told(f"The store holds {', '.join(models)} and the data set {demo.DATA}.", found)


def _model_add(options: argparse.Namespace) -> Told:
    from engine.data import intake
    from engine.models import load
    from engine.store.store import Store

    submission = load.Submission(
        options.name,
        options.architecture,
        options.weights,
        intake.read_classes(options.classes),
        _numbers("--mean", options.mean),
        _numbers("--std", options.std),
        _size(options.size),
    )
    added = load.add(Store(options.store), submission)
    card = added.card
    size = f"{card.parameters:,} parameters, {len(card.sites)} sites, {_maps(card)} feature maps"
    text = "\n".join((f"Added {card.name}: {card.architecture}, {size}.", *added.notes))
    return Told(text, dataclasses.asdict(card) | {"notes": added.notes})


def _data_add(options: argparse.Namespace) -> Told:
    from engine.attacks import catalogue as attacks
    from engine.data import catalogue, intake
    from engine.store.store import Store

    if options.epsilon:
        attacks.attack_at("pgd-linf", options.epsilon)
    classes = intake.read_classes(options.classes) if options.classes else None
    if options.npz:
        found = intake.read_npz(options.npz)
        found = found if classes is None else intake.with_classes(found, classes)
    else:
        found = intake.read_folder(options.folder, classes, size=_size(options.size))
    source = "npz" if options.npz else "folder"
    card = catalogue.add(Store(options.store), options.name, found, source=source, epsilon=options.epsilon)
    per_class = f"{len(card.classes)} classes, {min(card.class_counts)} to {max(card.class_counts)} images each"
    text = f"Added {card.name}: {card.count} images of {card.size[0]} x {card.size[1]} pixels, {per_class}."
    return Told(text, dataclasses.asdict(card))


def _examine(options: argparse.Namespace) -> Told:
    from engine import report_files
    from engine.store.store import Store

    store = Store(options.store, create=False)
    found = report_files.examine(store, _request(options), options.out, certify=not options.quick)
    return Told(report_files.sentence(found), found)


def _evaluate(options: argparse.Namespace) -> Told:
    from engine.attacks import catalogue
    from engine.evaluation import files, walk
    from engine.methods import METHODS
    from engine.store.store import Store

    names = tuple(part.strip() for part in options.methods.split(",")) if options.methods else tuple(METHODS)
    attack = catalogue.identify(catalogue.attack(options.attack))
    request = walk.EvaluationRequest(attack, options.images, names, options.first, options.seed, _counts(options.maps))
    place = files.Place(options.model, options.data, options.sites, options.out)
    found = files.evaluate(Store(options.store, create=False), place, request, _told_on_stderr)
    return Told(files.text(found), found)


def _audit(options: argparse.Namespace) -> Told:
    from engine import audit_commands

    return audit_commands.audit(options)


def _verify(options: argparse.Namespace) -> Told:
    from engine import audit_commands

    return audit_commands.verify(options)


def _told_on_stderr(done: int, total: int, message: str) -> None:
    sys.stderr.write(f"{done}/{total} {message}\n")
    sys.stderr.flush()


def _benchmark(options: argparse.Namespace) -> Told:
    from engine.benchmark import table
    from engine.store.store import Store

    found = table.run(Store(options.store, create=False), options.model, options.data)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return Told(table.text(found), found)


def _maps(card: ModelCard) -> int:
    return sum(site.channels for site in card.sites)


def _request(options: argparse.Namespace) -> ExaminationRequest:
    from engine.attacks import catalogue

    attack = catalogue.identify(catalogue.attack(options.attack))
    return ExaminationRequest(options.model, options.data, attack, tuple(options.sample), options.method, options.seed)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split()) if text else None
    except ValueError as error:
        raise BadInput(f"{option} must be numbers such as 0.485,0.456,0.406, got '{text}'.") from error


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise BadInput(f"--maps must be whole numbers such as 8,16,32, got '{text}'.")
    return tuple(int(part) for part in parts)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() and 8 <= int(part) <= 1024 for part in parts) or len(parts) > 2:
        raise BadInput(f"--size must be pixels such as 224 or 224x224, 8 to 1024, got '{text}'.")
    return int(parts[0]), int(parts[-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Faultline's engine on the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = _command(commands, "demo", _demo, "Put the embedded demo (two digit networks, 500 digits) into a store.")
    _add_store(demo)
    model = commands.add_parser("model", help="Add a model.").add_subparsers(required=True, metavar="add")
    _model_options(_command(model, "add", _model_add, "Add the weights of a registered architecture."))
    data = commands.add_parser("data", help="Add a data set.").add_subparsers(required=True, metavar="add")
    _data_options(_command(data, "add", _data_add, "Add an npz file or a folder with one folder per class."))
    _examine_options(_command(commands, "examine", _examine, "Examine one pair: JSON, arrays and certificate."))
    _evaluate_options(_command(commands, "evaluate", _evaluate, "Faithfulness table of all methods, with intervals."))
    _benchmark_options(_command(commands, "benchmark", _benchmark, "Speed and memory table, ratios in one run."))
    audit_options.add_audit(_command(commands, "audit", _audit, "Run or resume the audit of a plan."))
    audit_options.add_verify(_command(commands, "verify", _verify, "Check a run's files and compute a sample again."))
    return parser


def _command(commands: argparse._SubParsersAction, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="Print machine-readable results.")
    return parser


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")


def _model_options(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--name", required=True, help="What to call the model.")
    parser.add_argument(
        "--architecture", required=True, help="A registered name, for example cifar_resnet20 or mobilenet_v2."
    )
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="F",
        help="A safetensors file, or a state_dict that torch.save wrote.",
    )
    parser.add_argument(
        "--classes", type=Path, required=True, metavar="F", help="Text file with one class name per line."
    )
    parser.add_argument("--mean", help="Comma-separated channel means of the preprocessing, on a scale from 0 to 1.")
    parser.add_argument("--std", help="Comma-separated channel standard deviations.")
    parser.add_argument("--size", help="Input size in pixels, for example 224 or 224x224.")


def _data_options(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--name", required=True, help="What to call the data set.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--npz", type=Path, metavar="FILE", help="x uint8 (images, height, width, 3), y integers, optionally classes."
    )
    source.add_argument("--folder", type=Path, metavar="DIR", help="One folder of pictures per class.")
    parser.add_argument("--classes", type=Path, metavar="F", help="Class names in order, one per line.")
    parser.add_argument("--size", help="Fit pictures of other sizes to this many pixels (folder only).")
    parser.add_argument("--epsilon", default="", help="Attack strength the menus start with, for example 8/255.")


def _examine_options(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--model", required=True, help="A model of the store.")
    parser.add_argument("--data", required=True, help="A data set of the store.")
    parser.add_argument(
        "--sample", required=True, nargs="+", metavar="K", help="Key of a sample such as 00017; several make a group."
    )
    parser.add_argument(
        "--attack", required=True, metavar="ID", help="For example pgd-linf or pgd-linf:eps=8/255,steps=20."
    )
    parser.add_argument("--method", default="two-run", help="two-run (default), mask, gradient, activation or random.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of references and random starts.")
    parser.add_argument("--quick", action="store_true", help="Leave the certificate out.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="Folder for examination.json and arrays.npz."
    )


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--model", required=True, help="A model of the store.")
    parser.add_argument("--data", required=True, help="A data set of the store.")
    parser.add_argument("--attack", required=True, metavar="ID", help="For example pgd-linf:eps=8/255,steps=10.")
    parser.add_argument(
        "--images", type=int, default=100, metavar="N", help="Correctly classified images, 100 if not given."
    )
    parser.add_argument(
        "--first", type=int, default=128, metavar="K", help="Index of the first image, 128 if not given."
    )
    parser.add_argument("--methods", metavar="A,B", help="Comma-separated names of methods; all if not given.")
    parser.add_argument("--maps", default="8,16,32,64,128", metavar="K,L", help="Numbers of maps to move, rising.")
    parser.add_argument(
        "--sites", choices=("all", "blocks"), default="all", help="All sites (default), or the stem and block outputs."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of references, controls and random starts.")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="JSON file to write; must not exist.")


def _benchmark_options(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--model", default="digits-standard", help="A model of the store.")
    parser.add_argument("--data", default="digits", help="A data set of the store.")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="JSON file to write.")


if __name__ == "__main__":
    sys.exit(main())
