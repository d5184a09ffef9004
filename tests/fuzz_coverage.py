"""Fuzzing that follows the coverage: ``python fuzz_coverage.py FOLDER [-runs=N ...]``, started by test_fuzz.py.

It reads the name of a reader from each line of its input and answers with the return code of a process of its own:
atheris takes over a process until the runs are done, or until the first exception that is not ours. Log and the input
of a failure lie in FOLDER/NAME. All share the time that imports take.

What is measured are the lines of the modules that parse: an input that reaches a new one is mutated further.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
from pathlib import Path

import atheris

MEASURED = ["fuzz_readers", "vislex", "yaml", "PIL", "tarfile"]

with atheris.instrument_imports(include=MEASURED):
    import fuzz_readers

for function in pickle._Unpickler.dispatch.values():  # type: ignore[attr-defined]  # imported before, by atheris
    atheris.instrument_func(function)


def fuzz(name: str, folder: Path, options: list[str]) -> None:
    """Ends the process."""
    make, seeds = fuzz_readers.READERS[name]
    (folder / "corpus").mkdir()
    for number, seed in enumerate(seeds):
        (folder / "corpus" / str(number)).write_bytes(seed)
    tokens = ["".join(f"\\x{byte:02x}" for byte in token) for token in fuzz_readers.TOKENS if token]
    (folder / "words").write_text("".join(f'"{token}"\n' for token in tokens))
    with atheris.instrument_imports(include=MEASURED):  # some import at the first call
        reader = make()
        for seed in seeds:
            fuzz_readers.holds(reader, seed)

    @atheris.instrument_func
    def read(data: bytes) -> None:
        fuzz_readers.holds(reader, data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        replaced = fuzz_readers.replace_value(data, draw) if draw.random() < 0.5 else None
        return atheris.Mutate(data, max_size) if replaced is None or len(replaced) > max_size else replaced

    own = [f"-dict={folder}/words", f"-artifact_prefix={folder}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], f"{folder}/corpus", *own, *options], read, custom_mutator=mutate)
    atheris.Fuzz()


def main(root: Path, options: list[str]) -> None:
    for line in sys.stdin:
        folder = root / line.strip()
        folder.mkdir()
        process = os.fork()
        if not process:
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            fuzz(line.strip(), folder, options)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
