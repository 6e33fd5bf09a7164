"""An output folder as a sweep leaves it, made up: two strategies at two learning rates with three
seeds each, and joint training; some trials did not get through."""

import json
from pathlib import Path

from lamina.evaluation.leaderboard import leaderboard
from lamina.evaluation.result_files import write_leaderboard
from lamina.orchestration.store.event_recorder import metrics_of, write_matrix

TASKS = ("lights", "climate </script>", "media")
SEEDS = (0, 1, 2)
SWEEP = {"sweep": {"scheduler": {"name": "asha", "grace_period": 1}}}
TRACEBACK = "Traceback (most recent call last):\n  File 'a.py', line 3\nValueError: no <b>good</b>"


def report(task, accuracy, num_tasks=3):
    """After a task that leaves every earlier one 0.1 worse."""
    row = [round(accuracy - 0.1 * (task - i), 4) if i <= task else None for i in range(len(TASKS))]
    seen = [value for value in row if value is not None]
    average = sum(seen) / len(seen)
    metrics = {
        "test/average_accuracy": average,
        "validation/average_accuracy": average - 0.05,
        "cost/trainable_parameters": 100.0,
        "cost/stored_parameters": 100.0 + 1000 * accuracy,
        "cost/memory_bytes": 0.0,
        "cost/train_seconds": 1.5 * (task + 1),
        "cost/evaluation_seconds": 0.5 * (task + 1),
    }
    if task:
        metrics |= {"test/forgetting": 0.05 * task, "validation/forgetting": 0.06 * task}
    return {
        "task": task,
        "task_name": TASKS[task],
        "num_tasks": num_tasks,
        "validation": row,
        "test": row,
        "metrics": metrics,
        "done": task == num_tasks - 1,
    }


def result(strategy, rate, seed, reports, status="finished", error=None):
    """What a sweep says of a trial."""
    name = f"{strategy}-seed{seed}-lr{rate}"
    return {
        "trial": f"{name}-id",
        "name": name,
        "settings": {"training.learning_rate": rate, "seed": seed},
        "mapping": {
            "strategy": {"name": strategy},
            "adapter": {"kind": "lora"},
            "scenario": {"kind": "class_incremental"},
            "stream": {"name": "assistant"},
            "backbone": {"name": "minilm"},
            "tracking": {"enabled": True, "mlflow_uri": None},
        },
        "status": status,
        "error": error,
        "reports": reports,
        "notes": [{"line": "2 texts are cut", "count": 2}],
    }


def results():
    """All trials."""
    found = []
    for strategy, best in (("er", 0.9), ("ewc", 0.6)):
        for rate in (0.01, 0.1):
            for seed in SEEDS:
                accuracy = best - rate + 0.02 * seed
                reports = [report(t, accuracy) for t in range(3)]
                reports[-1]["metrics"]["drift/mean_kl"] = round(1 - accuracy, 4)
                found.append(result(strategy, rate, seed, reports))
    found[-1] |= {"status": "stopped", "reports": found[-1]["reports"][:2]}
    found[-2] |= {"status": "failed", "reports": [], "error": TRACEBACK}
    bound = [result("joint", 0.01, seed, [report(2, 0.95 + 0.01 * seed)]) for seed in SEEDS]
    return found + bound


def finished_sweep(folder: Path) -> Path:
    """The folder, filled."""
    folder.mkdir(parents=True)
    those = results()
    write_leaderboard(leaderboard(those), folder)
    events = [{"event": "start_sweep", "trial": None, "name": "rooms", "params": SWEEP}]
    for each in those:
        write_matrix(folder / "trials" / each["trial"], each["reports"], each["name"], draws=False)
        events += [
            {"event": "log", "trial": each["trial"], "step": report["task"], **metrics_of(report)}
            for report in each["reports"]
        ]
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(text + '{"event": "lo')
    return folder


PREDICTIONS = "row,task,label,predicted\n" + "".join(
    f'{row},{row // 3},"team, {row // 2}",{answer}\n'
    for row, answer in enumerate(
        ['"team, 0"', '"team, 1"', '"team, 1"', '"team, 1"', '"team, 2"', "007"]
    )
)
"""Six answers to three teams; one is of a class that no row has."""
