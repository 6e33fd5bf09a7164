"""A whole sweep with Lamina against the same sweep with Ray Tune, transformers and PEFT.

    python tests/benchmarks/sweep_vs_tune.py [--out FILE] [--data DIR] [--lanes LANE ...] [--small]

Both sides are whole commands in fresh processes, so imports, the start of Ray and the loading of
the model count: `lamina sweep JOB` here, `peers/tune_peft.py` there (its docstring says how it is
written and why). They run one after the other, Lamina first, which so reads its libraries from a
cold disk if anybody does. A ratio is the peer's wall-clock seconds over those of one of Lamina's
repetitions; the peer's side takes many minutes and is run once. Neither side tracks with MLflow,
and every repetition has an output folder of its own.

The data are CLINC150, class-incremental in its ten domains (`--data` is the authors' folder), or
the voice commands of the `assistant` stream where that folder is not there. Lamina's parts draw
what is random (first values, the order of each epoch, random projections) and write it down for the
peer, so both sides compute the same, and `largest_difference` is that between the entries of their
accuracy matrices R, of every trial, on the validation and test part. It is said when it is not 0.

| lane | trials |
|---|---|
| `head_8`, `head_32` | a linear probe at several rates, and NCM, SimpleCIL, SLDA, RanPAC |
| `top_third_8` | LoRA on the last two of six layers, eight rates |
| `all_layers_16` | LoRA on all layers, sixteen rates, stopped early on both sides |

What else the JSON says of a lane:

- `largest_difference_of_each_trial`, in the order of the lane's trials.
- `lamina_seconds` of every repetition, `peer_seconds`; and its size: `trials`, `tasks`, `epochs`,
  and the `rows` of a class.
- `ratio_to_kept_features` (`head_8`): against a peer that keeps the features of the frozen backbone
  for the length of a trial. The lane is not judged by it, as a training loop over a frozen backbone
  rarely does that, but some do.
- `ratio_to_no_scheduler` (`all_layers_16`): against a peer that trains every trial to its end. The
  lane is judged by the other one: Lamina's synchronous halving against Tune's ASHA with the same
  grace of two tasks and the same factor of two, as both stop early whoever asks for it.
"""

import csv
import json
import sys
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from harness import PROJECT, Lane, arguments, finish, lamina, seconds_of, stdout
from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.backbones.load import load_backbone
from lamina.backbones.locate import locate
from lamina.config import Job, load_job
from lamina.core import PARTS, Samples, Stream, generator_of
from lamina.strategies.ranpac import RanPAC
from lamina.streams import build_stream

PEER = Path(__file__).parent / "peers" / "tune_peft.py"
CLINC150 = PROJECT.parent / "shared" / "data" / "clinc150"
HALVING = {"name": "task_halving", "grace_period": 2, "reduction_factor": 2}
"""How Lamina stops early."""
ASHA = {"grace_period": 2, "reduction_factor": 2}
"""How the peer does."""
NUM_LAYERS = 6
"""Of MiniLM: PEFT does not count layers from the last."""
RATE = "training.learning_rate"

Trial = dict[str, Any]
"""What tells a trial from the others of its lane, by dotted key of the job."""
Matrices = dict[str, list[list[float]]]
"""R of the validation and test part, a row for each task learned, up to the diagonal."""


@dataclass(frozen=True)
class Rows:
    """At most so many of each class."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Workload:
    """What both sides train in a lane."""

    trials: list[Trial]
    target: float
    repeats: int
    rows: Rows
    epochs: int
    batch_size: int
    tasks: int = 10
    """Domains of CLINC150, the first ones; the voice commands have six."""
    adapter: dict[str, Any] | None = None
    stops_early: bool = False
    """Whether both sides have a scheduler."""
    keeps_features: bool = False
    """Whether the peer keeps the features of the frozen backbone within a trial."""
    beside: tuple[str, dict[str, Any]] | None = None
    """Another peer to be compared with: what its ratio is called, and what of this changes."""


def rates(number: int, low: float, high: float) -> list[float]:
    """Learning rates from low to high, evenly on a logarithmic scale."""
    return [round(low * (high / low) ** (place / (number - 1)), 7) for place in range(number)]


def probes(count: int) -> list[Trial]:
    return [{"strategy.name": "linear_probe", RATE: rate} for rate in rates(count, 5e-4, 5e-2)]


def statistics(shrinkages: Sequence[float], projections: Sequence[int]) -> list[Trial]:
    return [
        {"strategy.name": "ncm"},
        {"strategy.name": "simplecil"},
        *({"strategy.name": "slda", "strategy.shrinkage": each} for each in shrinkages),
        *({"strategy.name": "ranpac", "strategy.projection": each} for each in projections),
    ]


def loras(count: int) -> list[Trial]:
    return [{"strategy.name": "finetune", RATE: rate} for rate in rates(count, 2e-4, 5e-3)]


ROWS = Rows(train=40, validation=20, test=30)
"""All that CLINC150 has for validation and test, and two fifths of what it has for training."""
FEW_ROWS = Rows(train=20, validation=5, test=5)
"""For the lane that has a peer of sixteen whole trials to wait for, and another one beside it."""
LORA = {"kind": "lora", "rank": 8, "alpha": 16}
WORKLOADS = {
    "head_8": Workload(
        trials=[*probes(4), *statistics([1e-4], [512])],
        target=12,
        repeats=3,
        rows=ROWS,
        epochs=3,
        batch_size=32,
        beside=("ratio_to_kept_features", {"keeps_features": True}),
    ),
    "head_32": Workload(
        trials=[
            *probes(16),
            *statistics([10.0**-power for power in range(1, 8)], range(256, 641, 64)),
        ],
        target=40,
        repeats=3,
        rows=ROWS,
        epochs=3,
        batch_size=32,
    ),
    "top_third_8": Workload(
        trials=loras(8),
        target=2.5,
        repeats=2,
        rows=ROWS,
        epochs=3,
        batch_size=16,
        adapter={**LORA, "layers": [-2, -1]},
    ),
    "all_layers_16": Workload(
        trials=loras(16),
        target=3,
        repeats=2,
        rows=FEW_ROWS,
        epochs=1,
        batch_size=16,
        adapter=LORA,
        stops_early=True,
        beside=("ratio_to_no_scheduler", {"stops_early": False}),
    ),
}
SMALL = Rows(train=2, validation=1, test=1)


def small(work: Workload) -> Workload:
    """Two or three trials of each strategy on few rows of four tasks, once."""
    alike: dict[str, list[Trial]] = defaultdict(list)
    for trial in work.trials:
        alike[trial["strategy.name"]].append(trial)
    few = [trial for trials in alike.values() for trial in trials[:: -(-len(trials) // 3)]]
    return replace(work, trials=few, rows=SMALL, tasks=4, repeats=1, epochs=2)


def main() -> None:
    """Run the lanes that are asked for."""
    parser = arguments(str(__doc__), list(WORKLOADS))
    parser.add_argument("--data", type=_folder, default=CLINC150, help="the folder of CLINC150")
    given = parser.parse_args()
    data = given.data if given.data.is_dir() else None
    console = stdout()
    lanes = []
    for name in given.lanes:
        work = small(WORKLOADS[name]) if given.small else WORKLOADS[name]
        work = replace(work, repeats=given.repeats or work.repeats)
        console.print(f"{name}: {len(work.trials)} trials on {'CLINC150' if data else 'assistant'}")
        lanes.append(measure(name, work, data, console.print))
    title = "Lamina against Ray Tune + transformers + PEFT"
    finish(title, lanes, list(WORKLOADS), given.small, given.out)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise ArgumentTypeError(f"there is no folder {text!r}")
    return Path(text).resolve()


def measure(name: str, work: Workload, data: Path | None, say: Callable[[str], None]) -> Lane:
    """Lamina's side as often as the lane says, and then the peer's."""
    with TemporaryDirectory(prefix="lamina-benchmark-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        prepare(folder, work, data)
        runs = []
        for turn in range(work.repeats):
            runs.append(run_lamina(folder, work, f"lamina-{turn}"))
            say(f"  lamina: {runs[-1][0]:.1f} s")
        own_seconds = [seconds for seconds, _ in runs]
        peer_seconds, theirs = run_peer(folder, work, "peer")
        agreements = [compared(own, theirs) for _, own in runs]
        agreement = max(agreements, key=lambda each: each["largest_difference"])
        say(f"  peer: {peer_seconds:.1f} s; {said(agreement)}")
        details = {
            "trials": len(work.trials),
            "tasks": max(len(each["test"]) for each in theirs),
            "rows": asdict(work.rows),
            "epochs": work.epochs,
            "lamina_seconds": own_seconds,
            "peer_seconds": peer_seconds,
            **agreement,
        }
        if work.beside is not None:
            called, changes = work.beside
            seconds, _ = run_peer(folder, replace(work, **changes), called)
            details[called] = seconds / median(own_seconds)
            say(f"  {called.replace('_', ' ')}: {details[called]:.3g}")
    return Lane(name, [peer_seconds / each for each in own_seconds], work.target, details=details)


def prepare(folder: Path, work: Workload, data: Path | None) -> None:
    """The job of Lamina's side in `job.yaml`, and what the peer's side reads."""
    job_file = folder / "job.yaml"
    job_file.write_text(yaml.safe_dump(job_of(folder, work, data)))
    job = load_job(job_file, ())
    stream = build_stream(job.stream, job.scenario, job.seed)
    rows = [{part: rows_of(each.part(part)) for part in PARTS} for each in stream.experiences]
    (folder / "rows.json").write_text(json.dumps(rows))
    save_file(drawn(job, stream, work), folder / "initial.safetensors")


def job_of(folder: Path, work: Workload, data: Path | None) -> dict[str, Any]:
    """The sweep as Lamina is asked for it."""
    source: dict[str, Any] = {"name": "assistant", "language": "en", "sentences_per_intent": 30}
    scenario = {"kind": "class_incremental", "limit_per_class": work.rows.train}
    if data is not None:
        write_clinc150(folder / "clinc150", work, data)
        source = {
            "name": "huggingface",
            "path": str(folder / "clinc150"),
            "text_column": "text",
            "label_column": "intent",
            "task_column": "domain",
            "validation_split": "validation",
            "test_split": "test",
        }
        scenario = {"kind": "class_incremental"}
    training = {"epochs": work.epochs, "batch_size": work.batch_size, "optimizer": "adamw"}
    return {
        "name": "benchmark",
        "seed": 0,
        "stream": source,
        "scenario": scenario,
        "backbone": {"name": "minilm"},
        "adapter": work.adapter,
        "strategy": {"name": work.trials[0]["strategy.name"]},
        "training": training,
        "sweep": {"variants": work.trials, "scheduler": HALVING if work.stops_early else None},
        "tracking": {"enabled": False},
        "output_dir": str(folder / "unused"),
    }


def write_clinc150(folder: Path, work: Workload, data: Path) -> None:
    """The first rows of each intent of the first domains, as a table a part."""
    content = json.loads((data / "data_full.json").read_text(encoding="utf-8"))
    domains = json.loads((data / "domains.json").read_text(encoding="utf-8"))
    chosen = list(domains)[: work.tasks]
    domain_of = {intent: domain for domain in chosen for intent in domains[domain]}
    folder.mkdir()
    for part, most in asdict(work.rows).items():
        taken: dict[str, int] = defaultdict(int)
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "intent", "domain"])
            for text, intent in content["val" if part == "validation" else part]:
                if intent in domain_of and taken[intent] < most:
                    taken[intent] += 1
                    writer.writerow([text, intent, domain_of[intent]])


def rows_of(samples: Samples) -> dict[str, list[Any]]:
    return {
        "texts": list(samples.values),
        "labels": samples.labels.tolist(),
        "ids": samples.ids.tolist(),
    }


def drawn(job: Job, stream: Stream[Samples], work: Workload) -> dict[str, Tensor]:
    """All that Lamina draws at random in the lane's trials, by the names the peer knows it by."""
    model = AdaptedModel(load_backbone(job.backbone), job.adapter, job.seed)
    found = {}
    if model.add() is not None:
        lora = model.adapters[MAIN].tensors
        found |= {f"lora.{name}": tensor.detach() for name, tensor in lora.items()}
    for each in stream.experiences:
        before = model.num_classes()
        model.grow_head(max(max(each.task.classes) + 1, before))
        for name, tensor in model.adapters[HEAD].tensors.items():
            new = tensor.detach()[before:].clone()
            found[f"head.{model.num_classes()}.{name}"] = new
        for epoch in range(work.epochs):
            shuffle = generator_of(job.seed, "order", each.task.index, epoch)
            order = torch.randperm(len(each.train), generator=shuffle)
            found[f"order.{each.task.index}.{epoch}"] = order
    for width in {trial.get("strategy.projection") for trial in work.trials} - {None}:
        ranpac = RanPAC(projection=width)
        ranpac.setup(AdaptedModel(model.backbone, None, job.seed))
        found[f"projection.{width}"] = ranpac.state["projection"]
    return found


def run_lamina(folder: Path, work: Workload, name: str) -> tuple[float, list[Matrices]]:
    """Seconds of Lamina's sweep; the matrices of its trials, in the order of the lane."""
    output = folder / name
    output.mkdir()
    command = lamina("sweep", str(folder / "job.yaml"), f"output_dir={output}")
    seconds = seconds_of(command, output / "log")
    board = json.loads((output / "leaderboard.json").read_text())["trials"]
    found = []
    for trial in work.trials:
        (row,) = [each for each in board if _is(each, trial)]
        document = json.loads(
            (output / "trials" / row["trial"] / "accuracy_matrix.json").read_text()
        )
        found.append({part: _lower_triangle(document[part]) for part in ("validation", "test")})
    return seconds, found


def _is(row: Mapping[str, Any], trial: Trial) -> bool:
    known = {"strategy.name": row["strategy"], **row["settings"]}
    return all(known.get(key) == value for key, value in trial.items())


def _lower_triangle(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """The rows that were reached, up to the diagonal."""
    reached = [row for row in rows if any(value is not None for value in row)]
    return [[value for value in row if value is not None] for row in reached]


def run_peer(folder: Path, work: Workload, name: str) -> tuple[float, list[Matrices]]:
    """Seconds of the peer's sweep; the matrices of its trials, in the order of the lane."""
    output = folder / name
    output.mkdir()
    for file in ("rows.json", "initial.safetensors"):
        (output / file).hardlink_to(folder / file)
    lora = None
    if work.adapter is not None:
        layers = work.adapter.get("layers")
        lora = {
            "rank": work.adapter["rank"],
            "alpha": work.adapter["alpha"],
            "layers": layers and [NUM_LAYERS + layer for layer in layers],
        }
    plan = {
        "model": locate("minilm"),
        "trials": work.trials,
        "epochs": work.epochs,
        "batch_size": work.batch_size,
        "lora": lora,
        "asha": ASHA if work.stops_early else None,
        "keep_features": work.keeps_features,
    }
    (output / "plan.json").write_text(json.dumps(plan))
    seconds = seconds_of([sys.executable, str(PEER), str(output)], output / "log")
    files = [output / "matrices" / f"{number}.json" for number in range(len(work.trials))]
    return seconds, [json.loads(file.read_text()) for file in files]


def compared(own: Sequence[Matrices], theirs: Sequence[Matrices]) -> dict[str, Any]:
    """How the matrices of both sides differ, in the rows that both have."""
    by_trial = [
        [
            abs(mine - yours)
            for part in ("validation", "test")
            for first, second in zip(one[part], other[part], strict=False)
            for mine, yours in zip(first, second, strict=True)
        ]
        for one, other in zip(own, theirs, strict=True)
    ]
    differences = [each for trial in by_trial for each in trial]
    return {
        "largest_difference": max(differences),
        "largest_difference_of_each_trial": [max(trial) for trial in by_trial],
        "entries_compared": len(differences),
        "entries_that_differ": sum(each > 1e-9 for each in differences),
    }


def said(agreement: Mapping[str, Any]) -> str:
    """The comparison, for a person."""
    differ, of = agreement["entries_that_differ"], agreement["entries_compared"]
    if differ == 0:
        return f"the accuracy matrices of both sides are equal ({of} entries)"
    return (
        f"THE ACCURACY MATRICES DISAGREE in {differ} of {of} entries, "
        f"by at most {agreement['largest_difference']:.2g}"
    )


if __name__ == "__main__":
    main()
