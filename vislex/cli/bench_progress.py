"""The progress bar of benchmarks."""

from __future__ import annotations

from collections.abc import Callable

from vislex.cli.console import error_console

__all__ = ["progress"]


class progress:  # noqa: N801 - used as a function
    """A progress bar on stderr; ``advance(n)`` moves it."""

    def __init__(self, title: str, total: int) -> None:
        from rich.progress import Progress

        self._progress = Progress(console=error_console, transient=True)
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return lambda n: self._progress.advance(self._task, n)

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
