"""Average accuracy after each task."""

from collections.abc import Sequence

from lamina.evaluation.measures import better_of, named
from lamina.evaluation.seeds import Estimate, estimate
from lamina.reporting import formatting
from lamina.reporting.figures.style import Figure, Styles, Trace, faint, rounded
from lamina.reporting.results import Board, Entry
from lamina.tracking.palette import BOUND

Curves = Sequence[Sequence[float | None]]
"""One for each seed, a value for each step; None where it is undefined."""
VISIBLE = 8
"""So many curves, the best, are drawn at first; the others wait in the legend for a click."""
_SHARES = {"rangemode": "tozero", "minallowed": 0.0, "maxallowed": 1.0}


def curves(board: Board, part: str) -> Figure:
    """The average of the measure after each task: a line for each setting with a band over its
    seeds, or for each trial. A bound is a level across the picture."""
    styles = Styles(board.rows)
    data: list[Trace] = []
    number = 0
    for entry in board.entries:
        key = named(f"{part}/average_accuracy", board.measure)
        of_seeds = [trial.curve(key) for trial in entry.trials]
        if entry.is_bound:
            data += _level(entry, board.steps, of_seeds)
            continue
        traces = _line(entry, board.steps, of_seeds, styles, number < VISIBLE)
        number += bool(traces)
        data += traces
    return {
        "data": data,
        "layout": {
            # Numbers are places, so that a task that comes twice is two steps.
            "xaxis": {
                "title": {"text": "after training task"},
                "tickmode": "array",
                "tickvals": list(range(len(board.steps))),
                "ticktext": list(board.steps),
                "zeroline": False,
            },
            "yaxis": {
                "title": {"text": f"average {board.words}, {part}"},
                # A perplexity may be a thousand times another.
                **(_SHARES if better_of(board.measure) == "max" else {"type": "log"}),
            },
            "hovermode": "closest",
        },
    }


def _line(
    entry: Entry, names: Sequence[str], of_seeds: Curves, styles: Styles, is_shown: bool
) -> list[Trace]:
    """A line through the means, over the band of their intervals."""
    means = _over_seeds(of_seeds)
    if not means:
        return []
    colour = styles.colour(entry.strategy)
    both = {
        "type": "scatter",
        "legendgroup": entry.name,
        "visible": True if is_shown else "legendonly",
    }
    line: Trace = {
        **both,
        "mode": "lines+markers",
        "name": entry.name,
        "x": list(range(len(means))),
        "y": rounded([each.mean if each else None for each in means]),
        "line": {"color": colour, "width": 2, "dash": styles.dash(entry.strategy, entry.name)},
        "marker": {"color": colour, "symbol": styles.mark(entry.strategy), "size": 7},
        "text": [
            f"{formatting.with_deviation(each)} after {name}"
            for each, name in zip(means, names, strict=False)
        ],
        "hovertemplate": "%{text}",
    }
    sure = [(at, each, each.margin) for at, each in enumerate(means) if each and each.margin]
    if not sure:
        return [line]
    x = [at for at, _, _ in sure]
    high = [each.mean + margin for _, each, margin in sure]
    low = [each.mean - margin for _, each, margin in sure]
    band: Trace = {
        **both,
        "mode": "lines",
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [*x, *reversed(x)],
        "y": rounded([*high, *reversed(low)]),
        "fill": "toself",
        "fillcolor": faint(colour),
        "line": {"width": 0},
    }
    return [band, line]


def _over_seeds(of_seeds: Curves) -> list[Estimate | None]:
    """The estimate of each step, as far as the longest curve goes."""
    steps = max((len(curve) for curve in of_seeds), default=0)
    at = [[curve[step] for curve in of_seeds if step < len(curve)] for step in range(steps)]
    return [estimate([value for value in values if value is not None]) for values in at]


def _level(entry: Entry, names: Sequence[str], of_seeds: Curves) -> list[Trace]:
    """A line across the picture, at the mean of what was reached."""
    ends = [curve[-1] for curve in of_seeds if curve]
    level = estimate([end for end in ends if end is not None])
    if level is None:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{entry.name} (all tasks at once)",
            "x": [0, len(names) - 1],
            "y": rounded([level.mean] * 2),
            "line": {"color": BOUND, "width": 1.5, "dash": "longdash"},
            "text": [formatting.with_deviation(level)] * 2,
            "hovertemplate": "%{text}, all tasks at once",
        }
    ]
