"""The command line as a user meets it: exit codes, one line for an error, nothing heavy imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vislex.cli.main import VERBS, main


def run(*arguments: str, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs ``vislex`` (or some code) in a fresh process."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "vislex"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env={**os.environ, **env})


def test_help_lists_every_verb_in_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb, (_, summary) in VERBS.items():
        assert f"  {verb} " in shown
        assert summary.split()[0] in shown
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_every_verb_has_a_command_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        assert f"vislex {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lst"], "unknown verb 'lst'; did you mean 'list'? See 'vislex --help'"),
        (["list", "encodrs"], "unknown kind 'encodrs'; did you mean 'encoders'"),
        (["list", "suites", "*", "more"], "unexpected extra argument"),
        (["list", "--jsn"], "No such option: --jsn"),
        (["--nope"], "No such option: --nope"),
        (["info"], "Missing argument"),
        (["info", "no-such-part"], "no part and no folder is called 'no-such-part'"),
        (["info", "suite:coko"], "unknown suite 'coko'; did you mean 'coco'?"),
        (["info", "suite:coco", "--sheet", "a.png"], "has no sheet"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from vislex import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vislex {__version__}\n"


def test_debug_shows_the_traceback_of_a_mistake() -> None:
    done = run("list", "encodrs", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UnknownNameError" in done.stderr


BROKEN = textwrap.dedent("""
    import sys, types
    import vislex.cli.main as program
    def command() -> None:
        '''Fails.'''
        {body}
    module = types.ModuleType("vislex.cli.env")
    module.command = command
    sys.modules["vislex.cli.env"] = module
    sys.exit(program.main(["env", *sys.argv[1:]]))
""")


def test_an_error_of_our_own_is_one_line_and_exit_code_1() -> None:
    code = BROKEN.format(body="raise ZeroDivisionError('two\\nlines')")
    done = run(code=code)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "internal error at <string>:6: ZeroDivisionError: two lines; please report it" in done.stderr
    assert "Traceback" in run("--debug", code=code).stderr


def test_a_file_that_cannot_be_opened_is_the_users_mistake(tmp_path: Path) -> None:
    done = run(code=BROKEN.format(body=f"open({str(tmp_path / 'gone')!r})"))
    assert (done.returncode, done.stderr) == (2, f"error: No such file or directory: '{tmp_path / 'gone'}'\n")


def test_interrupt_is_130_without_a_traceback() -> None:
    body = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's "&" ignores it
    done = run(code=BROKEN.format(body=body + "os.kill(os.getpid(), signal.SIGINT)"))
    assert (done.returncode, done.stderr.strip()) == (130, "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = BROKEN.format(body="print('x' * 10_000_000)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "code",
    [
        "import vislex, vislex.data, vislex.metrics; vislex.list_encoders(); vislex.list_decoders()",
        "from vislex.cli.main import main; assert main(['list', 'encoders']) == 0",
        "from vislex.cli.main import main; assert main(['--help']) == 0",
        "from vislex.cli.main import main; assert main(['info', 'nothing']) == 2",
    ],
)
def test_light_commands_load_nothing_heavy(code: str) -> None:
    heavy = ["torch", "transformers", "timm", "diffusers", "datasets", "numpy", "PIL", "rich", "matplotlib"]
    done = run(code=f"{code}\nimport sys; found = [m for m in {heavy} if m in sys.modules]; assert not found, found")
    assert done.returncode == 0, done.stderr


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "suites" in capsys.readouterr().out
    assert main(["list", "suites", "*caps", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["nocaps", "textcaps"]
    assert main(["list", "suites", "zzz*"]) == 0
    assert capsys.readouterr().out == "no suites match 'zzz*'\n"
    assert main(["list", "suites"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "summary"]
    assert lines == sorted(lines)


def test_env_names_versions_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    facts = {row["what"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert facts["torch"][0].isdigit()
    assert {"java", "device (auto)", "dtype (auto)", "extra java", "extra train"} <= set(facts)
