"""The files in clusters/: what can be known of them without a cluster."""

from pathlib import Path

import pytest
import yaml

CLUSTERS = Path(__file__).parents[2] / "clusters"


@pytest.mark.parametrize("name", ["aws.yaml", "on_premise.yaml"])
def test_ray_up_takes_the_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLUSTERS / name).read_text()))
    validate_config(config)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)


def test_kuberay_mounts_what_it_claims_and_asks_for_tokens():
    claim, cluster = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_every_file_is_explained_in_the_readme():
    readme = (CLUSTERS / "README.md").read_text()
    assert all(path.name in readme for path in CLUSTERS.glob("*.yaml"))
