"""Write deploy/kuberay/*.yaml from the chart, one file for each of deploy/helm/values: `make manifests`.

They are for people without Helm; a test fails when they are not what the chart says.
"""

from pathlib import Path

import helm_python
import yaml

KUBERAY = Path(__file__).parent
CHART = KUBERAY.parent / "helm" / "uadray"
VALUES = KUBERAY.parent / "helm" / "values"

HELM_LABELS = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")

HEAD = """\
# Written by `make manifests` from deploy/helm with values/{name}.yaml: edit those, or a copy of this.
# kubectl apply --namespace NAMESPACE -f {name}.yaml
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


def names() -> list[str]:
    """Of the manifests."""
    return sorted(path.stem for path in VALUES.glob("*.yaml"))


if __name__ == "__main__":
    for each in names():
        (KUBERAY / f"{each}.yaml").write_text(manifest(each), encoding="utf-8")
