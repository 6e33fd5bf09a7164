"""A job file on a small table of sentences and MiniLM, whose run takes seconds."""

from pathlib import Path

import yaml

ROWS = [
    f"{phrase.format(noun)},{noun}"
    for phrase in ("turn on the {}", "{} please", "stop the {} now", "I want the {}") * 2
    for noun in ("light", "door", "timer", "song")
]


def write(folder: Path, **training) -> Path:
    """The path of the job: a linear probe on two tasks, trained as `training` says."""
    data = folder / "data.csv"
    data.write_text("\n".join(["text,label", *ROWS]) + "\n")
    job = {
        "stream": {
            "name": "huggingface",
            "path": str(data),
            "text_column": "text",
            "label_column": "label",
        },
        "scenario": {"kind": "class_incremental", "num_tasks": 2},
        "backbone": {"name": "minilm"},
        "adapter": None,
        "strategy": {"name": "linear_probe"},
        "training": {"epochs": 2, "batch_size": 4, **training},
        "tracking": {"enabled": False},
        "output_dir": str(folder / "out"),
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path
