"""Every key of `training` and of `federation` changes the result of a federated run, or
`unused_in_federation` says that it does not: each is changed in a run and compared."""

from dataclasses import fields
from unittest.mock import patch

import pytest
import torch

from lamina.config import parse_job
from lamina.config.clients import check_clients, manifest_of, settings_of_run
from lamina.config.federation import FederationSettings
from lamina.config.overrides import dotted, nested
from lamina.config.unused_in_federation import unused_in_federation
from lamina.federation.client.correction import DriftSettings
from lamina.federation.privacy.released import ReleaseRule
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.server.clock import ClockSettings
from lamina.federation.server.rounds import FederatedRun
from lamina.orchestration.federated.learner import Kept
from lamina.orchestration.federated.pool import LocalPool
from lamina.orchestration.federated.run import advance
from lamina.orchestration.federated.worker import LearningWorker
from lamina.registry import InputError
from lamina.streams import build_stream
from lamina.training.settings import TrainingSettings

TIMES = ["six", "seven", "eight", "nine", "ten", "noon"]
PHRASES = {
    "alarm": ["wake me at {}", "set an alarm for {}", "is there an alarm at {}"],
    "lights": ["light the hall at {}", "dim the lamps from {} on", "no light after {}"],
    "music": ["play jazz at {}", "what was on the radio at {}", "a quiet song for {}"],
    "sports": ["who plays at {}", "the score of the game at {}", "when is the match of {}"],
}

BASE = {
    "adapter.kind": "lora",
    "adapter.rank": 4,
    "strategy.name": "finetune",
    "training.batch_size": 4,
    "federation.clients": 4,
    "federation.rounds": 2,
    "federation.bounds": False,
}
HALF = {"federation.participation": 0.5}
DEADLINE = {"federation.mode": "deadline", "federation.clock.speed_spread": 1.0}
BUFFERED = {**HALF, "federation.mode": "buffered", "federation.buffer": 2}
SGD = {"training.optimizer": "sgd"}
FLEX = {"federation.aggregator.name": "flexlora", "federation.ranks": [2, 4]}
EQUAL = {"federation.aggregator.name": "fedit", "federation.aggregator.weighting": "equal"}
BY_CLIENT = {**EQUAL, "federation.privacy.clip": 0.1}
SECURE = {**EQUAL, "federation.privacy.secure_sum": "ideal", "federation.privacy.limit": 0.01}
NO_STEPS = {"strategy.name": "ncm"}
UNEVEN = {"kind": "dirichlet", "alpha": 0.3, "min_rows": 0}
RARE = {
    **NO_STEPS,
    "federation.partition": UNEVEN,
    "federation.privacy.summaries.min_rows": 1,
}
NOISY_SUMS = {
    **NO_STEPS,
    "federation.privacy.unit": "example",
    "federation.privacy.summaries.noise_multiplier": 1.0,
}

CHANGES = {
    "training.batch_size": ({}, 2),
    "training.optimizer": ({}, "sgd"),
    "training.learning_rate": ({}, 0.1),
    "training.weight_decay": ({}, 0.5),
    "training.momentum": (SGD, 0.0),
    "training.schedule": ({}, "cosine"),
    "training.max_grad_norm": (SGD, 0.01),
    "federation.clients": ({}, 3),
    "federation.rounds": ({}, 3),
    "federation.participation": ({}, 0.5),
    "federation.sampling": (HALF, "poisson"),
    "federation.mode": (HALF, "buffered"),
    "federation.over_selection": ({**DEADLINE, **HALF}, 2.0),
    "federation.deadline": (DEADLINE, 0.2),
    "federation.buffer": (BUFFERED, 1),
    "federation.local_epochs": ({}, 2),
    "federation.local_steps": ({}, 1),
    "federation.ranks": (FLEX, [1, 4]),
    "federation.partition": ({}, UNEVEN),
    "federation.arrival": ({}, {"kind": "periodic", "order": "own"}),
    "federation.aggregator": ({}, {"name": "ffa_lora"}),
    "federation.aggregator.by_slice": (FLEX, False),
    "federation.server_optimiser": ({}, {"name": "fedavgm"}),
    "federation.clock.seconds_per_step": ({}, 0.5),
    "federation.clock.speed_spread": ({}, 1.0),
    "federation.clock.bytes_per_second": ({}, 1000.0),
    "federation.clock.bandwidth_spread": ({"federation.clock.bytes_per_second": 1000.0}, 1.0),
    "federation.clock.availability": ({}, 0.5),
    "federation.clock.dropout": ({}, 0.5),
    "federation.clock.lost_uploads": ({}, 0.5),
    "federation.drift.name": ({}, "fedprox"),
    "federation.drift.mu": ({"federation.drift.name": "fedprox"}, 5.0),
    "federation.privacy.unit": (BY_CLIENT, "example"),
    "federation.privacy.clip": (BY_CLIENT, 0.2),
    "federation.privacy.noise_multiplier": (BY_CLIENT, 2.0),
    "federation.privacy.delta": (BY_CLIENT, 1e-3),
    "federation.privacy.secure_sum": (BY_CLIENT, "ideal"),
    "federation.privacy.limit": (SECURE, 0.001),
    "federation.privacy.bits": (SECURE, 8),
    "federation.privacy.summaries.min_rows": (RARE, 3),
    "federation.privacy.summaries.noise_multiplier": (NOISY_SUMS, 2.0),
    "federation.privacy.summaries.clip": (NOISY_SUMS, 0.5),
}
"""By key, a job in which it matters and another value for it."""

CHANGES_NOTHING = {
    "training.epochs": [({}, 9), ({"federation.local_steps": 2}, 9), (NO_STEPS, 9)],
    "training.anytime_every": [(NO_STEPS, 4)],
    "training.learning_curve_batches": [(NO_STEPS, 2)],
    "training.general": [({}, True)],
    "training.max_new_tokens": [({}, 9)],
    "training.drift": [({}, True), (NO_STEPS, True)],
    "training.learning_rate": [(NO_STEPS, 0.5)],
    "federation.rounds": [(NO_STEPS, 4)],
    "federation.participation": [(NO_STEPS, 0.5)],
    "federation.sampling": [({}, "poisson")],
    "federation.mode": [({}, "deadline"), (NO_STEPS, "buffered")],
    "federation.over_selection": [({**DEADLINE, "federation.deadline": 0.2}, 2.0)],
    "federation.buffer": [({}, 1)],
    "federation.local_epochs": [({"federation.local_steps": 2}, 3)],
    "federation.local_steps": [(NO_STEPS, 3)],
    "federation.server_optimiser": [(NO_STEPS, {"name": "fedadam"})],
    "federation.clock.speed_spread": [(NO_STEPS, 1.0)],
    "federation.clock.bandwidth_spread": [({}, 1.0)],
    "federation.drift.mu": [({}, 5.0)],
    "federation.aggregator.by_slice": [({**FLEX, "federation.ranks": [2]}, False)],
    "federation.aggregator.weighting": [
        ({**NO_STEPS, "federation.aggregator.name": "fedit"}, "equal")
    ],
    "federation.privacy.noise_multiplier": [(SECURE, 2.0)],
    "federation.privacy.delta": [(SECURE, 1e-3), ({"federation.privacy.bits": 8}, 0.1)],
    "federation.privacy.max_epsilon": [(SECURE, 1e-3)],
    "federation.privacy.limit": [(BY_CLIENT, 0.01)],
    "federation.privacy.bits": [(BY_CLIENT, 8)],
    "federation.privacy.threshold": [(BY_CLIENT, 0.9)],
    "federation.privacy.summaries": [(BY_CLIENT, {"min_rows": 1000})],
    "federation.privacy.summaries.min_rows": [(NOISY_SUMS, 1000)],
    "federation.privacy.summaries.clip": [(RARE, 0.01)],
}
"""By key, jobs in which it changes nothing and another value for it."""

ELSEWHERE = {
    "training.evaluation_batch_size": "changes no result anywhere",
    "training.class_weights": "refused, whatever it says",
    "training.measure": "refused, whatever it says",
    "federation.manifest": "test_a_manifest_stands_for_clients_partition_and_arrival",
    "federation.bounds": "what is trained beside the federation, not in it",
    "federation.privacy.max_epsilon": "refuses, and changes nothing of a job that it allows",
    "federation.privacy.threshold": "refuses sums of too few clients",
}
"""Keys that no run of `CHANGES` can show."""


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory, tiny_bert, tiny_bert_folder):
    """What a job with these keys comes to: the state of its run at the end, and every metric."""
    folder = tmp_path_factory.mktemp("federated")
    rows = [
        f"{phrase.format(time)},{label}"
        for label, phrases in PHRASES.items()
        for phrase in phrases
        for time in TIMES
    ]
    (folder / "data.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    about = {
        "name": "small",
        "stream.name": "huggingface",
        "stream.path": str(folder / "data.csv"),
        "stream.text_column": "text",
        "stream.label_column": "label",
        "scenario.kind": "class_incremental",
        "scenario.num_tasks": 2,
        "backbone.name": str(tiny_bert_folder),
    }
    streams, known = {}, {}

    def job_of(keys):
        return parse_job(nested({**about, **BASE, **keys}, []))

    def outcome(keys):
        # The run is given what the job says, also where the key is said to change nothing.
        with patch("lamina.config.job.unused_keys", return_value={}):
            job = job_of(keys)
        name = repr(sorted(dotted(nested(keys, [])).items(), key=str))
        if name not in known:
            if not streams:
                raw = build_stream(job.stream, job.scenario, job.seed)
                streams["encoded"] = tiny_bert.encode_stream(raw)
            stream = streams["encoded"]
            check_clients(job, stream)
            manifest = manifest_of(job, stream)
            run = FederatedRun(settings_of_run(job, stream, manifest))
            pool = LocalPool(LearningWorker(job, tiny_bert, stream, manifest))
            metrics = [found for _, found in advance(run, pool, Kept())]
            counts = run.server.traffic.state_dict()
            digests = run.server.global_state.digest(), listed(run.server.shared_model.plain())
            known[name] = digests, metrics, run.server.budgets.epsilon, counts
        return known[name]

    outcome.job_of = job_of
    return outcome


def changed(base, key, value):
    return {**{name: each for name, each in base.items() if not name.startswith(key)}, key: value}


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_that_matters_changes_the_result_and_is_not_called_unused(key, outcome_of):
    base, value = CHANGES[key]
    with_value = changed(base, key, value)
    assert not same(outcome_of(base), outcome_of(with_value))
    assert not covered(key, outcome_of.job_of(with_value).idle)


@pytest.mark.parametrize(
    ("key", "base", "value"),
    [(key, *case) for key, cases in CHANGES_NOTHING.items() for case in cases],
)
def test_a_key_that_changes_nothing_is_said_to(key, base, value, outcome_of):
    with_value = changed(base, key, value)
    assert same(outcome_of(base), outcome_of(with_value))
    assert covered(key, outcome_of.job_of(with_value).idle)


def test_every_key_is_walked():
    sections = {
        "training": TrainingSettings,
        "federation": FederationSettings,
        "federation.clock": ClockSettings,
        "federation.drift": DriftSettings,
        "federation.privacy": PrivacySettings,
        "federation.privacy.summaries": ReleaseRule,
    }
    keys = {f"{section}.{each.name}" for section, cls in sections.items() for each in fields(cls)}
    keys -= {"federation.privacy.summaries"}
    assert keys - CHANGES.keys() - CHANGES_NOTHING.keys() == ELSEWHERE.keys() - {
        "federation.privacy.max_epsilon",
        "federation.privacy.threshold",
    }


def test_a_manifest_stands_for_clients_partition_and_arrival(outcome_of):
    unused = unused_in_federation(outcome_of.job_of({"federation.manifest": "manifest.json"}))
    assert {"federation.clients", "federation.partition", "federation.arrival"} <= unused.keys()
    assert not covered("federation.clients", unused_in_federation(outcome_of.job_of({})))


def test_the_budget_of_a_client_is_named_in_the_reason(outcome_of):
    passes = unused_in_federation(outcome_of.job_of({}))
    assert "federation.local_epochs" in passes["training.epochs"]
    steps = unused_in_federation(outcome_of.job_of({"federation.local_steps": 3}))
    assert "federation.local_steps" in steps["training.epochs"]


def test_a_job_without_a_federation_has_no_such_keys():
    job = parse_job(
        {
            "name": "alone",
            "stream": {"name": "assistant"},
            "scenario": {"kind": "class_incremental"},
            "backbone": {"name": "minilm"},
            "strategy": {"name": "ncm"},
        }
    )
    assert unused_in_federation(job) == {}


def test_ranks_that_no_client_could_have_are_refused(outcome_of):
    with pytest.raises(InputError, match=r"federation\.ranks: 8 .*adapter\.rank is 4"):
        outcome_of({**FLEX, "federation.ranks": [2, 8]})
    with pytest.raises(InputError, match="of ranks of their own"):
        outcome_of.job_of({"federation.ranks": [2]})


def listed(state):
    """The same with lists in place of tensors, which compare by value."""
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {key: listed(each) for key, each in state.items()}
    return [listed(each) for each in state] if isinstance(state, list | tuple) else state


def covered(key, unused):
    return any(key == each or key.startswith(f"{each}.") for each in unused)


def same(first, second):
    (digest, metrics, epsilon, counts), (digest_2, metrics_2, epsilon_2, counts_2) = first, second
    return (digest, metrics, epsilon, counts.keys()) == (
        digest_2,
        metrics_2,
        epsilon_2,
        counts_2.keys(),
    ) and all(
        torch.equal(counts[name], counts_2[name])
        if isinstance(counts[name], torch.Tensor)
        else counts[name] == counts_2[name]
        for name in counts
    )
