"""Every key of every section changes what is computed, or the job says that it does not."""

import ast
import copy
import json
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

import lamina
from lamina.config import build_learner, expand, parse_job
from lamina.config.components import declared
from lamina.config.overrides import NAMED_BY, laid_over, nested
from lamina.config.reading import shown
from lamina.config.sections import FAMILIES, stays
from lamina.config.unused import COSTS_ALONE, unused_by
from lamina.registry import InputError
from lamina.streams import build_stream
from nouns import OF_CLASSES, SMALL

STRATEGIES = OF_CLASSES
BESIDE = {**SMALL, "ada": {"pool_size": 1}}
"""What makes a strategy small, and what it needs to get through all of its steps in two tasks: ADA
distils when its pool is full."""
JOINT = {"kind": "joint", "num_tasks": None}
LORA = {"kind": "lora", "rank": 2}


@pytest.fixture(scope="module")
def base_of(tiny_vit_folder, tiny_bert_folder):
    """A job of a strategy that runs in a moment."""

    def of(name):
        outline = FAMILIES["strategy"].outline(name)
        kinds = outline.adapters or ("lora",)
        kind = "lora" if "lora" in kinds else kinds[0]
        is_image = "image" in outline.modalities
        return {
            "name": "every",
            "stream": {"name": "digits" if is_image else "assistant"},
            "scenario": {"kind": outline.scenarios[0], "num_tasks": 2, "limit_per_class": 3},
            "backbone": {"name": str(tiny_vit_folder if is_image else tiny_bert_folder)},
            "adapter": None if kind == "none" else LORA if kind == "lora" else {"kind": kind},
            "strategy": {"name": name},
            "memory": {"policy": "ring", "size": 12} if outline.needs_memory else None,
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        }

    return of


@pytest.fixture(scope="module")
def learner_of(tiny_vit, tiny_bert, tiny_vit_folder, tiny_bert_folder):
    """A job's learner, at its beginning."""
    backbones = {str(tiny_vit_folder): tiny_vit, str(tiny_bert_folder): tiny_bert}

    @cache
    def stream_of(source, scenario, seed, name):
        return backbones[name].encode_stream(build_stream(source, scenario, seed))

    def of(job):
        stream = stream_of(job.stream, job.scenario, job.seed, job.backbone.name)
        return build_learner(job, stream, backbones[job.backbone.name])

    return of


def predictions(learner):
    """What a learner answers to all test rows."""
    is_told = learner.stream.scenario == "task_incremental"
    with torch.no_grad():
        return [
            learner.strategy.predict(
                learner.model, each.test.inputs, each.task if is_told else None
            ).tolist()
            for each in learner.stream.experiences
        ]


def recording(strategy, read):
    """The same strategy or adapter kind, of a class that puts the names of its settings into `read`
    when something but its own checks asks for them."""
    cls = type(strategy)

    def asked(self, name):
        frame = sys._getframe(1)
        is_check = "__post_init__" in (frame.f_code.co_name, frame.f_back.f_code.co_name)
        if not is_check and Path(frame.f_code.co_filename).name != "dataclasses.py":
            read.add(name)
        return cls.__getattribute__(self, name)

    members = {"__getattribute__": asked, "__module__": cls.__module__}
    copied = copy.copy(strategy)
    object.__setattr__(copied, "__class__", type(cls.__name__, (cls,), members))
    return copied


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_computes_with_each_of_its_settings_or_says_that_it_does_not(
    base_of, learner_of, name
):
    settings = FAMILIES["strategy"].outline(name).settings()
    mapping = base_of(name)
    mapping["strategy"] |= BESIDE.get(name, {})
    job = parse_job(mapping)
    read = set()
    object.__setattr__(job, "strategy", recording(job.strategy, read))
    learner = learner_of(job)
    for _ in learner.learn():
        pass
    predictions(learner)
    said = {key.rpartition(".")[2] for key in job.idle if key.startswith("strategy.")}
    assert settings.keys() - read == said


RULES = [
    (section, name, key, rule)
    for section, family in FAMILIES.items()
    for name in (STRATEGIES if section == "strategy" else family.names())
    for key, rule in getattr(family.outline(name), "matters_when", {}).items()
]


@pytest.mark.parametrize(
    ("section", "name", "key", "rule"), RULES, ids=lambda each: getattr(each, "setting", each)
)
def test_a_setting_without_the_other_that_it_needs_is_said_to_change_nothing(
    base_of, section, name, key, rule
):
    assert section == "strategy"
    settings = FAMILIES[section].outline(name).settings()
    assert {key, rule.setting} <= settings.keys()
    job = base_of(name)
    off = type(settings[rule.setting].default)(0)
    job[section] |= {rule.setting: off, key: settings[key].default}
    said = parse_job(job).unused[f"{section}.{key}"]
    assert said == f"{section}.{rule.setting} is {shown(off)}"
    assert rule.holds(settings[rule.setting].default)


CHANGES = [
    ("training.epochs", 2),
    ("training.batch_size", 4),
    ("training.optimizer", "sgd"),
    ("training.learning_rate", 0.02),
    ("training.weight_decay", 0.5),
    ("training.momentum", 0.5),
    ("training.schedule", "cosine"),
    ("training.max_grad_norm", 0.01),
    ("training.evaluation_batch_size", 7),
    ("training.anytime_every", 4),
    ("training.learning_curve_batches", 1),
    ("training.drift", True),
    ("training.general", True),
    ("training.max_new_tokens", 9),
    ("scenario.kind", "domain_incremental"),
    ("scenario.num_tasks", 5),
    ("scenario.by", "created_at"),
    ("scenario.every", "month"),
    ("scenario.shuffle", True),
    ("scenario.validation", 0.3),
    ("scenario.test", 0.5),
    ("scenario.limit_per_class", 2),
    ("scenario.online", True),
    ("scenario.recurrences", 2),
    ("scenario.blurry", 0.5),
    ("scenario.disjoint", 0.2),
    ("adapter.rank", 1),
    ("adapter.alpha", 4.0),
    ("adapter.dropout", 0.5),
    ("adapter.targets", ["q_proj"]),
    ("adapter.layers", [1]),
    ("memory.size", 3),
    ("memory.policy", "class_balanced"),
    ("memory.entry", "as_they_pass"),
    ("strategy.replay_size", 2),
    ("seed", 3),
    ("backbone.max_length", 5),
]
MEASURES = ("accuracy", "forgetting", "learning_curve_area", "kl")
NOT_HERE = {
    "scenario.kind": "digits have no groups",
    "training.class_weights": "all classes have as many rows: tests/training/test_class_weights.py",
    "training.measure": "of classes there is one: tests/evaluation/test_measures.py",
    "backbone.name": "another model",
    "backbone.dtype": "of the weights, that the test's backbone has loaded",
    "backbone.quantize": "as dtype: tests/backbones/test_quantised.py",
    "backbone.pooling": "as dtype",
    "backbone.tower": "of models of texts and images",
}
"""Keys that cannot be changed in this job, or that are about loading the backbone."""


def test_every_key_that_a_trial_of_er_has_is_walked():
    keys = {f"training.{key}" for key in declared("training")}
    keys |= {f"scenario.{key}" for key in declared("scenario")}
    keys |= {f"backbone.{key}" for key in declared("backbone")}
    for section, name in (("adapter", "lora"), ("memory", "ring"), ("strategy", "er")):
        keys |= {f"{section}.{key}" for key in FAMILIES[section].outline(name).settings()}
    walked = {key for key, _ in CHANGES} | NOT_HERE.keys() | COSTS_ALONE.keys()
    assert keys <= walked | {f"{section}.{by}" for section, by in NAMED_BY.items()}


@pytest.fixture(scope="module")
def outcome(learner_of):
    """What a job answers, and how good it is reported to be."""

    @cache
    def of_text(text):
        # The learner is given what the job says, also where the key is said to change nothing.
        with patch("lamina.config.job.unused_keys", return_value={}):
            job = parse_job(json.loads(text))
        learner = learner_of(job)
        metrics = [
            {key: each for key, each in report.metrics.items() if key.endswith(MEASURES)}
            for report in learner.learn()
        ]
        return predictions(learner), metrics

    return lambda mapping: of_text(json.dumps(mapping))


@pytest.mark.parametrize(("key", "value"), [each for each in CHANGES if each[0] not in NOT_HERE])
def test_a_key_of_a_trial_changes_its_outcome_or_is_said_to_change_nothing(
    base_of, outcome, key, value
):
    mapping = base_of("er")
    if key == "seed":
        changed = {**mapping, "seed": value}
    else:
        section, _, name = key.partition(".")
        changed = {**mapping, section: {**mapping[section], name: value}}
    is_said = key in parse_job(changed).unused or key in COSTS_ALONE
    assert (outcome(changed) == outcome(mapping)) == is_said


@pytest.mark.parametrize(
    ("key", "value", "beside", "why"),
    [
        ("training.momentum", 0.5, {}, "training.optimizer is 'adamw'"),
        ("training.momentum", 0.5, {"training.optimizer": "adam"}, "training.optimizer is 'adam'"),
        ("scenario.disjoint", 0.2, {}, "scenario.blurry is 0.0"),
        ("scenario.shuffle", True, {"scenario": JOINT}, "scenario.kind is 'joint'"),
        ("scenario.num_tasks", 1, {"scenario.kind": "joint"}, "scenario.kind is 'joint'"),
        (
            "scenario.online",
            True,
            {"scenario": {"kind": "task_free"}},
            "scenario.kind is 'task_free'",
        ),
        ("backbone.max_length", 9, {}, "images have no tokens to cut"),
        ("memory.size", 9, {"strategy.replay_size": 0}, "strategy.replay_size is 0"),
        ("memory.size", 9, {"strategy": {"name": "lwf"}}, "strategy 'lwf' replays nothing"),
        ("adapter.rank", 1, {"strategy": {"name": "ncm"}}, "strategy 'ncm' takes none"),
        (
            "training.learning_rate",
            0.5,
            {"strategy": {"name": "slda"}},
            "strategy 'slda' takes no gradient step",
        ),
        (
            "strategy.replay_size",
            4,
            {"scenario": JOINT},
            "it matters from the second task on, and the stream has one",
        ),
        ("hosts.features_dir", "x", {"hosts.features_gb": 0}, "hosts.features_gb is 0.0"),
        ("tracking.mlflow_uri", "x", {"tracking.enabled": False}, "tracking.enabled is false"),
        ("tracking.experiment", "x", {"tracking.enabled": False}, "tracking.enabled is false"),
        ("sweep.unfit", "skip", {"sweep.num_samples": 1}, "sweep.variants is ()"),
    ],
)
def test_a_key_that_changes_nothing_is_said_with_the_reason(base_of, key, value, beside, why):
    over = nested({**beside, key: value}, [])
    job = parse_job(laid_over(base_of("er"), over, stays))
    assert why in job.unused.values()


REPLAYING = [name for name in STRATEGIES if FAMILIES["strategy"].outline(name).needs_memory]


@pytest.mark.parametrize(("name", "entry"), [(name, None) for name in REPLAYING] + [("er", "pass")])
def test_a_memory_that_a_joint_stream_never_draws_from_is_said_to_change_nothing(
    base_of, outcome, name, entry
):
    """As are the keys that matter from the second task on; unless rows enter as they pass."""
    mapping = base_of(name) | {"scenario": {"kind": "joint", "limit_per_class": 2}}
    mapping["memory"]["entry"] = entry and "as_they_pass"
    said = parse_job(mapping).idle
    late = FAMILIES["strategy"].outline(name).from_second_task
    assert all((f"strategy.{key}" in said) == ("memory" in said) for key in late)
    smaller = {**mapping, "memory": {**mapping["memory"], "size": 3}}
    assert (outcome(smaller) == outcome(mapping)) == ("memory" in said)
    if "memory" in said:
        assert parse_job({**mapping, "memory": None}).settings() == parse_job(mapping).settings()


def test_a_part_that_has_a_split_of_its_own_is_not_carved(base_of):
    stream = {"name": "huggingface", "path": "x.csv", "text_column": "text", "test_split": "test"}
    mapping = base_of("er") | {"stream": stream}
    mapping["scenario"] |= {"test": 0.3, "validation": 0.3}
    assert parse_job(mapping).unused == {
        "scenario.test": "the rows of test are those of split 'test'"
    }


ADAPTER_KINDS = [
    ("adapter", "lora", {}),
    *(
        ("adapter", name, {})
        for name in FAMILIES["adapter"].names()
        if name not in ("lora", "peft")
    ),
    ("adapter", "peft", {"peft_type": "LOHA", "config": {"r": 2}}),
]


@pytest.mark.parametrize(("section", "name", "given"), ADAPTER_KINDS)
def test_an_adapter_kind_computes_with_each_of_its_settings(
    base_of, learner_of, section, name, given
):
    family = FAMILIES[section]
    is_image = "text" not in getattr(family.outline(name), "modalities", ("text",))
    mapping = base_of("slca" if is_image else "finetune") | {section: {"kind": name, **given}}
    mapping["strategy"] = {"name": "finetune"}
    job = parse_job(mapping)
    read = set()
    object.__setattr__(job, section, recording(job.adapter, read))
    learner = learner_of(job)
    next(learner.learn())
    said = {key.rpartition(".")[2] for key in job.idle if key.startswith(f"{section}.")}
    assert family.outline(name).settings().keys() - read == said


ROWS = [("a", "x", "t", "u"), ("b", "x", "t", "v"), ("c", "y", "s", "u"), ("d", "Y", "s", "v")]
LINES = [f"{text}{number},{','.join(rest)}" for text, *rest in ROWS for number in range(8)]
HEADER = "text,label,task,client"
CSV = "\n".join([HEADER, *LINES, "odd,z,s,u"]) + "\n"
RECORDS = [dict(zip(HEADER.split(","), line.split(","), strict=True)) for line in LINES]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same rows in several files, as the job's `stream.path` has them."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("one", "two"):
        (folder / f"{name}.csv").write_text(CSV if name == "one" else CSV.replace("a0", "e0"))
    (folder / "document.json").write_text(json.dumps({"rows": RECORDS, "others": RECORDS[:-1]}))
    (folder / "cafe.csv").write_text(CSV.replace("a0", "café"), encoding="utf-8")
    (folder / "quotes.csv").write_text(CSV.replace("a0", "'a0'"))
    (folder / "holes.csv").write_text(CSV + ",x,t,u\n")
    (folder / "split").mkdir()
    for split, lines in (("train", LINES), ("test", LINES[::2]), ("other", LINES[1::2])):
        (folder / "split" / f"{split}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (folder / "see").mkdir()
    for label in ("x", "y"):
        (folder / "see" / label).mkdir()
        for number in range(8):
            picture = Image.new("RGBA", (8, 8), (number, 90 if label == "x" else 9, 0, 100))
            picture.save(folder / "see" / label / f"{number}.png")
    return folder


PATH = {"path": "one.csv", "text_column": "text", "min_per_class": 3}
SPLITS = {"path": "split", "text_column": "text"}
PICTURES = {"path": "see", "image_column": "image"}
STREAM_CHANGES = [
    ("path", PATH, "two.csv"),
    ("delimiter", PATH, ";"),
    ("encoding", PATH | {"path": "cafe.csv"}, "latin-1"),
    ("quote", PATH | {"path": "quotes.csv"}, "'"),
    ("field", {"path": "document.json", "text_column": "text", "field": "rows"}, "others"),
    ("field", PATH, "rows"),
    ("text_column", PATH, "client"),
    ("text_separator", PATH | {"text_column": ["text", "client"]}, " / "),
    ("text_separator", PATH, " / "),
    ("text_column", PATH, ["text", "client"]),
    ("image_column", PICTURES, "label"),
    ("background", PICTURES, "black"),
    ("background", PATH, "black"),
    ("label_column", PATH, "task"),
    ("task_column", PATH, "task"),
    ("client_column", PATH, "client"),
    ("train_split", SPLITS, "other"),
    ("validation_split", SPLITS, "test"),
    ("test_split", SPLITS, "test"),
    ("empty", PATH | {"path": "holes.csv"}, "skip"),
    ("alike", PATH, "merge"),
    ("min_per_class", PATH, 1),
]
OF_THE_HUB = {"config", "revision"}
"""Which data set the hub gives: not to be had here."""


def test_every_key_of_a_stream_is_walked():
    walked = {key for key, *_ in STREAM_CHANGES} | OF_THE_HUB
    assert FAMILIES["stream"].outline("huggingface").settings().keys() == walked
    for name in FAMILIES["stream"].names():
        settings = set(FAMILIES["stream"].outline(name).settings())
        if name not in ("huggingface", "instructions"):
            assert settings <= {"language", "sentences_per_intent", "tasks"}


@pytest.mark.parametrize(("key", "given", "value"), STREAM_CHANGES)
def test_a_key_of_a_stream_changes_its_rows_or_is_refused_or_said(
    base_of, files, key, given, value
):
    def outcome_of(stream):
        stream = {"name": "huggingface", **stream, "path": str(files / stream["path"])}
        try:
            job = parse_job(base_of("er") | {"stream": stream, "scenario": scenario})
        except InputError as error:
            return str(error), {}
        try:
            found = build_stream(job.stream, job.scenario, job.seed)
        except InputError as error:
            return str(error), job.unused
        rows = [
            [
                [str(each), sample.labels.tolist()]
                for part in ("train", "validation", "test")
                for sample in [experience.part(part)]
                for each in sample.ids.tolist()
            ]
            for experience in found.experiences
        ]
        return (rows, found.class_names, found.record), job.unused

    scenario = {"kind": "class_incremental", "num_tasks": 2}
    before, _ = outcome_of(given)
    after, said = outcome_of({**given, key: value})
    assert (after == before) == (f"stream.{key}" in said)


PLANNED = [
    ("variants", [{"seed": 1}]),
    ("space", {"training.learning_rate": {"grid_search": [0.1, 0.2]}}),
    ("num_samples", 3),
    ("unfit", "skip"),
]


@pytest.mark.parametrize(("key", "value"), PLANNED)
def test_a_key_of_a_sweep_changes_its_plan(base_of, key, value):
    space = {"training.learning_rate": {"uniform": [0.1, 0.2]}}
    misfit = {"strategy": {"name": "lwf"}, "scenario": {"kind": "task_free"}}
    variants = [{}, misfit] if key == "unfit" else [{}, {"strategy": {"name": "lwf"}}]
    sweep = {"variants": variants, "space": space, "num_samples": 2}

    def plan_of(settings):
        try:
            plan = expand(parse_job(base_of("finetune") | {"sweep": settings}))
        except InputError as error:
            return str(error)
        return plan.num_trials, [each.trial.name for each in plan.points], plan.domains, plan.notes

    assert plan_of({**sweep, key: value}) != plan_of(sweep)


@pytest.fixture(scope="module")
def asked_of_sections():
    """The names that Lamina's code asks objects called `hosts`, `sweep`, `tracking` or `settings`
    for, outside the classes that check them."""
    holders = {"hosts", "sweep", "tracking", "settings"}
    found = set()
    for path in Path(lamina.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                holder = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
                if holder in holders:
                    found.add(node.attr)
    return found


@pytest.mark.parametrize("section", ["sweep", "hosts", "tracking"])
def test_a_key_beside_the_trial_is_read_by_what_runs_it(asked_of_sections, section):
    """What each does is tested where it is read; here none is forgotten."""
    assert declared(section).keys() <= asked_of_sections


def test_a_key_that_changes_no_result_is_not_varied(base_of):
    for key, values in (
        ("training.evaluation_batch_size", [8, 16]),
        ("backbone.max_memory_gb", [1.0, 2.0]),
        ("training.momentum", [0.0, 0.5, 0.9]),
        ("scenario.disjoint", [0.1, 0.2]),
        ("backbone.max_length", [5, 9]),
    ):
        mapping = base_of("er") | {"sweep": {"space": {key: {"grid_search": values}}}}
        plan = expand(parse_job(mapping))
        assert plan.num_trials == 1, key
        (note,) = plan.notes
        assert note.startswith(f"{key} does not vary for er-lora: ")


def test_a_key_of_the_job_is_said_only_where_no_trial_depends_on_it(base_of):
    mapping = base_of("er") | {"training.momentum": 0.5}
    variants = [{"training.optimizer": "adamw"}, {"training.optimizer": "adam"}]
    said = "training.momentum changes nothing: training.optimizer is 'adamw'"
    assert said in expand(parse_job(mapping | {"sweep": {"variants": variants}})).notes
    variants.append({"training.optimizer": "sgd"})
    assert expand(parse_job(mapping | {"sweep": {"variants": variants}})).notes == ()
    variants.append({"strategy": {"name": "lwf"}, "memory": {"policy": "ring", "size": 3}})
    assert expand(parse_job(mapping | {"sweep": {"variants": variants}})).notes == (
        "sweep.variants, number 4 (lwf-lora): memory changes nothing: strategy 'lwf' replays "
        "nothing",
    )


def test_a_command_says_which_keys_are_for_others(base_of):
    hosts = {"count": 2, "cohort": 4, "device": "cpu", "workers_per_trial": 2}
    given = {"sweep": {"num_samples": 1}, "hosts": hosts}
    job = parse_job(base_of("er") | given)
    of_sweeps = {"sweep", "hosts.cohort"}
    of_hosts = {"hosts.count", "hosts.workers_per_trial"}
    assert unused_by(job, "run").keys() == of_sweeps | of_hosts
    assert unused_by(job, "federate").keys() == of_sweeps
    in_process = unused_by(job, "federate --in-process")
    assert in_process.keys() == {*of_sweeps, "hosts.count", "hosts.device"}

    assert in_process.keys() == {"sweep", "hosts.count", "hosts.cohort", "hosts.device"}


def test_what_is_of_the_head_is_said_to_change_nothing_where_answers_are_tokens():
    calls = {
        "name": "calls",
        "stream": {"name": "assistant_calls"},
        "scenario": {"kind": "domain_incremental"},
        "backbone": {"name": "smollm2"},
        "adapter": LORA,
        "strategy": {"name": "lae"},
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
    }
    assert "no head is trained" in parse_job(calls).idle["strategy.freeze"]
    words = {**calls, "stream": {"name": "assistant"}, "backbone": {"name": "minilm"}}
    assert "strategy.freeze" not in parse_job(words).idle
