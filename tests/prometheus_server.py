"""The Prometheus and Alertmanager servers of the tests: those of the benchmarks."""

import pytest

from uadray.bench.prometheus import AlertmanagerServer, Notifications, PrometheusServer, missing_programs

__all__ = ["AlertmanagerServer", "Notifications", "PrometheusServer", "needs_prometheus"]

needs_prometheus = pytest.mark.skipif(
    bool(missing_programs()),
    reason=f"NO {', '.join(missing_programs())}: apt-get install prometheus prometheus-alertmanager",
)
"""Skips a test where one of the programs is missing; CI installs them."""
