"""The page that says how to add a strategy, followed to the letter."""

import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lamina import strategies
from lamina.cli import main
from lamina.config import ConfigError, parse_job
from lamina.strategies import strategy_names
from nouns import make_learner

PAGE = Path(strategies.__file__).parents[2] / "README.md"


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's method in a folder that counts as one of strategies/."""
    section = PAGE.read_text().split("## Add a strategy")[1]
    (name,) = re.findall(r"As `lamina/strategies/(\w+)\.py`", section)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    yield name
    sys.modules.pop(f"lamina.strategies.{name}", None)


def test_it_is_listed_and_its_card_is_shown(added):
    assert added in strategy_names()
    shown = CliRunner().invoke(main, ["strategies", added]).stdout
    assert shown.startswith("CoMA (Marouf et al., 2024)")
    assert "weight=0.4" in shown


def test_a_job_can_name_it_and_its_mistakes_are_told(added):
    job = {
        "name": "page",
        "stream": {"name": "digits"},
        "scenario": {"kind": "class_incremental"},
        "backbone": {"name": "minilm"},
        "adapter": {"kind": "lora"},
        "strategy": {"name": added, "weight": 0.5},
    }
    assert parse_job(job).strategy.weight == 0.5
    with pytest.raises(ConfigError, match=r"strategy.wieght: .* did you mean 'weight'"):
        parse_job({**job, "strategy": {"name": added, "wieght": 1}})
    with pytest.raises(ConfigError, match=r"strategy.weight: 2.0 is not in \[0, 1\]"):
        parse_job({**job, "strategy": {"name": added, "weight": 2.0}})


def test_it_averages_what_was_there_and_leaves_new_rows(added, nouns, tiny_bert):
    learner = make_learner(added, nouns, tiny_bert, weight=0.25)
    learning = learner.learn()
    next(learning)
    before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    plain = make_learner(added, nouns, tiny_bert, weight=1.0)
    plain_learning = plain.learn()
    for _ in range(2):
        next(plain_learning)
    next(learning)
    for name, value in learner.model.parameters().items():
        old, trained = before[name], plain.model.parameters()[name]
        expected = trained.clone()
        expected[: len(old)] = 0.25 * trained[: len(old)] + 0.75 * old
        torch.testing.assert_close(value, expected)
