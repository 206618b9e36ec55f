"""What the work costs, and what is refused of a configuration."""

from pathlib import Path

import pytest
import yaml

from uadray.config import load_config
from uadray.errors import InputError
from uadray.monitoring.prices import ExporterConfig, Prices, cost

SHIPPED = Path(__file__).parents[2] / "configs" / "monitoring" / "exporter.yaml"


def test_the_configuration_that_is_shipped_names_every_field() -> None:
    config = load_config(ExporterConfig, SHIPPED)
    values = yaml.safe_load(SHIPPED.read_text())
    assert set(values) == set(ExporterConfig.model_fields)
    assert set(values["prices"]) == set(Prices.model_fields)
    assert config.prices is not None
    assert config.prices.currency == "EUR"


def test_cost_is_seconds_times_cores_times_price() -> None:
    """1,800 s of readers of 2 cores at 0.10, 3,600 s of scorers of 1 core and a quarter GPU at 2, 4 slides at 0.01."""
    prices = Prices(cpu_hour=0.1, gpu_hour=2, reader_cpus=2, scorer_gpus=0.25, per_slide=0.01)
    assert cost(prices, slides=4, read_seconds=1800, score_seconds=3600) == pytest.approx(0.1 + 0.1 + 0.5 + 0.04)
    assert cost(Prices(cpu_hour=1), slides=0, read_seconds=0, score_seconds=0) == 0


@pytest.mark.parametrize(("text", "what"), [
    ("refresh_s: 0", "refresh_s"), ("refresh_seconds: 5", "refresh_s"), ("prices: {cpu_hour: -1}", "cpu_hour"),
    ("prices: {cpu_hour: .inf}", "cpu_hour"), ("prices: {cpu_hour: 1, currency: Euro}", "currency"),
    ('screenings: {"a\\nb": /x}', "screenings"), ("budgets: {a: -1}", "budgets"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "exporter.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=what):
        load_config(ExporterConfig, path)
