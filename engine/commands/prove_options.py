"""The options of `prove`; parsing them loads nothing that computes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

STUDIES: Final = ("proof", "smallest", "curve", "profile", "defence")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `prove`."""
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")
    parser.add_argument("--model", required=True, help="A model of the store.")
    parser.add_argument("--data", required=True, help="A data set of the store.")
    parser.add_argument("--attack", required=True, metavar="ID", help="For example pgd-linf:eps=8/255,steps=10.")
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--class", dest="label", metavar="C", help="Images of this class: its name, its index, or both as NAME@INDEX."
    )
    images.add_argument("--sample", nargs="+", metavar="K", help="Keys of samples such as 00017.")
    parser.add_argument("--images", type=int, default=100, metavar="N", help="Images to attack, 100 if not given.")
    first = "Without --class and --sample: index from which on correctly classified images are taken, 128 if not given."
    parser.add_argument("--first", type=int, default=128, metavar="K", help=first)
    parser.add_argument("--maps", type=int, default=32, metavar="K", help="Maps of the proof, 32 if not given.")
    parser.add_argument(
        "--studies", default=",".join(STUDIES), metavar="A,B", help=f"Of {', '.join(STUDIES)}; all if not given."
    )
    parser.add_argument(
        "--sites", choices=("all", "blocks"), default="all", help="All sites (default), or the stem and block outputs."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of random starts, controls and random sets.")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="JSON file to write; must not exist.")
