"""The command line: `python -m engine COMMAND --help` explains each. Exit codes stand in `engine.cli.command`."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import streams
from engine.cli import command
from engine.cli.command import BAD_INPUT, INTERRUPTED, Told
from engine.errors import BadInput, EngineError, printable
from engine.specs import methods
from engine.types.core import ExaminationRequest, ModelCard

Command = Callable[[argparse.Namespace], Told]
LONGEST_COUNT = 9
"""Digits of a number of maps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever is wrong with the input is told in one line."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names that no encoding holds must not end a command whose work is done.
            stream.reconfigure(errors="backslashreplace")
    try:
        with streams.kept_apart():
            told = options.command(options)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    except OSError as error:
        sys.stderr.write(printable(f"error: {error.strerror or error}: {error.filename or 'the store'}") + "\n")
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
    from engine.cli import register

    return register.add_model(options)


def _model_check(options: argparse.Namespace) -> Told:
    from engine.cli import register

    return register.check_model(options)


def _architectures(options: argparse.Namespace) -> Told:
    from engine.cli import register

    return register.architectures(options)


def _data_add(options: argparse.Namespace) -> Told:
    from engine.cli import register

    return register.add_data(options)


def _examine(options: argparse.Namespace) -> Told:
    from engine.cli import study as examine
    from engine.service import answers as at_once
    from engine.store.store import Store

    answers = at_once.answers(Store(options.store, create=False), _told_to_nobody)
    found = examine.examine(answers, _request(options), options.out, certify=not options.quick)
    return Told(examine.sentence(found), found)


def _evaluate(options: argparse.Namespace) -> Told:
    from engine.cli import study as evaluate
    from engine.patching import evaluate as walk
    from engine.specs import catalogue
    from engine.store.store import Store

    names = [part.strip() for part in options.methods.split(",")] if options.methods else list(methods.METHODS)
    attack, scored = catalogue.attack(options.attack), tuple(methods.method(name) for name in names)
    request = walk.EvaluationRequest(attack, options.images, scored, options.first, options.seed, _counts(options.maps))
    place = options.model, options.data, options.sites
    found = evaluate.evaluate(Store(options.store, create=False), place, request, options.out, _told_on_stderr)
    return Told(evaluate.text(found), found)


def _prove(options: argparse.Namespace) -> Told:
    from engine import benchmark
    from engine.cli import study as prove
    from engine.service import answers as at_once
    from engine.specs import catalogue
    from engine.store.store import Store

    attack = catalogue.attack(options.attack)
    images = prove.Images(tuple(options.sample or ()), options.label, options.images, options.first)
    names = tuple(part.strip() for part in options.studies.split(","))
    study = prove.Study(options.model, options.data, attack, images, options.maps, names, options.sites, options.seed)
    answers = at_once.answers(Store(options.store, create=False), _told_on_stderr)
    found = prove.prove(answers, study, options.out)
    return Told(benchmark.text(found), found)


def _audit(options: argparse.Namespace) -> Told:
    from engine.cli import audit

    return audit.audit(options)


def _verify(options: argparse.Namespace) -> Told:
    from engine.cli import audit

    return audit.verify(options)


def _export(options: argparse.Namespace) -> Told:
    from engine.cli import audit

    return audit.export(options)


def _told_to_nobody(done: int, total: int, message: str) -> None:
    """Progress of a command that ends in seconds is not shown."""


def _told_on_stderr(done: int, total: int, message: str) -> None:
    sys.stderr.write(f"{done}/{total} {message}\n")
    sys.stderr.flush()


def _benchmark(options: argparse.Namespace) -> Told:
    from engine import benchmark
    from engine.store.store import Store

    found = benchmark.run(Store(options.store, create=False), options.model, options.data)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return Told(benchmark.text(found), found)


def _maps(card: ModelCard) -> int:
    return sum(site.channels for site in card.sites)


def _request(options: argparse.Namespace) -> ExaminationRequest:
    from engine.specs import catalogue

    attack, method = catalogue.attack(options.attack), methods.method(options.method)
    return ExaminationRequest(options.model, options.data, attack, tuple(options.sample), method, options.seed)


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= LONGEST_COUNT for part in parts):
        raise BadInput(f"--maps must be whole numbers such as 8,16,32, got '{text[:80]}'.")
    return tuple(int(part) for part in parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Faultline's engine on the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = _command(commands, "demo", _demo, "Put the embedded demo (two digit networks, 500 digits) into a store.")
    _add_store(demo)
    model = commands.add_parser("model", help="Add and check models.").add_subparsers(
        required=True, metavar="add|check"
    )
    command.add_model(_command(model, "add", _model_add, "Add the weights of a registered architecture."))
    command.add_check(_command(model, "check", _model_check, "Check a stored model: the intake report."))
    survey = "Torchvision's classifiers: how many sites and maps each has, or why it is refused."
    command.add_architectures(_command(commands, "architectures", _architectures, survey))
    data = commands.add_parser("data", help="Add a data set.").add_subparsers(required=True, metavar="add")
    command.add_data(_command(data, "add", _data_add, "Add labelled images."))
    _examine_options(_command(commands, "examine", _examine, "Examine one pair: JSON, arrays and certificate."))
    _evaluate_options(_command(commands, "evaluate", _evaluate, "Faithfulness table of all methods, with intervals."))
    command.add(_command(commands, "prove", _prove, "Put clean maps back in a group of fooled images: every study."))
    _benchmark_options(_command(commands, "benchmark", _benchmark, "Speed and memory table, ratios in one run."))
    command.add_audit(_command(commands, "audit", _audit, "Run or resume the audit of a plan."))
    command.add_verify(_command(commands, "verify", _verify, "Check a run's files and compute a sample again."))
    command.add_export(_command(commands, "export", _export, "Write the tables of a run as CSV."))
    return parser


def _command(commands: argparse._SubParsersAction, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="Print machine-readable results.")
    return parser


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")


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
    parser.add_argument("--method", default=methods.TWO_RUN.name, help=f"One of {', '.join(methods.METHODS)}.")
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
    with streams.answering():
        ended = main()
    sys.exit(ended)
