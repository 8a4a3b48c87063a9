"""The options of `model add`, `model check` and `data add`; parsing them loads nothing that computes."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `model add`."""
    _store(parser)
    parser.add_argument("--name", required=True, help="What to call the model.")
    parser.add_argument(
        "--architecture",
        required=True,
        metavar="A",
        help="A registered name: cifar_resnet20, mobilenet_v2 and all of torchvision's, timm/NAME, plugin/NAME.",
    )
    weights = (
        "A safetensors file, or a state_dict that torch.save wrote; `hub` fetches those that torchvision published."
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="F", help=weights)
    parser.add_argument("--classes", type=Path, required=True, metavar="F", help="Text file, one class name per line.")
    parser.add_argument("--mean", help="Comma-separated mean of each channel that is subtracted.")
    parser.add_argument("--std", help="Comma-separated standard deviations that are divided by.")
    parser.add_argument("--range", choices=("1", "255"), default="1", help="White in the network's input: 1 or 255.")
    parser.add_argument("--channels", choices=("rgb", "bgr"), default="rgb", help="Order of the network's channels.")
    parser.add_argument("--size", help="Input size in pixels, for example 224 or 224x192 (height x width).")
    parser.add_argument("--resize", type=int, metavar="N", help="Shortest side before the centre is cut out, e.g. 256.")
    parser.add_argument("--accuracy", metavar="P", help="Clean accuracy that is claimed, such as 0.717.")
    parser.add_argument("--data", default="", metavar="D", help="Labelled data set of the store to check the model on.")


def add_check(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `model check`."""
    _store(parser)
    parser.add_argument("--name", required=True, help="A model of the store.")
    parser.add_argument("--data", default="", metavar="D", help="Labelled data set of the store to check it on.")


def add_architectures(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `architectures`."""
    parser.add_argument("--only", nargs="+", metavar="A", help="Some of torchvision's names; all if not given.")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `data add`."""
    _store(parser)
    parser.add_argument("--name", required=True, help="What to call the data set.")
    source = parser.add_mutually_exclusive_group(required=True)
    npz = "x uint8 (images, height, width, 3), y integers, optionally classes."
    source.add_argument("--npz", type=Path, metavar="FILE", help=npz)
    source.add_argument("--folder", type=Path, metavar="DIR", help="One folder of pictures per class.")
    source.add_argument("--csv", type=Path, metavar="FILE", help="Table of pictures of --images and their labels.")
    source.add_argument(
        "--torchvision", metavar="SET", help="One of torchvision's data sets from --root, such as SVHN."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="Folder of the pictures that --csv names.")
    columns = "Columns of --csv with picture and label; the usual names are found without."
    parser.add_argument("--columns", nargs=2, metavar=("IMAGE", "LABEL"), default=(None, None), help=columns)
    parser.add_argument(
        "--first-label",
        type=int,
        choices=(0, 1),
        default=0,
        help="What labels of --npz or --csv call the first class: 0 if not given.",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="Folder of --torchvision; nothing is downloaded.")
    parser.add_argument("--split", default="test", help="Part of --torchvision, `test` if not given.")
    parser.add_argument("--classes", type=Path, metavar="F", help="Class names in order, one per line.")
    parser.add_argument("--size", help="Fit pictures of other sizes to this many pixels (not for --npz).")
    parser.add_argument("--epsilon", default="", help="Attack strength the menus start with, for example 8/255.")


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")
