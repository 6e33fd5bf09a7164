"""A job that leaves strategy and memory policy to Lamina is a whole job, and says what it took."""

import pytest
import yaml

from lamina.config import ConfigError, check_words, expand, load_job, parse_job
from lamina.config.defaults import POLICY, STRATEGY


@pytest.fixture
def bare(small):
    """Without strategy, memory and adapter."""
    return {key: small[key] for key in ("name", "stream", "scenario", "backbone")}


def test_a_job_without_a_strategy_has_ranpac_and_its_mapping_says_so(bare, tmp_path):
    job = parse_job(bare)
    assert (job.strategy_name, job.strategy.projection) == ("ranpac", 2000)
    assert job.mapping["strategy"] == job.settings()["strategy"] == STRATEGY
    assert parse_job(job.mapping) == job
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(bare))
    check_words(path)
    assert load_job(path).strategy == job.strategy


def test_a_memory_with_a_size_keeps_all_classes_alike(bare):
    given = {**bare, "strategy": {"name": "er"}, "memory": {"size": 20}}
    job = parse_job(given)
    assert job.mapping["memory"] == {"policy": POLICY, "size": 20}
    assert (
        parse_job({**given, "memory": {"policy": "ring", "size": 20}}).mapping["memory"]["policy"]
        == "ring"
    )


def test_what_is_left_out_may_vary_and_be_named_in_variants(bare, tmp_path):
    sweep = {
        "variants": [
            {"strategy": {"name": "er"}, "memory": {"size": 9}},
            {"strategy.projection": 50},
        ],
        "space": {
            "memory.size": {"grid_search": [3, 4]},
            "strategy.projection": {"randint": [9, 20]},
        },
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**bare, "sweep": sweep}))
    check_words(path)
    names = [point.trial.name for point in expand(load_job(path)).points]
    assert names == ["er", "ranpac"]


def test_a_strategy_that_is_null_is_no_strategy_that_is_left_out(bare):
    with pytest.raises(ConfigError, match=r"strategy\.name: missing"):
        parse_job({**bare, "strategy": None})
