"""What this machine's CPU multiplies fast."""

import re
from pathlib import Path

_FAST = {
    "bfloat16": {"amx_bf16", "avx512_bf16", "bf16"},
    "float16": {"amx_fp16", "avx512_fp16", "asimdhp"},
}
"""By a kind of number, the features with any of which it is no slower than float32."""


def features() -> set[str] | None:
    """What the CPU can do, as /proc/cpuinfo calls it; None where nobody says."""
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return {
        word for line in re.findall(r"(?:flags|Features)\s*:(.*)", said) for word in line.split()
    }


def is_slow_at(dtype: str) -> bool:
    """Whether it is known to compute with these numbers slower than with float32."""
    known = features()
    return known is not None and dtype in _FAST and not known & _FAST[dtype]
