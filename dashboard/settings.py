"""How the server is set up: from arguments and from the environment, checked once, then trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import BadSetting

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""What a browser on this machine may call the server; no outsider can make these names point anywhere else."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:(?P<port>[0-9]{1,5}))?")
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the server needs to know before it starts. Raises BadSetting where it would be unsafe or senseless.

    Login is always on; so an address that other machines can reach needs only `allowed_hosts` beside it.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 8050
    allowed_hosts: tuple[str, ...] = ()
    """Names this server is called by beside the loopback ones: `name` for any port, `name:port` for that one."""
    is_https: bool = False
    """True where browsers reach the server by https, through a proxy that keeps the Host header."""
    body_limit: int = 2 * 1024 * 1024
    """Largest request body in bytes."""
    scheduler: str | None = None
    """Address of a Dask scheduler, or None for a local worker."""
    import_folder: Path | None = None
    """Folder on the server from which the page may add models and data sets, or None for none."""
    takes_uploads: bool = True
    """Whether the page may send files into the import folder."""
    has_demo_audit: bool = True
    """Whether a store of the demo alone gets a small finished audit, made in the background."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise BadSetting(f"The port must lie in [0, 65535], got {self.port}.")
        if not 1024 <= self.body_limit <= 64 * 1024 * 1024:
            raise BadSetting(f"The body limit must lie in [1024, 67108864] bytes, got {self.body_limit}.")
        for host in self.allowed_hosts:
            if split_host(host) is None:
                raise BadSetting(f"An allowed host is a name or name:port, got '{host[:80]}'.")
        if not self.allowed_hosts and not is_loopback(self.host):
            raise BadSetting(
                f"'{self.host}' can be reached from other machines: name the hosts it may be called by in "
                "FAULTLINE_HOSTS (for example audit.example.org), or use 127.0.0.1."
            )

    @property
    def address(self) -> str:
        """The address to open in a browser, without a path."""
        return f"{'https' if self.is_https else 'http'}://{self._public_host()}"

    def _public_host(self) -> str:
        """The first allowed host where others come in, the bound address where only this machine does."""
        if self.is_https and self.allowed_hosts:
            return self.allowed_hosts[0]
        if is_loopback(self.host):
            return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        name, port = split_host(self.allowed_hosts[0]) or (self.host, None)
        return f"{name}:{port or self.port}"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings that variables called FAULTLINE_... ask for; raises BadSetting."""
    return Settings(
        store=Path(environment.get("FAULTLINE_STORE") or "faultline-store"),
        host=environment.get("FAULTLINE_HOST") or "127.0.0.1",
        port=_whole_number(environment, "FAULTLINE_PORT", 8050),
        allowed_hosts=_names(environment.get("FAULTLINE_HOSTS", "")),
        is_https=_truth(environment, "FAULTLINE_HTTPS"),
        body_limit=_whole_number(environment, "FAULTLINE_BODY_LIMIT", 2 * 1024 * 1024),
        scheduler=environment.get("FAULTLINE_SCHEDULER") or None,
        import_folder=_folder(environment, "FAULTLINE_IMPORT_FOLDER", "FAULTLINE_INBOX"),
        takes_uploads=_truth(environment, "FAULTLINE_UPLOADS", default="1"),
        has_demo_audit=_truth(environment, "FAULTLINE_DEMO_AUDIT", default="1"),
    )


def split_host(text: str) -> tuple[str, int | None] | None:
    """Return the name (lower case) and port of a Host header or allowed host, or None if it is neither."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    return None if port is not None and not 0 < port <= 65535 else (match["name"], port)


def is_loopback(host: str) -> bool:
    """Return whether an address or name to bind can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())


def _folder(environment: Mapping[str, str], *names: str) -> Path | None:
    """Return the folder that the first of some variables names: a newer name before the one it replaced."""
    return next((Path(environment[name]) for name in names if environment.get(name)), None)


def _whole_number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise BadSetting(f"{name} must be a whole number, got '{text[:80]}'.")
    return int(text)


def _truth(environment: Mapping[str, str], name: str, *, default: str = "") -> bool:
    text = environment.get(name, "").strip().lower() or default
    if text not in _TRUTH:
        raise BadSetting(f"{name} must be 1 or 0, got '{text[:80]}'.")
    return _TRUTH[text]
