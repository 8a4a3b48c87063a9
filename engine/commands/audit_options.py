"""The options of the subcommands `audit` and `verify`; parsing them loads nothing that computes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

TLS_VARIABLES: Final = {
    "tls_ca": "FAULTLINE_TLS_CA",
    "tls_cert": "FAULTLINE_TLS_CERT",
    "tls_key": "FAULTLINE_TLS_KEY",
}
"""By option: the environment variable that stands in for it."""


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit`."""
    parser.add_argument("plan", type=Path, metavar="PLAN.toml", help="The plan; engine/demo/plan.toml is an example.")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="An existing Dask cluster, for example tls://host:8786.")
    for name, variable in TLS_VARIABLES.items():
        text = f"PEM file of the cluster's {name.removeprefix('tls_')}; the variable {variable} will do as well."
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="F", help=text)
    parser.add_argument("--allow-plain", action="store_true", help="Accept tcp://: anybody may run code there.")
    parser.add_argument("--estimate", action="store_true", help="Say what the run will cost, and stop there.")
    parser.add_argument("--cancel", action="store_true", help="Stop the run of this plan, wherever it is driven.")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `verify`."""
    parser.add_argument("run", metavar="RUN", help="A run's folder, or with --store its id or the beginning of it.")
    parser.add_argument("--store", type=Path, metavar="DIR", help="Folder of the store.")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="Images of each condition, 8 if not given.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sample.")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    parser.add_argument("run", metavar="RUN", help="A run's folder, or with --store its id or the beginning of it.")
    parser.add_argument("--store", type=Path, metavar="DIR", help="Folder of the store.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="Folder for images.csv, conditions.csv, thresholds.csv."
    )
