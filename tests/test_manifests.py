"""The chart and the manifests that are written from it: valid to the last field, without secrets, and in step."""

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import pytest
import strict_schemas
import typer.main
import yaml

from uadray.cli import app
from uadray.config import load_config
from uadray.monitoring.prices import ExporterConfig
from uadray.serving.deployment_file import load_deployment_file
from uadray.serving.server import ENVIRONMENT
from uadray.training.config import TrainConfig

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "uadray"
RENDER = runpy.run_path(str(DEPLOY / "kuberay" / "render.py"))
NAMES: list[str] = RENDER["names"]()

ALL_AT_ONCE = {
    "image": {"repository": "registry.example/u", "digest": "sha256:" + "0" * 64, "pullSecrets": ["pull"]},
    "cudaImage": {"tag": "9-cuda"},
    "secrets": {"store": "s3", "rayToken": "ray", "endpointTokens": "tokens", "redis": "redis"},
    "store": {"endpointUrl": "http://store.example:8333", "region": "eu-central-1"},
    "serviceAccount": {"name": "mine", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/u"}},
    "gcs": {"redisAddress": "redis.example:6380", "externalStorageNamespace": "u"},
    "env": [{"name": "A", "value": "1"}],
    "head": {"nodeSelector": {"pool": "stable"}, "tolerations": [{"operator": "Exists"}], "annotations": {"a": "b"}},
    "groups": {"gpu": None, "gpu-spot": {"minReplicas": 2, "maxReplicas": 3, "nodeSelector": {"gpu": "a"}}},
    "cluster": {"enabled": True, "groups": ["cpu", "spot", "gpu-spot"]},
    "screen": {
        "enabled": True, "groups": ["gpu-spot"], "bundles": ["s3://b/1", "s3://b/2"], "slides": "s3://b/in/",
        "out": "s3://b/out", "arguments": ["--gpus", "0.5", "--follow"],
    },
    "train": {"enabled": True, "groups": ["gpu-spot"], "data": "s3://b/m", "out": "s3://b/d", "config": {"name": "d"}},
    "serve": {"enabled": True, "groups": ["cpu", "gpu-spot"], "application": {"out": "s3://b/e"}, "port": 8123},
    "exporter": {"enabled": True, "outs": ["a=s3://b/out"], "config": {"budgets": {"a": 100}}},
    "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "storePorts": [8333]},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}  # fmt: skip
BARE = {
    "serviceAccount": {"create": False}, "networkPolicy": {"enabled": False},
    "cluster": {"enabled": True, "groups": ["cpu"]},
}  # fmt: skip


def _values(name: str) -> dict[str, Any]:
    made = {"all-at-once": ALL_AT_ONCE, "bare": BARE, "nothing": {}}
    if name in made:
        return made[name]
    values: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "values" / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def _rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="r", namespace="n")
    return [each for path, text in files.items() if path.endswith(".yaml") for each in yaml.safe_load_all(text) if each]


def _plain(name: str) -> list[dict[str, Any]]:
    return [m for m in yaml.safe_load_all((DEPLOY / "kuberay" / f"{name}.yaml").read_text(encoding="utf-8")) if m]


def _of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def _containers(value: Any) -> list[dict[str, Any]]:
    """Every container of manifests, with `pod` for the pod's spec."""
    if isinstance(value, list):
        return [c for each in value for c in _containers(each)]
    if not isinstance(value, dict):
        return []
    own = [c | {"pod": value} for c in value.get("containers", [])]
    return own + [c for each in value.values() for c in _containers(each)]


@pytest.fixture(scope="session")
def kuberay(data_dir: Path) -> Path:
    return data_dir / "kuberay"


@pytest.mark.parametrize("name", NAMES)
def test_the_manifests_are_what_the_chart_says(name: str) -> None:
    """`make manifests` writes them again."""
    assert (DEPLOY / "kuberay" / f"{name}.yaml").read_text(encoding="utf-8") == RENDER["manifest"](name)


@pytest.mark.parametrize("name", NAMES)
def test_every_manifest_is_valid(name: str, kuberay: Path) -> None:
    manifests = _plain(name)
    for manifest in manifests:
        strict_schemas.check(manifest, kuberay)
    identities = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(set(identities)) == len(identities) >= 4
    assert all("namespace" not in m["metadata"] for m in manifests)


@pytest.mark.parametrize("name", [*NAMES, "all-at-once", "bare", "nothing"])
def test_the_chart_has_no_fault(name: str, kuberay: Path) -> None:
    report = helm_python.lint(CHART, _values(name), strict=True, kube_version=f"v{strict_schemas.OLDEST}.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []
    for manifest in _rendered(_values(name)):
        strict_schemas.check(manifest, kuberay, kubernetes=strict_schemas.OLDEST)


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("RayJob", ("spec", "backofLimit"), 3),
        ("RayJob", ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "imag"), "a"),
        ("RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), "1"),
        ("RayJob", ("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
        ("RayJob", ("metadata", "label"), {}),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "tty_"), True),
        ("NetworkPolicy", ("spec", "ingres"), []),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "intervall"), "1s"),
    ],
)
def test_a_typo_is_found(kind: str, place: tuple[str | int, ...], value: object, kuberay: Path) -> None:
    manifest = copy.deepcopy(next(m for m in _plain("screen") if m["kind"] == kind))
    strict_schemas.check(manifest, kuberay)
    at: Any = manifest
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        strict_schemas.check(manifest, kuberay)


@pytest.mark.parametrize(
    "values",
    [
        {"secrets": {"storre": "a"}},
        {"image": {"digest": "sha256:abc"}},
        {"groups": {"cpu": {"cache": "40GB"}}},
        {"groups": {"new": {"gpus": 0}}},
        {"screen": {"out": "s3://b/o; rm -rf /"}},
        {"serve": {"upgrade": {"stepSizePercent": 0}}},
        {"secrets": {"store": "Not A Name"}},
    ],
)
def test_values_are_checked(values: dict[str, Any]) -> None:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema({})
        with pytest.raises(helm_python.HelmError):
            chart.validate_schema(values)


@pytest.mark.parametrize("what", ["screen", "train", "serve", "exporter"])
def test_what_is_missing_is_named(what: str) -> None:
    with pytest.raises(helm_python.HelmError, match=f"{what}\\."):
        _rendered({what: {"enabled": True}})


def test_pods_have_no_rights() -> None:
    containers = _containers([*_rendered(ALL_AT_ONCE), *(m for name in NAMES for m in _plain(name))])
    assert len(containers) > 20
    for container in containers:
        pod, own = container["pod"]["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == 10001
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert container["resources"].keys() == {"requests", "limits"}
        written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert "/tmp" in written  # noqa: S108
        volumes = {volume["name"] for volume in container["pod"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_secrets_are_named_and_not_written() -> None:
    manifests = [*_rendered(ALL_AT_ONCE), *(m for name in NAMES for m in _plain(name))]
    assert [m for m in manifests if m["kind"] == "Secret"] == []
    values = [e for c in _containers(manifests) for e in c.get("env", []) if "value" in e]
    assert [e["name"] for e in values if "TOKEN" in e["name"] or "SECRET" in e["name"] or "PASSWORD" in e["name"]] == []
    cluster = _of_kind(_rendered(ALL_AT_ONCE), "RayCluster")["spec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray"}
    assert cluster["gcsFaultToleranceOptions"]["redisPassword"] == {
        "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}
    }


def test_every_cluster_asks_for_the_token() -> None:
    specs = [
        m["spec"].get("rayClusterSpec") or m["spec"].get("rayClusterConfig") or m["spec"]
        for m in [*_rendered(ALL_AT_ONCE), *(m for name in NAMES for m in _plain(name))]
        if m["apiVersion"] == "ray.io/v1"
    ]
    assert len(specs) == 8
    assert {spec["authOptions"]["mode"] for spec in specs} == {"token"}
    assert {spec["enableInTreeAutoscaling"] for spec in specs} == {True}


def test_the_endpoint_is_one_that_uadray_takes(tmp_path: Path) -> None:
    service = _of_kind(_plain("serve"), "RayService")["spec"]
    (tmp_path / "endpoint.yaml").write_text(service["serveConfigV2"], encoding="utf-8")
    file = load_deployment_file(tmp_path / "endpoint.yaml")
    assert file.args.tokens == "/etc/uadray/tokens/tokens.yaml"
    assert service["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    for container in _containers(service):
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert ENVIRONMENT.items() <= env.items()
        assert {"name": "endpoint-tokens", "mountPath": "/etc/uadray/tokens", "readOnly": True} in container[
            "volumeMounts"
        ]
        assert file.http_options.port in [port["containerPort"] for port in container["ports"]]


def test_the_exporter_is_one_that_uadray_takes(tmp_path: Path) -> None:
    maps = [m for m in _rendered(ALL_AT_ONCE) if m["kind"] == "ConfigMap" and "exporter.yaml" in m["data"]]
    (tmp_path / "exporter.yaml").write_text(maps[0]["data"]["exporter.yaml"], encoding="utf-8")
    assert load_config(ExporterConfig, tmp_path / "exporter.yaml").budgets == {"a": 100}


def test_the_training_is_one_that_uadray_takes(tmp_path: Path) -> None:
    manifests = _plain("train")
    text = _of_kind(manifests, "ConfigMap")["data"]["config.yaml"]
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load_config(TrainConfig, tmp_path / "config.yaml").name == "fanogan"
    assert _of_kind(manifests, "RayJob")["spec"]["entrypoint"].split() == [
        "uadray", "train", "/etc/uadray/training/config.yaml", "--data", "s3://bucket/manifest.csv",
        "--out", "s3://bucket/bundles/fanogan", "--resume",
    ]  # fmt: skip


def test_the_program_takes_its_commands() -> None:
    """Every `uadray ...` of the manifests and of the compose file, as its command line is read."""
    manifests = [*_rendered(ALL_AT_ONCE), *(m for name in NAMES for m in _plain(name))]
    lines = [m["spec"]["entrypoint"].split() for m in manifests if m["kind"] == "RayJob"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["exporter"]["command"]
    containers = [c for c in _containers(manifests) if c["name"] == "exporter"]
    lines += [compose, *(c["command"] + c["args"] for c in containers)]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for program, command, *arguments in lines:
        assert program == "uadray"
        commands[command].make_context(command, arguments)
    assert sorted({line[1] for line in lines}) == ["exporter", "screen", "train"]


def test_a_screening_goes_on_on_spot_nodes() -> None:
    job = _of_kind(_plain("screen"), "RayJob")["spec"]
    assert job["backoffLimit"] == 5
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert [t["key"] for t in pod["tolerations"]] == ["karpenter.sh/capacity-type"]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert "nodeSelector" not in job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert "ray drain-node" in " ".join(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
    with_own = _of_kind(_rendered(ALL_AT_ONCE), "RayCluster")["spec"]["workerGroupSpecs"][2]["template"]["spec"]
    assert with_own["nodeSelector"] == {"gpu": "a", "karpenter.sh/capacity-type": "spot"}
    assert len(with_own["tolerations"]) == 2


def test_nothing_hard_wires_a_namespace() -> None:
    monitors = [m for name in NAMES for m in _plain(name) if m["kind"] == "PodMonitor"]
    assert len(monitors) >= 4
    assert all("namespaceSelector" not in m["spec"] for m in monitors)
    ports = {p["name"] for c in _containers(_plain("serve")) for p in c["ports"]}
    assert {e["port"] for m in monitors for e in m["spec"]["podMetricsEndpoints"]} <= ports


def test_prometheus_keeps_the_same_on_kubernetes() -> None:
    """What the PodMonitors drop, and the rules and alerts, are those of deploy/monitoring."""
    config = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))
    (ray,) = (job for job in config["scrape_configs"] if job["job_name"] == "ray")
    there = [
        {k.replace("source_labels", "sourceLabels"): v for k, v in r.items()} for r in ray["metric_relabel_configs"]
    ]
    (monitor,) = (m for m in _plain("screen") if m["metadata"]["name"] == "uadray-screen-ray")
    here = {e["port"]: e.get("metricRelabelings") for e in monitor["spec"]["podMetricsEndpoints"]}
    assert here == {"metrics": there, "as-metrics": None, "dash-metrics": None}
    assert (DEPLOY / "kuberay" / "rules.yaml").read_text(encoding="utf-8") == RENDER["rules"]()


def test_ports_are_open_to_those_who_need_them_alone() -> None:
    policy = _of_kind(_plain("serve"), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    opened = {
        json.dumps(rule["from"][0]): sorted(p["port"] for p in rule.get("ports", [])) for rule in policy["ingress"]
    }
    assert sorted(opened.values()) == [[], [8000], [8000, 8265, 52365], [8080, 9464, 44217, 44227]]
    (own,) = (who for who, ports in opened.items() if not ports)
    assert json.loads(own)["podSelector"]["matchLabels"] == policy["podSelector"]["matchLabels"]
    pods = [c["pod"] for c in _containers(_plain("serve"))]
    assert len(pods) == 4
