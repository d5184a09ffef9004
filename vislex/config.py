"""Configuration: a YAML file and ``key=value`` overrides, validated by pydantic; all errors are shown at once.

Values come in layers, each above the one before: defaults of the model, the file, the overrides. ``budget: NAME`` in
a layer puts the values of that budget (``recipes/configs/budgets.yaml``) into the layer, below its other keys. So
``budget=smoke`` on the command line wins over sizes in the file, and ``budget=smoke steps=5`` runs five steps.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vislex.errors import ConfigError, did_you_mean

__all__ = ["BUDGETS", "Config", "dump_config", "load_budgets", "load_config", "parse_overrides", "read_yaml"]

BUDGETS = ("smoke", "demo", "standard", "long")
MAX_VALUES = 100_000


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, defaults are validated too.

    Attributes:
        budget_table: Name of the table of ``budgets.yaml`` that the key ``budget`` reads; None if there is none.
    """

    model_config = ConfigDict(
        extra="forbid", validate_default=True, coerce_numbers_to_str=True, allow_inf_nan=False, protected_namespaces=()
    )
    budget_table: ClassVar[str | None] = None


ConfigT = TypeVar("ConfigT", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``no`` is a string, ``1e-3`` a number and a key stands only once.

    Aliases are counted as what they stand for: a few lines of aliases of aliases would be billions of values to check
    and to print.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        if isinstance(node, yaml.CollectionNode) and id(node) not in self._sizes:
            inner = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain.from_iterable(node.value)
            # A scalar is one; so is what holds itself, which is refused later.
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(item), 1) for item in inner)
        if node is not None and self._sizes.get(id(node), 1) > MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, f"it stands for more than {MAX_VALUES:,} values", mark)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"malformed YAML in {origin}{where}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"malformed YAML in {origin}: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds one mapping.

    Raises:
        ConfigError: If the file is missing, no text, malformed (with its line) or holds anything but a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration '{path}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration '{path}' is not UTF-8 text: {error.reason}") from error
    values = _yaml(text, f"'{path}'")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration '{path}' holds a {type(values).__name__}; write 'key: value' lines")
    return values


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Reads ``["steps=10", "optimizer.lr=1e-3"]`` into a nested dictionary; values are YAML.

    Raises:
        ConfigError: If one is not ``key=value``, its value is malformed, or it contradicts another.
    """
    values: dict[str, Any] = {}
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(
                f"'{override}' is not an override; write key=value, e.g. steps=100 or encoder.name=siglip-tiny"
            )
            continue
        try:
            value = _yaml(text, f"the override '{override}'")
        except ConfigError as error:
            problems.append(str(error))
            continue
        inner = values
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                problems.append(f"'{override}' sets a part of '{part}', which another override sets as a whole")
                break
        else:
            inner[parts[-1]] = value
    if problems:
        raise ConfigError(_listing("the overrides", problems))
    return values


def load_budgets() -> dict[str, dict[str, dict[str, Any]]]:
    """The packaged table of budgets: recipe -> budget -> values of the recipe's configuration."""
    return copy.deepcopy(_packaged_budgets())


@functools.cache
def _packaged_budgets() -> dict[str, dict[str, dict[str, Any]]]:
    resource = resources.files("vislex.recipes") / "configs" / "budgets.yaml"
    with resources.as_file(resource) as path:
        return read_yaml(path)


def load_config(model: type[ConfigT], path: Path | None = None, overrides: Sequence[str] = ()) -> ConfigT:
    """Validates a configuration file with overrides.

    Args:
        model: The pydantic model, a subclass of ``Config``.
        path: YAML file; None starts from the defaults.
        overrides: ``key=value`` strings with dotted keys; the last of two equal keys wins.

    Raises:
        ConfigError: With every problem of the file and the overrides at once, one a line.
    """
    default = model.model_fields.get("budget")
    values = _with_budget(model, {"budget": default.default}) if default is not None else {}
    for layer in (read_yaml(Path(path)) if path is not None else {}, parse_overrides(overrides)):
        values = _merge(values, _with_budget(model, layer))
    origin = f"'{path}'" if path is not None else "the configuration"
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_explain(model, problem) for problem in error.errors(include_url=False)]
        raise ConfigError(_listing(origin + (" with overrides" if overrides else ""), problems)) from error


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML that ``load_config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _with_budget(model: type[BaseModel], layer: dict[str, Any]) -> dict[str, Any]:
    table = getattr(model, "budget_table", None)
    if table is None or not isinstance(name := layer.get("budget"), str):
        return layer
    return _merge(load_budgets().get(table, {}).get(name, {}), layer)  # validation names an unknown budget


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _listing(origin: str, problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"{origin}: {problems[0]}"
    return f"{origin}: {len(problems)} errors\n" + "\n".join(
        f"  ({i}) {problem}" for i, problem in enumerate(problems, 1)
    )


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = list(_model_at(model, location[:-1]).model_fields)
        near = did_you_mean(location[-1], known)
        return f"unknown key '{key}'{near}" + (f" Known are {', '.join(known)}" if near == "." else "")
    if problem["type"] == "missing":
        return f"'{key}' is required and was not given"
    message = problem["msg"].removeprefix("Value error, ")
    message = re.sub(r"^Input should be", "must be", message)
    given = "" if isinstance(problem["input"], dict | BaseModel) else f" (given {problem['input']!r})"
    return f"{key}: {message}{given}" if key else message


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            continue  # the key of a dictionary, or the position in a list
        candidates = [field.annotation, *get_args(field.annotation)]
        nested = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        model = nested[0] if nested else model
    return model
