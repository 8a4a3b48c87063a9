"""Images by URL: the browser sends ids, never paths; what the auditor does not know is not found."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from flask import Flask, Response, request

from dashboard import pictures, protocol
from dashboard.auditor import Auditor
from dashboard.panels.channel import model as channel_model
from engine import DatasetCard, EngineError, Explanation, ModelCard, UnknownName

FOREVER = "private,max-age=31536000,immutable"
"""An address never changes its picture: explanations are stored by content, patches carry the contents' hashes."""
REVALIDATED = "private,no-cache"
"""Where the address names no content: the tag tells whether the picture is still the same."""
KEY = re.compile(r"[A-Za-z0-9_-]{1,160}")
MAP_SIDES = ("clean", "adversarial", "difference")
PICTURE_SIDES = ("clean", "adversarial", "noise", "perturbation")
SCALES = ("channel", "layer")
STRIP, THUMBNAIL = 24, 64
"""Samples one strip may show, and the side of each in pixels."""
SHEETS_KEPT, PICTURES_KEPT = 32, 96
"""Encoded pictures held in memory: 32 sheets and 32 grids of at most 0.7 MB, 96 maps (2 KB) and inputs (0.15 MB)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it is sent."""

    body: bytes
    tag: str
    amplification: int | None = None


class Media:
    """Makes the pictures; every method raises EngineError for what does not exist."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor
        self.sheet = lru_cache(SHEETS_KEPT)(self._sheet)
        self.patches = lru_cache(SHEETS_KEPT)(self._patches)
        self.feature = lru_cache(PICTURES_KEPT)(self._feature)
        self.single = lru_cache(PICTURES_KEPT)(self._single)
        self.picture = lru_cache(PICTURES_KEPT)(self._picture)
        self.strip = lru_cache(SHEETS_KEPT)(self._strip)
        self.of_run = lru_cache(PICTURES_KEPT)(self._of_run)

    def _sheet(self, key: str, site: int, side: str, scale: str) -> Encoded:
        """Return the tiles of all maps of a site."""
        _known("side", side, MAP_SIDES)
        _known("scale", scale, SCALES)
        clean, adversarial = self._maps(key, site)
        return _tagged(pictures.sheet(clean, adversarial, cast(pictures.Side, side), cast(pictures.Scale, scale)))

    def _single(self, key: str, site: int, channel: int, side: str) -> Encoded:
        """Return one map at its stored resolution."""
        _known("side", side, MAP_SIDES)
        clean, adversarial = self._maps(key, site)
        _in_range("channel", channel, len(clean))
        return _tagged(pictures.single(clean[channel], adversarial[channel], cast(pictures.Side, side)))

    def _picture(self, key: str, row: int, side: str) -> Encoded:
        """Return an image of an explanation, or its enlarged perturbation."""
        _known("side", side, PICTURE_SIDES)
        images = self._explained(key).images
        shown = _known("image", "clean" if side == "perturbation" else side, images)
        _in_range("row", row, len(images[shown]))
        if side != "perturbation":
            return _tagged(pictures.picture(images[shown][row]))
        clean, adversarial = images["clean"][row], images["adversarial"][row]
        return _tagged(pictures.perturbation(clean, adversarial), pictures.amplification(clean, adversarial))

    def _patches(self, model: ModelCard, data: DatasetCard, site: int, channel: int, order: str) -> Encoded:
        """Return the grid of the data set's top patches of one map; raises UnknownName until the gallery is there."""
        _in_range("site", site, len(model.sites))
        _in_range("channel", channel, model.sites[site].channels)
        gallery = self._auditor.gallery(model.name, data.name).value
        if gallery is None:
            raise UnknownName("gallery", model.name, ())
        ranked, peaks = channel_model.ranking(gallery, order)
        indices, positions = ranked[site][channel], peaks[site][channel]
        shown = self._auditor.pictures(data.name, tuple(gallery.samples[i] for i in indices))
        boxes = [_field(model, site, int(position), shown.shape[1:3]) for position in positions]
        return _tagged(pictures.patch_grid(list(shown), boxes))

    def _strip(self, data: DatasetCard, samples: tuple[str, ...]) -> Encoded:
        """Return thumbnails of samples of a data set, in the order asked for; raises UnknownName."""
        if not 0 < len(samples) <= STRIP:
            raise UnknownName("number of samples", len(samples), (f"1 to {STRIP}",))
        return _tagged(pictures.strip(self._auditor.pictures(data.name, samples), THUMBNAIL))

    def _of_run(self, run: str, folder: str, sample: str, expected: str) -> Encoded:
        """Return the thumbnail of what a run stored of an image; its hash stands in the address."""
        return _tagged(pictures.strip(self._auditor.audits.picture(run, folder, sample, expected)[None], THUMBNAIL))

    def data(self, name: str) -> DatasetCard:
        """Return the card of a data set by name."""
        return protocol.card("data set", name, self._auditor.datasets())

    def _feature(self, model: ModelCard, data: DatasetCard, site: int, channel: int) -> Encoded:
        """Return the part of a map's synthesised picture that its position sees; raises UnknownName until it is there."""
        _in_range("site", site, len(model.sites))
        value = self._auditor.feature_visualization(model.name, data.name, model.sites[site].name, channel).value
        if value is None:
            raise UnknownName("picture", model.name, ())
        top, left, bottom, right = value.field
        return _tagged(pictures.picture(value.picture[top:bottom, left:right]))

    def cards(self, model: str, data: str) -> tuple[ModelCard, DatasetCard]:
        """Return the cards of a model and a data set by name."""
        return protocol.card("model", model, self._auditor.models()), protocol.card(
            "data set", data, self._auditor.datasets()
        )

    def _explained(self, key: str) -> Explanation:
        if not KEY.fullmatch(key):
            raise UnknownName("examination", key, ())
        return cast(Explanation, self._auditor.explained(key))

    def _maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        _in_range("site", site, len(self._explained(key).sites))
        return cast(tuple[np.ndarray, np.ndarray], self._auditor.maps(key, site))


def register(server: Flask, auditor: Auditor) -> None:
    """Add the picture routes to the server."""
    media = Media(auditor)

    @server.get("/media/maps/<key>/<int:site>/<side>.png")
    def map_sheet(key: str, site: int, side: str) -> Response:
        return _respond(lambda: media.sheet(key, site, side, request.args.get("scale", "channel")))

    @server.get("/media/map/<key>/<int:site>/<int:channel>/<side>.png")
    def single_map(key: str, site: int, channel: int, side: str) -> Response:
        return _respond(lambda: media.single(key, site, channel, side))

    @server.get("/media/examination/<key>/<int:row>/<side>.png")
    def explained_picture(key: str, row: int, side: str) -> Response:
        return _respond(lambda: media.picture(key, row, side))

    @server.get("/media/strip/<data>/<samples>.png")
    def samples_strip(data: str, samples: str) -> Response:
        return _respond(lambda: media.strip(media.data(data), tuple(samples.split(","))), REVALIDATED)

    @server.get("/media/run/<run>/<folder>/<sample>/<expected>.png")
    def picture_of_run(run: str, folder: str, sample: str, expected: str) -> Response:
        return _respond(lambda: media.of_run(run, folder, sample, expected))

    @server.get("/media/patches/<model>/<data>/<int:site>/<int:channel>/<order>.png")
    def top_patches(model: str, data: str, site: int, channel: int, order: str) -> Response:
        return _respond(lambda: media.patches(*media.cards(model, data), site, channel, order))

    @server.get("/media/feature/<model>/<data>/<int:site>/<int:channel>.png")
    def visualized_feature(model: str, data: str, site: int, channel: int) -> Response:
        return _respond(lambda: media.feature(*media.cards(model, data), site, channel))

    @server.get("/media/<path:address>")
    def unknown_picture(address: str) -> Response:  # noqa: ARG001 - without this, Dash answers its page with status 200
        return _not_found()


def _respond(make: Callable[[], Encoded], caching: str = FOREVER) -> Response:
    try:
        encoded = make()
    except EngineError:
        return _not_found()
    response = Response(encoded.body, mimetype="image/png")
    response.set_etag(encoded.tag)
    response.headers["Cache-Control"] = caching
    if encoded.amplification is not None:
        response.headers["X-Amplification"] = str(encoded.amplification)
    return cast(Response, response.make_conditional(request))


def _not_found() -> Response:
    return Response("Not found.\n", status=404, mimetype="text/plain", headers={"Cache-Control": "no-store"})


def _tagged(body: bytes, amplification: int | None = None) -> Encoded:
    return Encoded(body, hashlib.blake2b(body, digest_size=16).hexdigest(), amplification)


def _known(kind: str, name: str, known: Any) -> str:
    if name not in known:
        raise UnknownName(kind, name, known)
    return name


def _in_range(kind: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise UnknownName(kind, index, (f"0 to {count - 1}",))


def _field(model: ModelCard, site: int, position: int, size: tuple[int, int]) -> pictures.Box:
    """Return the receptive field of a flat position in pixels of pictures of (height, width) `size`."""
    row, column = divmod(position, model.sites[site].width)
    return pictures.field(model.sites[site], row, column).scaled(size[0] / model.size[0], size[1] / model.size[1])
