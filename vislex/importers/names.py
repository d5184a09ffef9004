"""Weights under other names: which of a checkpoint's tensors make each weight of a module, and what does not fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from vislex.errors import CheckpointError

__all__ = ["Names", "check_names", "count_layers", "load_renamed"]

# Weight of a module -> the tensors of the checkpoint that make it, one below the other.
Names = Mapping[str, tuple[str, ...]]
SHOWN = 3


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Number of layers ``prefix`` + "0." ... that a checkpoint has names of."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def check_names(found: Collection[str], expected: Collection[str], unused: Collection[str], what: str) -> None:
    """Holds the names of a checkpoint against those that it must have.

    Args:
        found: Names in the checkpoint.
        expected: Names that it must have.
        unused: Names among ``found`` that it may have beside them.
        what: "'FILE' is no ..." of the error.

    Raises:
        CheckpointError: Naming some of what is missing, and some of what is unexpected.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(set(found) - set(expected) - set(unused)):
        problems.append(f"unexpected {_some(unexpected)}")
    if problems:
        raise CheckpointError(f"{what}: {'; '.join(problems)}")


def load_renamed(
    module: nn.Module, state: Mapping[str, Tensor], names: Names, what: str, *, strict: bool = True
) -> None:
    """Loads the weights of a module from a checkpoint's tensors, in the module's dtype.

    Args:
        module: Module.
        state: The checkpoint.
        names: Which tensors make each weight.
        what: Beginning of an error.
        strict: Whether ``names`` must hold every weight and buffer of the module.

    Raises:
        CheckpointError: If a tensor has another shape than it must have.
    """
    weights = module.state_dict()
    renamed = {}
    for target, sources in names.items():
        rows, *rest = weights[target].shape
        wanted = (rows // len(sources), *rest)
        for source in sources:
            if tuple(state[source].shape) != wanted:
                raise CheckpointError(f"{what}: {source} has shape {tuple(state[source].shape)}, expected {wanted}")
        renamed[target] = torch.cat([state[source] for source in sources]).to(weights[target].dtype)
    module.load_state_dict(renamed, strict=strict)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
