"""Pickles that hold plain values: strings, numbers, lists, tuples and dictionaries; anything else is refused."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from vislex.errors import DataError

__all__ = ["read_plain_pickle"]

MAX_BYTES = 512 * 1024 * 1024
_DAMAGED = (
    EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, OverflowError, RecursionError,
    struct.error,
)  # fmt: skip


class _PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Builds no object of a named class and calls nothing: that is how a pickle runs code.

    It is the one written in Python: that in C makes room for as many values as a damaged file says it remembers. And it
    knows no byte arrays, for which both make room before they look how many bytes there are.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names '{module}.{name}'")


def read_plain_pickle(path: str | Path) -> Any:
    """Reads a pickle of plain values, such as RefCOCO's ``refs(unc).p``, also one that Python 2 wrote.

    Raises:
        DataError: If it is missing, too large or damaged, or names a class or function, which could run code.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"there is no file '{file}'")
    if file.stat().st_size > MAX_BYTES:
        raise DataError(f"'{file}' has more than {MAX_BYTES:,} bytes, the most that is read")
    try:
        with file.open("rb") as stream:
            return _PlainUnpickler(stream, encoding="utf-8", errors="replace").load()
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"'{file}' is damaged or holds more than plain values ({reason}); it was not opened, for a pickle can run "
            "code: fetch it anew from its publisher"
        ) from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{file}' is damaged or no pickle ({reason}); fetch it anew") from error
