"""Start the dashboard: `python -m dashboard --help`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from dashboard import auth, settings
from engine import EngineError

USAGE = 2
"""Exit code for bad input."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with one line and code 2."""
        self.exit(USAGE, f"faultline: {message}. See python -m dashboard --help.\n")


def parser() -> Parser:
    """Return the parser of the command line; what is not given is taken from the environment."""
    result = Parser(
        prog="python -m dashboard",
        description="Serve a store to the browser. On an empty store the embedded demo is loaded.",
        epilog="The same can be set by FAULTLINE_STORE, FAULTLINE_HOST, FAULTLINE_PORT, FAULTLINE_SCHEDULER and "
        "FAULTLINE_IMPORT_FOLDER; "
        "FAULTLINE_HOSTS names the hosts it may be called by, FAULTLINE_HTTPS=1 says that a proxy adds https, FAULTLINE_UPLOADS=0 "
        "that the page may send no files, FAULTLINE_DEMO_AUDIT=0 that the demo's small audit is not made.",
    )
    result.add_argument("--store", metavar="DIR", help="folder of the store (default: ./faultline-store)")
    result.add_argument("--host", help="address to listen on (default: 127.0.0.1; others need FAULTLINE_HOSTS)")
    result.add_argument("--port", type=int, help="port to listen on (default: 8050)")
    result.add_argument(
        "--scheduler", metavar="ADDRESS", help="Dask scheduler, tls://host:port (default: a local worker)"
    )
    result.add_argument(
        "--import-folder",
        "--inbox",
        dest="import_folder",
        metavar="DIR",
        help="folder from which the page may add models and data (default: none)",
    )
    result.add_argument(
        "--no-uploads",
        action="store_true",
        help="take no files from the page into the import folder (default: take them)",
    )
    result.add_argument(
        "--no-demo-audit",
        action="store_true",
        help="do not make the demo's small audit in the background (default: make it once, in a store of the demo alone)",
    )
    result.add_argument(
        "--new-link", action="store_true", help="print a new one-time link to the running server, and exit"
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input."""
    options = parser().parse_args(arguments)
    # On the handler, as Dask's loggers bring a level of their own and would tell of every start and stop.
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        chosen = settings.from_environment({**os.environ, **_given(options)})
        if options.new_link:
            sys.stdout.write(f"{auth.new_link(chosen.store)}\n")
        else:
            _serve(chosen)
    except EngineError as error:
        sys.stderr.write(f"faultline: {error}\n")
        return USAGE
    return 0


def _given(options: argparse.Namespace) -> dict[str, str]:
    named = {
        "STORE": options.store,
        "HOST": options.host,
        "PORT": options.port,
        "SCHEDULER": options.scheduler,
        "IMPORT_FOLDER": options.import_folder,
    }
    if options.no_uploads:
        named["UPLOADS"] = "0"
    if options.no_demo_audit:
        named["DEMO_AUDIT"] = "0"
    return {f"FAULTLINE_{name}": str(value) for name, value in named.items() if value is not None}


def _serve(chosen: settings.Settings) -> None:
    # Compute workers are spawned and import this module again: they must not load Dash.
    from dashboard import server

    server.give_back_memory()
    server.serve(chosen)


if __name__ == "__main__":
    sys.exit(main())
