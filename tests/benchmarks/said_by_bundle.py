"""What a language model's bundle says, held against its logits, plain PEFT and the command line.

    python tests/benchmarks/said_by_bundle.py RUN

RUN is the output folder of a job whose answers are tokens. Of every row of its test parts: whether
teacher-forced exact match is greedy generation's, one row at a time and sixteen. Of 20 prompts:
whether the exported adapter says the same in transformers and PEFT without Lamina. And what
`lamina generate` costs from cold.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import pad

from lamina.api import load
from lamina.backbones.locate import locate
from lamina.bundles import Predictor, find_bundle
from lamina.config.build import build_stream
from lamina.core import IGNORED, Batch
from lamina.training.evaluate import answers

SIZES = (1, 16)
PROMPTS = 20
PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, base, adapters, most = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/tokenizer")
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, f"{folder}/adapters/{adapters[0]}").eval()
said = []
for prompt in json.load(sys.stdin):
    asked = tokenizer(prompt, return_tensors="pt")
    found = model.generate(**asked, do_sample=False, eos_token_id=tokenizer.eos_token_id,
                           max_new_tokens=most)
    said.append(tokenizer.decode(found[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))
print(json.dumps(said))
"""


def against_generation(predictor: Predictor) -> list[str]:
    """A line for each test part."""
    job, strategy, model = predictor.bundle.job, predictor.strategy, predictor.model
    stream = model.backbone.encode_stream(build_stream(job.stream, job.scenario, job.seed))
    told = stream.scenario == "task_incremental"
    lines = []
    for each in stream.experiences[: len(predictor.bundle.facts.tasks)]:
        task = each.task if told else None
        forced = answers(strategy, model, each.test, task, job.training.evaluation_batch_size).right
        for size in SIZES:
            start = time.process_time()
            generated = _generated(predictor, each.test, task, size)
            same = int((generated == forced).sum())
            lines.append(
                f"{each.task.name}: {same} of {len(forced)} rows alike at batch {size}, "
                f"{int(forced.sum())} of them right; {time.process_time() - start:.0f} CPU s"
            )
    return lines


@torch.no_grad()
def _generated(predictor: Predictor, data: Batch, task: object, size: int) -> torch.Tensor:
    """Whether greedy generation says exactly the right answer, bool [N]."""
    most = data.labels.shape[1]
    right = torch.zeros(len(data), dtype=torch.bool)
    for rows in data.lengths().argsort(stable=True).split(size):
        inputs = data[rows].trimmed().inputs
        said = predictor.strategy.generate(predictor.model, inputs, task, most)
        said = pad(said, (0, most - said.shape[1]), value=IGNORED)
        right[rows] = (said == data.labels[rows]).all(dim=1)
    return right


def against_peft(predictor: Predictor, prompts: list[str], run: Path) -> str:
    """What the exported adapters say to prompts under plain PEFT."""
    with TemporaryDirectory() as folder:
        exported = Path(folder, "exported")
        _lamina("export", run, exported)
        most = predictor.max_new_tokens
        asked = [predictor.bundle.job.stream.prompt_of([("user", each)]) for each in prompts]
        words = [exported, locate(predictor.bundle.job.backbone.name)]
        words += [json.dumps(list(predictor.model.active)), most]
        done = subprocess.run(
            [sys.executable, "-c", PLAIN, *map(str, words)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
        )
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = [each.text for each in predictor.generate(prompts)]
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    return f"plain PEFT says the same to {same} of {len(prompts)} prompts"


def from_cold(run: Path, prompt: str) -> str:
    """What one answer on the command line costs; nothing else has run below this process."""
    start = time.time()
    said = _lamina("generate", run, prompt).strip()
    seconds, used = time.time() - start, getrusage(RUSAGE_CHILDREN)
    return (
        f"lamina generate: {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} CPU s, "
        f"{used.ru_maxrss / 2**20:.2f} GiB: {said!r}"
    )


def _lamina(*words: object) -> str:
    command = [sys.executable, "-c", "from lamina.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """The figures of a run."""
    run = Path(sys.argv[1])
    predictor = load(run)
    job = predictor.bundle.job
    raw = build_stream(job.stream, job.scenario, job.seed)
    prompts = [text for each in raw.experiences for text in list(each.test.values)][:PROMPTS]
    print(f"{find_bundle(run)}", flush=True)
    print(from_cold(run, prompts[0]), flush=True)
    print(against_peft(predictor, prompts, run), flush=True)
    for line in against_generation(predictor):
        print(line, flush=True)


if __name__ == "__main__":
    main()
