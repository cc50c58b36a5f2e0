"""docker/kubernetes.yaml: well-formed, and of one mind with launch.sh, the trainer and itself."""

import re
from typing import Any

import pytest
import yaml

from tests.docker.scripts import KUBERNETES, LAUNCH, OPTIONS, ROOT
from trainer.config.constraints.plan import plan_layout
from trainer.config.file import load_config


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def job(documents: dict[str, Any]) -> dict[str, Any]:
    return documents["Job"]["spec"]


@pytest.fixture(scope="module")
def container(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_variables_are_those_of_the_launcher(variables: dict[str, str], job: dict[str, Any]) -> None:
    assert variables.keys() - OPTIONS == {"POD_IP"}
    assert int(variables["NODES"]) == job["completions"] == job["parallelism"]
    assert job["completionMode"] == "Indexed", "pods are numbered and keep their names"
    assert int(variables["GRACE"]) < job["template"]["spec"]["terminationGracePeriodSeconds"]


def test_the_master_is_the_first_pod_by_its_name_in_the_service(
    variables: dict[str, str], documents: dict[str, Any], job: dict[str, Any]
) -> None:
    service = documents["Service"]
    pod, subdomain = variables["MASTER_ADDR"].split(".")
    assert pod == f"{documents['Job']['metadata']['name']}-0"
    assert subdomain == service["metadata"]["name"] == job["template"]["spec"]["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()


def test_ports_agree(documents: dict[str, Any], container: dict[str, Any], variables: dict[str, str]) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"rendezvous": int(variables["MASTER_PORT"]), "metrics": 9100}
    assert {port["targetPort"]: port["port"] for port in documents["Service"]["spec"]["ports"]} == ports
    assert f"observe.port={ports['metrics']}" in container["args"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f":{ports['metrics']}/metrics" in container[name]["exec"]["command"][-1]
    allowed = {port["port"] for rule in documents["NetworkPolicy"]["spec"]["ingress"] for port in rule.get("ports", ())}
    assert allowed <= ports.keys()


def test_the_page_is_bound_to_the_pod_alone(container: dict[str, Any]) -> None:
    assert "observe.host=$(POD_IP)" in container["args"]
    (address,) = (entry for entry in container["env"] if entry["name"] == "POD_IP")
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_the_configuration_fits_the_ranks(container: dict[str, Any], variables: dict[str, str]) -> None:
    path, *overrides = container["args"]
    config = load_config(ROOT / path, overrides)
    per_node = int(variables["RANKS_PER_NODE"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == per_node
    plan_layout(config, int(variables["NODES"]) * per_node)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert any(str(config.run.dir).startswith(f"{mount}/") for mount in mounts)


def test_exit_codes_are_those_of_the_launcher(job: dict[str, Any], container: dict[str, Any]) -> None:
    script = LAUNCH.read_text(encoding="utf-8")
    names = ("STOPPED", "TERMINATED", "WRONG_INPUT")
    stopped, terminated, wrong = (int(re.findall(rf"\b{name}=(\d+)", script)[0]) for name in names)
    rules = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    actions = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules}
    assert actions == {"FailJob": [wrong], "Ignore": [stopped, terminated]}
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container["name"]}
    assert job["template"]["spec"]["restartPolicy"] == "Never", "which podFailurePolicy asks for"


def test_volumes_agree(documents: dict[str, Any], job: dict[str, Any], container: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    claim = documents["PersistentVolumeClaim"]
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "all pods write to the run"
