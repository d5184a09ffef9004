"""Penn Treebank tokens of captions, as the official caption evaluation cuts them, without Java.

The official program runs Stanford's ``PTBTokenizer -preserveLines -lowerCase`` (CoreNLP 3.4.1) and drops a fixed list
of punctuation. This module was written from the observed behaviour of that program: a lexer that takes the *longest*
match among the patterns below at each position (what a pattern looks ahead at counts towards its length; on a tie the
earlier pattern wins).

Conventions of the official list that look like mistakes and are not ours to mend: parentheses survive as ``-lrb-`` and
``-rrb-`` (the list has them in capitals, the tokens are lower-case by then), and so do runs such as ``!!`` and ``?!``.
The official program reads a whole file, so that in rare cases a caption's last word depends on the caption in the next
line ("on plan b." before "The ..."); here a caption is cut by itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

__all__ = ["ID", "PUNCTUATION", "clear_cache", "tokenize", "tokenize_all"]

ID = "ptb@1"

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# --- characters -----------------------------------------------------------------------------------------------------
_L = r"(?:[^\W\d_\xb2\xb3\xb9\xbc-\xbe\u2070-\u218b\u2460-\u24ff\u2776-\u2793]|[\u02c2-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0981-\u0d63\u0d82-\u0df3\u0e31-\u0e3a\u0e47-\u0e4e])"  # noqa: E501
_A = f"(?:{_L}|\\d)"
_Q = "['\u2019\x92]"  # apostrophe
_QX = "['\u2018\u2019\u0091\u0092\u201b`]"  # what people type for one
_SYMBOL = (
    r"[$%&+<=>\\^|~#@*/_\xa1\xa5-\xa9\xac\xae-\xb4\xb6-\xb9\xbf\xd7\xf7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6\u05f3"
    r"\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965"
    r"\u0e3f\u0e4f\u1fbd\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e"
    r"\u2080-\u208e\u20a4\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e"
    r"\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f"
    r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]"
)

# --- abbreviations that keep their period -----------------------------------------------------------------------------
_ABBREVIATIONS = (
    "messrs|assoc|calif|comdr|profs|thurs|alex|ariz|assn|asst|atty|bldg|blvd|brig|bros|capt|cmdr|"
    "colo|conn|corp|dept|elec|govs|insp|intl|invt|kans|mich|minn|mlle|mont|msgr|natl|okla|penn|"
    "ppte|ppty|pres|prof|ptes|ptys|reps|sens|sept|supt|tenn|tues|univ|wisc|adj|adm|adv|ala|apr|"
    "aug|ave|bhd|cie|col|cos|cpl|dak|dec|det|drs|ens|esq|est|etc|ext|feb|fla|fri|gen|gov|"
    "hon|inc|ind|jan|jos|jul|jun|kan|ltd|maj|mar|mfg|mme|mon|mrs|mtg|neb|nev|nov|oct|pfc|"
    "plc|pte|pty|pvt|rep|rev|sen|sep|seq|sfc|sgt|spc|ste|sys|tel|thu|tue|wed|wis|wyo|al|cf|"
    "co|ct|dr|ft|ga|jr|ky|lt|md|mo|mr|ms|mt|ph|rd|rt|sq|sr|st|va|vs|vt|wm"
)
_CAPITAL_ABBREVIATIONS = "mass|miss|wash|ark|del|ill|ore|tex|az|la|pa"
_BEFORE_DIGIT = "figs|prop|art|fig|nos|ca|no|op|pp"  # "no. 7", but "no ."

# words that begin a sentence: before one of them a single letter loses its period ("plan b. The dog"), else it keeps it
_STARTERS = (
    "additionally|according|however|earlier|other|their|these|there|about|after|since|while|once|some|such|that|then|"
    "they|this|what|when|many|more|last|here|but|her|our|now|one|she|the|you|yet|an|as|at|he|if|in|it|so|we|a"
)

# --- tokens -----------------------------------------------------------------------------------------------------------
_WORD = f"{_A}*{_L}{_A}*"
_PIECE = f"{_A}+"
_DASH = "[-_\u058a\u2010\u2011]"
_NUMBER = r"(?:\d*(?:[.:,]\d+)+|\d+(?:[.:,]\d+)*)"
_ACRONYM = rf"{_L}(?:\.{_L})+"
_TAIL = f"(?:{_DASH}(?:{_ACRONYM}\\.|{_PIECE}))"
_THING = f"(?:{_PIECE}{_TAIL}*|{_NUMBER}{_TAIL}*|{_ACRONYM}\\.{_TAIL}+)"
_HOST = r"(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"
_CLITIC = rf"(?:'(?i:[smd]|re|ve|ll)(?!{_L})|[\u2019\x92](?i:[smd]|re|ve|ll))"
_NOT = f"[nN]{_QX}[tT]"

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"</?[A-Za-z][\w:-]*(?:\s+[A-Za-z][\w:-]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[\w.]+))?)*\s*/?>|<[!?][^<>]*>",
        r"&(?i:amp|lt|gt|quot|apos|nbsp|#\d+);",
        # assimilated words, cut in two by _SPLIT
        rf"(?i:cannot|gonna|gotta|lemme|gimme|wanna)(?!{_A})",
        rf"{_QX}(?i:tis|twas)(?!{_A})",
        # n't and the other clitics: the host looks ahead at them
        rf"[A-Za-z]*[A-MO-Za-mo-z](?=({_NOT}))",
        _NOT,
        rf"(?:{_THING}|{_WORD})(?=({_CLITIC}))",
        _CLITIC,
        # words with an apostrophe
        rf"{_Q}(?:[nN]{_Q}|[nN](?!{_L}))|{_Q}(?i:em|till?|cause|[2-9]0s)|(?<!\d){_Q}\d\d(?!\d)",
        rf"(?i:[ldj]{_Q}|dunkin{_Q}|somethin{_Q}|ol{_Q}|o{_Q}o)|[yY]'(?={_L})",
        rf"[A-HJ-XZnldoO]{_Q}{_L}{{2,}}{_A}*{_TAIL}*|{_L}+[aeiouyAEIOUY]{_Q}[aeiouA-Z]{_L}*",
        rf"(?i:c{_Q}mon|c{_Q}est|d{_Q}ye|e{_Q}er|li{_Q}l|nat{_Q}l|ev{_Q}ry|cap{_Q}n|nor{_Q}easter|s{_Q}mores|ma{_Q}am)",
        # abbreviations and initials
        rf"(?i:{_ABBREVIATIONS})\.|{_L}\.",
        rf"(?:{_CAPITAL_ABBREVIATIONS.title()}|{_CAPITAL_ABBREVIATIONS.upper()})\.",
        rf"{_L}(?=(\.\s+(?:{_STARTERS.title()}|{_STARTERS.upper()})\s))",
        rf"(?i:{_BEFORE_DIGIT})\.(?=(\s?\d))",
        rf"{_ACRONYM}\.?|(?i:ph\.d\.)",
        # words, things with hyphens and slashes, names of hosts and files, addresses
        _WORD,
        rf"{_PIECE}{_TAIL}*",
        rf"(?:{_NUMBER}|{_ACRONYM}\.?){_TAIL}+",
        rf"{_PIECE}(?:{_DASH}{_PIECE})*(?:/{_PIECE}(?:{_DASH}{_PIECE})*)+",
        rf"{_L}{_A}*(?:\.{_L}{_A}*)+",
        r"[A-Z]+(?:[&+][A-Z]+)+|[Cc]\+\+|[A-Za-z]+[!?][A-Za-z]+|C#",
        rf"https?://[^\s\"<>|()]+\.[^\s\"<>|()]*[^\s\"<>|().,!?;:'-]|{_HOST}(?:/[^\s\"<>|()]*[^\s\"<>|().,!?;:'-])",
        r"[A-Za-z0-9][\w.+-]*@[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*|@[A-Za-z_]\w*|#[A-Za-z]+",
        # numbers, money, telephone
        rf"[-+]?{_NUMBER}",
        r"\d+[ \xa0]\d+/\d+|\d+\u2044\d+",
        r"(?:\(\d{3}\)[ \xa0]?|(?:\+?1[ \xa0-])?\d{3}[ \xa0-])\d{3}[ \xa0-]\d{4}",
        r"[A-Z]{1,2}\$",
        # faces
        r"[<>]?[:;=]['-]?[()DPpO|\]@3](?!\w)|\^_\^|-_-|[:=;]-[()]",
        # punctuation
        r"-(?i:[lr][rcs]b)-|[?!]+|#{2,}|@{2,}|<<|>>|-{2,}|\*+|_{2,}|\.{3,}|[-.,:;?!]|``|''",
        _SYMBOL,
        r"[()\[\]{}'\"`\x91-\x94\u2018-\u201d\u2039\u203a\xab\xbb\x96\x97\u2013-\u2015\u2026\x80\xa2-\xa4\u20a0\u20ac\xbc-\xbe\u2153\u2154\x85]",
    )
)

_SPLIT = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "wanna": ("wan", "na"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
_REPLACED = {
    **dict.fromkeys('"\u201c\u201d\xab\xbb\x93\x94', "''"),
    **dict.fromkeys("'`\u2018\u2019\u201b\u2039\u203a\x91\x92", "'"),
    **dict.fromkeys("\u2013\u2014\u2015\x96\x97", "--"),
    **dict.fromkeys("\x80\xa4\u20a0\u20ac", "$"),
    "\u2026": "...",
    "\x85": "...",
    "\xa2": "cents",
    "\xa3": "#",
    "\xbc": "1/4",
    "\xbd": "1/2",
    "\xbe": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": "''",
    "&apos;": "'",
    "&nbsp;": "",
}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CLITIC_FORM = re.compile(rf"{_Q}(?:[smd]|re|ve|ll)|n{_QX}t")
_STRADDLES = re.compile(r"<\S*[A-Za-z][^<>]*\s[^<>]*>|\d[ \xa0]\(?\d|\d\)[ \xa0]\d|\.\s+\d|\w\.\s+[A-Z]")
_CACHE_SIZE = 1 << 17


def tokenize(text: str) -> list[str]:
    """Tokens of one caption, lower-case, punctuation dropped.

    Args:
        text: Any string; a line break counts as a space.

    Returns:
        The tokens of the official program (on 6,000 awkward captions its output is reproduced exactly).
    """
    text = text.replace("\xad", "")
    if _STRADDLES.search(text):
        return _lex(text)
    tokens: list[str] = []
    for chunk in text.split():
        tokens += _lex_chunk(chunk)
    return tokens


def clear_cache() -> None:
    """Forgets the words seen so far; for measurements."""
    _lex_chunk.cache_clear()


def tokenize_all(captions: Iterable[str]) -> list[list[str]]:
    """``tokenize`` for many captions."""
    return [tokenize(caption) for caption in captions]


@functools.lru_cache(_CACHE_SIZE)
def _lex_chunk(chunk: str) -> tuple[str, ...]:
    """Tokens of a string without spaces: the words of captions recur, so most calls are answered from the cache."""
    if chunk.isascii() and chunk.isalpha() and chunk.lower() not in _SPLIT:
        return (chunk.lower(),)
    return tuple(_lex(chunk))


def _lex(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while at < len(text):
        end, best = at, 0
        for pattern in _PATTERNS:
            if (match := pattern.match(text, at)) and (reach := max(match.end(), _looked_ahead(match))) > best:
                best, end = reach, match.end()
        if end == at:  # a space, an emoji, a control character: separates, and gives no token
            at += 1
            continue
        tokens += [token for token in _normalize(text[at:end]) if token not in PUNCTUATION and token]
        at = end
    return tokens


def _looked_ahead(match: re.Match[str]) -> int:
    return match.end(1) if match.re.groups else -1


def _normalize(token: str) -> tuple[str, ...]:
    if (replaced := _REPLACED.get(token.lower())) is not None:
        return (replaced,)
    token = token.lower()
    if token in _BRACKETS:
        return (_BRACKETS[token],)
    if halves := _SPLIT.get(token.replace("\u2019", "'")):
        return halves
    if _CLITIC_FORM.fullmatch(token):
        return (token.replace("\u2019", "'").replace("\x92", "'").replace("\u2018", "`"),)
    if len(token) > 1 and not token.strip("-"):
        return ("--",)
    if len(token) > 1 and not token.strip("."):
        return ("...",)
    return (token.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\xa0"),)
