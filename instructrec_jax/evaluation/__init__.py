"""Metrics, floors, the hold-out protocol and the report."""
