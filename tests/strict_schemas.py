"""Checks manifests as the API server would with strict field validation: what no schema knows is an error."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

OLDEST, NEWEST = "1.29", "1.37"
"""Releases of Kubernetes whose schemas judge everything but KubeRay's own kinds."""

TEMPLATES = ("template", "submitterPodTemplate")
"""Fields of KubeRay's kinds that hold a pod template."""

_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_RELABELING = {
    "type": "object",
    "properties": {
        "sourceLabels": {"type": "array", "items": {"type": "string"}},
        "targetLabel": {"type": "string"}, "regex": {"type": "string"}, "replacement": {"type": "string"},
        "action": {"enum": ["replace", "keep", "drop", "labeldrop", "labelkeep"]},
    },
    "additionalProperties": False,
}  # fmt: skip
_SELECTOR = {
    "type": "object",
    "properties": {"matchLabels": _LABELS, "matchExpressions": {"type": "array"}},
    "additionalProperties": False,
}
POD_MONITOR = {
    "type": "object",
    "properties": {
        "jobLabel": {"type": "string"},
        "selector": _SELECTOR,
        "podMetricsEndpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "port": {"type": "string"}, "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                    "relabelings": {"type": "array", "items": _RELABELING},
                    "metricRelabelings": {"type": "array", "items": _RELABELING},
                },
                "required": ["port"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["selector", "podMetricsEndpoints"],
    "additionalProperties": False,
}  # fmt: skip
"""The fields of the Prometheus operator's PodMonitor that we use: its whole schema is in no package."""


def check(manifest: dict[str, Any], kuberay: Path, *, kubernetes: str = NEWEST) -> None:
    """Check a manifest.

    Args:
        manifest: parsed.
        kuberay: folder of KubeRay's CRDs.
        kubernetes: release.

    Raises:
        jsonschema.ValidationError: where and what is wrong, or not known.
    """
    group = manifest["apiVersion"].partition("/")[0]
    if group == "ray.io":
        jsonschema.Draft202012Validator(_crd(kuberay, manifest["kind"])).validate(manifest)
        _check_metadata(manifest, kubernetes)
        for template in _pod_templates(manifest["spec"]):
            _check_pod_template(template, kubernetes)
    elif group == "monitoring.coreos.com":
        assert manifest["kind"] == "PodMonitor"
        jsonschema.Draft202012Validator(POD_MONITOR).validate(manifest["spec"])
        _check_metadata(manifest, kubernetes)
    else:
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


def _check_metadata(manifest: dict[str, Any], kubernetes: str) -> None:
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}, kubernetes, strict=True
    )


def _check_pod_template(template: dict[str, Any], kubernetes: str) -> None:
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template},
        kubernetes, strict=True,
    )  # fmt: skip


def _pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name in TEMPLATES:
                yield each
            else:
                yield from _pod_templates(each)
    elif isinstance(value, list):
        for each in value:
            yield from _pod_templates(each)


@cache
def _crd(kuberay: Path, kind: str) -> dict[str, Any]:
    text = (kuberay / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    assert crd["spec"]["names"]["kind"] == kind
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    return schema


def closed(schema: Any) -> Any:
    """A structural schema (OpenAPI v3) as JSON Schema that takes no field that it does not name.

    >>> closed({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": True}}})["additionalProperties"]
    False
    >>> closed({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    {'type': 'object'}
    """
    kept = {
        k: v for k, v in schema.items() if not k.startswith("x-") and k not in ("description", "format", "nullable")
    }
    kept |= {k: {n: closed(p) for n, p in v.items()} for k, v in kept.items() if k == "properties"}
    kept |= {k: closed(v) for k, v in kept.items() if k in ("items", "additionalProperties") and isinstance(v, dict)}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
        kept.pop("anyOf", None)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not is_open:
        kept["additionalProperties"] = False
    if schema.get("nullable"):
        kept = {"anyOf": [kept, {"type": "null"}]}
    return kept
