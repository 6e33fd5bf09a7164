"""A job for instructions with their answers, or for texts to go on training with: found by their
columns, and answered by a small language model."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from lamina.backbones.locate import AS_GGUF
from lamina.config.job_lines import flow, head, scalar, section
from lamina.config.reading import Plain
from lamina.core import Samples, Stream
from lamina.registry import InputError, unknown
from lamina.streams import ScenarioSettings, build_stream
from lamina.streams.columns import Column, roles_of
from lamina.streams.conversations import Layout, detected
from lamina.streams.files import DataSet, Read
from lamina.streams.formats import Written
from lamina.streams.names import counted, few_of
from lamina.streams.sources.instructions import Instructions
from lamina.streams.tables import ROW_IDS

_GROUPS = ("category", "dataset", "subset", "type", "kind")
"""Columns of instruction data that are about tasks, beside those of any table."""
_LEAST = 10
"""Rows of a task: a few to train on, and one at least to select and to report on."""
_AFFORDABLE = 400
"""Training rows of all tasks that a small model learns on a laptop in minutes."""
_BATCH = 8
_WORDS = 128
"""Of a plain text that is cut to rows."""
_SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_VARIANTS = (
    ("{strategy: {name: er, replay_size: 4}}", "replays rows of the memory"),
    ("{strategy: {name: olora}}", "a LoRA for each task, orthogonal to the others"),
    ("{strategy: {name: finetune}}", "the floor: nothing against forgetting"),
)


def propose_instructions(
    path: str,
    job: Path,
    tasks: str | None,
    written: Written,
    found: DataSet,
    splits: Mapping[str, str],
) -> tuple[str, tuple[str, ...]] | None:
    """The text of a job for data whose columns are those of instructions, and what a person should
    know, a line each; None for other data.

    Raises InputError where `tasks` is no column of it, or its rows do not read.
    """
    reader = found.splits[splits["train"]][0]
    names = reader(()).names
    layout = detected(names)
    if layout is None or (layout.format == "text" and not set(names) <= {"text", ROW_IDS}):
        return None
    used = {*layout.needed.values(), *layout.optional.values(), ROW_IDS}
    others = _columns(found.splits[splits["train"]], [each for each in names if each not in used])
    form = written.form
    keys: Plain = {"name": "instructions", "path": path}
    keys |= {key: getattr(form, key) for key in written.reasons}
    reasons = dict(written.reasons)
    if layout.format == "text":
        keys["words_per_row"] = _WORDS
        reasons["words_per_row"] = "longer texts become several rows"
    task, scenario, why = _tasks(others, tasks)
    if task is not None:
        keys["task_column"] = task
        reasons["task_column"] = why
    for part in ("validation", "test"):
        if part in splits:
            keys[f"{part}_split"] = splits[part]
    keys |= {"train_split": splits["train"]} if splits["train"] != "train" else {}
    keys["empty"] = "skip"
    reasons["empty"] = "rows without a prompt or an answer are left out and counted"
    source = Instructions(**{key: value for key, value in keys.items() if key != "name"})
    stream = build_stream(source, ScenarioSettings(**scenario), 0)
    text = _job_text(path, job, layout, stream, (keys, reasons), (scenario, why))
    sizes = few_of(
        [f"{each.task.name} ({len(each.train):,} to train on)" for each in stream.experiences], 12
    )
    lines = [f"{key}: {getattr(form, key)!r}, {reason}" for key, reason in written.reasons.items()]
    lines += [*stream.notes, f"{counted(len(stream), 'task')}, {why}: {sizes}"]
    return text, tuple(lines)


def _columns(files: Sequence[Read], names: Sequence[str]) -> list[Column]:
    """The columns that can be read as texts."""
    found = []
    for name in dict.fromkeys(names):
        try:
            cells = [cell for each in files for cell in each([name]).texts.get(name, ())]
        except InputError:
            continue
        found.append(Column(name, cells))
    return found


def _tasks(others: Sequence[Column], wanted: str | None) -> tuple[str | None, Plain, str]:
    """The column of tasks, if any, the scenario, and why."""
    by_name = {each.name: each for each in others}
    if wanted is not None and wanted not in by_name:
        raise unknown("--tasks", wanted, list(by_name))
    roles = roles_of(others, text=["-"], label="")
    likely = [*([roles.task] if roles.task else []), *roles.maybe_tasks]
    likely += [each.name for each in others if each.is_named(_GROUPS)]
    chosen = [wanted] if wanted is not None else likely
    for name in chosen:
        column = by_name[name]
        if column.is_date:
            continue
        counts = Counter(column.cells)
        if len(counts) > 1 and (wanted is not None or min(counts.values()) >= _LEAST):
            why = f"the values of {name!r}"
            return name, {"kind": "domain_incremental"}, why
    date = wanted if wanted is not None and by_name[wanted].is_date else roles.date
    if date is not None and (wanted is None or wanted == date):
        scenario = {"kind": "domain_incremental", "by": date, "num_tasks": 3}
        return None, scenario, f"three periods of {date!r} with as many rows each"
    return None, {"kind": "joint"}, "no column says of tasks: one task (--tasks COLUMN names one)"


def _job_text(
    path: str,
    job: Path,
    layout: Layout,
    stream: Stream[Samples],
    source: tuple[Plain, dict[str, str]],
    cut: tuple[Plain, str],
) -> str:
    scenario, why = dict(cut[0]), {"kind": cut[1]}
    sizes = [len(each.train) for each in stream.experiences]
    if sum(sizes) > _AFFORDABLE:
        scenario["limit_per_class"] = max(_LEAST, _AFFORDABLE // len(sizes))
        why["limit_per_class"] = f"of a task: for a first look; {sum(sizes):,} rows take long"
        sizes = [min(size, scenario["limit_per_class"]) for size in sizes]
    epochs = min(max(math.ceil(30 * _BATCH * len(sizes) / sum(sizes)), 1), 8)
    is_here = all(find_spec(each) for each in (AS_GGUF["smollm2"][0], "gguf"))
    backbone = {"name": "smollm2" if is_here else _SMALL, "max_length": 256}
    model = "135M parameters, quantised to 4 bits" if is_here else "from the hub"
    lines = [
        *head(job, f"{path}: {layout.format}"),
        "",
        *section("stream", *source),
        "",
        *section("scenario", scenario, why),
        "",
        *section(
            "backbone",
            backbone,
            {
                "name": f"{model}; or a folder or hub id of a causal language model",
                "max_length": "tokens of a prompt with its answer; prompts are cut at their start",
            },
        ),
        "adapter: {kind: lora, rank: 8, alpha: 16, layers: [-10, -9, -8, -7, -6, -5, -4, -3, -2, "
        "-1]}",
    ]
    if len(sizes) > 1:
        lines += [
            "strategy: {name: er, replay_size: 4}  # what `lamina run` trains",
            f"memory: {{policy: reservoir, size: {max(16, sum(sizes) // 10)}}}",
        ]
    else:
        lines.append("strategy: {name: finetune}  # what `lamina run` trains")
    lines += [
        f"training: {{epochs: {epochs}, batch_size: {_BATCH}, optimizer: adamw, "
        "learning_rate: 1.0e-3}",
        "",
        "sweep:  # what `lamina sweep` compares",
    ]
    if len(sizes) > 1:
        lines += ["  variants:", *(f"    - {each}  # {reason}" for each, reason in _VARIANTS)]
    lines += [
        "  space:",
        f"    training.learning_rate: {flow({'grid_search': [5.0e-4, 1.0e-3]})}",
        "",
        f"output_dir: {scalar(f'runs/{job.stem}')}",
    ]
    return "\n".join(lines) + "\n"
