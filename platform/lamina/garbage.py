"""How often a process looks for garbage that is in cycles.

torch and transformers are a million objects that live as long as the process. By Python's own
setting they are gone through again and again while they are imported, which takes half a second,
and once more when the interpreter leaves, which takes longer than a whole one.
"""

import atexit
import gc

OBJECTS = 10_000
"""New objects before the collector looks at them. Python's own setting is some hundred."""


def collect_seldom() -> None:
    """Let this process look for garbage more seldom, and not at all when it leaves. Meant to be
    called first, before what is large is imported."""
    gc.set_threshold(OBJECTS)
    atexit.register(gc.freeze)
