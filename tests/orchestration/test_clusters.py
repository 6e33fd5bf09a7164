"""The files in clusters/: what can be known of them without a cluster."""

import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

CLUSTERS = Path(__file__).parents[2] / "clusters"
ONE = {"minLength": 1, "type": "string"}


def only(required=(), **fields):
    """A mapping with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def several(items):
    return {"type": "array", "items": items, "minItems": 1}


QUANTITIES = only(
    ("cpu", "memory"),
    cpu=ONE,
    memory={"type": "string", "pattern": "^[0-9]+Gi$"},
    **{"nvidia.com/gpu": {"type": "string", "pattern": "^[0-9]+$"}},
)
EXPRESSION = only(
    ("key", "operator"), key=ONE, operator={"enum": ["In", "NotIn", "Exists"]}, values=several(ONE)
)
PREFERENCE = only(
    ("weight", "preference"),
    weight={"type": "integer", "minimum": 1, "maximum": 100},
    preference=only(matchExpressions=several(EXPRESSION)),
)
POD = only(
    ("containers",),
    securityContext=only(fsGroup={"type": "integer"}),
    affinity=only(
        nodeAffinity=only(preferredDuringSchedulingIgnoredDuringExecution=several(PREFERENCE))
    ),
    tolerations=several(
        only(
            ("key", "operator"),
            key=ONE,
            operator={"enum": ["Exists", "Equal"]},
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    containers=several(
        only(
            ("name", "image", "resources"),
            name=ONE,
            image=ONE,
            ports=several(
                only(("containerPort",), name=ONE, containerPort={"type": "integer", "minimum": 1})
            ),
            resources=only(("requests", "limits"), requests=QUANTITIES, limits=QUANTITIES),
            volumeMounts=several(only(("name", "mountPath"), name=ONE, mountPath=ONE)),
        )
    ),
    volumes=several(
        only(
            ("name",),
            name=ONE,
            persistentVolumeClaim=only(("claimName",), claimName=ONE),
            configMap=only(("name",), name=ONE),
        )
    ),
)
# Ray reads the values of its own parameters as words.
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
TEMPLATE = only(("spec",), spec=POD)
COUNT = {"type": "integer", "minimum": 0}
CLUSTER = only(
    ("rayVersion", "headGroupSpec"),
    rayVersion=ONE,
    authOptions=only(("mode",), mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=only(idleTimeoutSeconds=COUNT),
    headGroupSpec=only(("template",), rayStartParams=PARAMETERS, template=TEMPLATE),
    workerGroupSpecs=several(
        only(
            ("groupName", "template"),
            groupName=ONE,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=PARAMETERS,
            template=TEMPLATE,
        )
    ),
)
JOB = only(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=ONE,
    backoffLimit=COUNT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)
"""The fields that our files use, by the reference of KubeRay's custom resources (v1):
docs.ray.io/en/latest/cluster/kubernetes/references/api.html."""


@pytest.mark.parametrize("name", ["aws.yaml", "on_premise.yaml"])
def test_ray_up_takes_the_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLUSTERS / name).read_text()))
    validate_config(config)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)


@pytest.mark.parametrize(
    ("name", "kind", "schema"),
    [("kuberay.yaml", "RayCluster", CLUSTER), ("kuberay_job.yaml", "RayJob", JOB)],
)
def test_kuberay_has_the_fields_and_they_go_together(name, kind, schema):
    claim, resource = yaml.safe_load_all((CLUSTERS / name).read_text())
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", kind)
    jsonschema.validate(resource["spec"], schema)
    cluster = resource["spec"].get("rayClusterSpec", resource["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert head["securityContext"]["fsGroup"] == 100, "a claim of root's can be written to"
    for spec in (head, *(each["template"]["spec"] for each in cluster["workerGroupSpecs"])):
        mounted = {
            mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", [])
        }
        assert mounted == {each["name"] for each in spec.get("volumes", [])}
        for container in spec["containers"]:
            # Otherwise the scheduler and Ray would count differently.
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_pod_that_asks_for_a_gpu_may_be_where_gpus_are():
    for name in ("kuberay.yaml", "kuberay_job.yaml"):
        _, resource = yaml.safe_load_all((CLUSTERS / name).read_text())
        cluster = resource["spec"].get("rayClusterSpec", resource["spec"])
        (group,) = cluster["workerGroupSpecs"]
        spec = group["template"]["spec"]
        assert "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"]
        assert "nvidia.com/gpu" in [each["key"] for each in spec["tolerations"]]


def test_one_machine_gives_ray_what_it_is_given_and_asks_for_a_token(tmp_path):
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE $@"\n')
    ray.chmod(0o755)
    command = [str(CLUSTERS / "one_machine.sh"), "--num-gpus", "4"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_AUTH_TOKEN": "given"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    mode, *words = done.stdout.split()
    assert mode == "token"
    assert words[:2] == ["start", "--head"]
    assert words[-2:] == ["--num-gpus", "4"]


def test_every_file_is_explained_in_the_readme():
    readme = (CLUSTERS / "README.md").read_text()
    assert all(path.name in readme for path in CLUSTERS.iterdir())
