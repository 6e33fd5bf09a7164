"""Instructions in the formats that are in use: what is asked, what is answered, and what is said
when a row does not read."""

import csv
import json
import pickle

import pytest

from lamina.config import parse_job
from lamina.core import Conversation
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.streams.checks import notes_of
from lamina.streams.conversations import detected

Instructions = source_class("instructions")
ASKED = ["How far is the moon?", "And the sun?", "What is 2 + 2?", "Who wrote Emma?"]
SAID = ["384,400 km.", "149.6 million km.", "4", "Jane Austen"]
TOPIC = ["space", "space", "other", "other"]
PAIRS = list(zip(ASKED, SAID, TOPIC, strict=True))
ROWS = {
    "prompt": [{"prompt": q, "completion": a, "topic": t} for q, a, t in PAIRS],
    "alpaca": [{"instruction": q, "input": "", "output": a, "topic": t} for q, a, t in PAIRS],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}],
            "topic": t,
        }
        for q, a, t in PAIRS
    ],
    "messages": [
        {
            "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
            "topic": t,
        }
        for q, a, t in PAIRS
    ],
}


def write(path, rows):
    """In the kind of file that its name says; lists in csv cells are JSON."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for row in rows:
                cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                writer.writerow(cells)
    elif path.suffix == ".parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("format_", list(ROWS))
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_every_format_in_every_kind_of_file_gives_the_same_prompts_and_answers(
    format_, kind, tmp_path
):
    path = write(tmp_path / f"rows.{kind}", ROWS[format_])
    table = Instructions(path=path, task_column="topic").load(0)
    assert list(table.values) == ASKED
    assert list(table.targets) == SAID
    assert list(table.groups) == TOPIC
    source = Instructions(path=path, task_column="topic", prompt_format="Q: {prompt}")
    asked = source.load_asked()
    assert [source.prompt_of(turns) for turns in asked.values] == [f"Q: {each}" for each in ASKED]
    assert (asked.labels, asked.groups) == (SAID, TOPIC)
    assert table.notes[0].line.startswith(f"format {format_} (")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["question", "answer"], "prompt"),
        (["instruction", "output", "input"], "alpaca"),
        (["text", "prompt", "answer"], "prompt"),
        (["id", "text"], "text"),
        (["a", "b"], None),
    ],
)
def test_a_format_is_found_by_its_columns(columns, expected):
    found = detected(columns)
    assert (found and found.format) == expected


def test_what_an_instruction_is_about_its_system_and_its_history_are_parts_of_the_prompt(tmp_path):
    row = {
        "instruction": "Sum them.",
        "input": "1 2",
        "output": "3",
        "system": "You count.",
        "history": [["Hello", "Good day"]],
    }
    path = write(tmp_path / "rows.json", [row])
    turns = "You count.\nuser: Hello\nassistant: Good day\nuser: Sum them.\n1 2\nassistant: "
    assert list(Instructions(path=path).load(0).values) == [turns]
    silent = Instructions(path=path, system="").load(0)
    assert list(silent.values) == [turns.partition("\n")[2]]
    row |= {"history": [], "system": ""}
    path = write(tmp_path / "rows.json", [row])
    framed = Instructions(path=path, prompt_format="Task: {prompt}\nAnswer: ").load(0)
    assert list(framed.values) == ["Task: Sum them.\n1 2\nAnswer: "]


def test_of_a_conversation_the_last_answer_is_learned_and_the_turns_before_it_are_asked(tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    table = Instructions(path=write(tmp_path / "rows.json", rows)).load(0)
    assert list(table.values) == ["user: a\nassistant: b\nuser: c\nassistant: "]
    assert list(table.targets) == ["d"]
    assert "1 of 1 row is a conversation with several answers" in table.notes[1].line


def test_a_chat_template_is_left_to_the_tokenizer_and_an_empty_system_turn_is_kept(tmp_path):
    path = write(tmp_path / "rows.json", ROWS["prompt"])
    table = Instructions(path=path, template="chat", system="").load(0)
    first = table.values[0]
    assert isinstance(first, Conversation)
    assert first.turns == (("system", ""), ("user", ASKED[0]))
    assert pickle.loads(pickle.dumps(first)).turns == first.turns  # Ray hands rows on so.


def test_texts_alone_are_answers_to_nothing_and_may_be_cut_to_rows(tmp_path):
    rows = [{"text": f"text {n} has six words here"} for n in range(8)]
    path = write(tmp_path / "rows.jsonl", rows)
    whole = Instructions(path=path).load(0)
    assert set(whole.values) == {""}
    assert list(whole.targets) == [row["text"] for row in rows]
    cut = Instructions(path=path, words_per_row=4).load(0)
    assert cut.targets[:2] == ["text 0 has six", "words here"]
    stream = build_stream(Instructions(path=path, words_per_row=4), ScenarioSettings("joint"), 0)
    (only,) = stream.experiences
    assert len(only.train) + len(only.validation) + len(only.test) == 16
    assert all(len(only.part(each)) % 2 == 0 for each in ("train", "validation", "test"))
    assert not notes_of(cut)


def test_plain_texts_are_measured_by_perplexity_where_the_job_says_that_they_are(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": f"text {n}"} for n in range(8)])

    def job(stream, **training):
        return parse_job(
            {
                "name": "texts",
                "stream": {"name": "instructions", "path": path, **stream},
                "scenario": {"kind": "joint"},
                "backbone": {"name": "smollm2"},
                "strategy": {"name": "finetune"},
                "training": training,
                "sweep": {"space": {"training.learning_rate": {"grid_search": [0.1, 0.2]}}},
            }
        )

    for given in ({"format": "text"}, {"words_per_row": 4}):
        plain = job(given)
        assert plain.training.measure == "perplexity"
        assert (plain.sweep.metric, plain.sweep.mode) == ("validation/average_perplexity", "min")
        assert parse_job(plain.settings()).training == plain.training
    assert job({"format": "text"}, measure="token_accuracy").training.measure == "token_accuracy"
    assert job({}).training.measure is None
    found = Instructions(path=path).load(0)
    assert "with stream.format: text R is of perplexity" in str(found.notes)


def test_what_is_asked_need_not_have_answers(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    for rows, expected in (
        ([{"question": "Why?"}, {"question": ""}], [("user", "Why?")]),
        ([{"instruction": "Why?", "input": "It rains."}], [("user", "Why?\nIt rains.")]),
        ([{"text": "Why?"}], [("user", "Why?")]),
        ([{"messages": turns}], [("system", "Be brief."), ("user", "Why?")]),
    ):
        asked = Instructions(path=write(tmp_path / "asked.json", rows)).load_asked()
        assert [list(each) for each in asked.values] == [expected]
        assert (asked.labels, asked.total) == (None, len(rows))
    path = write(tmp_path / "asked.csv", [{"body": "Why?", "said": "So."}])
    with pytest.raises(InputError, match=r"no column of .* is known as prompts, 'body', 'said'"):
        Instructions(path=path).load_asked()
    named = Instructions(path=path, prompt_column="body", answer_column="said").load_asked()
    assert (named.values, named.labels) == ([[("user", "Why?")]], ["So."])


def test_tasks_are_files_or_folders_below_a_path_in_the_order_that_is_given(tmp_path):
    for task in ("sums", "facts"):
        (tmp_path / task).mkdir()
        for split, rows in (("train", ROWS["prompt"]), ("test", ROWS["prompt"][:1])):
            write(tmp_path / task / f"{split}.json", [{**row, "of": task} for row in rows])
    write(tmp_path / "chat.jsonl", ROWS["sharegpt"])
    both = Instructions(path=str(tmp_path), tasks=("facts", "sums"), test_split="test")
    stream = build_stream(both, ScenarioSettings("domain_incremental"), 0)
    assert [each.task.name for each in stream.experiences] == ["facts", "sums"]
    assert [len(each.test) for each in stream.experiences] == [1, 1]
    forms = {"facts": "Q: {prompt}", "sums": "{prompt} ="}
    framed = Instructions(path=str(tmp_path), tasks=("facts", "sums"), prompt_format=forms).load(0)
    assert framed.values[0] == f"Q: {ASKED[0]}"
    assert framed.values[-1] == f"{ASKED[-1]} ="
    own = {"tasks": ("facts", "sums"), "prompt_format": forms}
    asked = Instructions(path=str(tmp_path / "sums"), **own).load_asked()
    assert set(asked.groups) == {"sums"}
    with pytest.raises(InputError, match="nothing says of which one the rows of"):
        Instructions(path=str(tmp_path / "chat.jsonl"), **own).load_asked()
    with pytest.raises(InputError, match=r"stream\.prompt_format: 'chat' is unknown"):
        Instructions(path=str(tmp_path), tasks=("chat",), prompt_format=forms).load(0)
    mixed = Instructions(path=str(tmp_path), tasks=("chat", "sums")).load(0)
    assert list(dict.fromkeys(mixed.groups)) == ["chat", "sums"]
    with pytest.raises(InputError, match=r"stream\.tasks: 'fact'.*did you mean 'facts'"):
        Instructions(path=str(tmp_path), tasks=("fact",)).load(0)
    with pytest.raises(InputError, match=r"stream\.test_split: 'tests'.*did you mean 'test'.*sums"):
        Instructions(path=str(tmp_path), tasks=("sums",), test_split="tests").load(0)


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        (ROWS["prompt"], {"prompt_column": "promt"}, r"prompt_column: 'promt'.*mean 'prompt'"),
        ([{"a": "x", "b": "y"}], {}, r"stream\.format: none is found by the columns.*'a', 'b'"),
        ([{"a": "x", "b": "y"}], {"format": "alpaca"}, r"prompt_column: 'instruction'"),
        ([{"prompt": "x", "completion": " "}, *ROWS["prompt"]], {}, r"1 of 5 rows is empty: row 1"),
        ([{"messages": [{"role": "user", "content": "x"}]}], {}, r"row 1 has no answer"),
        ([{"messages": [{"role": "asistant", "content": "x"}]}], {}, r"'asistant'; did you mean"),
        ([{"messages": [{"from": "gpt", "value": "x"}]}], {}, r"has from, value \(allowed in 'mes"),
        ([{"messages": "no list"}], {}, r"'messages' of row 1 is no list of turns: 'no list'"),
        (ROWS["prompt"], {"input_column": "topic"}, r"input_column: 'topic' changes nothing"),
        (ROWS["prompt"], {"words_per_row": 5}, r"words_per_row: 5 changes nothing in the format"),
    ],
)
def test_what_does_not_read_is_one_line_with_key_and_row(rows, settings, said, tmp_path):
    path = write(tmp_path / "rows.json", rows)
    with pytest.raises(InputError, match=said) as error:
        Instructions(path=path, **settings).load(0)
    assert "\n" not in str(error.value)


def test_settings_that_do_not_go_together_are_refused():
    for settings, said in (
        ({"tasks": ("a", "a")}, "different ones"),
        ({"tasks": ("a",), "task_column": "b"}, "does not go with stream.tasks"),
        ({"template": "chat", "prompt_format": "Q: {prompt}"}, "changes nothing with"),
        ({"prompt_format": "Q"}, "does not say where a prompt stands"),
        ({"words_per_row": 0}, "too few"),
        ({"delimiter": ";;"}, r"stream\.delimiter: ';;' is not allowed"),
        ({"delimiter": '"'}, r"stream\.delimiter: '\"' is stream\.quote as well"),
    ):
        with pytest.raises(InputError, match=said):
            Instructions(path="x", **settings)


def test_rows_without_an_answer_are_left_out_where_the_job_says_so(tmp_path):
    rows = [{"prompt": "x", "completion": ""}, *ROWS["prompt"]]
    table = Instructions(path=write(tmp_path / "rows.json", rows), empty="skip").load(0)
    assert len(table) == 4
    assert table.notes[1].line.startswith("1 of 5 rows is empty and left out: row 1")
