"""How often a process looks for garbage that is in cycles.

torch and transformers are a million objects that live as long as the process. By Python's settings
they are gone through dozens of times while they are imported, a fifth of those seconds, and once
more when the interpreter leaves, which takes longer than a second.
"""

import atexit
import gc

OBJECTS = 10_000
"""New objects before the collector looks at them; 700 by Python's own settings."""


def collect_seldom() -> None:
    """Let this process look for garbage more seldom, and not at all when it leaves. Meant to be
    called first, before what is large is imported."""
    gc.set_threshold(OBJECTS)
    atexit.register(gc.freeze)
