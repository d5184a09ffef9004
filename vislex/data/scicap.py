"""SciCap: figures of computer science papers and their captions (Hsu et al., 2110.11624)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, local_root, unknown_split
from vislex.data.schemas import caption_dataset
from vislex.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SUBSETS", "load"]

SPLITS = ("train", "val", "test")
SUBSETS = {
    "first_sentence": "First-Sentence",
    "single_sentence": "Single-Sentence-Caption",
    "leq_100_tokens": "Caption-No-More-Than-100-Tokens",
}
CAPTION = "1-lowercase-and-token-and-remove-figure-index"


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    subset: str = "first_sentence",
    subfigures: bool = False,
) -> Dataset:
    """Loads the release ``scicap_data``: lists of files, one JSON file a caption, images.

    Args:
        task: "caption".
        root: The folder.
        split: "train", "val" or "test".
        size: Number of rows, the first ones; None takes all.
        subset: "first_sentence", "single_sentence" or "leq_100_tokens".
        subfigures: Whether figures with parts are taken, instead of those without.

    Returns:
        Rows ``id``, ``index``, ``file``, ``captions``: one, in lower case, without the figure's number; ``image`` when
        read.

    Raises:
        ConfigError, DataError: For an unknown split or subset, missing files, unsafe paths.
    """
    check_task("scicap", task)
    if split not in SPLITS:
        raise unknown_split("scicap", split, SPLITS)
    if subset not in SUBSETS:
        raise ConfigError(f"data set 'scicap' has no subset '{subset}'; it has {', '.join(SUBSETS)}")
    folder = local_root("scicap", root)
    kind, cases = ("Yes" if subfigures else "No"), (split, split.capitalize())
    listed = [f"List-of-Files-for-Each-Experiments/{SUBSETS[subset]}/{kind}-Subfig/{c}/file_idx.json" for c in cases]
    listing = find_file(folder, [*listed, *(f"*/{name}" for name in listed)], f"list of files of split '{split}'")
    base = listing.parents[4]
    captions = next(
        (base / "SciCap-Caption-All" / case for case in cases if (base / "SciCap-Caption-All" / case).is_dir()), base
    )
    finder = ImageFinder(base, [f"SciCap-{kind}-Subfig-Img/{case}" for case in cases])
    names = read_json(listing)
    if not isinstance(names, list):
        raise DataError(f"{listing}: not of SciCap's form (a list of file names)")
    rows: list[dict[str, Any]] = []
    for name in names[:size]:
        file = captions / f"{Path(str(name)).stem}.json"
        try:
            caption = read_json(file)[CAPTION]["caption"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{file}: not of SciCap's form ({CAPTION}: caption): {error}") from error
        rows.append({"id": Path(str(name)).stem, "file": finder(str(name), str(listing)), "captions": [caption]})
    finder.check(str(listing))
    return caption_dataset(rows, base, source=str(listing), size=size)
