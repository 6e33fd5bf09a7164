"""Every strategy takes a stream whose answers are tokens, or says in one line why not."""

import pytest

from lamina.config import parse_job
from lamina.config.fields import ConfigError
from lamina.strategies import strategy_class, strategy_names


def job_of(name: str) -> dict:
    """A job of a strategy on a stream of tokens, sound but for that."""
    cls = strategy_class(name)
    kinds = cls.adapters or ("lora",)
    kind = "lora" if "lora" in kinds else kinds[0]
    scenario = "domain_incremental" if "domain_incremental" in cls.scenarios else cls.scenarios[0]
    return {
        "name": name,
        "stream": {"name": "assistant_calls", "tasks": ["lights", "timers"]},
        "scenario": {"kind": scenario},
        "backbone": {"name": "smollm2"},
        "adapter": None if kind == "none" else {"kind": kind},
        "strategy": {"name": name},
        "memory": {"policy": "reservoir", "size": 8} if cls.needs_memory else None,
    }


@pytest.mark.parametrize("name", strategy_names())
def test_a_strategy_takes_tokens_or_one_line_says_why_not(name):
    if "tokens" in strategy_class(name).answers:
        assert parse_job(job_of(name)).strategy_name == name
        return
    with pytest.raises(ConfigError) as error:
        parse_job(job_of(name))
    about = [line for line in error.value.problems if line.startswith("strategy.name:")]
    (line,) = about
    reason = strategy_class(name).classes_only
    assert reason
    assert line == (
        f"strategy.name: {name!r} answers with classes alone ({reason}), and the answers of the "
        "stream 'assistant_calls' are tokens (`lamina strategies` lists those that take tokens)"
    )
