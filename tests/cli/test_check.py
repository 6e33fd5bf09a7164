"""`lamina check` says all that is wrong with jobs at once, and trains nothing."""

import yaml


def changed(job, name, **changes):
    path = job.with_name(name)
    path.write_text(yaml.safe_dump({**yaml.safe_load(job.read_text()), **changes}))
    return path


def test_a_sound_job_is_said_to_be_one_and_what_it_is(lamina, job):
    result = lamina("check", job)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.output == (
        f"{job}: ok: 3 trials, 2 strategies, 2 tasks, 10 classes, 240 rows (class_incremental on "
        f"digits, {yaml.safe_load(job.read_text())['backbone']['name']})\n"
    )
    assert not (job.parent / "out").exists()


def test_all_problems_of_all_files_are_said_with_their_file(lamina, job):
    misspelt = changed(
        job,
        "misspelt.yaml",
        trainig={"epochs": 1},
        strategy={"name": "err"},
        stream={"name": "huggingface", "path": "nowhere.csv", "text_column": "text"},
        backbone={"name": "./nowhere"},
    )
    unsound = changed(
        job,
        "unsound.yaml",
        memory=None,
        stream={"name": "huggingface", "path": "nowhere.csv", "text_column": "text"},
        backbone={"name": "./nowhere"},
        sweep=None,
    )
    wide = changed(job, "wide.yaml", adapter={"kind": "lora", "rank": 64})
    result = lamina("check", misspelt, job, unsound, wide, "job_that_is_not.yaml")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    for path, start in (
        (misspelt, "trainig: unknown key; did you mean 'training'?"),
        (misspelt, "strategy.name: 'err' is unknown; did you mean 'er'?"),
        (misspelt, "stream.path: 'nowhere.csv' does not exist"),
        (misspelt, "backbone.name: there is no folder './nowhere'"),
        (unsound, "memory: missing, and strategy 'er' draws from one"),
        (unsound, "stream.path: 'nowhere.csv' does not exist"),
        (unsound, "backbone.name: there is no folder './nowhere'"),
        (wide, "adapter.rank: 64 is more than the width of"),
        ("job_that_is_not.yaml", "job: no file"),
    ):
        assert sum(line.startswith(f"{path}: {start}") for line in lines) == 1, (path, start)
    assert len(lines) == 9
    assert result.stdout.startswith(f"{job}: ok: ")


def test_a_scheduler_that_can_do_nothing_is_a_problem(lamina, job):
    assert lamina("check", job, "sweep.scheduler={name: ahsa}").exit_code == 2
    assert lamina("check", job, "training.epochs=2", "strategy.nme=x").exit_code == 2
