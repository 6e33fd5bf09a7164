"""Lamina: parameter-efficient continual fine-tuning on one frozen backbone.

From Python::

    import lamina

    swept = lamina.sweep("job.yaml", "training.epochs=3")    # `lamina sweep`; `lamina run` is run()
    swept.frame()                                            # the leaderboard, a pandas data frame
    swept.load().predict(["where is my parcel?"])            # the best trial answers
    lamina.load("runs/tickets", trial="er-lora")             # any bundle, any time

`lamina.core` has the nouns; `platform/README.md` is the map of the rooms.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamina.api import Results, load, results, run, sweep

__all__ = ["Results", "load", "results", "run", "sweep"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: torch takes seconds.
    if name in __all__:
        from lamina import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
