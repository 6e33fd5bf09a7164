"""Who took part in a federation, and how late."""

from collections.abc import Mapping

from lamina.evaluation.fairness import fairness, quantiles


def participation(included: Mapping[int, int], num_clients: int, rounds: int) -> dict[str, float]:
    """How often clients took part, from the number of rounds in which an update of each counted.

    `inclusion_rate`: the share of the clients that ever took part. Then, of the counts per client
    including those of 0: `per_round`, the mean number of clients in a round; the quantiles; the
    Jain index `jain`, which is 1 where all took part equally often.
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
