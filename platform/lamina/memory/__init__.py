"""The replay memory: what is kept of the past. One policy per file."""

from lamina.memory.base import Policy
from lamina.registry import member_class, member_names

_PACKAGE = "lamina.memory.policies"


def policy_names() -> list[str]:
    """The memory policies a job may name."""
    return member_names(_PACKAGE)


def policy_class(name: str) -> type[Policy]:
    """The settings class of a policy. Raises InputError with the nearest match."""
    return member_class(_PACKAGE, name, Policy, "memory.policy")
