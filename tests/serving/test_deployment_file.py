"""The file that an endpoint is deployed from: what we ship, what is refused, and what Serve makes of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from uadray.errors import InputError
from uadray.serving.app import KINDS, bound
from uadray.serving.deployment_file import DeploymentOptions, load_deployment_file

CONFIGS = Path(__file__).parents[2] / "configs" / "serve"


@pytest.mark.parametrize("name", ["laptop", "cluster"])
def test_the_files_we_ship_are_ours_and_serves(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    file = load_deployment_file(path)
    taken = ServeDeploySchema.model_validate(file.for_serve())
    assert taken == ServeDeploySchema.model_validate(file.for_serve() | {"applications": taken.applications})
    as_written = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert as_written.http_options.host == taken.http_options.host == file.http_options.host
    assert as_written.applications[0].import_path == taken.applications[0].import_path
    assert taken.applications[0].autoscaling_policy == {"policy_function": "uadray.serving.scaling:follow_slides"}
    assert as_written.logging_config is not None
    assert not as_written.logging_config.enable_access_log


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["http_options.prot=1"], r"http_options.prot: no such field; did you mean port\?"),
        (["http_optins.port=1"], r"http_optins.port=1: no such field; did you mean http_options\?"),
        (["max_tile_per_request=1"], r"did you mean max_tiles_per_request\?"),
        (["detector.cpu=1"], r"applications.0.args.detector.cpu: no such field; did you mean cpus\?"),
        (["detector.replicas=3"], "replicas 3 to 2"),
        (["autoscaling_policy.policy_function=os:system"], "uadray.serving.scaling:follow_slides"),
        (["import_path=os:system"], "uadray.serving.app:build_app"),
        (["route_prefix=/a"], "Input should be '/'"),
        (["proxy_location=Nowhere"], "HeadOnly"),
        (["http_options.port=0"], "greater than or equal to 1"),
        (["http_options.host="], "http_options.host"),
        (["http_options.request_timeout_s=5"], "set request_timeout_s of args"),
        (["logging_config.enable_access_log=true"], "it would write ids of slides"),
        (["http_options.ssl_keyfile=/k"], "TLS needs both"),
        (["http_options.host=0.0.0.0", "insecure=true"], "0.0.0.0 can be reached from elsewhere; give tokens"),
        (["deployments=[{name: MapStage}]"], "there is no MapStage with one_replica: True"),
        (["deployments=[{name: AllStage}]"], "deployments.0.name"),
        (["deployments=[{name: AllStages, max_ongoing_request: 3}]"], r"did you mean max_ongoing_requests\?"),
        (["deployments=[{name: AllStages, autoscaling_config: {upscale_delay_s: 1}}]"], "min_replicas"),
        (["deployments=[{name: AllStages, ray_actor_options: {resources: {a: 1}}}]"], "num_cpus"),
        (["bundles={}"], "at least 1 item"),
        (["bundles={a/b: x}"], "bundles"),
    ],
)
def test_what_is_refused_in_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        load_deployment_file(CONFIGS / "laptop.yaml", overrides)
    assert "\n" not in str(refused.value)
    assert "Tuple" not in str(refused.value)


@pytest.mark.parametrize("applications", ["[]", "[{}, {}]", "5", "[{import_path: uadray.serving.app:build_app}]"])
def test_one_application_with_its_arguments_is_needed(tmp_path: Path, applications: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(f"http_options: {{host: 127.0.0.1}}\napplications: {applications}\n")
    with pytest.raises(InputError, match="applications"):
        load_deployment_file(path)


def test_the_host_is_named(tmp_path: Path) -> None:
    """Serve would listen on all addresses."""
    path = tmp_path / "serve.yaml"
    path.write_text("applications: [{args: {out: o, bundles: {a: b}}}]\n")
    with pytest.raises(InputError, match="http_options"):
        load_deployment_file(path)


def test_overrides_find_their_place() -> None:
    file = load_deployment_file(
        CONFIGS / "laptop.yaml",
        ["out=/data", "bundles.second=s3://b/2", "http_options.port=9000", "name=mine", "slide.replicas=1"],
    )
    assert (file.args.out, file.http_options.port, file.applications[0].name) == ("/data", 9000, "mine")
    assert file.args.bundles == {"main": "demo/bundle", "second": "s3://b/2"}
    assert (file.args.slide.replicas, file.args.slide.most) == (1, 2)
    assert file.url == "http://127.0.0.1:9000"


def test_tls_and_addresses_of_ipv6_in_the_url() -> None:
    tls = ["http_options.ssl_keyfile=/k", "http_options.ssl_certfile=/c", "http_options.host='::1'"]
    assert load_deployment_file(CONFIGS / "laptop.yaml", tls).url == "https://[::1]:8000"


def test_what_serve_builds_is_checked_in(tmp_path: Path) -> None:
    """But for the first line, which names Ray's version."""
    built = tmp_path / "built.yaml"
    command = "import sys; from ray.serve.scripts import cli; sys.argv[0] = 'serve'; cli()"
    subprocess.run(
        [sys.executable, "-c", command, "build", "uadray.serving.default_app:app", "-o", str(built)],
        check=True, capture_output=True,
    )  # fmt: skip
    lines = built.read_text().splitlines()
    assert lines[1:] == (CONFIGS / "built.yaml").read_text().splitlines()[1:]
    for options in yaml.safe_load(built.read_text())["applications"][0]["deployments"]:
        DeploymentOptions.model_validate({name: value for name, value in options.items() if name != "user_config"})


def test_the_options_of_deployments_are_serves() -> None:
    """Fields that Serve does not have would be ignored by it."""
    from ray.serve.config import AutoscalingConfig, BackpressureConfig
    from ray.serve.schema import DeploymentSchema, LoggingConfig, RayActorOptionsSchema

    from uadray.serving import deployment_file as ours

    pairs: list[tuple[Any, Any]] = [
        (ours.DeploymentOptions, DeploymentSchema),
        (ours.AutoscalingOptions, AutoscalingConfig),
        (ours.Backpressure, BackpressureConfig),
        (ours.LoggingOptions, LoggingConfig),
        (ours.ActorOptions, RayActorOptionsSchema),
    ]
    for mine, theirs in pairs:
        assert set(mine.model_fields) <= set(theirs.model_fields), mine


def test_every_stage_has_a_field_and_each_way_its_deployments() -> None:
    file = load_deployment_file(CONFIGS / "cluster.yaml")
    assert list(file.args.stages) == ["encoder", "generator", "scorer"]
    app = bound(file.args, preload=())
    assert app is not None
    assert set(KINDS) == {*file.args.stages, "detector"}
