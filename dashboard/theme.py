"""Colours and plotly layouts of the two themes; every figure function takes the theme as an argument."""

from __future__ import annotations

from dataclasses import dataclass

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
PROVIDER = {"primaryColor": "indigo", "primaryShade": 8, "fontFamily": FONT, "defaultRadius": "sm"}
"""Theme of the controls: a primary colour dark enough for text on it (contrast above 4.5)."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one theme, the same as the CSS variables in assets/app.css."""

    clean: str
    adversarial: str
    shared: str
    background: str
    panel: str
    text: str
    muted: str
    line: str
    stage: str
    """Fill of every second stage."""
    focus: str

    def of(self, group: str) -> str:
        """Return the colour of a group: `clean`, `shared` or `adversarial`."""
        return {"clean": self.clean, "shared": self.shared, "adversarial": self.adversarial}[group]


PALETTES = {
    "light": Palette(
        clean="#0072B2",
        adversarial="#D55E00",
        shared="#8C8C8C",
        background="#F5F6F8",
        panel="#FFFFFF",
        text="#1B2129",
        muted="#58616C",
        line="#DDE1E6",
        stage="#F3F5F8",
        focus="#1B2129",
    ),
    "dark": Palette(
        clean="#56B4E9",
        adversarial="#F0803C",
        shared="#9AA3AE",
        background="#14181D",
        panel="#1B2027",
        text="#E8EBEF",
        muted="#A4ADB8",
        line="#323A44",
        stage="#212730",
        focus="#FFFFFF",
    ),
}


def palette(theme: str) -> Palette:
    """Return the colours of `light` or `dark`."""
    return PALETTES[theme]


def transparent(colour: str, opacity: float) -> str:
    """Return a `#rrggbb` colour as `rgba(...)` of an opacity in [0, 1]."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def layout(theme: str) -> dict[str, object]:
    """Return the plotly layout settings that every figure of a theme shares."""
    colours = palette(theme)
    return {
        "font": {"family": FONT, "size": 12, "color": colours.text},
        "paper_bgcolor": colours.panel,
        "plot_bgcolor": colours.panel,
        "hoverlabel": {
            "bgcolor": colours.panel,
            "bordercolor": colours.line,
            "font": {"family": FONT, "size": 12, "color": colours.text},
            "align": "left",
        },
    }


def small_plot(theme: str, *, height: int, x: dict[str, object], y: dict[str, object]) -> dict[str, object]:
    """Return the plotly layout settings of the small plots: quiet axes, whose own settings are given, legend above."""
    colours = palette(theme)
    axis = {"gridcolor": colours.line, "zeroline": False, "linecolor": colours.line}
    legend = {
        "orientation": "h",
        "x": 1,
        "xanchor": "right",
        "y": 1.02,
        "yanchor": "bottom",
        "bgcolor": "rgba(0,0,0,0)",
    }
    return {
        **layout(theme),
        "height": height,
        "margin": {"l": 48, "r": 8, "t": 28, "b": 40},
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
        "legend": legend,
        "hovermode": "closest",
    }


def titled(text: str) -> dict[str, object]:
    """Return the setting of an axis title."""
    return {"title": {"text": text, "font": {"size": 12}}}
