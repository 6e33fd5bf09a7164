"""Prompts to a language model's bundle, and its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.registry import InputError
from lamina.streams.base import Turn

ROLES = ("system", "user", "assistant", "tool")
Message = Mapping[str, str]
"""A turn of a conversation: its `role` and its `content`."""
Prompt = str | Sequence[Message]
"""A text, or a conversation, the oldest message first."""


@dataclass(frozen=True)
class Generation:
    """The answer generated behind one prompt."""

    text: str
    """Without special tokens."""
    task: str | None
    """The task whose module answered, where the strategy decides for one."""
    num_tokens: int
    """The number of tokens of the text; the token that ended it is not counted."""
    num_read: int
    """Tokens of the prompt, without those that were cut."""
    is_whole: bool
    """Whether it came to its end; else it broke off where no more tokens were allowed."""


def turns_of(prompt: Prompt, key: str) -> list[Turn]:
    """The turns of a prompt; a text is one of the user. Raises InputError, beginning with `key`,
    for what is no prompt, or an empty one."""
    if isinstance(prompt, str):
        return [("user", _text(prompt, key))]
    if not isinstance(prompt, Sequence) or not prompt:
        raise InputError(f"{key}: {prompt!r:.80} is no prompt (allowed: a text, or messages)")
    return [_turn(each, f"{key}, message {place + 1}") for place, each in enumerate(prompt)]


def _turn(message: object, key: str) -> Turn:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise InputError(f"{key}: {message!r:.80} is no message (allowed: role and content)")
    if message["role"] not in ROLES:
        raise InputError(f"{key}: role {message['role']!r:.40} (allowed: {', '.join(ROLES)})")
    return message["role"], _text(message["content"], key)


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{key} is no text or an empty one: {value!r:.80} (allowed: texts)")
    return value
