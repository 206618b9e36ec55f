"""Write deploy/kuberay/*.yaml (`make manifests`): a file for each of deploy/helm/values by the chart, and rules.yaml.

They are for people without Helm; a test fails when they are not what the chart, or deploy/monitoring/rules, says.
"""

from pathlib import Path

import helm_python
import yaml

KUBERAY = Path(__file__).parent
CHART = KUBERAY.parent / "helm" / "uadray"
VALUES = KUBERAY.parent / "helm" / "values"
RULES = KUBERAY.parent / "monitoring" / "rules"

HELM_LABELS = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")

HEAD = """\
# Written by `make manifests` from deploy/helm with values/{name}.yaml: edit those, or a copy of this.
# kubectl apply --namespace NAMESPACE -f {name}.yaml
"""

RULES_HEAD = """\
# Written by `make manifests` from deploy/monitoring/rules: edit those. Add the labels that your Prometheus selects by.
# kubectl apply --namespace NAMESPACE -f rules.yaml
"""


def manifest(name: str) -> str:
    """The text of a manifest.

    Args:
        name: of a file of values.
    """
    values = yaml.safe_load((VALUES / f"{name}.yaml").read_text(encoding="utf-8"))
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name=f"uadray-{name}", namespace="default")
    parts = [_plain(text) for path, text in sorted(rendered.items()) if path.endswith(".yaml") and text.strip()]
    return HEAD.format(name=name) + "---\n" + "\n---\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Without empty lines and without labels that say that Helm looks after it."""
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith(HELM_LABELS))


def rules() -> str:
    """The text of the rules and alerts, for the Prometheus operator."""
    files = sorted(RULES.glob("*.yml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
        "metadata": {"name": "uadray", "labels": {"app.kubernetes.io/part-of": "uadray"}}, "spec": {"groups": groups},
    }  # fmt: skip
    return RULES_HEAD + yaml.safe_dump(rule, sort_keys=False, width=120)


def names() -> list[str]:
    """Of the manifests."""
    return sorted(path.stem for path in VALUES.glob("*.yaml"))


if __name__ == "__main__":
    for each in names():
        (KUBERAY / f"{each}.yaml").write_text(manifest(each), encoding="utf-8")
    (KUBERAY / "rules.yaml").write_text(rules(), encoding="utf-8")
