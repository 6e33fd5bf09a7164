"""Colours of everything that is drawn, for people who see colours differently too."""

PALETTE = ("#0068B0", "#C04A00", "#00946A", "#D56FAB", "#3A9CD8", "#B58A00")
"""Okabe and Ito's blue, vermilion, green, purple, sky blue and orange, moved in lightness. Each has
a contrast of 3:1 or more on white and on a dark page alike; their own orange and sky blue have 2.3
on white. They stay apart for the three kinds of colour blindness. More than six are told apart by
their dashes and marks."""
BOUND = "#808080"
"""A level that others are held against and that is no curve, such as joint training."""


def contrast(one: str, other: str) -> float:
    """Contrast of two colours `#rrggbb` as WCAG 2 defines it, from 1 to 21: (L1 + 0.05) / (L2 +
    0.05), with L1 >= L2 their relative luminances."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
