"""What a job means that names no strategy, or no policy of its memory."""

from collections.abc import Mapping
from typing import Any

from lamina.config.reading import Plain

STRATEGY: Mapping[str, Any] = {"name": "ranpac", "projection": 2000}
"""RanPAC has no learning rate to tune, keeps no rows, and of the methods that ask for neither it is
near the top on all four streams of jobs/README.md. The authors' projection of 10,000 is for images
on a GPU: its Gram matrix has 400 MB."""
POLICY = "class_balanced"
"""A reservoir keeps classes as rare as they come. Each class having the same share is what GDumb
(Prabhu et al., 2020) and CBRS (Chrysakis and Moens, 2020) keep, and every job in jobs/."""


def completed(given: Mapping[str, Any]) -> Plain:
    """A nested mapping of a job with what it leaves to Lamina: its strategy where it has no such
    section, and the policy of a memory that has only a size."""
    filled: Plain = dict(given)
    filled.setdefault("strategy", dict(STRATEGY))
    memory = filled.get("memory")
    if isinstance(memory, Mapping) and memory:
        filled["memory"] = {"policy": POLICY, **memory}
    return filled
