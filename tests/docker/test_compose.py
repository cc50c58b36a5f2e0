"""The cluster of docker/compose.yaml: files that exist, addresses, ports and names that agree, nothing that is open."""

import ipaddress
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.scripts import LAUNCH, OPTIONS, ROOT
from tests.multinode.monitoring import CONFIG, DASHBOARD
from trainer.config.file import load_config
from trainer.config.rules.plan import plan_layout

DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yaml"
DOCKERFILE = DOCKER / "Dockerfile"
PROVISIONING = DOCKER / "grafana" / "provisioning"
NODES = ("node0", "node1")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest)."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"))).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]  # type: ignore[misc]


def mounted(service: dict[str, Any]) -> dict[str, Path | str]:
    """What a container sees where: a path of the repository or the name of a volume."""
    pairs = [entry.split(":")[:2] for entry in service.get("volumes", [])]
    return {inside: DOCKER / outside if outside.startswith(".") else outside for outside, inside in pairs}


def seen(service: dict[str, Any], inside: str) -> Path:
    """The file of the repository that a container has at a path."""
    for place, source in mounted(service).items():
        if isinstance(source, Path) and Path(inside).is_relative_to(place):
            return source / Path(inside).relative_to(place)
    raise AssertionError(f"{inside} is not mounted")


def test_every_mounted_path_and_volume_exists(compose: dict[str, Any], services: dict[str, Any]) -> None:
    for service in services.values():
        for source in mounted(service).values():
            assert source.exists() if isinstance(source, Path) else source in compose["volumes"], source
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("depends_on", [])) <= set(services)
        if "build" in service:
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert ROOT / service["build"]["dockerfile"] == DOCKERFILE


def test_both_nodes_are_one_run_of_the_launcher(services: dict[str, Any]) -> None:
    nodes = [services[name] for name in NODES]
    variables = [node["environment"] for node in nodes]
    assert all(set(each) <= OPTIONS for each in variables)
    assert [each["NODE_RANK"] for each in variables] == ["0", "1"]
    assert nodes[0]["command"] == nodes[1]["command"]
    shared = [{name: value for name, value in each.items() if name != "NODE_RANK"} for each in variables]
    assert shared[0] == shared[1]
    assert int(shared[0]["NODES"]) == len(nodes)
    addresses = [ipaddress.ip_address(node["networks"]["cluster"]["ipv4_address"]) for node in nodes]
    assert shared[0]["MASTER_ADDR"] == str(addresses[0])
    assert str(addresses[0]) < str(addresses[1]), "rank 0 is where the address is the smaller text"
    grace = re.fullmatch(r"(\d+)s", nodes[0]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) > int(shared[0]["GRACE"])


def test_the_nodes_are_on_a_network_without_a_way_out(compose: dict[str, Any], services: dict[str, Any]) -> None:
    (config,) = compose["networks"]["cluster"]["ipam"]["config"]
    for name in NODES:
        assert list(services[name]["networks"]) == ["cluster"]
        assert "ports" not in services[name]
        assert ipaddress.ip_address(services[name]["networks"]["cluster"]["ipv4_address"]) in ipaddress.ip_network(
            config["subnet"]
        )
    assert compose["networks"]["cluster"]["internal"] is True


def test_what_is_published_is_published_on_this_machine_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert sorted(published) == ["127.0.0.1:3000:3000", "127.0.0.1:9090:9090"]


def test_the_run_of_the_nodes_is_one_that_the_trainer_takes(services: dict[str, Any]) -> None:
    path, *overrides = services["node0"]["command"]
    config = load_config(ROOT / path, overrides)
    variables = services["node0"]["environment"]
    plan_layout(config, int(variables["NODES"]) * int(variables["RANKS_PER_NODE"]))
    assert mounted(services["node0"])[str(config.run.dir.parent)] == "runs", "both nodes write to one volume"


def test_prometheus_scrapes_where_rank_0_serves(services: dict[str, Any]) -> None:
    assert seen(services["prometheus"], "/etc/prometheus/prometheus.yml") == CONFIG
    path, *overrides = services["node0"]["command"]
    observe = load_config(ROOT / path, overrides).observe
    (job,) = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"node0:{observe.port}"]}]
    assert observe.host == "0.0.0.0"
    assert set(services["prometheus"]["networks"]) & set(services["node0"]["networks"])


def test_grafana_finds_prometheus_and_the_dashboard(services: dict[str, Any]) -> None:
    grafana = services["grafana"]
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(grafana["networks"]) & set(services["prometheus"]["networks"])
    interval = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval, "$__rate_interval follows it"
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "flowfabric.yaml").read_text())["providers"]
    assert seen(grafana, provider["options"]["path"]) == DASHBOARD.parent
    assert seen(grafana, "/etc/grafana/provisioning") == PROVISIONING
    assert seen(grafana, grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]) == DASHBOARD
    assert {path.name for path in PROVISIONING.iterdir()} <= {"datasources", "dashboards", "alerting", "plugins"}


def admitted(path: Path) -> bool:
    """Whether the ignore file lets a path of the repository through: the last line that names it or a folder of it."""
    verdict = True
    for line in (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(?:/.*)?", path.as_posix()):
            verdict = line.startswith("!")
    return verdict


@cache
def context() -> list[Path]:
    """The files that a build sees, relative to the root."""
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude=.git"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for path in map(Path, tracked.stdout.splitlines()) if admitted(path) and (ROOT / path).is_file()]


def test_the_ignore_file_keeps_out_all_but_the_image() -> None:
    assert not any(map(admitted, map(Path, (".git/HEAD", "runs/a", "docker/slurm.sh", "moe/__pycache__/a.pyc"))))
    assert all(map(admitted, map(Path, ("pyproject.toml", "docker/launch.sh", "configs/runs/toy.yaml"))))


def test_the_image_builds_its_wheel_from_what_it_has_by_then(
    instructions: list[tuple[str, str]], tmp_path: Path
) -> None:
    place = tmp_path / "image"
    place.mkdir()
    for name, rest in instructions:
        if name == "RUN" and rest.startswith("pip install"):
            break
        if name == "COPY":
            copy(rest, place)
    else:
        raise AssertionError("nothing is installed")
    assert (place / "constraints.txt").exists()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), "."]
    without_compiler = {**os.environ, "CXX": "none"}  # the core takes a minute, and the installation compiles it
    done = subprocess.run(
        command, cwd=place, env=without_compiler, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for core in ("netsim/engine/core", "moe/placement/solver/core"):
        assert {path.name for path in (ROOT / core).glob("*.*pp")} <= {path.name for path in (place / core).iterdir()}
    assert (place / "netsim/engine/core/CMakeLists.txt").exists()
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"trainer/training/loop.py", "moe/layer.py", "netsim/simulation/compare.py"} < held
    assert "flowfabric_configs/runs/digits_moe.yaml" in held


def copy(rest: str, place: Path) -> None:
    """A COPY instruction: of a folder its contents, of files the files."""
    *sources, target = rest.split()
    for source in map(Path, sources):
        files = [path for path in context() if path == source or source in path.parents]
        assert files, f"{source}: nothing of it is in the context"
        for path in files:
            into = place / target / (path.name if path == source else path.relative_to(source))
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, into)


def test_the_image_installs_the_exact_versions_from_the_index_that_is_asked_for(
    instructions: list[tuple[str, str]],
) -> None:
    (install,) = (rest for name, rest in instructions if name == "RUN" and rest.startswith("pip install"))
    assert "--constraint constraints.txt" in install
    assert install.endswith("'.[train]'")
    arguments = {rest.partition("=")[0] for name, rest in instructions if name == "ARG"}
    for index in ("", "URL"):
        program = f'pip() {{ printf "%s\\n" "$@"; }}; {install}'
        told = subprocess.run(
            ["sh", "-c", program], env={"TORCH_INDEX": index}, capture_output=True, text=True, check=True
        )
        assert ("--extra-index-url\nURL\n" in told.stdout) is bool(index)
    assert arguments == {"BASE", "TORCH_INDEX"}
    (packages,) = (rest for name, rest in instructions if name == "RUN" and "apt-get install" in rest)
    assert {"rdma-core", "libibverbs1", "ibverbs-providers", "g++"} < set(packages.split())


def test_the_image_has_a_compiler_a_user_without_rights_and_the_launcher(
    instructions: list[tuple[str, str]], services: dict[str, Any]
) -> None:
    assert instructions[:2] == [("ARG", "BASE=python:3.11-slim"), ("FROM", "${BASE}")]
    texts = [f"{name} {rest}" for name, rest in instructions]
    last_install = max(index for index, text in enumerate(texts) if "install" in text)
    assert texts.index("USER trainer") > last_install
    assert any(text == 'ENTRYPOINT ["docker/launch.sh"]' for text in texts)
    assert LAUNCH.stat().st_mode & 0o111
    volumes = {rest for name, rest in instructions if name == "VOLUME"}
    assert {place for place, source in mounted(services["node0"]).items() if source == "runs"} == volumes
