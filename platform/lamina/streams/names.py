"""Names as people read them: which are blank, and which look alike."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")
"""Unicode categories of characters that leave no ink: controls, formats (zero-width space, byte
order mark, soft hyphen) and separators."""
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def is_blank(text: str | None) -> bool:
    """Whether there is nothing to see: no text, or only blanks and invisible characters."""
    if text is None or not text.strip():
        return True
    return all(unicodedata.category(each) in _UNSEEN for each in text)


def looks(name: str) -> str:
    """The normal form of a name, equal for all names that look alike: Unicode's form NFKC without
    case, blanks and invisible characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(each for each in folded if not _is_unseen(each))


def _is_unseen(character: str) -> bool:
    return (
        character.isspace()
        or unicodedata.category(character) in _UNSEEN
        or ord(character) in _VARIATION_SELECTORS
    )


def shown(name: str) -> str:
    """A name in quotes, every character that cannot be seen or stands on another one as its
    code."""
    plain = repr(name)
    return "".join(
        f"\\u{ord(each):04x}"
        if unicodedata.combining(each) or (each != " " and _is_unseen(each))
        else each
        for each in plain
    )


def alike(names: Iterable[str]) -> dict[str, list[str]]:
    """The names that look like another one, by the most frequent of them: the others, in the order
    in which they come."""
    counts = Counter(names)
    together: dict[str, list[str]] = {}
    for name in counts:
        together.setdefault(looks(name), []).append(name)
    found = {}
    for group in together.values():
        if len(group) > 1:
            most = max(group, key=counts.__getitem__)
            found[most] = [name for name in group if name != most]
    return found


def natural_order(names: Iterable[str]) -> list[str]:
    """Every name once: by number where all are numbers and no two are equal as numbers, or else by
    alphabet."""
    distinct = set(names)
    numbers = {name: number for name in distinct if (number := _number(name)) is not None}
    if len(numbers) == len(distinct) == len(set(numbers.values())):
        return sorted(distinct, key=numbers.__getitem__)
    return sorted(distinct)


def _number(name: str) -> float | None:
    if not name.isascii() or not set(name) <= set("+-.0123456789eE"):
        return None
    try:
        return float(name)
    except ValueError:
        return None


def few_of(items: Sequence[str], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more:,} more" if more > 0 else "")


def counted(number: int, what: str, plural: str | None = None) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"


def renamed(merged: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The name that each of those that `alike` found is read as."""
    return {other: name for name, others in merged.items() for other in others}
