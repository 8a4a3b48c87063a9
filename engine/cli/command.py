"""What all commands share: options, answers, exit codes, files of results. Parsing loads nothing that computes."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import BadInput
from engine.specs import methods
from engine.store import files

DONE: Final = 0
FAILED: Final = 1
"""A threshold of an audit failed or could not be told, a verification found a difference, or a model fails a check of its
validation report."""
BAD_INPUT: Final = 2
INTERRUPTED: Final = 3
"""The same command goes on where this one ended."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command says: a line or table for people, and the same for programs (`--json`)."""

    text: str
    found: dict[str, Any]
    code: int = DONE


def require_new(out: Path) -> None:
    """Raise BadInput for a file that exists or cannot be there."""
    if out.exists():
        raise BadInput(f"{out.name} exists already; choose another file.")
    if not out.parent.is_dir():
        raise BadInput(f"There is no folder {out.parent.name} for {out.name}.")


def write(out: Path, values: dict[str, Any], doing: str) -> None:
    """Write an answer whole, or raise StoreError that says what was being done."""
    with files.disk_errors(doing):
        files.write_file(out, (json.dumps(values, indent=2) + "\n").encode())


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


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="A run's folder, or with --store its id or the beginning of it.")
    parser.add_argument("--store", type=Path, metavar="DIR", help="Folder of the store.")


def add_review(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `review`."""
    _run(parser)
    parser.add_argument("--as", dest="who", metavar="NAME", help="Who writes; needed for everything but reading.")
    parser.add_argument("--question", metavar="TEXT", help="Open the review with the question that it answers.")
    parser.add_argument("--facts", type=Path, metavar="F.toml", help="Declare facts: purpose, deployment, licences ...")
    parser.add_argument("--finding", type=Path, metavar="F.toml", help="Add a finding: title, severity, text ...")
    parser.add_argument("--corrects", metavar="ID.N", help="The finding is a new version of this one, such as F2.1.")
    parser.add_argument("--hand-in", action="store_true", help="Ask somebody else for a decision.")
    parser.add_argument("--decide", choices=("approve", "approve with conditions", "reject"), help="Decide the review.")
    parser.add_argument("--reason", metavar="TEXT", help="Why, required with --decide.")
    parser.add_argument("--conditions", metavar="TEXT", help="On what conditions.")
    parser.add_argument("--valid-until", metavar="DATE", help="Such as 2027-03-31.")
    parser.add_argument("--supersedes", metavar="RUN", help="Id of the run whose decision this one replaces.")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `report`."""
    _run(parser)
    parser.add_argument("--gate", action="store_true", help="Exit with 1 where a threshold is not met or not decided.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="F", help="New file: .html the report, .md a summary, .xml JUnit."
    )


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bundle`."""
    _run(parser)
    parser.add_argument("--sign", type=Path, metavar="KEY.pem", help="Ed25519 private key that signs the bundle.")
    parser.add_argument("--out", type=Path, required=True, metavar="F.zip", help="New file.")


def add_verify_bundle(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `verify-bundle`."""
    parser.add_argument("bundle", type=Path, metavar="F.zip", help="A bundle.")
    parser.add_argument("--key", type=Path, metavar="PUBLIC.pem", help="The public key that must have signed it.")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `verify`."""
    _run(parser)
    parser.add_argument("--images", type=int, default=8, metavar="N", help="Images of each condition, 8 if not given.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sample.")


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `rebuild`."""
    parser.add_argument("run", metavar="RUN", help="A run's folder, or with --store its id or the beginning of it.")
    parser.add_argument("--store", type=Path, metavar="DIR", help="Folder of the store.")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    _run(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="Folder for images.csv, conditions.csv, thresholds.csv."
    )


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
    _licence(parser)


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
    parser.add_argument("--epsilon", default="", help="Epsilon the menus start with, for example 8/255.")
    _licence(parser)


def _licence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--licence", default="", metavar="L", help="Licence it came under, shown beside it.")


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")


TEST: Final = "test"
STUDIES: Final = (TEST, "smallest", "curve", "profile", "localisation", "faithfulness", "defence")


def add_causal_test(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `patching`."""
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
    parser.add_argument(
        "--maps", type=int, default=32, metavar="K", help="Channels of the causal test, 32 if not given."
    )
    parser.add_argument(
        "--studies", default=",".join(STUDIES), metavar="A,B", help=f"Of {', '.join(STUDIES)}; all if not given."
    )
    passes = "Image-passes per image for the smallest sets and their bound, about; ten batches if not given."
    parser.add_argument("--passes", type=int, metavar="N", help=passes)
    parser.add_argument(
        "--sites", choices=("all", "blocks"), default="all", help="All layers (default), or the stem and block outputs."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of random starts, controls and random sets.")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="JSON file to write; must not exist.")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare the folder of the store."""
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="Folder of the store.")


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `examine`."""
    add_store(parser)
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
    parser.add_argument("--quick", action="store_true", help="Leave the faithfulness checks out.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="Folder for explanation.json and arrays.npz."
    )


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    add_store(parser)
    parser.add_argument("--model", required=True, help="A model of the store.")
    parser.add_argument("--data", required=True, help="A data set of the store.")
    parser.add_argument("--attack", required=True, metavar="ID", help="For example pgd-linf:eps=8/255,steps=10.")
    parser.add_argument(
        "--images", type=int, default=100, metavar="N", help="Correctly classified images, 100 if not given."
    )
    parser.add_argument(
        "--first", type=int, default=128, metavar="K", help="Index of the first image, 128 if not given."
    )
    parser.add_argument("--methods", metavar="A,B", help="Comma-separated names of methods, or none; all if not given.")
    parser.add_argument(
        "--rankings",
        metavar="A,B",
        help="Orders of activation patching, compared by their excess over layer-matched random maps: names such as flow/layer "
        "and gradient, or none. If not given, the default one and those by the scores of --methods.",
    )
    parser.add_argument("--maps", default="8,16,32,64,128", metavar="K,L", help="Numbers of channels to move, rising.")
    parser.add_argument(
        "--set",
        type=int,
        default=16,
        metavar="K",
        help="Channels of the set tested for independence and minimality, 16 if not given.",
    )
    parser.add_argument(
        "--sites", choices=("all", "blocks"), default="all", help="All layers (default), or the stem and block outputs."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of references, controls and random starts.")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="JSON file to write; must not exist.")


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `benchmark`."""
    add_store(parser)
    parser.add_argument("--model", default="digits-standard", help="A model of the store.")
    parser.add_argument("--data", default="digits", help="A data set of the store.")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="JSON file to write.")
