"""The command ``vislex``: imports the one verb that was called, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 an internal error, 2 a mistake in what was given, 75 a training that SIGTERM stopped (it saved
where it was, and the same command goes on from there), 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from vislex.cli.console import print_error, say
from vislex.errors import StoppedError, UnknownNameError, VislexError, did_you_mean

__all__ = ["STOPPED", "VERBS", "main"]

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again

# verb: (module with a function ``command``, or with a typer ``app`` of several; the line that ``vislex --help`` shows)
VERBS: dict[str, tuple[str, str]] = {
    "list": ("vislex.cli.list", "List the registered parts of a kind."),
    "info": ("vislex.cli.info", "Describe a part, a suite or a saved model."),
    "env": ("vislex.cli.env", "Show versions, devices and optional packages."),
    "train": ("vislex.cli.train", "Train a recipe."),
    "plan": ("vislex.cli.plan", "Tell what a training would need and take."),
    "caption": ("vislex.cli.caption", "Caption images."),
    "ask": ("vislex.cli.ask", "Ask questions about an image."),
    "segment": ("vislex.cli.segment", "Mark what an expression refers to."),
    "encode": ("vislex.cli.encode", "Save the tokens that an encoder gives for images."),
    "reconstruct": ("vislex.cli.reconstruct", "Draw images from a few of their tokens."),
    "merge": ("vislex.cli.merge", "Fold adapters into the model they belong to."),
    "swap": ("vislex.cli.swap", "Give a vision-language model another vision encoder."),
    "import": ("vislex.cli.imports", "Turn the checkpoint of another program into a vislex model."),
    "export": ("vislex.cli.export", "Write a trained backbone as a checkpoint of transformers or timm."),
    "bench": ("vislex.cli.bench", "Measure saved models; never trains."),
    "compare": ("vislex.cli.compare", "Train what is missing, measure all, write the report."),
    "report": ("vislex.cli.report", "Write a report from result files."),
}

# click's own class, or that of the copy of click inside newer versions of typer
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows the program's name; ``sys.argv[1:]`` by default.

    Returns:
        The exit code.
    """
    # transformers' bars and warnings would run through ours; who sets these variables sees them.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    called = next((word for word in given if not word.startswith("-")), None)
    if not debug:
        sys.excepthook = _one_line
    try:
        code = _run(called, given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away; python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except VislexError as error:
        if debug:
            raise
        print_error(str(error))
        return STOPPED if isinstance(error, StoppedError) else 2
    except OSError as error:
        if debug or error.filename is None:
            raise
        print_error(f"{error.strerror}: '{error.filename}'")
        return 2
    return code


def _run(called: str | None, given: list[str]) -> int:
    if called is not None and called not in VERBS:
        raise UnknownNameError(f"unknown verb '{called}'{did_you_mean(called, VERBS)} See 'vislex --help'")
    try:
        result = typer.main.get_command(_build_app(called)).main(given, prog_name="vislex", standalone_mode=False)
    except _USAGE_ERROR as error:
        see = f"vislex {called} --help" if called else "vislex --help"
        message = " ".join(error.format_message().split()).rstrip(".")
        if not message:  # no verb at all: typer has shown the help
            return 2
        print_error(f"{message}{'' if message.endswith('?') else '.'} See '{see}'")
        return 2
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as stop:  # click's answer to a broken pipe
        return stop.code if isinstance(stop.code, int) else 1
    return result if isinstance(result, int) else 0


def _build_app(called: str | None) -> typer.Typer:
    """The whole program, in which only the called verb is real and the others are their line of help."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_root)
    for verb, (name, summary) in VERBS.items():
        module = importlib.import_module(name) if verb == called else None
        if group := getattr(module, "app", None):
            app.add_typer(group, name=verb, short_help=summary)
            continue
        function = getattr(module, "command", _placeholder)
        help_text = function.__doc__ if verb == called and function.__doc__ else summary
        app.command(verb, help=help_text, short_help=summary)(function)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (at any place).")] = False,
) -> None:
    """Join any vision encoder, connector, language model and caption decoder, and see whether it was worth it."""
    if version:
        from vislex import __version__

        say(f"vislex {__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(0)


def _placeholder() -> None:
    """Stands for a verb that was not called, so that its module is not imported."""


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception hook: an error that vislex did not raise on purpose, told in one line."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    print_error(
        f"internal error{where}: {kind.__name__}: {error}; please report it with the output of "
        f"'vislex --debug ...' and 'vislex env'"
    )
