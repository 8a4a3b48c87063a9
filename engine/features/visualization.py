"""Pictures made to excite one channel, judged by its top crops."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Generator, Tensor

from engine.attacks import attacked
from engine.attribution import baselines
from engine.attribution.explain import Report
from engine.features import gallery as galleries
from engine.models.network import ModelBundle
from engine.store.store import Dataset
from engine.types.checks import FeatureVisualization
from engine.types.core import Gallery, Site

STEPS = 96
RATE = 0.05
STARTS = 0.01, 1.0
"""Standard deviations of the spectrum that a picture starts from: nearly flat; full of contrast where that excites nothing."""
LARGEST = 128
"""Longest side of a picture: MobileNetV2 takes a third of the time of its own 224 pixels."""
SEED = 0
SMALLEST_MOVED = 16
"""Fields below so many pixels are held still: moving by a pixel would average a 3 x 3 pattern away."""
TURN, ZOOM, SHIFT = math.pi / 36, 0.05, 1 / 16
"""Most a picture is turned (5 degrees), zoomed and shifted (a share of the field) between steps."""
DARKEST = 0.05


@dataclass(frozen=True, eq=False, slots=True)
class Canvas:
    """Turns a spectrum into a picture in the colours of a data set."""

    size: tuple[int, int]
    mixing: Tensor
    """(channels, channels): independent colours to the data set's correlated ones; all alike for grey images."""
    base: Tensor
    """(1, channels, 1, 1): the data set's mean colour before the logistic function."""

    def blank(self) -> Tensor:
        """Return (1, channels, height, width): the mean colour everywhere."""
        return torch.sigmoid(self.base).expand(1, -1, *self.size)

    def start(self, generator: Generator, deviation: float) -> Tensor:
        """Return a random spectrum, (1, channels, height, width // 2 + 1, 2), that takes gradients."""
        height, width = self.size
        drawn = torch.randn(1, len(self.mixing), height, width // 2 + 1, 2, generator=generator)
        return (deviation * drawn).to(self.base.device).requires_grad_()

    def picture(self, spectrum: Tensor) -> Tensor:
        """Return (1, channels, height, width) in [0, 1]; low frequencies weigh as much as they do in photographs."""
        height, width = self.size
        down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        frequency = torch.hypot(down, across).clamp(min=1 / max(height, width)).to(spectrum.device)
        waves = torch.fft.irfft2(torch.view_as_complex(spectrum) / frequency, s=self.size, norm="ortho")
        return torch.sigmoid(torch.einsum("dc,nchw->ndhw", self.mixing, waves / 4) + self.base)


def canvas(bundle: ModelBundle, pictures: Tensor, site: int) -> Canvas:
    """Return the canvas for a site in the colours of some images (images, channels, height, width) in [0, 1]."""
    pixels = pictures.movedim(1, 3).flatten(0, 2)
    mean = pixels.mean(dim=0).clamp(DARKEST, 1 - DARKEST)
    return Canvas(_size(bundle, site), _mixing(pixels), torch.logit(mean).view(1, -1, 1, 1))


def paint(bundle: ModelBundle, ground: Canvas, site: int, channel: int, report: Report) -> tuple[Tensor, bool]:
    """Return the picture (1, channels, height, width), rounded to 8 bits, and whether anything excites the map.

    Climbed is what arrives at the centre position before the activation, so that a unit that is off has a gradient. One
    position, as in the patches it is compared with; the mean over positions says nothing of an edge, whose answers
    cancel. Where no start has a gradient, the flat picture is returned.
    """
    generator = Generator().manual_seed(SEED)
    starts = (ground.start(generator, deviation) for deviation in STARTS)
    excited = (start for start in starts if _gradient(bundle, ground, (site, channel), start).any())
    spectrum = next(excited, None)
    if spectrum is None:
        return attacked.eight_bit(ground.blank()), False
    optimiser = torch.optim.Adam([spectrum], lr=RATE, maximize=True)
    for step in range(STEPS):
        report(step, STEPS, "Making the picture that excites the feature map")
        spectrum.grad = _gradient(bundle, ground, (site, channel), spectrum, generator)
        optimiser.step()
    return attacked.eight_bit(ground.picture(spectrum.detach())), True


def centre(maps: Tensor) -> Tensor:
    """Return (batch, channels): maps (batch, channels, height, width) at their middle position."""
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]


def _gradient(
    bundle: ModelBundle, ground: Canvas, place: tuple[int, int], spectrum: Tensor, moves: Generator | None = None
) -> Tensor:
    """Return the gradient of the strength at `place`, (site, channel), with the picture moved where `moves` are drawn."""
    site, channel = place
    with torch.enable_grad():
        picture = ground.picture(spectrum)
        shown = _moved(picture, bundle.sites[site], moves) if moves else picture
        strength = centre(galleries.arrival(bundle, shown, site))[0, channel]
        if not strength.requires_grad:
            return torch.zeros_like(spectrum)
        return torch.autograd.grad(strength, spectrum)[0]


def _size(bundle: ModelBundle, site: int) -> tuple[int, int]:
    """The network's own input size, reduced to `LARGEST` where the layers up to the site can take that.

    A captured network has the sizes in it that its forward reads of a picture. Mostly the maps then do not fit; where they
    are stretched to such a size, they come out as large as ever, and the picture would be shown at another scale.
    """
    height, width = bundle.size
    longest = max(height, width)
    if longest <= LARGEST:
        return bundle.size
    reduced = max(1, round(height * LARGEST / longest)), max(1, round(width * LARGEST / longest))
    try:
        sides = [_arriving(bundle, size, site) for size in (bundle.size, reduced)]
    except RuntimeError:  # torch's only word for shapes that do not fit, in a network with layers of fixed size
        return bundle.size
    return bundle.size if any(whole == less for whole, less in zip(*sides, strict=True)) else reduced


@torch.no_grad()
def _arriving(bundle: ModelBundle, size: tuple[int, int], site: int) -> tuple[int, int]:
    """Height and width of what arrives at a site of a picture of some size."""
    height, width = galleries.arrival(bundle, torch.zeros(1, bundle.channels, *size, device=bundle.device), site).shape[
        2:
    ]
    return height, width


def _mixing(pixels: Tensor) -> Tensor:
    """Return the symmetric root of the covariance of pixels (pixels, channels), its longest column of length one."""
    channels = pixels.shape[1]
    if (pixels == pixels[:, :1]).all():
        return torch.full((channels, channels), channels**-0.5, device=pixels.device)
    values, vectors = torch.linalg.eigh(torch.cov(pixels.T.double()))
    root = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    longest = root.norm(dim=0).max()
    return (root / longest).float() if longest > 0 else torch.eye(channels, device=pixels.device)


def _moved(picture: Tensor, site: Site, generator: Generator) -> Tensor:
    """Return the picture a little turned, zoomed and shifted, so that what excites the map does so from everywhere near."""
    height, width = picture.shape[2:]
    reach = min(site.receptive_field(0)[0], site.receptive_field(1)[0], height, width)
    if reach < SMALLEST_MOVED:
        return picture
    turn, zoom, down, across = (2 * torch.rand(4, generator=generator) - 1).tolist()
    scale, angle = 1 + ZOOM * zoom, TURN * turn
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    shifts = across * SHIFT * reach * 2 / width, down * SHIFT * reach * 2 / height
    ratio = height / width
    rows = [[cosine, -sine * ratio, shifts[0]], [sine / ratio, cosine, shifts[1]]]
    grid = F.affine_grid(torch.tensor([rows], device=picture.device), list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)


ORDINARY = 32
"""Images, evenly spread over those of the gallery, that say what colours and strengths are usual."""
OTHERS = 24
"""Other feature maps of the site, evenly spread, whose patches the picture is compared with."""
OTHERS_PATCHES = 2
"""Patches of each: with more the verdict hardly changes (measured), and at 224 pixels they take most of the time."""
LEAST_OTHERS = 8


def visualize(
    bundle: ModelBundle, dataset: Dataset, gallery: Gallery, place: tuple[int, int], report: Report
) -> FeatureVisualization:
    """Return the picture that excites the feature map at `place`, (site, channel), judged by its top patches.

    Of fixed seed: the same place gives the same picture. Cost in image-passes: `painting.STEPS` forward and backward,
    96 forward, all of them only up to the site.
    """
    site, channel = place
    drawn = np.linspace(0, len(gallery.samples) - 1, min(ORDINARY, len(gallery.samples))).astype(int)
    ordinary = baselines.load(bundle, dataset, tuple(gallery.samples[k] for k in drawn))
    ground = canvas(bundle, ordinary, site)
    picture, is_excited = paint(bundle, ground, site, channel, report)
    report(STEPS, STEPS, "Comparing the picture with the real patches")
    with torch.no_grad():
        maps = galleries.arrival(bundle, picture, site)
    real = _Real(bundle, dataset, gallery, site, *galleries.spread(bundle, ordinary, site))
    result, own = centre(maps)[0], real.patches(channel)
    return FeatureVisualization(
        layer=bundle.sites[site].name,
        channel=channel,
        picture=attacked.pixels(picture)[0],
        field=_field(bundle.sites[site], (maps.shape[2] // 2, maps.shape[3] // 2), ground.size),
        is_before_activation=bundle.inputs[site] != site,
        achieved=float(result[channel]),
        real=_frozen(own[:, channel]),
        usual=float(real.mean[channel]),
        recognition=_recognition(real, channel, result, own) if is_excited else None,
        is_silent=not is_excited,
        steps=STEPS,
        seed=SEED,
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Real:
    """What a site's maps answer to real images."""

    bundle: ModelBundle
    dataset: Dataset
    gallery: Gallery
    site: int
    mean: Tensor
    """(channels,) float64 over all positions of ordinary images."""
    deviation: Tensor

    def patches(self, channel: int, most: int | None = None) -> Tensor:
        """Return (patches, channels): what arrives at the site at the peaks of a map's strongest patches."""
        images = self.gallery.activation[self.site][channel][:most]
        samples = tuple(self.gallery.samples[int(k)] for k in images)
        positions = self.gallery.activation_positions[self.site][channel][:most]
        return galleries.at_positions(self.bundle, self.dataset, self.site, samples, positions)

    def resemblance(self, result: Tensor, patches: Tensor, left_out: list[int]) -> float:
        """Return the rank correlation over the site's maps of what arrives, (channels,), with the mean over patches."""
        used = self.deviation > 0
        used[left_out] = False
        pair = [
            ((answers.double() - self.mean) / self.deviation)[used].cpu().numpy()
            for answers in (result, patches.mean(dim=0))
        ]
        value = float(stats.spearmanr(*pair).statistic)
        return value if math.isfinite(value) else 0.0


def _recognition(real: _Real, channel: int, result: Tensor, own: Tensor) -> float | None:
    """See `Synthesis.recognition`; found: (channels,) of the picture's centre; own: (patches, channels)."""
    alive = [int(k) for k in (real.deviation > 0).nonzero()[:, 0] if int(k) != channel]
    if len(alive) < LEAST_OTHERS:
        return None
    wins = []
    for k in np.linspace(0, len(alive) - 1, min(OTHERS, len(alive))).astype(int):
        left_out = [channel, alive[k]]
        theirs = real.resemblance(result, real.patches(alive[k], OTHERS_PATCHES), left_out)
        wins.append(real.resemblance(result, own, left_out) > theirs)
    return float(np.mean(wins))


def _field(site: Site, position: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the pixels that a (row, column) sees in a picture of (height, width)."""
    (top, bottom), (left, right) = (_span(*seen, side) for seen, side in zip(site.sees(*position), size, strict=True))
    return top, left, bottom, right


def _span(low: float, high: float, side: int) -> tuple[int, int]:
    """The pixels from the first to behind the last of a stretch along one axis, inside the picture."""
    # Half-way edges round down, as for the patches.
    start = math.ceil(low - 0.5)
    first = min(max(0, start), side - 1)
    return first, max(min(math.ceil(start + high - low), side), first + 1)


def _frozen(values: Tensor) -> np.ndarray:
    array = np.ascontiguousarray(values.float().cpu().numpy())
    array.setflags(write=False)
    return array
