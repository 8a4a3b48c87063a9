"""The command line: `python -m engine COMMAND --help` explains each. Exit codes stand in `engine.cli.command`."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Final

from engine import streams
from engine.cli import command
from engine.cli.command import BAD_INPUT, INTERRUPTED
from engine.errors import EngineError, printable

Declare = Callable[[argparse.ArgumentParser], None]
COMMANDS: Final[dict[str, tuple[str, str, Declare]]] = {
    "demo": (
        "engine.cli.register:demo",
        "Put the embedded demo (two digit networks, 500 digits) into a store.",
        command.add_store,
    ),
    "model add": ("engine.cli.register:add_model", "Add the weights of a registered architecture.", command.add_model),
    "model check": (
        "engine.cli.register:check_model",
        "Check a stored model: the validation report.",
        command.add_check,
    ),
    "architectures": (
        "engine.cli.register:architectures",
        "Torchvision's classifiers: how many layers and feature maps each has, or why it is refused.",
        command.add_architectures,
    ),
    "data add": ("engine.cli.register:add_data", "Add labelled images.", command.add_data),
    "explain": (
        "engine.cli.study:explain",
        "Explain one attacked image: JSON, arrays and faithfulness checks.",
        command.add_explain,
    ),
    "evaluate": (
        "engine.cli.study:evaluate",
        "Faithfulness table of all methods, with intervals.",
        command.add_evaluate,
    ),
    "patching": (
        "engine.cli.study:patching",
        "Activation patching in a group of fooled images: every study.",
        command.add_causal_test,
    ),
    "benchmark": ("engine.cli.study:measure", "Speed and memory table, ratios in one run.", command.add_benchmark),
    "audit": ("engine.cli.audit:audit", "Run or resume the audit of a plan.", command.add_audit),
    "verify": ("engine.cli.audit:verify", "Check a run's files and compute a sample again.", command.add_verify),
    "rebuild": (
        "engine.cli.audit:rebuild",
        "Make damaged files of a run's result anew, from its shards.",
        command.add_rebuild,
    ),
    "export": ("engine.cli.audit:export", "Write the tables of a run as CSV.", command.add_export),
    "review": ("engine.cli.review:review", "Review a finished run: findings and decision.", command.add_review),
    "report": ("engine.cli.review:report", "Write the report of a run: HTML, Markdown or JUnit.", command.add_report),
    "bundle": ("engine.cli.review:bundle", "Write a run's evidence as one file.", command.add_bundle),
    "verify-bundle": (
        "engine.cli.review:verify_bundle",
        "Check a bundle without the store.",
        command.add_verify_bundle,
    ),
}
"""By the words of a command: the function that runs it, imported only then, what it does, and its options."""
ALIASES: Final = {"examine": "explain", "prove": "patching"}
"""Words of version 0.1 and what replaced them; they still run the command, and say its new name."""
GROUPS: Final = {"model": ("Add and check models.", "add|check"), "data": ("Add a data set.", "add")}
"""First words that several commands share."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever is wrong with the input is told in one line."""
    options = _parser().parse_args(_renamed(sys.argv[1:] if arguments is None else arguments))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names that no encoding holds must not end a command whose work is done.
            stream.reconfigure(errors="backslashreplace")
    try:
        with streams.kept_apart():
            module, _, name = options.command.partition(":")
            result = getattr(importlib.import_module(module), name)(options)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    except OSError as error:
        sys.stderr.write(printable(f"error: {error.strerror or error}: {error.filename or 'the store'}") + "\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is half-written, the same command goes on.\n")
        return INTERRUPTED
    sys.stdout.write((json.dumps(result.found, indent=2) if options.json else result.text) + "\n")
    return result.code


def _renamed(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with an old command word replaced, which is said in one line."""
    first, *others = [*arguments] or [""]
    if first not in ALIASES:
        return list(arguments)
    sys.stderr.write(f"note: '{first}' is now called '{ALIASES[first]}'; the old word works in this version.\n")
    return [ALIASES[first], *others]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Faultline's engine on the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    groups = {}
    for words, (run, text, declare) in COMMANDS.items():
        first, _, second = words.partition(" ")
        if second and first not in groups:
            help_text, choices = GROUPS[first]
            groups[first] = commands.add_parser(first, help=help_text).add_subparsers(required=True, metavar=choices)
        own = (groups[first] if second else commands).add_parser(second or first, help=text, description=text)
        own.set_defaults(command=run)
        own.add_argument("--json", action="store_true", help="Print machine-readable results.")
        declare(own)
    return parser


if __name__ == "__main__":
    with streams.answering():
        ended = main()
    sys.exit(ended)
