"""Trials of a language model on a stream of calls, against the same by transformers and PEFT.

    python tests/benchmarks/language_models.py [--out FILE] [--lanes LANE ...] [--small]

Both sides run in this process on one core, on SmolLM2-135M (its 4-bit weights, in float32), take
the same steps on the same rows from the same first values, and answer the validation and test rows
of every task after each. What is compared is CPU time, loading included: Ray, which either side
would pay for a sweep, is on neither. The peer is what a competent user writes with PEFT: rows
padded to the longest of their batch, labels that mask prompt and padding, the model's own loss,
`generate` in batches of 16 with padding on the left, exact match of tokens. Each of its trials
loads the model. (`trl` would add its trainer to the same steps.)

- `top_third`: four trials of fine-tuning with LoRA on all that is linear in the top ten layers, at
  four learning rates; `all_layers`: in all 30. How many times as long the peer takes.
- `evaluation`: exact match of the test rows, teacher-forced, against `generate` by the same model.
- `difference`: the largest difference of an entry of the accuracy matrices, of the lanes that were
  measured: how many times a row is answered otherwise, where rounding decides.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import Lane, arguments, finish
from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.backbones.locate import locate
from lamina.backbones.settings import BackboneSettings
from lamina.core import Batch, Samples, Stream, generator_of
from lamina.evaluation.measures.exact_match import ExactMatch
from lamina.strategies import strategy_class
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.training.evaluate import measured
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings

LANES = ["top_third", "all_layers", "evaluation", "difference"]
TARGETS = {"top_third": 2.5, "all_layers": 1.5, "evaluation": 3.0}
RATES = (1e-3, 2e-3, 3e-3, 5e-3)
TOP = tuple(range(20, 30))
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA, BATCH, TOGETHER, LONGEST = 8, 16, 8, 16, 128
Matrix = list[list[float | None]]


@dataclass(frozen=True)
class Size:
    """How much is trained and asked."""

    tasks: tuple[str, ...]
    sentences: int
    epochs: int
    rates: tuple[float, ...]


FULL = Size(("lights", "climate"), 20, 4, RATES)
SMALL = Size(("lights",), 20, 4, RATES)


def main() -> None:
    """Measure the lanes that are asked for."""
    given = arguments(str(__doc__), LANES).parse_args()
    torch.set_num_threads(1)
    size = SMALL if given.small else FULL
    source = source_class("assistant_calls")(tasks=size.tasks, sentences_per_intent=size.sentences)
    raw = build_stream(source, ScenarioSettings("domain_incremental"), 0)
    lanes, differences = [], []
    for name, layers in (("top_third", TOP), ("all_layers", None)):
        if name in given.lanes:
            ours, own = timed(lambda layers=layers: with_lamina(raw, size, layers))
            theirs, other = timed(lambda layers=layers: with_peft(raw, size, layers))
            details = {"lamina_cpu_seconds": own, "peer_cpu_seconds": other}
            lanes.append(Lane(name, [other / own], TARGETS[name], details=details))
            differences += [
                abs(one - two)
                for mine, yours in zip(ours, theirs, strict=True)
                for row, line in zip(mine, yours, strict=True)
                for one, two in zip(row, line, strict=True)
                if one is not None and two is not None
            ]
    if "evaluation" in given.lanes:
        lanes.append(Lane("evaluation", [evaluation(raw)], TARGETS["evaluation"]))
    if "difference" in given.lanes and differences:
        lanes.append(Lane("difference", [max(differences)], 0.1, at_least=False, unit=""))
    finish("Language models", lanes, given.lanes, given.small, given.out)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its CPU seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


def settings(size: Size, rate: float) -> TrainingSettings:
    return TrainingSettings(epochs=size.epochs, batch_size=BATCH, learning_rate=rate)


def with_lamina(raw: Stream[Samples], size: Size, layers: Sequence[int] | None) -> list[Matrix]:
    """The test matrices of all trials, on one backbone that keeps what lies below the adapters."""
    with TemporaryDirectory() as folder:
        backbone = load_backbone(BackboneSettings("smollm2", max_length=LONGEST))
        backbone.keep_features(Path(folder), 4 * 10**9)
        stream = backbone.encode_stream(raw)
        found = []
        for rate in size.rates:
            learner = Learner(
                strategy=strategy_class("finetune")(),
                adapter=lora(layers),
                memory=None,
                training=settings(size, rate),
                seed=0,
                stream=stream,
                backbone=backbone,
            )
            list(learner.learn())
            found.append(learner.scores.matrices["test"].rows)
        return found


def lora(layers: Sequence[int] | None) -> LoRA:
    return LoRA(RANK, ALPHA, targets=LINEAR, layers=None if layers is None else tuple(layers))


def first_values(layers: Sequence[int] | None) -> dict[str, Tensor]:
    """What a trial's LoRA begins with, by PEFT's names."""
    backbone = load_backbone(BackboneSettings("smollm2", max_length=LONGEST))
    model = AdaptedModel(backbone, lora(layers), 0)
    model.add()
    tensors = model.adapters[MAIN].tensors
    return {f"base_model.model.model.{name}": each.detach() for name, each in tensors.items()}


def with_peft(raw: Stream[Samples], size: Size, layers: Sequence[int] | None) -> list[Matrix]:
    """The same by transformers and PEFT: a model for each trial."""
    first = first_values(layers)
    return [peft_trial(raw, size, layers, rate, first) for rate in size.rates]


def peft_trial(
    raw: Stream[Samples],
    size: Size,
    layers: Sequence[int] | None,
    rate: float,
    first: dict[str, Tensor],
) -> Matrix:
    folder = locate("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(LINEAR),
        layers_to_transform=None if layers is None else list(layers),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config).eval()
    set_peft_model_state_dict(adapted, first)
    trained = [each for each in adapted.parameters() if each.requires_grad]
    matrix: Matrix = []
    for index, experience in enumerate(raw.experiences):
        rows = encoded(tokenizer, experience.train)
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        for epoch in range(size.epochs):
            shuffle = generator_of(0, "order", index, epoch)
            for batch in torch.randperm(len(rows), generator=shuffle).split(BATCH):
                loss = adapted(**padded([rows[at] for at in batch.tolist()])).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        # Those of validation are what a sweep would choose by.
        for each in raw.experiences:
            generated_match(adapted, tokenizer, each.validation)
        matrix.append([generated_match(adapted, tokenizer, each.test) for each in raw.experiences])
    return matrix


def encoded(tokenizer: Any, samples: Samples) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt, and of its answer with its end."""
    assert samples.targets is not None
    answers = tokenizer(list(samples.targets), add_special_tokens=False)["input_ids"]
    prompts = tokenizer(list(samples.values))["input_ids"]
    return [(p, [*a, tokenizer.eos_token_id]) for p, a in zip(prompts, answers, strict=True)]


def padded(rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """A batch as a causal language model is trained on it."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)

    def column(of: Callable[[list[int], list[int]], list[int]], fill: int) -> Tensor:
        lines = [of(prompt, answer) for prompt, answer in rows]
        return torch.tensor([[*line, *[fill] * (longest - len(line))] for line in lines])

    return {
        "input_ids": column(lambda prompt, answer: prompt + answer, 0),
        "attention_mask": column(lambda prompt, answer: [1] * len(prompt + answer), 0),
        "labels": column(lambda prompt, answer: [-100] * len(prompt) + answer, -100),
    }


@torch.no_grad()
def generated_match(model: Any, tokenizer: Any, samples: Samples) -> float:
    """The share of rows whose generated answer is the right one."""
    rows, right = encoded(tokenizer, samples), 0
    most = max(len(answer) for _, answer in rows)
    order = sorted(range(len(rows)), key=lambda at: len(rows[at][0]))
    for start in range(0, len(order), TOGETHER):
        batch = [rows[at] for at in order[start : start + TOGETHER]]
        longest = max(len(prompt) for prompt, _ in batch)
        missing = [longest - len(prompt) for prompt, _ in batch]
        pairs = list(zip(batch, missing, strict=True))
        ids = torch.tensor([[0] * left + prompt for (prompt, _), left in pairs])
        mask = torch.tensor([[0] * left + [1] * len(prompt) for (prompt, _), left in pairs])
        said = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )[:, longest:].tolist()
        right += sum(
            line[: len(answer)] == answer for line, (_, answer) in zip(said, batch, strict=True)
        )
    return right / len(rows)


def evaluation(raw: Stream[Samples]) -> float:
    """How many times as long `generate` takes as a teacher-forced exact match, of all test rows."""
    backbone: Backbone = load_backbone(BackboneSettings("smollm2", max_length=LONGEST))
    strategy, model = strategy_class("finetune")(), AdaptedModel(backbone, lora(TOP), 0)
    model.add()
    data = Batch.cat([each.test for each in backbone.encode_stream(raw).experiences])
    whole = AutoModelForCausalLM.from_pretrained(locate("smollm2")).eval()
    tokenizer = AutoTokenizer.from_pretrained(locate("smollm2"))
    _, own = timed(lambda: measured(ExactMatch(), strategy, model, data, None, 256))
    _, other = timed(lambda: [generated_match(whole, tokenizer, e.test) for e in raw.experiences])
    return other / own


if __name__ == "__main__":
    main()
