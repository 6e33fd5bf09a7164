"""What a federation cost and who took part in it: bytes, participation, staleness."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lamina.evaluation.fairness import fairness, quantiles


@dataclass(frozen=True)
class Transfer:
    """What one client and the server sent each other in one round, as really serialised."""

    client: int
    """Which client."""
    round: int
    """Which round."""
    task: int
    """The client's task, by its number in the whole stream."""
    up: int
    """Bytes from the client."""
    down: int
    """Bytes to the client."""


@dataclass(frozen=True)
class Traffic:
    """Bytes in both directions."""

    up: int = 0
    """From clients."""
    down: int = 0
    """To clients."""


def traffic_by(
    transfers: Iterable[Transfer], key: Literal["client", "round", "task"]
) -> dict[int, Traffic]:
    """The sums of what was sent, by client, round or task, in ascending order."""
    up, down = Counter[int](), Counter[int]()
    for each in transfers:
        up[getattr(each, key)] += each.up
        down[getattr(each, key)] += each.down
    return {number: Traffic(up[number], down[number]) for number in sorted(up)}


def participation(included: Mapping[int, int], num_clients: int, rounds: int) -> dict[str, float]:
    """How often clients had a say, from the number of rounds in which an update of each counted.

    `inclusion_rate`: the share of the clients that ever had one. Then of the counts per client,
    those of 0 among them: `per_round`, the mean number of clients in a round; the quantiles; the
    Jain index, `jain`, which is 1 where all had one equally often.
    """
    counts = [float(included.get(client, 0)) for client in range(num_clients)]
    return {
        "inclusion_rate": sum(count > 0 for count in counts) / num_clients,
        "per_round": sum(counts) / rounds if rounds else 0.0,
        **quantiles(counts),
        "jain": fairness(counts)["jain"],
    }


def staleness(counts: Mapping[int, int]) -> dict[str, float]:
    """Of a histogram from staleness (how many server updates an update missed) to the number of
    updates: `mean`, `max`, and `fresh`, the share that missed none; nothing of none."""
    total = sum(counts.values())
    if not total:
        return {}
    return {
        "mean": sum(age * count for age, count in counts.items()) / total,
        "max": float(max(age for age, count in counts.items() if count)),
        "fresh": counts.get(0, 0) / total,
    }


def staleness_histogram(ages: Iterable[int]) -> dict[int, int]:
    """How many updates missed how many server updates, in ascending order."""
    return dict(sorted(Counter(ages).items()))
