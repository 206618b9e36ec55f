"""What an operator sees: the ledger and drift for Prometheus, dashboards."""
