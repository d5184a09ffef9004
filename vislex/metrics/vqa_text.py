"""Answers as text: the official VQA normalisation with its quirks, edit distance, and which choice an answer means."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

__all__ = ["edit_distance", "extract_choice", "normalize_answer", "normalize_official", "says_yes"]

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(i)
    for i, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
}
_NUMBERS["none"] = "0"
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# As published: "(?!<=\d)" was meant to be a look-behind, but asks what follows, which is a full stop and no "<=".
_FULL_STOP = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(\d)(\,)(\d)")
_MOST_FULL_STOPS = 32  # re.UNICODE was passed where the count stands

# The forms that the official table writes; it maps each of them without one of its apostrophes to the whole.
_CONTRACTIONS = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
_WITHOUT_APOSTROPHE = {
    form[:i] + form[i + 1 :]: form for form in _CONTRACTIONS for i, letter in enumerate(form) if letter == "'"
}
_WITHOUT_APOSTROPHE["somebody'd"] = "somebodyd"  # the one row that stands the wrong way round


def normalize_official(text: str) -> str:
    """Punctuation, digits, articles and contractions as in the official VQA evaluation, quirks included.

    A mark with a space beside it vanishes, another becomes a space; where a comma stands between two digits, every mark
    vanishes. Full stops vanish but before a digit, at most 32 of them.
    """
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        vanishes = in_number or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if vanishes else " ")
    cleaned = _FULL_STOP.sub("", cleaned, count=_MOST_FULL_STOPS)
    words = [_NUMBERS.get(word, word) for word in cleaned.lower().split()]
    return " ".join(_WITHOUT_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation, words separated by single spaces."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance in characters."""
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def extract_choice(prediction: str, choices: Sequence[str]) -> int | None:
    """Which of some choices an answer means.

    Looked for in this order: the text of a choice; a letter alone ("B", "(b)"), the index of a choice from 0 (as
    ScienceQA stores answers); a letter at the beginning ("B. because ..."), then the last "answer is B" or "option B";
    the text of exactly one choice somewhere inside.

    Returns:
        Index into ``choices``; None if it means none of them, or several.
    """
    said, texts = normalize_answer(prediction), [normalize_answer(choice) for choice in choices]
    if said and texts.count(said) == 1:
        return texts.index(said)
    letters = "".join(chr(ord("a") + i) for i in range(min(len(choices), 26)))
    if len(said) == 1 and said in letters:
        return letters.index(said)
    if said.isascii() and said.isdecimal() and int(said) < len(choices):
        return int(said)
    given = prediction.strip()
    if match := re.match(r"\(?([A-Za-z])\s*[.):]", given):
        letter = match[1].lower()
        return letters.index(letter) if letter in letters else None
    stated = re.findall(r"\b(?:answer|option|choice)(?: is)?:?\s*\(?([A-Za-z])\)?(?![A-Za-z'])", given, re.IGNORECASE)
    stated = [letter.lower() for letter in stated if letter.lower() in letters]
    if stated:
        return letters.index(stated[-1])
    padded = f" {said} "
    inside = [i for i, text in enumerate(texts) if text and f" {text} " in padded]
    # "hot water" holds "water" too: a choice that stands inside another one that was said does not count
    longest = [i for i in inside if not any(j != i and f" {texts[i]} " in f" {texts[j]} " for j in inside)]
    return longest[0] if len(longest) == 1 else None


def says_yes(prediction: str) -> bool:
    """POPE's reading of an answer: "no" if its first sentence holds the word "no" or "not", else "yes"."""
    words = prediction.partition(".")[0].replace(",", "").lower().split()
    return not {"no", "not"} & set(words)
