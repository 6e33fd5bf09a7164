"""Keys, names and types are checked from the text of the files: as the classes themselves would,
and without torch."""

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from ray.tune.schedulers import SCHEDULER_IMPORT
from ray.tune.search import SEARCH_ALG_IMPORT

import lamina as package
from lamina.adapters import kind_class
from lamina.adapters.kinds.peft import NOT_OF_AN_ADAPTER
from lamina.config import ConfigError, check_words, expand, load_job
from lamina.config.components import _CLASSES
from lamina.config.fields import declared_by
from lamina.config.peft_tuners import DEFAULT, config_keys, peft_types
from lamina.config.sections import FAMILIES
from lamina.config.tune_classes import SCHEDULERS, SEARCHERS
from lamina.orchestration.sweep.task_halving import TaskHalving

MEMBERS = [(section, name) for section, family in FAMILIES.items() for name in family.names()]
SLOW = ("torch", "transformers", "ray", "numpy", "mlflow", "peft", "datasets", "pandas")


@pytest.mark.parametrize(("section", "name"), MEMBERS)
def test_a_member_read_from_its_file_has_the_settings_of_its_class(section, name):
    family = FAMILIES[section]
    outline, cls = family.outline(name), family.class_of(name)
    assert outline.settings() == declared_by(cls)
    assert list(outline.settings()) == list(declared_by(cls))
    assert outline.card == (sys.modules[cls.__module__].__doc__ or "").strip()


@pytest.mark.parametrize("name", FAMILIES["strategy"].names())
def test_a_strategys_class_attributes_are_read_from_its_file(name):
    outline, cls = FAMILIES["strategy"].outline(name), FAMILIES["strategy"].class_of(name)
    for key in ("family", "paper", "year", "scenarios", "adapters", "modalities", "needs_memory"):
        assert getattr(outline, key) == getattr(cls, key), key
    for key in ("routes", "grows", "trained_tasks", "data", "from_second_task"):
        assert getattr(outline, key) == getattr(cls, key), key


@pytest.mark.parametrize("section", [key for key in _CLASSES if key != "federation.privacy"])
def test_a_section_read_from_its_file_has_the_settings_of_its_class(section):
    assert _CLASSES[section].outline().settings() == declared_by(_CLASSES[section].imported())


def test_a_settings_class_as_a_type_is_any_value_until_it_is_imported():
    read = _CLASSES["federation.privacy"].outline().settings()
    assert read.keys() == declared_by(_CLASSES["federation.privacy"].imported()).keys()


@pytest.mark.parametrize(
    ("family", "known"), [(SCHEDULERS, SCHEDULER_IMPORT), (SEARCHERS, SEARCH_ALG_IMPORT)]
)
def test_ray_tunes_classes_read_from_their_files_take_what_they_take(family, known):
    read = family.outlines()
    assert read.keys() == {*known, *family.own}
    for name, made in known.items():
        cls = made() if inspect.isfunction(made) else made
        taken = inspect.signature(cls).parameters.values()
        named = [each.name for each in taken if each.kind is not each.VAR_KEYWORD]
        assert list(read[name].arguments()) == named, name
    assert inspect.signature(TaskHalving).parameters.keys() == {
        *SCHEDULERS.outlines()["task_halving"].arguments()
    }


def test_pefts_tuners_read_from_their_files_have_their_keys():
    assert peft_types() == [each.value for each in PeftType]
    for each in PeftType:
        cls = PEFT_TYPE_TO_CONFIG_MAPPING[each]
        real = {known.name for known in dataclasses.fields(cls) if known.init}
        assert set(config_keys(each.value)) == real.difference(NOT_OF_AN_ADAPTER), each
    assert kind_class("peft")().peft_type == DEFAULT


def write(folder, mapping):
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


MISTAKES = [
    {"training": {"epoch": 2}},
    {"trainig": {}},
    {"learning_rate": 0.1},
    {"strategy": {"name": "ewcc"}},
    {"strategy": {"name": "ewc", "strenght": 2}},
    {"adapter": {"kind": "lora", "rnak": 2}},
    {"adapter": {"kind": "lora", "rank": "big"}},
    {"adapter": {"kind": "lora", "targets": "query"}},
    {"stream": {"name": "assistant", "language": 3}},
    {"stream": None},
    {"scenario": {"kind": "class_incremantal"}},
    {"scenario": {"kind": "class_incremental", "num_tasks": 2.5}},
    {"backbone": {"nam": "minilm"}},
    {"memory": {"policy": "resevoir", "size": 3}},
    {"memory": {"policy": "ring"}},
    {"training": {"learning_rate": "abc"}},
    {"hosts": {"thread": 2}},
    {"hosts": {"threads": 0}},
    {"tracking": {"uri": "x"}},
    {"federation": {"clinets": 3}},
    {"federation": {"clients": 3, "clok": {}}},
    {"federation": {"clock": {"dropuot": 0.5}}},
    {"federation": {"aggregator": {"name": "fedut"}}},
    {"federation": {"aggregator": {"name": "krum", "byzantin": 1}}},
    {"federation": {"partition": {"kind": "dirichlet", "alpha": "x"}}},
    {"federation": {"privacy": {"clipp": 1}}},
    {"federation": {"privacy": {"summaries": {"min_row": 1}}}},
    {"federation": 3},
    {"sweep": {"metrics": "x"}},
    {"sweep": {"space": {"training.epoch": {"choice": [1]}}}},
    {"sweep": {"space": {"training.epochs": {"choice": [1, "x"]}}}},
    {"sweep": {"space": {"trainin.epochs": {"choice": [1]}}}},
    {"sweep": {"space": {"adapter.rnak": {"randint": [1, 3]}}}},
    {"sweep": {"space": {"adapter.kind": {"choice": ["lora", "prefx"]}}}},
    {"sweep": {"space": {"training.epochs": {"chioce": [1]}}}},
    {"sweep": {"variants": [{"strategy": {"nmae": "er"}}]}},
    {"sweep": {"variants": [{}, {"training.epoch": 3}]}},
    {"sweep": {"scheduler": {"name": "ashaa"}}},
    {"sweep": {"scheduler": {"name": "pbt_replay"}}},
    {"sweep": {"scheduler": {"name": "asha", "grace_perod": 2, "brackets": "x"}}},
    {"sweep": {"scheduler": {"name": "task_halving", "costs": "x", "stratify": 2}}},
    {"sweep": {"scheduler": "asha", "searcher": {"nmae": "optuna"}}},
    {"sweep": {"searcher": {"name": "optunaa"}}},
    {"sweep": {"searcher": {"name": "optuna", "sede": 2}}},
    {"adapter": {"kind": "peft", "peft_type": "VEAR"}},
    {"adapter": {"kind": "peft", "peft_type": "VERA", "config": {"rr": 2}}},
    {"adapter": {"kind": "peft", "config": {"rr": 2, "ss": 2}}},
    {
        "adapter": {"kind": "peft"},
        "sweep": {"space": {"adapter.peft_type": {"grid_search": ["VERA", "VEAR"]}}},
    },
    {"sweep": {"variants": [{"adapter": {"kind": "peft", "peft_type": "VEAR"}}]}},
    {"sweep": {"variants": [{"hosts": {"count": 3}}]}},
]


@pytest.mark.parametrize("change", MISTAKES, ids=str)
def test_words_are_refused_with_the_line_that_the_whole_check_says(small, tmp_path, change):
    path = write(tmp_path, {**small, **change})
    with pytest.raises(ConfigError) as early:
        check_words(path)
    with pytest.raises(ConfigError) as late:
        expand(load_job(path))
    assert early.value.problems == late.value.problems
    assert all(len(line.splitlines()) == 1 for line in early.value.problems)


def test_what_the_space_varies_may_be_of_any_kind_that_it_names(small, tmp_path):
    space = {
        "adapter.kind": {"choice": ["lora", "prompt"]},
        "adapter.length": {"randint": [2, 9]},
        "strategy.name": {"choice": ["er", "linear_probe"]},
        "strategy.replay_size": {"randint": [2, 9]},
    }
    check_words(write(tmp_path, {**small, "sweep": {"space": space}}))


@pytest.fixture
def modules_after():
    """Which slow packages a command line has imported, and its exit code."""

    def of(*words):
        code = (
            "import sys\n"
            "from lamina.cli import main\n"
            f"try:\n    main({[str(word) for word in words]!r})\n"
            "except SystemExit as end:\n    code = end.code\n"
            "names = {name.partition('.')[0] for name in sys.modules}\n"
            f"print('MODULES', code, *sorted(names & set({SLOW!r})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
        )
        return done.stdout.splitlines()[-1].split()[1:], done.stderr.splitlines()

    return of


@pytest.mark.parametrize(
    ("command", "word", "said"),
    [
        ("run", "training.epoch=2", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("run", "strategy.name=ewcc", "strategy.name: 'ewcc' is unknown; did you mean 'ewc'?"),
        ("sweep", "adapter.rank=big", "adapter.rank: 'big' is not allowed"),
        ("sweep", "sweep.space={adapter.rnak: {choice: [1]}}", "sweep.space.adapter.rnak: unknown"),
        ("sweep", "sweep.variants=[{strategy.name: erx}]", "sweep.variants, number 1: strategy"),
        ("federate", "federation.clock.dropuot=1", "federation.clock.dropuot: unknown key; did"),
        ("run", "seed: 1", "override: 'seed: 1' is not KEY=VALUE"),
        ("sweep", "sweep.scheduler.name=ashaa", "sweep.scheduler.name: 'ashaa' is unknown; did"),
        ("sweep", "sweep.scheduler={name: pb2, synhc: 1}", "sweep.scheduler.synhc: unknown key; d"),
        ("sweep", "sweep.searcher.name=optunaa", "sweep.searcher.name: 'optunaa' is unknown; did"),
        ("run", "adapter={kind: peft, peft_type: VEAR}", "adapter.peft_type: 'VEAR' is unknown; d"),
        (
            "run",
            "adapter={kind: peft, config: {rnak: 2}}",
            "adapter.config: 'rnak' is unknown; did",
        ),
        ("run", "memory.policy=rign", "memory.policy: 'rign' is unknown; did you mean 'ring'?"),
        ("run", "scenario.kind=joiint", "scenario.kind: 'joiint' is unknown; did you mean 'joint'"),
        ("run", "training.optimizer=adamm", "training.optimizer: 'adamm' is unknown; did you"),
        ("run", "hosts.device=cudaa", "hosts.device: 'cudaa' is unknown; did you mean 'cuda'?"),
        ("run", "backbone.dtype=float17", "backbone.dtype: 'float17' is unknown; did you mean"),
        ("sweep", "sweep.metric=validation/forgeting", "sweep.metric: 'validation/forgeting' is"),
        (
            "federate",
            "federation={aggregator: {name: fedavgg}}",
            "federation.aggregator.name: 'fedavgg'",
        ),
    ],
)
def test_a_misspelt_job_is_refused_before_anything_slow_is_imported(
    small, tmp_path, modules_after, command, word, said
):
    found, lines = modules_after(command, write(tmp_path, small), word)
    assert found == ["2"]
    assert len(lines) == 1
    assert lines[0].startswith(said)


@pytest.mark.parametrize("words", [["--help"], ["strategies"], ["strategies", "ewc"]])
def test_help_and_cards_import_nothing_slow(modules_after, words):
    assert modules_after(*words) == (["0"], [])
