"""A language model's run from its job to its next task, and what its bundle is good for."""

import csv
import json

import pytest
import yaml
from click.testing import CliRunner

from lamina.api import load
from lamina.cli import main
from lamina.registry import InputError
from language_models import write_model

MOST = 9
"""Tokens of an answer, as the job says."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The output folder of a tiny language model that has learned two tasks of calls by replay."""
    folder = tmp_path_factory.mktemp("calls")
    job = {
        "stream": {
            "name": "assistant_calls",
            "tasks": ["lights", "climate"],
            "sentences_per_intent": 6,
        },
        "scenario": {"kind": "domain_incremental", "limit_per_class": 3},
        "backbone": {"name": str(write_model("llama", folder / "model"))},
        "adapter": {"kind": "lora", "rank": 2},
        "strategy": {"name": "er", "replay_size": 4},
        "memory": {"policy": "class_balanced", "size": 8},
        "training": {"epochs": 1, "batch_size": 8, "max_new_tokens": MOST},
        "tracking": {"enabled": False},
        "output_dir": str(folder / "out"),
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    done = lamina("run", path)
    assert done.exit_code == 0, done.output
    return folder / "out"


def lamina(*words, input="turn it on\n"):
    return CliRunner().invoke(main, [str(word) for word in words], input=input)


def test_a_run_leaves_a_bundle_without_classes_or_their_predictions(calls):
    (bundle,) = calls.glob("run/*/bundle")
    facts = json.loads((bundle / "bundle.json").read_text())
    assert facts["class_names"] == []
    assert [each["name"] for each in facts["tasks"]] == ["lights", "climate"]
    assert not (bundle / "predictions.csv").exists()


def test_it_learns_one_more_task(calls, tmp_path):
    done = lamina("learn", calls, "stream.tasks=['media']", "-o", tmp_path / "next")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "next" / "bundle.json").read_text())
    assert [len(row) for row in facts["test"]] == [3, 3, 3]
    assert None not in facts["test"][-1]


def test_prompts_are_answered_alike_on_the_command_line_from_lines_and_in_python(calls, tmp_path):
    prompts = ["turn on the kitchen light", "make it 20 degrees in the attic"]
    expected = load(calls).generate(prompts, max_new_tokens=7)
    assert all(each.text and each.num_tokens <= 7 for each in expected)
    assert expected[0].text != expected[1].text
    done = lamina("generate", calls, *prompts, "--max-new-tokens", 7)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        line
        for prompt, each in zip(prompts, expected, strict=True)
        for line in (prompt, f"  {each.text}")
    ]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n\n")
    words = ("--max-new-tokens", 7, "--format", "jsonl")
    for given in (("--file", tmp_path / "prompts.txt"), ("-",)):
        done = lamina("generate", calls, *given, *words, input="\n".join(prompts))
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert [each["text"] for each in said] == [each.text for each in expected]
        assert [each["prompt"] for each in said] == prompts
    broken = sum(not each.is_whole for each in expected)
    assert (f"{broken} of 2 answers broke off after 7 tokens" in done.stderr) == (broken > 0)


def test_an_answer_is_as_long_as_the_job_says_where_nobody_says_how_long(calls, tmp_path):
    prompt = "turn on the kitchen light"
    (expected,) = load(calls).generate([prompt], max_new_tokens=MOST)
    assert load(calls).generate([prompt]) == [expected]
    assert expected.num_tokens == MOST
    done = lamina("generate", calls, prompt)
    assert done.stdout.strip() == expected.text
    assert f"1 of 1 answer broke off after {MOST} tokens" in done.stderr
    done = lamina("predict", calls, "-", "--format", "jsonl", input=f"{prompt}\n")
    assert json.loads(done.stdout)["text"] == expected.text
    done = lamina("export", calls, tmp_path / "exported")
    assert done.exit_code == 0, done.output
    assert f"max_new_tokens={MOST})" in (tmp_path / "exported" / "README.md").read_text()


def test_a_conversation_is_asked_as_its_stream_s_rows_were(calls):
    predictor = load(calls)
    (alone,) = predictor.generate(["turn it on"], max_new_tokens=3)
    message = {"role": "user", "content": "turn it on"}
    assert predictor.generate([[message]], max_new_tokens=3) == [alone]
    with pytest.raises(InputError, match="has prompts of one turn"):
        predictor.generate([[message, message]])
    with pytest.raises(
        InputError, match=r"role 'human' \(allowed: system, user, assistant, tool\)"
    ):
        predictor.generate([[{"role": "human", "content": "on"}]])


def test_what_cannot_be_asked_is_one_line(calls):
    for words, said in (
        (("generate", calls), "PROMPT: none was given"),
        (("generate", calls, "on", "--file", "x"), "--file: prompts were given as well"),
        (("generate", calls, "--file", "x"), "--file: 'x' cannot be read"),
        (("generate", calls, " "), "is no text or an empty one"),
        (("generate", calls, "on", "--task", "lights"), "know no task"),
        (("generate", calls, "on", "--max-new-tokens", 5000), "leaves no room for a prompt"),
    ):
        done = lamina(*words)
        assert done.exit_code == 2, words
        (line,) = done.stderr.splitlines()
        assert said in line


def test_the_rows_of_a_file_are_answered_and_held_against_their_answers(calls, tmp_path):
    prompts = ["turn on the kitchen light", "make it 20 degrees", "turn it on in the attic"]
    texts = [each.text for each in load(calls).generate(prompts, max_new_tokens=5)]
    path = tmp_path / "asked.jsonl"
    rows = [
        {"prompt": prompt, "answer": text, "about": about}
        for prompt, text, about in zip(prompts, texts, ["lights", "climate", "lights"], strict=True)
    ]
    rows[1:1] = [{"prompt": " ", "answer": "no", "about": "lights"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("stream.task_column=about", "--max-new-tokens", 5)
    done = lamina("predict", calls, path, *words, "--explain", "-o", tmp_path / "said.csv")
    assert done.exit_code == 0, done.output
    said = list(csv.DictReader((tmp_path / "said.csv").read_text().splitlines()))
    assert [each["row"] for each in said] == ["1", "3", "4"]
    assert [each["text"] for each in said] == texts
    assert "1 of 4 rows is empty and left out" in done.stderr
    lines = [line.split() for line in done.stderr.splitlines()]
    assert [line[:2] for line in lines if line[:1] == ["lights"]] == [["lights", "2"]]
    assert ["all", "rows", "3"] in [line[:3] for line in lines]


def test_rows_without_answers_are_answered_too(calls, tmp_path):
    messages = [{"role": "user", "content": "turn it on"}]
    path = tmp_path / "asked.json"
    path.write_text(json.dumps([{"messages": messages}]))
    words = ("--max-new-tokens", 5, "--format", "jsonl")
    done = lamina("predict", calls, path, *words)
    assert done.exit_code == 0, done.output
    (expected,) = load(calls).generate(["turn it on"], max_new_tokens=5)
    said = {"row": 1, "text": expected.text, "is_whole": expected.is_whole}
    assert json.loads(done.stdout) == said
    assert json.loads(lamina("predict", calls, "-", *words).stdout) == said
    for more, words in (
        (("--explain",), "the rows have no answers"),
        (("--top-k", 2), "answers are texts"),
        (("stream.prompt_column=body",), "stream.prompt_column: 'body'"),
    ):
        refused = lamina("predict", calls, path, *more)
        assert refused.exit_code == 2
        (line,) = refused.stderr.splitlines()
        assert words in line
