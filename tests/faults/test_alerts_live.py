"""Prometheus and Alertmanager with `deploy/monitoring`, on a live screening, an endpoint and the exporter."""
