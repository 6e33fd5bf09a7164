"""Which types of numbers this machine's CPU multiplies fast."""

import re
from pathlib import Path

_FAST = {
    "bfloat16": {"amx_bf16", "avx512_bf16", "bf16"},
    "float16": {"amx_fp16", "avx512_fp16", "asimdhp"},
}
"""By type of number, the CPU features that make it no slower than float32; one of them is
enough."""


def features() -> set[str] | None:
    """The CPU's features, as /proc/cpuinfo calls them; None where they are unknown."""
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return {
        word for line in re.findall(r"(?:flags|Features)\s*:(.*)", said) for word in line.split()
    }


def is_slow_at(dtype: str) -> bool:
    """Whether the CPU is known to compute more slowly with this type than with float32."""
    known = features()
    return known is not None and dtype in _FAST and not known & _FAST[dtype]
