"""The layer level: one entry per feature map of a site, ready to be drawn as tiles."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dashboard import pictures, protocol
from engine import ClassDatapaths, Comparison, Explanation, SiteComparison, UnknownName, kept_by

CLEAN_ONLY, SHARED, ADVERSARIAL_ONLY, NEITHER = range(4)
GROUP_NAMES = ("clean only", "shared", "adversarial only", "in neither")
GROUP_MARKS = ("C", "S", "A", "–")
GROUP_VALUES = ("clean", "shared", "adversarial", "other")
PARTS_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class LayerPanel:
    """What stands in the layer panel; lists run over the channels in order, and are empty when `message` says why."""

    message: str = ""
    key: str = ""
    layer: str = ""
    share: float = 0.0
    site: int = 0
    height: int = 0
    width: int = 0
    columns: int = 1
    is_pooled: bool = False
    is_stem: bool = False
    is_evidence: bool = False
    """Its maps are the classes themselves."""
    is_cut: bool = False
    images: int = 0
    counts: tuple[int, ...] = ()
    """Maps clean-only, shared, adversarial-only, in neither."""
    group: tuple[int, ...] = ()
    """Index into `GROUP_NAMES`."""
    clean: tuple[int, ...] = ()
    """Share of the clean datapath's whole score, parts per million."""
    adversarial: tuple[int, ...] = ()
    change: tuple[float, ...] = ()
    """Relative L2 change of the map, 0 to about 2."""
    flow: tuple[int, ...] = ()
    """Attack conductance, signed, parts per million of the margin the attack took."""
    member: tuple[int, ...] = ()
    """Bits: kept by the clean (1), adversarial (2), fooled-into class's (4), noise's (8) datapath."""
    has_class: bool = False
    """Whether the fooled-into class's datapath is among them."""
    class_name: str = ""

    @property
    def title(self) -> str:
        """The panel's heading."""
        if self.message:
            return ""
        return f"{self.layer} · {len(self.group):,} feature maps · {self.height} × {self.width}"

    @property
    def group_labels(self) -> tuple[tuple[str, str], ...]:
        """(value, label with exact count) of each choice of the group filter."""
        counts = self.counts or (0,) * len(GROUP_NAMES)
        named = zip(GROUP_VALUES, GROUP_MARKS, GROUP_NAMES, counts, strict=True)
        return (("all", f"all {sum(counts):,}"), *((value, f"{mark} {name} {n:,}") for value, mark, name, n in named))

    def to_store(self) -> dict[str, object]:
        """Return plain values for the browser."""
        # Every field is plain already; `asdict` would copy thousands of numbers one by one.
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "title": self.title}


def site_index(explanation: Explanation, layer: str) -> int:
    """Return the index of a site; raises UnknownName."""
    names = [site.name for site in explanation.sites]
    if layer not in names:
        raise UnknownName("layer", layer, names)
    return names.index(layer)


def groups(site: SiteComparison, channels: int) -> np.ndarray:
    """Return per channel its index into `GROUP_NAMES`, (channels,) int64."""
    full = np.full(channels, NEITHER)
    for group, members in enumerate((site.clean_only, site.shared, site.adversarial_only)):
        full[list(members)] = group
    return full


def flow_shares(explanation: Explanation, site: int) -> np.ndarray:
    """Return the attack conductance of each map of a site as a share of the margin the attack took, (channels,), signed."""
    margin = explanation.flow[-1].sum(axis=1).mean()
    return (
        explanation.flow[site].mean(axis=0) / margin if abs(margin) > 1e-9 else np.zeros(len(explanation.change[site]))
    )


def empty(message: str) -> LayerPanel:
    """Return a panel without maps that says why."""
    return LayerPanel(message=message)


def build(
    explanation: Explanation, comparison: Comparison, ask: protocol.LayerAsk, classes: ClassDatapaths | None = None
) -> LayerPanel:
    """Return the panel of one site; raises UnknownName for a layer that the explanation does not have."""
    k = site_index(explanation, ask.layer)
    site = explanation.sites[k]
    group = groups(comparison.sites[k], site.channels)
    return LayerPanel(
        key=ask.key,
        layer=ask.layer,
        share=ask.share,
        site=k,
        height=site.height,
        width=site.width,
        columns=pictures.columns(site.channels),
        is_pooled=max(site.height, site.width) > pictures.TILE_LIMIT,
        is_stem=site.role == "stem",
        is_evidence=site.role == "evidence",
        is_cut=site.is_cut,
        images=len(explanation.outcomes),
        counts=tuple(np.bincount(group, minlength=len(GROUP_NAMES)).tolist()),
        group=tuple(group.tolist()),
        clean=_parts_per_million(explanation.clean.strength[k]),
        adversarial=_parts_per_million(explanation.adversarial.strength[k]),
        change=tuple(round(float(value), 3) for value in explanation.change[k]),
        flow=_parts_per_million(flow_shares(explanation, k)),
        member=tuple(kept_by(explanation, ask.share, k, classes).tolist()),
        has_class=classes is not None and explanation.clean.target != explanation.adversarial.target,
        class_name=explanation.classes[explanation.adversarial.target],
    )


def _parts_per_million(values: np.ndarray) -> tuple[int, ...]:
    return tuple(np.rint(values * PARTS_PER_MILLION).astype(int).tolist())
