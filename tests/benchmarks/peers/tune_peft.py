"""A sweep over continual-learning trials as one would write it today with Ray Tune, transformers
and PEFT: a function for one trial, a process per trial.

    python tests/benchmarks/peers/tune_peft.py PLAN

PLAN is a folder that `sweep_vs_tune.py` has written: the trials in `plan.json`, the rows of every
task in `rows.json`, and in `initial.safetensors` what would otherwise be drawn at random (first
values of adapters and heads, the order of every epoch, random projections), so that both sides
compute the same. It writes the accuracy matrices of trial N to `matrices/N.json`. It knows nothing
of Lamina.

What a competent user does is done:

- Texts are tokenised once, by the driver, and reach the trials through the object store.
- A training batch is padded to its own longest text; whole parts are gone through by length.
- The frozen part runs without gradient; PEFT's gradient stops at the first adapted layer.
- A trial has one core and one thread, so Ray runs as many at a time as there are cores; PEFT is
  imported by the trials that need it only.
- Ray's dashboard and the workers' output are off, and Tune prints nothing.

And what is usual stays: `reuse_actors` is off, which is Tune's default and means a process per
trial; each trial loads the model; a frozen backbone is run anew in each epoch and evaluation.
`keep_features` in the plan is for the user who thinks of keeping them: every row then goes through
the backbone once in each trial.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import torch.nn.functional as F
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer

EVALUATION_BATCH = 256
METRIC = "validation_average_accuracy"
RIDGES = [10.0**exponent for exponent in range(-8, 9)]


@dataclass
class Part:
    """Rows of one part of a task."""

    tokens: list[Tensor]
    labels: Tensor
    ids: Tensor
    by_length: Tensor
    """The places of the rows, the shortest first."""


Task = dict[str, Part]


class Encoder(nn.Module):
    """Texts -> the mean of their token vectors, through the frozen model or with LoRA on it."""

    def __init__(self, path: str, lora: dict[str, Any] | None, initial: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(path).eval().requires_grad_(False)
        self.width = self.model.config.hidden_size
        if lora is not None:
            from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

            config = LoraConfig(
                r=lora["rank"],
                lora_alpha=lora["alpha"],
                target_modules=["query", "value"],
                layers_to_transform=lora["layers"],
                layers_pattern="layer" if lora["layers"] else None,
            )
            self.model = get_peft_model(self.model, config).eval()
            first = {
                f"base_model.model.{name.removeprefix('lora.')}": tensor
                for name, tensor in initial.items()
                if name.startswith("lora.")
            }
            set_peft_model_state_dict(self.model, first)

    def forward(self, tokens: list[Tensor]) -> Tensor:
        ids = pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(row) for row in tokens])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        vectors = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return (vectors * mask[:, :, None]).sum(dim=1) / lengths[:, None]


class Features:
    """Features of the frozen encoder, kept or not."""

    def __init__(self, encoder: Encoder, keep: bool) -> None:
        self.encoder = encoder
        self.kept: dict[int, Tensor] | None = {} if keep else None

    @torch.no_grad()
    def batches(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole part in large batches, each with the places of its rows."""
        for rows in part.by_length.split(EVALUATION_BATCH):
            yield self.of(part, rows), rows

    def of(self, part: Part, rows: Tensor) -> Tensor:
        """Features of these rows."""
        if self.kept is None:
            return self.encode(part, rows)
        if id(part) not in self.kept:
            chunks = [self.encode(part, each) for each in part.by_length.split(EVALUATION_BATCH)]
            self.kept[id(part)] = torch.cat(chunks)[part.by_length.argsort()]
        return self.kept[id(part)][rows]

    def encode(self, part: Part, rows: Tensor) -> Tensor:
        return self.encoder([part.tokens[row] for row in rows.tolist()])


class Trained:
    """A linear head, and LoRA where the plan has an adapter, trained on each task in turn."""

    def __init__(
        self,
        config: dict[str, Any],
        plan: dict[str, Any],
        features: Features,
        initial: dict[str, Tensor],
    ) -> None:
        self.config = config
        self.plan = plan
        self.features = features
        self.initial = initial
        self.weight = torch.zeros(0, features.encoder.width)
        self.bias = torch.zeros(0)
        self.adapted = [each for each in features.encoder.parameters() if each.requires_grad]

    def learn(self, number: int, part: Part, num_classes: int) -> None:
        first = self.initial
        grown = torch.cat([self.weight.detach(), first[f"head.{num_classes}.weight"]])
        self.weight = grown.requires_grad_()
        grown = torch.cat([self.bias.detach(), first[f"head.{num_classes}.bias"]])
        self.bias = grown.requires_grad_()
        optimizer = torch.optim.AdamW(
            [*self.adapted, self.weight, self.bias],
            lr=self.config["training.learning_rate"],
            weight_decay=self.config.get("training.weight_decay", 0.0),
        )
        for epoch in range(self.plan["epochs"]):
            order = first[f"order.{number}.{epoch}"]
            for rows in order.split(self.plan["batch_size"]):
                with torch.set_grad_enabled(bool(self.adapted)):
                    features = self.features.of(part, rows)
                loss = F.cross_entropy(self.scores(features), part.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def scores(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class ClassMeans:
    """Sums of features per class; the nearest mean by Euclidean distance (`ncm`) or by cosine
    (`simplecil`)."""

    def __init__(
        self,
        config: dict[str, Any],
        plan: dict[str, Any],
        features: Features,
        initial: dict[str, Tensor],
    ) -> None:
        self.by_cosine = config["strategy.name"] == "simplecil"
        self.features = features
        self.count = torch.zeros(0)
        self.total = torch.zeros(0, features.encoder.width)

    def learn(self, number: int, part: Part, num_classes: int) -> None:
        missing = num_classes - len(self.count)
        self.count = F.pad(self.count, (0, missing))
        self.total = F.pad(self.total, (0, 0, 0, missing))
        for features, rows in self.features.batches(part):
            self.count.index_add_(0, part.labels[rows], torch.ones(len(features)))
            self.total.index_add_(0, part.labels[rows], features)

    def scores(self, features: Tensor) -> Tensor:
        if self.by_cosine:
            return F.normalize(features, dim=1) @ F.normalize(self.total, dim=1).T
        means = self.total / self.count[:, None]
        return -torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist")


class SharedCovariance:
    """Linear discriminant analysis (`slda`): class means and one shrunk covariance."""

    def __init__(
        self,
        config: dict[str, Any],
        plan: dict[str, Any],
        features: Features,
        initial: dict[str, Tensor],
    ) -> None:
        self.shrinkage = config["strategy.shrinkage"]
        self.features = features
        width = features.encoder.width
        self.count = torch.zeros(0, dtype=torch.float64)
        self.total = torch.zeros(0, width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)

    def learn(self, number: int, part: Part, num_classes: int) -> None:
        missing = num_classes - len(self.count)
        self.count = F.pad(self.count, (0, missing))
        self.total = F.pad(self.total, (0, 0, 0, missing))
        for features, rows in self.features.batches(part):
            wide = features.double()
            self.count.index_add_(0, part.labels[rows], torch.ones(len(wide), dtype=torch.float64))
            self.total.index_add_(0, part.labels[rows], wide)
            self.outer += wide.T @ wide
        means = self.total / self.count[:, None]
        within = (self.outer - (means * self.count[:, None]).T @ means) / self.count.sum()
        identity = torch.eye(len(within), dtype=torch.float64)
        shrunk = (1 - self.shrinkage) * within + self.shrinkage * identity
        self.weight = torch.linalg.solve(shrunk, means.T)
        self.bias = -(means * self.weight.T).sum(dim=1) / 2

    def scores(self, features: Tensor) -> Tensor:
        return features.double() @ self.weight + self.bias


class RandomProjection:
    """Ridge regression on random projections (`ranpac`), the ridge chosen on every fifth row."""

    def __init__(
        self,
        config: dict[str, Any],
        plan: dict[str, Any],
        features: Features,
        initial: dict[str, Tensor],
    ) -> None:
        width = config["strategy.projection"]
        self.features = features
        self.projection = initial[f"projection.{width}"]
        self.gram = [torch.zeros(width, width) for _ in range(2)]
        self.cross = [torch.zeros(width, 0) for _ in range(2)]

    def learn(self, number: int, part: Part, num_classes: int) -> None:
        missing = num_classes - self.cross[0].shape[1]
        self.cross = [F.pad(cross, (0, missing)) for cross in self.cross]
        for features, rows in self.features.batches(part):
            h = torch.relu(features @ self.projection)
            y = F.one_hot(part.labels[rows], num_classes).float()
            held_out = part.ids[rows] % 5 == 0
            for side, chosen in enumerate((~held_out, held_out)):
                self.gram[side] += h[chosen].T @ h[chosen]
                self.cross[side] += h[chosen].T @ y[chosen]
        errors = [self.error(self.solved(self.gram[0], self.cross[0], ridge)) for ridge in RIDGES]
        ridge = RIDGES[int(torch.stack(errors).argmin())]
        self.weight = self.solved(sum(self.gram), sum(self.cross), ridge)

    def solved(self, gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(
            gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64)
        )
        if failed:
            return torch.full_like(cross, float("nan"))
        return torch.cholesky_solve(cross.double(), factor).float()

    def error(self, weight: Tensor) -> Tensor:
        wide = weight.double()
        error = (wide * (self.gram[1].double() @ wide - 2 * self.cross[1].double())).sum()
        return error.nan_to_num(nan=float("inf"))

    def scores(self, features: Tensor) -> Tensor:
        return torch.relu(features @ self.projection) @ self.weight


METHODS: dict[str, Any] = {
    "finetune": Trained,
    "linear_probe": Trained,
    "ncm": ClassMeans,
    "simplecil": ClassMeans,
    "slda": SharedCovariance,
    "ranpac": RandomProjection,
}


def train(config: dict[str, Any], folder: Path, plan: dict[str, Any], tasks: list[Task]) -> None:
    """One trial: learn the tasks in turn, and evaluate all that were learned after each."""
    torch.set_num_threads(1)
    number, trial = config["numbered"]["number"], config["numbered"]["trial"]
    initial = load_file(folder / "initial.safetensors")
    encoder = Encoder(plan["model"], plan["lora"], initial)
    features = Features(encoder, plan["keep_features"])
    method = METHODS[trial["strategy.name"]](trial, plan, features, initial)
    matrices: dict[str, list[list[float]]] = {"validation": [], "test": []}
    num_classes = 0
    for index, task in enumerate(tasks):
        num_classes = max(num_classes, int(task["train"].labels.max()) + 1)
        method.learn(index, task["train"], num_classes)
        for name, matrix in matrices.items():
            matrix.append([accuracy(method, each[name]) for each in tasks[: index + 1]])
        (folder / "matrices" / f"{number}.json").write_text(json.dumps(matrices))
        last = matrices["validation"][-1]
        tune.report({"task": index + 1, METRIC: sum(last) / len(last)})


@torch.no_grad()
def accuracy(method: Any, part: Part) -> float:
    right = 0
    for features, rows in method.features.batches(part):
        right += int((method.scores(features).argmax(dim=1) == part.labels[rows]).sum())
    return right / len(part.labels)


def read_tasks(folder: Path, model: str) -> list[Task]:
    """The rows, tokenised."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tasks = []
    for given in json.loads((folder / "rows.json").read_text()):
        task = {}
        for name, rows in given.items():
            encoded = tokenizer(rows["texts"], truncation=True)["input_ids"]
            task[name] = Part(
                tokens=[torch.tensor(each) for each in encoded],
                labels=torch.tensor(rows["labels"]),
                ids=torch.tensor(rows["ids"]),
                by_length=torch.tensor([len(each) for each in encoded]).argsort(stable=True),
            )
        tasks.append(task)
    return tasks


def main(folder: Path) -> None:
    """Tune over the plan's trials."""
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "matrices").mkdir()
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    tasks = read_tasks(folder, plan["model"])
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    scheduler = None
    if plan["asha"] is not None:
        scheduler = ASHAScheduler(time_attr="task", max_t=len(tasks), **plan["asha"])
    trainable = tune.with_parameters(train, folder=folder, plan=plan, tasks=tasks)
    numbered = [{"number": place, "trial": each} for place, each in enumerate(plan["trials"])]
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"numbered": tune.grid_search(numbered)},
        tune_config=tune.TuneConfig(metric=METRIC, mode="max", scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    failed = tuner.fit().errors
    ray.shutdown()
    if failed:
        raise SystemExit(f"{len(failed)} trials failed: {failed[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
