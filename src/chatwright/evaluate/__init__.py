"""Metrics, statistics, comparisons and the report."""
