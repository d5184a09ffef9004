"""``list_<kind>`` for every kind of part: names by glob, without loading the parts."""

from __future__ import annotations

from vislex.registry import registry

__all__ = [
    "list_codecs",
    "list_connectors",
    "list_decoders",
    "list_encoders",
    "list_hosts",
    "list_llms",
    "list_recipes",
    "list_scorers",
    "list_suites",
    "list_t2i",
]


def list_encoders(pattern: str = "*") -> list[str]:
    """Names of the registered vision encoders that match a glob; families end in ":" (``timm:``)."""
    return registry("encoders").names(pattern)


def list_connectors(pattern: str = "*") -> list[str]:
    """Names of the registered connectors that match a glob."""
    return registry("connectors").names(pattern)


def list_decoders(pattern: str = "*") -> list[str]:
    """Names of the registered caption decoders that match a glob."""
    return registry("decoders").names(pattern)


def list_llms(pattern: str = "*") -> list[str]:
    """Names of the registered language backbones that match a glob."""
    return registry("llms").names(pattern)


def list_t2i(pattern: str = "*") -> list[str]:
    """Names of the registered text-to-image families that match a glob."""
    return registry("t2i").names(pattern)


def list_codecs(pattern: str = "*") -> list[str]:
    """Names of the registered mask codecs that match a glob."""
    return registry("codecs").names(pattern)


def list_scorers(pattern: str = "*") -> list[str]:
    """Names of the registered scorers that match a glob."""
    return registry("scorers").names(pattern)


def list_hosts(pattern: str = "*") -> list[str]:
    """Names of the registered host families that match a glob."""
    return registry("hosts").names(pattern)


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of the registered recipes that match a glob."""
    return registry("recipes").names(pattern)


def list_suites(pattern: str = "*") -> list[str]:
    """Names of the registered benchmark suites that match a glob."""
    return registry("suites").names(pattern)
