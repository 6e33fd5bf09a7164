"""Forgetting against drift."""

from lamina.reporting.figures.style import Figure, Styles, Trace, rounded
from lamina.reporting.results import Board

FEWEST = 3
"""Trials: two points always lie on a line."""


def drifts(board: Board) -> Figure | None:
    """A point for each trial that learned every task and whose drift is known; None where they are
    too few for a correlation."""
    if board.drift.num < FEWEST:
        return None
    rows = [
        row
        for row in board.rows
        if row["status"] == "finished"
        and row.get("drift") is not None
        and row["forgetting"] is not None
    ]
    styles = Styles(board.rows)
    data: list[Trace] = []
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        own = [row for row in rows if row["strategy"] == strategy]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": strategy,
                "x": rounded([row["drift"] for row in own]),
                "y": rounded([row["forgetting"] for row in own]),
                "marker": {
                    "color": styles.colour(strategy),
                    "symbol": styles.mark(strategy),
                    "size": 10,
                },
                "text": [row["name"] for row in own],
                "hovertemplate": "%{text}<br>drift %{x:.3f}, forgetting %{y:.3f}<extra></extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "drift, nats"}},
            "yaxis": {"title": {"text": "forgetting, test"}},
            "hovermode": "closest",
        },
    }
