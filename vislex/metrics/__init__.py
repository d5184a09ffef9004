"""Scorers; every scorer has an id and a version."""
