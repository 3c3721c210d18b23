"""Tokens by which answers and options are compared.

Whisper's basic normaliser, which the published rule uses, drops what may be the only difference between two options:
signs, symbols, the decimal point, bracketed text, the vowel signs of some scripts. They are kept here.
"""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache, lru_cache
from itertools import takewhile, zip_longest
from typing import NamedTuple
from unicodedata import normalize

import regex

DASH = regex.compile(r"[\u2010-\u2015\u2212\ufe58\uff0d]")
BRACKETED = regex.compile(r"[<\[][^>\]]*[>\]]|\([^)]+?\)")  # what the basic normaliser removes
# A sign precedes a number and follows none; a dash and a space at the start of a line mark a list.
SIGN = r"(?<![\p{N}\p{L}])(?<!\p{N}\s)(?:-|(?<!^\s*)(?<=\s)-\s|\b(?:minus|negative)\s+)"
THOUSANDS = r"\p{Nd}{1,3}(?:,\p{Nd}{3})+(?![\p{Nd},])"
# "0,4" and "1,2" are one token each: whether decimal comma or list, they do not mention 4 or 2 alone.
NUMBER = rf"(?:{THOUSANDS}|\p{{N}}+(?:,\p{{N}}+)*)(?:\.\p{{Nd}}+)?|(?<![\p{{N}}.])\.\p{{Nd}}+"
TOKEN = regex.compile(
    rf"(?P<number>(?:{SIGN})?(?:{NUMBER})(?:[:/\u2044]\p{{N}}+)?)(?P<unit>\p{{L}}[\p{{L}}\p{{M}}]*)?"
    r"|(?<![\p{L}\p{M}\p{N}])[a-g][#\u266d][\p{L}\p{N}]*"  # a note or chord: C#, C#m
    r"|[\p{L}\p{N}][\p{L}\p{M}\p{N}]*(?:[#+]+(?![\p{L}\p{N}])|(?<=\b\p{L})-(?![\p{L}\p{N}-]))?"
    r"|[<>\u2264\u2265]=?(?=\s*[-+.]?\p{N})"
    r"|(?![<>|~])[%#&@\p{Sm}\p{Sc}\p{So}]",
    regex.MULTILINE,
)
SYMBOL = regex.compile(r"[%#&@\u00b0\p{Sc}\p{Emoji_Presentation}]")  # not < or +, which change the number
WITH_UNIT = regex.compile(r"(?P<value>-?[\p{N}.]+)(?P<unit>\p{L}+)(?<!^\p{N}{4}s)")  # not the "s" of "1990s"
# `re` accepts the same digits as Decimal; `regex` knows a newer Unicode.
SHORT = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?|-?\.\d{1,15}")
ACCIDENTAL = {"sharp": "#", "flat": "\u266d"}
COUNTING = ("is", "answer")  # after these a final "one" is a number

ONES = {
    name: value
    for value, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
TENS = {name: 10 * k for k, name in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
SCALES = (
    "hundred thousand million billion dozen half halves third thirds quarter quarters fifth fifths tenth tenths".split()
)
UNITS = {
    "db": "db decibel decibels", "hz": "hz hertz", "khz": "khz kilohertz", "ms": "ms millisecond milliseconds",
    "s": "s sec secs second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours",
    "mm": "mm millimeter millimeters millimetre millimetres", "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres", "km": "km kilometer kilometers kilometre kilometres", "%": "% percent pct",
    "°": "° degree degrees", "kg": "kg kilogram kilograms", "bpm": "bpm", "years": "year years",
}  # fmt: skip
UNIT = {name: unit for unit, names in UNITS.items() for name in names.split()}


class Token(NamedTuple):
    """A token with its start and end in the text."""

    text: str
    start: int
    end: int


class Reading(NamedTuple):
    """Tokenisations of options and of answers, under which an option can be found in an answer."""

    of_option: Callable[[str], tuple[Token, ...]]
    of_answer: Callable[[str], tuple[Token, ...]]


@lru_cache(1 << 14)
def tokens(text: str) -> tuple[Token, ...]:
    """Return lower-case words, numbers with sign and decimal point, and symbols; brackets and punctuation are skipped.

    "-5 dB" is -5, db; "English (US)" english, us; "C#" c#; "<answer>no</answer>" answer, no, answer.
    """
    return tuple(
        Token(_number(found["number"]) + (found["unit"] or "") if found["number"] else found.group(), *found.span())
        for found in TOKEN.finditer(lowered(text))
    )


@lru_cache(1 << 14)
def bare(text: str) -> tuple[Token, ...]:
    """Return the tokens of a text without bracketed text and unit signs: "dog (bark)" is dog, "5%" is 5."""
    return tuple(token for token in tokens(BRACKETED.sub(_blank, lowered(text))) if not SYMBOL.fullmatch(token.text))


@lru_cache(1 << 14)
def canonical(text: str) -> tuple[Token, ...]:
    """Return the tokens with numbers as digits (up to 999, also "zero point four") and units in one spelling.

    "one" is a number if alone, within a larger number, before a unit, or last after "is" or "answer"; else it may be a
    pronoun ("the second one", "one of them").
    """
    return _canonical(tokens(text))


@lru_cache(1 << 14)
def _bare_canonical(text: str) -> tuple[Token, ...]:
    return _canonical(bare(text))


def _if_bare(text: str) -> tuple[Token, ...]:
    return tokens(text) if tokens(text) == bare(text) else ()


def _if_bare_canonical(text: str) -> tuple[Token, ...]:
    return canonical(text) if tokens(text) == bare(text) else ()


EXACT = Reading(tokens, tokens)
# Options without brackets and symbols, only in answers that have none either: "English" does not match "English (UK)".
BARE = Reading(bare, _if_bare)
CANONICAL = Reading(canonical, canonical)
BARE_CANONICAL = Reading(_bare_canonical, _if_bare_canonical)


def lowered(text: str) -> str:
    """Return the normalised lower-case text that token positions refer to."""
    return DASH.sub("-", normalize("NFKC", text).lower()).replace("\u266f", "#")


def _blank(found: regex.Match) -> str:
    return " " * len(found.group())


def _number(text: str) -> str:
    """Return a number in comparable form: `minus 1,000` is -1000."""
    negative, digits = regex.fullmatch(r"(-|minus|negative)?\s*(.*)", text).groups()
    return ("-" if negative else "") + (digits.replace(",", "") if regex.match(THOUSANDS, digits) else digits)


def _canonical(text_tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    parts = list(_with_accidentals([part for token in text_tokens for part in _parts(token)]))
    return tuple(_with_units(list(_with_numbers(parts))))


def _with_accidentals(parts: list[Token]) -> Iterator[Token]:
    """Replace spelled notes by signs: "C sharp" is c#; "a flat voice" is no note."""
    skip = False
    for token, after in zip_longest(parts, parts[1:]):
        if not skip and after and token.text in tuple("bcdefg") and after.text in ACCIDENTAL:
            yield Token(token.text + ACCIDENTAL[after.text], token.start, after.end)
            skip = True
        elif not skip:
            yield token
        else:
            skip = False


def _parts(token: Token) -> Iterator[Token]:
    """Split a number from an attached unit, as in "0.4m"."""
    number = WITH_UNIT.fullmatch(token.text)
    if number and number["unit"] in UNIT:
        middle = token.end - len(number["unit"])
        yield Token(number["value"], token.start, middle)
        yield Token(number["unit"], middle, token.end)
    else:
        yield token


def _with_numbers(parts: list[Token]) -> Iterator[Token]:
    texts = [token.text for token in parts]
    index = 0
    while index < len(parts):
        negative = texts[index] in ("minus", "negative")
        value, count = _spelled(texts[index + negative :])
        end = index + negative + count
        more = _scale(texts[max(end, index + 1) :]) if value is not None or SHORT.fullmatch(texts[index]) else 0
        if more:  # "two thousand", "2 and a half": a number other than 2, kept in words
            end = max(end, index + 1) + more
            yield Token(" ".join(texts[index:end]), parts[index].start, parts[end - 1].end)
            index = end
        elif value is None or (texts[index:end] == ["one"] and not _is_number(texts, index)):
            yield parts[index]._replace(text=_shortest(texts[index]))
            index += 1
        else:
            yield Token(("-" if negative else "") + value, parts[index].start, parts[end - 1].end)
            index = end


def _scale(words: list[str]) -> int:
    """Return how many of these words after a number change its value."""
    if words[:1] and words[0] in SCALES:
        return 1
    return 3 if words[:2] in (["and", "a"], ["and", "one"]) and words[2:3] and words[2] in SCALES else 0


def _is_number(words: list[str], index: int) -> bool:
    """Return whether the word "one" at that index is a number, not a pronoun."""
    after = words[index + 1 : index + 2]
    is_last = after in ([], ["answer"])
    after_count = is_last and index > 0 and words[index - 1] in COUNTING
    return words == ["one"] or (bool(after) and after[0] in UNIT) or after_count


def _spelled(words: list[str]) -> tuple[str | None, int]:
    """Return the spelled number that the words begin with (None if there is none), and its number of words."""
    value, count = (0, 0) if words[:1] == ["point"] else _below_hundred(words)
    hundreds = 1 if value is None else value
    if words[count : count + 1] == ["hundred"] and 0 < hundreds < 10:
        count += 1
        joined = words[count : count + 1] == ["and"]
        rest, more = _below_hundred(words[count + joined :])
        value, count = 100 * hundreds + (rest or 0), count + (joined + more if rest else 0)
    if value is None or words[count : count + 1] != ["point"]:
        return (None if value is None else str(value)), count
    decimals = [str(ONES[name]) for name in takewhile(lambda name: ONES.get(name, 10) < 10, words[count + 1 :])]
    if not decimals:
        return (str(value), count) if count else (None, 0)
    return _shortest(f"{value}.{''.join(decimals)}"), count + 1 + len(decimals)


def _below_hundred(words: list[str]) -> tuple[int | None, int]:
    first, second = [*words[:2], "", ""][:2]
    if first in TENS:
        more = ONES.get(second, 0)
        return (TENS[first] + more, 2) if 0 < more < 10 else (TENS[first], 1)
    return (ONES[first], 1) if first in ONES else (None, 0)


def _shortest(text: str) -> str:
    """Return a number in its shortest form, 0.40 as 0.4; other text, or a number with too many digits, is unchanged."""
    return f"{Decimal(text).normalize():f}" if SHORT.fullmatch(text) else text


def _with_units(parts: list[Token]) -> Iterator[Token]:
    for index, token in enumerate(parts):
        after_number = index and parts[index - 1].text[-1].isdigit()
        yield token._replace(text=UNIT[token.text]) if after_number and token.text in UNIT else token


@cache
def _normaliser() -> Callable[[str], str]:
    """Return Whisper's basic normaliser, which the published rule uses."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer  # takes seconds to import

    return BasicTextNormalizer()


@lru_cache(1 << 14)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text after Whisper's basic normaliser (lower case, no punctuation, no bracketed parts)."""
    return tuple(_normaliser()(text).split())
