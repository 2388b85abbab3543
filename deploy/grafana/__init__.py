"""Grafana's dashboard and where it finds it."""
