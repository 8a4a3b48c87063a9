"""Colours and plotly layouts of the two themes; every figure function takes the theme as an argument."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
PROVIDER = {"primaryColor": "indigo", "primaryShade": 8, "fontFamily": FONT, "defaultRadius": "sm"}
"""Theme of the controls: a primary colour dark enough for text on it (contrast above 4.5)."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one theme: of the plots, and of the style sheets as variables (see `style`)."""

    clean: str
    adversarial: str
    shared: str
    bg: str
    panel: str
    text: str
    muted: str
    line: str
    soft: str
    """Fill of what is pointed at or stands back a little."""
    stage: str
    """Fill of every second stage."""
    accent: str
    focus: str
    warning_bg: str
    warning_text: str
    holds: str
    """Of a check that holds; verdicts have colours and marks of their own."""
    fails: str

    def of(self, group: str) -> str:
        """Return the colour of a group: `clean`, `shared` or `adversarial`."""
        return {"clean": self.clean, "shared": self.shared, "adversarial": self.adversarial}[group]


PALETTES = {
    "light": Palette(
        clean="#0072B2",
        adversarial="#D55E00",
        shared="#8C8C8C",
        bg="#F5F6F8",
        panel="#FFFFFF",
        text="#1B2129",
        muted="#58616C",
        line="#DDE1E6",
        soft="#EEF1F4",
        stage="#F3F5F8",
        accent="#364FC7",
        focus="#1B2129",
        warning_bg="#FFF6E5",
        warning_text="#6B4300",
        holds="#1A7A48",
        fails="#B3261E",
    ),
    "dark": Palette(
        clean="#56B4E9",
        adversarial="#F0803C",
        shared="#9AA3AE",
        bg="#14181D",
        panel="#1B2027",
        text="#E8EBEF",
        muted="#A4ADB8",
        line="#323A44",
        soft="#252C35",
        stage="#212730",
        accent="#91A7FF",
        focus="#FFFFFF",
        warning_bg="#3A2E17",
        warning_text="#FFD58A",
        holds="#6FD39A",
        fails="#FF8A80",
    ),
}


def palette(theme: str) -> Palette:
    """Return the colours of `light` or `dark`."""
    return PALETTES[theme]


def style() -> str:
    """Return the style sheet that names the colours of both themes, as variables: `var(--warning-bg)`."""
    rules = (("light", ":root"), ("dark", 'html[data-theme="dark"]'))
    named = [f"{chosen} {{ {_variables(PALETTES[theme])} color-scheme: {theme}; }}" for theme, chosen in rules]
    clean, adversarial = PALETTES["light"].clean, PALETTES["light"].adversarial
    # Boxes on pictures, which look the same in both themes.
    # Paper is light, whatever the screen is.
    paper = f'@media print {{ html[data-theme="dark"] {{ {_variables(PALETTES["light"])} color-scheme: light; }} }}'
    pictures = f":root {{ --on-picture-clean: {clean}; --on-picture-adversarial: {adversarial}; }}"
    return "\n".join((*named, paper, pictures))


def _variables(colours: Palette) -> str:
    return " ".join(f"--{name.replace('_', '-')}: {colour};" for name, colour in dataclasses.asdict(colours).items())


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
