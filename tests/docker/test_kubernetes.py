"""The manifests of Kubernetes: valid, and of one mind with launch.sh, the trainer and each other."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.docker.scripts import KUBERNETES, LAUNCH, OPTIONS, ROOT, environment, interpreter
from trainer.config.file import load_config
from trainer.config.rules.plan import plan_layout

MANIFESTS = {name: KUBERNETES.with_name(f"{name}.yaml") for name in ("kubernetes", "jobset", "trainjob")}


def of_kinds(name: str) -> dict[str, Any]:
    """Documents of a manifest by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFESTS[name].read_text(encoding="utf-8"))}


def job_of(name: str) -> dict[str, Any]:
    """The job that runs the nodes, whatever makes it."""
    match of_kinds(name):
        case {"Job": job}:
            return job["spec"]
        case {"JobSet": jobset}:
            (job,) = jobset["spec"]["replicatedJobs"]
        case {"TrainingRuntime": runtime}:
            (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        case other:
            raise AssertionError(other.keys())
    return job["template"]["spec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_valid(name: str) -> None:
    known = yaml.safe_load((ROOT / "tests" / "docker" / "schemas.yaml").read_text(encoding="utf-8"))
    for kind, document in of_kinds(name).items():
        schema = known["kinds"][kind]
        assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert document["apiVersion"] == schema["apiVersion"]
        jsonschema.validate(document["metadata"], {**known, "$ref": "#/definitions/metadata"})
        jsonschema.validate(document["spec"], {"allOf": [schema["spec"]], "definitions": known["definitions"]})


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_reach_adapters_and_nothing_else(name: str) -> None:
    pod = job_of(name)["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    capabilities = {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": capabilities}
    limits = container["resources"]["limits"]
    assert {"cpu", "memory", "nvidia.com/gpu"} < limits.keys()
    assert any(resource.startswith("rdma/") for resource in limits)


def test_all_manifests_are_one_run() -> None:
    first, *others = ({**job_of(name)["template"]["spec"]} for name in MANIFESTS)
    first.pop("subdomain")  # JobSet and Kubeflow make the service themselves
    for other in others:
        (one,), (two,) = first["containers"], other["containers"]
        assert {**first, "containers": None} == {**other, "containers": None}
        own = {"name", "env", "args", "command"}
        assert {key: one[key] for key in one.keys() - own} == {key: two[key] for key in two.keys() - own}
    train = of_kinds("trainjob")["TrainJob"]["spec"]
    (container,) = job_of("kubernetes")["template"]["spec"]["containers"]
    (of_jobset,) = job_of("jobset")["template"]["spec"]["containers"]
    assert container["args"] == of_jobset["args"] == train["trainer"]["args"]
    nodes = job_of("kubernetes")["completions"]
    assert nodes == job_of("jobset")["completions"] == train["trainer"]["numNodes"]
    assert train["trainer"]["numProcPerNode"] == container["resources"]["limits"]["nvidia.com/gpu"]


def test_pods_of_a_jobset_find_the_first_by_its_name() -> None:
    jobset = of_kinds("jobset")["JobSet"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    (container,) = job_of("jobset")["template"]["spec"]["containers"]
    (master,) = (entry["value"] for entry in container["env"] if entry["name"] == "MASTER_ADDR")
    name = jobset["metadata"]["name"]
    assert master == f"{name}-{replicated['name']}-0-0.{name}"
    assert jobset["spec"]["network"]["publishNotReadyAddresses"] is True


def test_a_trainjob_names_its_runtime_and_tells_launch_what_torchrun_is_told(tmp_path: Path) -> None:
    documents = of_kinds("trainjob")
    reference = documents["TrainJob"]["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (
        "TrainingRuntime",
        documents["TrainingRuntime"]["metadata"]["name"],
    )
    (container,) = job_of("trainjob")["template"]["spec"]["containers"]
    assert container["name"] == "node", "the container that Kubeflow gives its variables"
    told = {"NNODES": "2", "NODE_RANK": "1", "NPROC_PER_NODE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    variables = {f"PET_{name}": value for name, value in told.items()}
    command = [*container["command"], "a.yaml", "run.dir=x"]
    settings = environment(interpreter(tmp_path), **variables)
    subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, timeout=60, check=True)
    words, _ = json.loads((tmp_path / "starts").read_text().splitlines()[1])
    for option, name in {"--nodes": "NNODES", "--node-rank": "NODE_RANK", "--ranks-per-node": "NPROC_PER_NODE"}.items():
        assert words[words.index(option) + 1] == told[name]
    assert words[-2:] == ["a.yaml", "run.dir=x"]


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
        assert container[name]["exec"]["command"] == ["python", "docker/health.py"]
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


@pytest.mark.parametrize("name", MANIFESTS)
def test_exit_codes_are_those_of_the_launcher(name: str) -> None:
    job = job_of(name)
    (container,) = job["template"]["spec"]["containers"]
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
