"""The section `federation` of a job: who the clients are, what a round is, how updates are
combined."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from lamina.config.fields import read_fields
from lamina.config.overrides import NAMED_BY
from lamina.config.reading import Plain, shown
from lamina.config.sections import read_member
from lamina.federation.aggregators.base import Aggregator
from lamina.federation.aggregators.fedit import FedIT
from lamina.federation.client.correction import DriftSettings
from lamina.federation.combinations import Combination, impossible
from lamina.federation.fitness import misfit, previews, reviews
from lamina.federation.optimisers.base import ServerOptimiser
from lamina.federation.privacy.released import ReleaseRule
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.server.clock import ClockSettings, Mode, Participants
from lamina.federation.server.private_sum import PrivateSum, is_plain_mean
from lamina.federation.work import LocalWork
from lamina.registry import InputError
from lamina.strategies.base import Strategy
from lamina.streams import ScenarioSettings
from lamina.streams.arrivals.base import Arrival
from lamina.streams.arrivals.in_step import InStep
from lamina.streams.partitioners.base import Partitioner
from lamina.streams.partitioners.iid import Iid
from lamina.training.settings import TrainingSettings

SECTION = "federation"
_MEMBERS = ("partition", "arrival", "aggregator", "server_optimiser")
_PLAIN = ("clock", "drift", "privacy")
HEAD_WEIGHT = "head.weight"
_DEFAULTS = {"partition": Iid(), "arrival": InStep(), "aggregator": FedIT()}


@dataclass(frozen=True)
class FederationSettings:
    """Keys of `federation` that are no sections of their own."""

    clients: int | None = 10
    """How many the rows are dealt out to; null: as many as a natural partition finds."""
    manifest: Path | None = None
    """A stream manifest to take instead of making one of `partition` and `arrival`."""
    rounds: int = 5
    """In each step of the stream (in step: for each task)."""
    participation: float = 1.0
    """The share of the clients that a round wants updates of."""
    sampling: Literal["fixed", "poisson"] = "fixed"
    """`poisson`: each client takes part by itself with probability `participation`, as private
    accounting assumes; `fixed`: always as many."""
    mode: Mode = "synchronous"
    """`synchronous`: a round waits for all. `deadline`: for the first, until a deadline.
    `buffered`: clients start and end as they can, and every `buffer` updates are a round."""
    over_selection: float = 1.0
    """A deadline round asks so many times the clients that it wants."""
    deadline: float | None = None
    """Virtual seconds that a deadline round takes at most; null: as long as it needs."""
    buffer: int = 5
    """Updates of a buffered round."""
    local_epochs: int = 1
    """Passes of a client over its rows in a round."""
    local_steps: int | None = None
    """Steps of a client in a round, instead of passes."""
    ranks: tuple[int, ...] = ()
    """LoRA ranks, dealt to the clients in turn; none: the adapter's, for all."""
    bounds: bool = True
    """Whether what clients reach alone, and what one learner reaches on all rows, is trained too,
    each with the passes that a client's rows get here."""

    def __post_init__(self) -> None:
        for key in ("clients", "rounds", "buffer", "local_epochs", "local_steps"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"federation.{key}: {value} is not positive")
        if not 0 < self.participation <= 1:
            raise InputError(f"federation.participation: {self.participation} is not in (0, 1]")
        if self.over_selection < 1:
            raise InputError(f"federation.over_selection: {self.over_selection} is below 1")
        if self.deadline is not None and self.deadline <= 0:
            raise InputError(f"federation.deadline: {self.deadline} is not positive")
        if any(rank < 1 for rank in self.ranks):
            raise InputError(f"federation.ranks: {list(self.ranks)} are not all positive")
        if self.mode != "deadline" and (self.over_selection > 1 or self.deadline is not None):
            key = "deadline" if self.deadline is not None else "over_selection"
            raise InputError(f"federation.{key}: mode {self.mode!r} has none")
        if self.mode != "synchronous" and self.sampling == "poisson":
            raise InputError(
                f"federation.sampling: 'poisson' does not go with mode {self.mode!r} "
                "(allowed: synchronous)"
            )

    @property
    def local(self) -> LocalWork:
        """What a client does in a round."""
        return LocalWork(self.local_epochs, self.local_steps)

    def participants(self, num_clients: int) -> Participants:
        """Whom a round asks, of so many."""
        return Participants(
            size=max(1, round(self.participation * num_clients)),
            mode=self.mode,
            sampling=self.sampling,
            over_selection=self.over_selection,
            deadline=inf if self.deadline is None else self.deadline,
            buffer=self.buffer,
        )


@dataclass(frozen=True)
class Federation:
    """The section, read."""

    settings: FederationSettings
    partition: Partitioner
    arrival: Arrival
    aggregator: Aggregator
    server_optimiser: ServerOptimiser | None
    clock: ClockSettings
    drift: DriftSettings
    privacy: PrivacySettings | None
    """None: the server sees every update."""

    def private_sum(self, num_clients: int, seed: int) -> PrivateSum | None:
        """How updates are combined unseen, of so many clients; None where they are seen."""
        if self.privacy is None or not self.privacy.needs_sum:
            return None
        size = self.settings.participants(num_clients).size
        return PrivateSum(
            self.privacy,
            self.privacy.of_clients(size / num_clients, num_clients),
            self.settings.sampling == "poisson",
            seed,
        )

    @property
    def row_privacy(self) -> PrivacySettings | None:
        """What hides the rows of clients; None where nothing does."""
        hides_rows = self.privacy is not None and self.privacy.unit == "example"
        return self.privacy if hides_rows else None

    def plain(self) -> Plain:
        """As a job says it, as JSON with every default filled in."""
        found: Plain = asdict(self.settings)
        for member in _MEMBERS:
            each = getattr(self, member)
            by = NAMED_BY[f"{SECTION}.{member}"]
            name = None if each is None else type(each).__module__.rpartition(".")[2]
            found[member] = None if each is None else {by: name, **asdict(each)}
        privacy = None if self.privacy is None else asdict(self.privacy)
        found |= {"clock": asdict(self.clock), "drift": asdict(self.drift), "privacy": privacy}
        plain: Plain = json.loads(json.dumps(found, default=str))
        return plain


def read_federation(given: Any, problems: list[str]) -> Federation | None:
    """The section that a job gives, or None after adding a line to `problems` for each mistake."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        problems.append(f"{SECTION}: {shown(given)} is not allowed (allowed: a mapping or null)")
        return None
    before = len(problems)
    keys = {key: value for key, value in given.items() if key not in (*_MEMBERS, *_PLAIN)}
    settings = read_fields(FederationSettings, keys, SECTION, problems, also=(*_MEMBERS, *_PLAIN))
    members = {
        member: read_member(f"{SECTION}.{member}", given, problems, optional=True)
        for member in _MEMBERS
    }
    read_clock = _read(ClockSettings, "clock", given.get("clock") or {}, problems)
    drift = _read(DriftSettings, "drift", given.get("drift") or {}, problems)
    privacy = given.get("privacy")
    if isinstance(privacy, Mapping) and privacy.get("summaries") is not None:
        summaries = _read(ReleaseRule, "privacy.summaries", privacy["summaries"], problems)
        privacy = {**privacy, "summaries": summaries and asdict(summaries)}
    if privacy is not None:
        privacy = _read(PrivacySettings, "privacy", privacy, problems)
    if len(problems) > before or settings is None or read_clock is None:
        return None
    filled: dict[str, Any] = {
        member: each or _DEFAULTS.get(member) for member, each in members.items()
    }
    return Federation(settings, clock=read_clock, drift=drift, privacy=privacy, **filled)


def _read(cls: type, key: str, given: Any, problems: list[str]) -> Any:
    if not isinstance(given, Mapping):
        problems.append(f"{SECTION}.{key}: {shown(given)} is not allowed (allowed: a mapping)")
        return None
    return read_fields(cls, given, f"{SECTION}.{key}", problems)


def not_together(
    federation: Federation,
    name: str,
    strategy: Strategy,
    adapter: str | None,
    training: TrainingSettings,
    scenario: ScenarioSettings | None,
) -> list[str]:
    """Why a job's parts cannot be federated as it says, a line each; `name` is the strategy's. What
    a scenario has to do with it is left out where none could be read."""
    settings = federation.settings
    problems = []
    reason = misfit(name, type(strategy), adapter is not None)
    if reason is not None:
        problems.append(f"strategy.name: {reason}")
    if scenario is not None and scenario.one_pass:
        problems.append(
            "scenario: an online stream's rows are seen once, and a federated round passes over a "
            "client's rows again (allowed: streams that are not online)"
        )
    if training.class_weights is not None:
        problems.append(
            f"training.class_weights: {training.class_weights!r} does not go with a federation: a "
            "client knows how often a class is among its own rows only (allowed: null)"
        )
    asked = None if settings.clients is None else settings.participants(settings.clients).size
    combination = Combination(
        aggregator=federation.aggregator,
        server_optimiser=federation.server_optimiser,
        drift=None if federation.drift.name == "none" else federation.drift.name,
        local_optimiser=training.optimizer,
        mode=settings.mode,
        secure=federation.privacy is not None and federation.privacy.secure_sum != "off",
        client_privacy=(
            federation.privacy is not None and federation.privacy.of_clients(1.0, 1) is not None
        ),
        example_privacy=federation.row_privacy is not None,
        adapter=adapter,
        ranks=settings.ranks,
        clients_per_round=asked,
    )
    problems += [f"{SECTION}: {line}" for line in impossible(combination)]
    tells_task = scenario is None or scenario.kind == "task_incremental"
    if federation.aggregator.by_task and not tells_task:
        problems.append(
            f"{SECTION}.aggregator.name: {federation.aggregator.name!r} keeps a copy of all "
            "that is trained for each task, and a row that is to be answered does not say which "
            "task's (allowed: scenario.kind task_incremental; or fedit and others, where l2p and "
            "coda_prompt have one pool for all tasks and pick from it by what a row is like)"
        )
    takes_steps = strategy.takes_gradient_steps(adapter is not None)
    if takes_steps and not federation.aggregator.trains(0, HEAD_WEIGHT):
        problems.append(
            f"{SECTION}.aggregator.name: {federation.aggregator.name!r} trains nothing, and "
            f"strategy {name!r} takes gradient steps"
        )
    if federation.drift.name == "scaffold" and training.momentum and training.optimizer == "sgd":
        problems.append(
            f"training.momentum: {training.momentum} does not go with SCAFFOLD, whose control "
            "variates are gradients of plain SGD (allowed: 0)"
        )
    if federation.row_privacy is not None:
        problems += _rows_not_hidden(federation, name, strategy, takes_steps)
    if federation.privacy is not None and federation.privacy.needs_sum:
        problems += _not_private(federation)
        if previews(type(strategy)) or reviews(type(strategy)):
            problems.append(
                f"{SECTION}.privacy: strategy {name!r} also sends sums over rows before or after a "
                "task, which are neither clipped nor hidden (allowed: strategies whose clients "
                "send trained tensors alone)"
            )
    return problems


def _rows_not_hidden(
    federation: Federation, name: str, strategy: Strategy, takes_steps: bool
) -> list[str]:
    """What rows would not be hidden from, by noise on a client's steps and sums."""
    privacy = federation.row_privacy
    assert privacy is not None
    problems = []
    if takes_steps and privacy.clip is None:
        problems.append(
            f"{SECTION}.privacy.clip: missing; unit 'example' hides rows by noise on gradient "
            "steps, which is scaled to it (allowed: a number)"
        )
    if strategy.needs_memory:
        problems.append(
            f"{SECTION}.privacy.unit: 'example' does not go with strategy {name!r}, which replays "
            "rows of earlier tasks beside those of a step, so that one row moves more than its own "
            "gradient and more often than is counted (allowed: strategies without a memory)"
        )
    if not (previews(type(strategy)) or reviews(type(strategy))):
        return problems
    if privacy.summaries is None or privacy.summaries.release is None:
        problems.append(
            f"{SECTION}.privacy.summaries.noise_multiplier: strategy {name!r} also sends sums over "
            "rows before or after a task, which noise on its steps does not hide (allowed: a "
            "number above 0, or strategies whose clients send trained tensors alone)"
        )
    if takes_steps and not isinstance(federation.arrival, InStep):
        problems.append(
            f"{SECTION}.privacy.unit: 'example' hides sums over rows where they leave a client; "
            f"clients at tasks of their own keep them, and strategy {name!r} learns from them in "
            "steps whose noise does not cover them (allowed: federation.arrival.kind in_step)"
        )
    return problems


def _not_private(federation: Federation) -> list[str]:
    """What does not go with sums of differences that weigh alike."""
    aggregator = federation.aggregator
    problems = []
    if not is_plain_mean(aggregator):
        problems.append(
            f"{SECTION}.privacy: aggregator {aggregator.name!r} does more with updates than to "
            "average them (allowed: fedit, ffa_lora, fedsa_lora, rolora)"
        )
    elif aggregator.weighting != "equal":
        problems.append(
            f"{SECTION}.aggregator.weighting: {aggregator.weighting!r} does not go with privacy, "
            "as a weight would tell of a client's rows (allowed: equal)"
        )
    if federation.drift.name == "scaffold":
        problems.append(
            f"{SECTION}.privacy: SCAFFOLD sends control variates beside the update, which no sum "
            "hides (allowed: federation.drift.name none or fedprox)"
        )
    if federation.settings.mode == "buffered":
        problems.append(
            f"{SECTION}.privacy: the updates of a buffered round start from different states and "
            "are no sum of one round (allowed: synchronous, deadline)"
        )
    return problems
