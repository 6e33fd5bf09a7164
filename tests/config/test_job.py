"""What a job may say, and what is said of one that may not."""

import json
import pickle
import re
from pathlib import Path

import pytest
import yaml

from lamina.config import ConfigError, load_job, parse_job
from lamina.config.reading import read_yaml
from lamina.registry import InputError


def problems_of(mapping):
    with pytest.raises(ConfigError) as error:
        parse_job(mapping)
    return error.value.problems


def write(folder, mapping):
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def test_a_job_is_its_mapping(small):
    job = parse_job(small)
    assert parse_job(job.mapping) == job
    assert parse_job(json.loads(json.dumps(job.mapping))) == job
    assert (job.name, job.seed, job.strategy_name) == ("small", 0, "finetune")
    assert job.adapter.rank == 4
    assert job.output_dir == Path("runs/small")


def test_filled_settings_are_the_same_job(small):
    job = parse_job({**small, "strategy": {"name": "er"}})
    filled = parse_job(job.settings())
    assert filled.settings() == job.settings() == json.loads(json.dumps(job.settings()))
    for part in ("stream", "scenario", "backbone", "adapter", "strategy", "memory", "training"):
        assert getattr(filled, part) == getattr(job, part)


def test_dotted_keys_are_the_nested_ones(small):
    dotted = {**small, "training.batch_size": 8}
    assert parse_job(dotted).training.batch_size == 8
    assert parse_job(dotted).training.epochs == 1


def test_a_whole_number_is_a_number_and_so_is_1e_3(small):
    training = read_yaml("{learning_rate: 1e-3, max_grad_norm: 1}", "here")
    job = parse_job({**small, "training": training})
    assert job.training.learning_rate == 0.001
    assert job.training.max_grad_norm == 1.0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"strategy": {"name": "finetun"}},
            r"strategy\.name: 'finetun' is unknown; did you mean 'finetune'\? \(allowed: acl, .*\)",
        ),
        (
            {"adapter": {"kind": "lorra"}},
            r"adapter\.kind: 'lorra' is unknown; did you mean 'lora'\? \(allowed: .*\)",
        ),
        (
            {"stream": {"name": "digit"}},
            r"stream\.name: 'digit' is unknown; did you mean 'digits'\? \(allowed: .*\)",
        ),
        (
            {"memory": {"policy": "resevoir", "size": 3}},
            r"memory\.policy: 'resevoir' is unknown; did you mean 'reservoir'\? \(allowed: .*\)",
        ),
        (
            {"scenario": {"kind": "class_incremantal"}},
            r"scenario\.kind: 'class_incremantal' is unknown; did you mean 'class_incremental'.*",
        ),
        (
            {"training": {"epoch": 2}},
            r"training\.epoch: unknown key; did you mean 'epochs'\? \(allowed in training: .*\)",
        ),
        (
            {"adapter": {"kind": "lora", "rnak": 2}},
            r"adapter\.rnak: unknown key; did you mean 'rank'\? \(allowed in adapter: .*\)",
        ),
        (
            {"strategy": {"name": "ewc", "strenght": 2}},
            r"strategy\.strenght: unknown key; did you mean 'strength'\? "
            r".*decay, name, online, strength\)",
        ),
        ({"trainig": {}}, r"trainig: unknown key; did you mean 'training'\? \(allowed: .*\)"),
        (
            {"learning_rate": 0.1},
            r"learning_rate: unknown key; did you mean 'training\.learning_rate'\? .*",
        ),
        (
            {"training": {"epochs": 2.5}},
            r"training\.epochs: 2\.5 is not allowed \(allowed: a whole number\)",
        ),
        (
            {"training": {"epochs": "yes"}},
            r"training\.epochs: 'yes' is not allowed \(allowed: a whole number\)",
        ),
        (
            {"training": {"epochs": True}},
            r"training\.epochs: true is not allowed \(allowed: a whole number\)",
        ),
        (
            {"training": {"epochs": "2"}},
            r"training\.epochs: '2' is not allowed \(allowed: a whole number\)",
        ),
        (
            {"training": {"learning_rate": "abc"}},
            r"training\.learning_rate: 'abc' is not allowed \(allowed: a number\)",
        ),
        (
            {"training": {"optimizer": 3}},
            r"training\.optimizer: 3 is not allowed \(allowed: 'adamw' or 'adam' or 'sgd'\)",
        ),
        (
            {"adapter": {"kind": "lora", "targets": "query"}},
            r"adapter\.targets: 'query' is not allowed \(allowed: a list of texts or null\)",
        ),
        ({"training": {"epochs": 0}}, r"training\.epochs: 0 is not positive"),
        ({"adapter": {"kind": "lora", "rank": 0}}, r"adapter\.rank: 0 is not positive"),
        ({"seed": "three"}, r"seed: 'three' is not allowed \(allowed: a whole number\)"),
        ({"name": 7}, r"name: 7 is not allowed \(allowed: text\)"),
        (
            {"strategy": "er"},
            r"strategy: 'er' is not allowed \(allowed: a mapping with the key 'name'\)",
        ),
        ({"strategy": {}}, r"strategy\.name: missing \(allowed: acl, .*\)"),
        ({"strategy": {"name": 3}}, r"strategy\.name: 3 is not allowed \(allowed: acl, .*\)"),
        ({"stream": None}, r"stream\.name: missing \(allowed: .*digits.*\)"),
        ({"training": 3}, r"training: 3 is not allowed \(allowed: a mapping\)"),
        ({"backbone": {}}, r"backbone\.name: missing \(allowed: text\)"),
        (
            {"memory": {"policy": "ring"}},
            r"memory\.size: missing \(allowed: a whole number\)",
        ),
        (
            {"strategy": {"name": "er"}, "memory": None},
            r"memory: missing, and strategy 'er' draws from one \(allowed: .*reservoir.*\)",
        ),
        (
            {"strategy": {"name": "olora"}, "adapter": {"kind": "prefix"}},
            r"adapter\.kind: 'prefix' does not go with strategy 'olora' \(allowed: lora\)",
        ),
        (
            {"strategy": {"name": "olora"}, "adapter": None},
            r"adapter: null does not go with strategy 'olora' \(allowed: lora\)",
        ),
        (
            {"sweep": {"metric": "test/average_accuracy"}},
            r"sweep\.metric: 'test/average_accuracy' .* mean 'validation/average_accuracy'\?",
        ),
        (
            {"sweep": {"metric": "average_accuracy"}},
            r"sweep\.metric: 'average_accuracy' is unknown; did you mean 'validation/average_acc.*",
        ),
        (
            {"sweep": {"variants": ["er"]}},
            r"sweep\.variants: \['er'\] is not allowed \(allowed: a list of mappings\)",
        ),
        ({"sweep": {"num_samples": 0}}, r"sweep\.num_samples: 0 is not positive"),
        (
            {"sweep": {"scheduler": "asha"}},
            r"sweep\.scheduler: 'asha' is not allowed \(allowed: a mapping or null\)",
        ),
        (
            {"sweep": {"scheduler": {"grace_period": 2}}},
            r"sweep\.scheduler: .* is not allowed \(allowed: null or a mapping with a name\)",
        ),
        ({"hosts": {"device": "gpu"}}, r"hosts\.device: 'gpu' is unknown; did you mean 'cpu'\? .*"),
        ({"hosts": {"threads": 0}}, r"hosts\.threads: 0 is not positive"),
        ({"training.epochs": 3}, r"training\.epochs: given twice \(allowed: once\)"),
        ({3: 4}, r"3: not a key \(allowed: names joined by dots\)"),
        ({"training": {".x": 1}}, r"training\.'\.x': not a key .*"),
    ],
)
def test_each_mistake_is_exactly_one_clear_line(small, change, line):
    (problem,) = problems_of({**small, **change})
    assert len(problem.splitlines()) == 1
    assert re.fullmatch(line, problem), problem


def test_all_mistakes_are_told_together(small):
    small["training"] = {"epochs": 2.5, "learning_rat": 1}
    small["strategy"] = {"name": "erx"}
    small["adapter"]["rank"] = "big"
    problems = problems_of(small)
    keys = [each.partition(":")[0] for each in problems]
    assert sorted(keys) == [
        "adapter.rank",
        "strategy.name",
        "training.epochs",
        "training.learning_rat",
    ]


def test_a_config_error_survives_a_trip_to_another_process():
    error = pickle.loads(pickle.dumps(ConfigError("a: wrong", "b: wrong")))
    assert error.problems == ["a: wrong", "b: wrong"]
    assert str(error) == "a: wrong\nb: wrong"


def test_what_a_strategy_has_no_use_for_is_left_out_and_said(small):
    job = parse_job({**small, "strategy": {"name": "simplecil"}})
    assert job.adapter is None
    assert job.memory is None
    assert job.unused == {
        "adapter": "strategy 'simplecil' takes none",
        "memory": "strategy 'simplecil' replays nothing",
        "training.epochs": "strategy 'simplecil' takes no gradient step",
    }
    assert job.settings()["training"] == {
        "evaluation_batch_size": 256,
        "measure": None,
        "drift": False,
    }
    er = parse_job({**small, "strategy": {"name": "er"}})
    assert er.unused == {}
    assert er.memory.size == 50


def test_a_mistake_in_a_section_without_use_is_still_a_mistake(small):
    small["strategy"] = {"name": "simplecil"}
    small["adapter"]["rank"] = "big"
    assert problems_of(small) == ["adapter.rank: 'big' is not allowed (allowed: a whole number)"]


def test_overrides_are_laid_over_the_file(small, tmp_path):
    job = load_job(write(tmp_path, small), ["seed=3", "training.batch_size=8", "adapter.rank=2"])
    assert (job.seed, job.training.batch_size, job.training.epochs) == (3, 8, 1)
    assert job.adapter.rank == 2


def test_a_job_without_a_name_is_called_like_its_file(small, tmp_path):
    del small["name"]
    assert load_job(write(tmp_path, small)).name == "job"


def test_naming_another_strategy_drops_the_hyper_parameters_of_the_old_one(small, tmp_path):
    small["strategy"] = {"name": "ewc", "strength": 7.0}
    path = write(tmp_path, small)
    assert load_job(path, ["strategy.name=er"]).mapping["strategy"] == {"name": "er"}
    lwf = load_job(path, ["strategy.name=lwf"])
    assert lwf.strategy.strength != 7.0, "EWC's strength means nothing to LwF"
    assert load_job(path, ["strategy.name=ewc"]).strategy.strength == 7.0
    assert load_job(path, ["strategy.strength=3", "strategy.name=lwf"]).strategy.strength == 3.0


def test_naming_another_adapter_keeps_what_both_kinds_have(small, tmp_path):
    small["adapter"] = {"kind": "lora", "rank": 4, "layers": [0, 1]}
    job = load_job(write(tmp_path, small), ["adapter.kind=bottleneck", "adapter.width=16"])
    assert job.mapping["adapter"] == {"kind": "bottleneck", "layers": [0, 1], "width": 16}


def test_another_memory_policy_keeps_its_size(small, tmp_path):
    job = load_job(write(tmp_path, small), ["strategy.name=er", "memory.policy=ring"])
    assert (type(job.memory).__name__, job.memory.size) == ("Ring", 50)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.epoch=2", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("sed=2", "sed: unknown key; did you mean 'seed'?"),
        ("strategy=er", "strategy: 'er' is not allowed (allowed: a mapping with the key 'name')"),
        ("training..epochs=2", "'training..epochs': not a key (allowed: names joined by dots)"),
    ],
)
def test_a_wrong_override_is_one_clear_line(small, tmp_path, override, line):
    with pytest.raises(ConfigError) as error:
        load_job(write(tmp_path, small), [override])
    (problem,) = error.value.problems
    assert problem.startswith(line)


def test_a_sweep_key_on_the_command_line_varies_no_longer(small, tmp_path):
    small["sweep"] = {
        "space": {
            "training.learning_rate": {"grid_search": [0.1, 0.2]},
            "seed": {"grid_search": [1, 2]},
        }
    }
    job = load_job(write(tmp_path, small), ["training.learning_rate=0.5", "sweep.num_samples=2"])
    assert list(job.sweep.space) == ["seed"]
    assert job.sweep.num_samples == 2
    assert job.training.learning_rate == 0.5


def test_a_key_of_the_space_is_replaced_as_a_whole(small, tmp_path):
    small["sweep"] = {"space": {"training.learning_rate": {"grid_search": [0.1, 0.2]}}}
    job = load_job(
        write(tmp_path, small), ["sweep.space.training.learning_rate={choice: [0.3, 0.4]}"]
    )
    assert job.sweep.space == {"training.learning_rate": {"choice": [0.3, 0.4]}}


def test_naming_another_scheduler_drops_the_arguments_of_the_old_one(small, tmp_path):
    small["sweep"] = {"scheduler": {"name": "asha", "grace_period": 2}}
    path = write(tmp_path, small)
    assert load_job(path, ["sweep.scheduler.name=fifo"]).sweep.scheduler == {"name": "fifo"}
    kept = load_job(path, ["sweep.scheduler.grace_period=3"]).sweep.scheduler
    assert kept == {"name": "asha", "grace_period": 3}


def test_what_goes_over_the_rows_of_an_online_stream_twice_is_refused(small):
    online = {**small, "scenario": {**small["scenario"], "online": True}}
    twice = {**online, "training": {"epochs": 2}}
    assert parse_job(online).scenario.one_pass
    assert problems_of(twice) == [
        "training.epochs: 2 does not go with an online stream, whose rows are seen once "
        "(allowed: 1)"
    ]
    assert parse_job({**twice, "strategy": {"name": "simplecil"}})


def test_a_strategy_that_needs_a_boundary_is_refused_where_there_is_none(small):
    free = {**small, "scenario": {"kind": "task_free"}, "strategy": {"name": "ewc"}}
    (problem,) = problems_of(free)
    assert problem.startswith("scenario.kind: 'task_free' does not go with strategy 'ewc' (allowed")


def test_a_second_file_is_laid_over_the_first_and_words_over_both(small, tmp_path):
    first = write(tmp_path, {key: value for key, value in small.items() if key != "name"})
    second = tmp_path / "longer.yaml"
    second.write_text("training: {epochs: 3, batch_size: 5}\nstrategy.name: er\n")
    job = load_job(first, [str(second), "training.epochs=4"])
    assert (job.training.epochs, job.training.batch_size) == (4, 5)
    assert job.strategy_name == "er"
    assert job.name == "job-longer"
    assert load_job(first, [str(second), "name=mine"]).name == "mine"


def test_a_second_file_that_is_not_there_is_named(small, tmp_path):
    with pytest.raises(InputError, match=r"job: no file 'nowhere.yaml'"):
        load_job(write(tmp_path, small), ["nowhere.yaml"])


@pytest.mark.parametrize("name", ["acl", "ada", "adaptive_merging", "hide_prompt", "lae", "sema"])
def test_a_strategy_of_several_phases_is_refused_on_an_online_stream(small, name):
    online = {**small, "scenario": {**small["scenario"], "online": True}}
    adapter = {"hide_prompt": None, "sema": {"kind": "bottleneck"}}.get(name, small["adapter"])
    (problem,) = problems_of({**online, "strategy": {"name": name}, "adapter": adapter})
    assert "goes over a task in several phases" in problem


@pytest.mark.parametrize("setting", [{"anytime_every": 8}, {"learning_curve_batches": 2}])
def test_only_what_can_answer_at_any_time_is_asked_in_the_middle_of_a_task(small, setting):
    training = {**small["training"], **setting}
    assert parse_job({**small, "training": training})
    (problem,) = problems_of({**small, "training": training, "strategy": {"name": "ranpac"}})
    assert problem.startswith(f"training.{next(iter(setting))}: strategy 'ranpac' cannot be asked")


@pytest.mark.parametrize(
    ("strategy", "adapter", "runs"),
    [
        ("finetune", {"kind": "lora"}, True),
        ("l2p", None, True),
        ("linear_probe", None, False),
        ("simplecil", None, False),
        ("aper", {"kind": "lora"}, True),
    ],
)
def test_only_steps_that_train_something_within_the_backbone_run_its_layers(
    small, strategy, adapter, runs
):
    mapping = small | {"strategy": {"name": strategy}, "adapter": adapter}
    assert parse_job(mapping).steps_run_layers == runs
