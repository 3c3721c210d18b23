"""A text as the tokens that answers and options are compared by.

Whisper's basic normaliser, which the published rule takes, drops what may be all that tells two options apart: signs,
symbols, the decimal point, what stands in brackets, the vowel signs of some scripts. Here they stay.
"""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import lru_cache
from itertools import takewhile, zip_longest
from typing import NamedTuple
from unicodedata import normalize

import regex

DASH = regex.compile(r"[\u2010-\u2015\u2212\ufe58\uff0d]")
BRACKETED = regex.compile(r"[<\[][^>\]]*[>\]]|\([^)]+?\)")  # what the basic normaliser removes
# A sign stands before a number and after none; a dash that begins a line, with a space behind it, marks a list.
SIGN = r"(?<![\p{N}\p{L}])(?<!\p{N}\s)(?:-|(?<!^\s*)(?<=\s)-\s|\b(?:minus|negative)\s+)"
THOUSANDS = r"\p{Nd}{1,3}(?:,\p{Nd}{3})+(?![\p{Nd},])"
# "0,4" and "1,2" are one token each: a decimal comma or a list, and in neither case the number that ends it.
NUMBER = rf"(?:{THOUSANDS}|\p{{N}}+(?:,\p{{N}}+)*)(?:\.\p{{Nd}}+)?|(?<![\p{{N}}.])\.\p{{Nd}}+"
TOKEN = regex.compile(
    rf"(?P<number>(?:{SIGN})?(?:{NUMBER})(?:[:/\u2044]\p{{N}}+)?)(?P<unit>\p{{L}}[\p{{L}}\p{{M}}]*)?"
    r"|(?<![\p{L}\p{M}\p{N}])[a-g][#\u266d][\p{L}\p{N}]*"  # a note or chord: C#, C#m
    r"|[\p{L}\p{N}][\p{L}\p{M}\p{N}]*(?:[#+]+(?![\p{L}\p{N}])|(?<=\b\p{L})-(?![\p{L}\p{N}-]))?"
    r"|[<>\u2264\u2265]=?(?=\s*[-+.]?\p{N})"
    r"|(?![<>|~])[%#&@\p{Sm}\p{Sc}\p{So}]",
    regex.MULTILINE,
)
SYMBOL = regex.compile(r"[%#&@\u00b0\p{Sc}\p{Emoji_Presentation}]")  # not < or +, without which it is another number
WITH_UNIT = regex.compile(r"(?P<value>-?[\p{N}.]+)(?P<unit>\p{L}+)(?<!^\p{N}{4}s)")  # the 1990s are no seconds
# By `re`: it knows the digits that Decimal knows, `regex` those of a newer Unicode.
SHORT = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?|-?\.\d{1,15}")
ACCIDENTAL = {"sharp": "#", "flat": "\u266d"}
COUNTING = ("is", "answer")  # words after which a last "one" is a number

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
    """A token, and where its text begins and ends."""

    text: str
    start: int
    end: int


class Reading(NamedTuple):
    """How an option is read, and how an answer is, so that the one may be found in the other."""

    of_option: Callable[[str], tuple[Token, ...]]
    of_answer: Callable[[str], tuple[Token, ...]]


@lru_cache(1 << 14)
def tokens(text: str) -> tuple[Token, ...]:
    """Words in lower case, numbers with sign and decimal point, and symbols; brackets and punctuation are passed over.

    "-5 dB" is -5, db; "English (US)" english, us; "C#" c#; "<answer>no</answer>" answer, no, answer.
    """
    return tuple(
        Token(_number(found["number"]) + (found["unit"] or "") if found["number"] else found.group(), *found.span())
        for found in TOKEN.finditer(lowered(text))
    )


@lru_cache(1 << 14)
def bare(text: str) -> tuple[Token, ...]:
    """The tokens of a text without what stands in brackets and signs of units: "dog (bark)" is dog, "5%" is 5."""
    return tuple(token for token in tokens(BRACKETED.sub(_blank, lowered(text))) if not SYMBOL.fullmatch(token.text))


@lru_cache(1 << 14)
def canonical(text: str) -> tuple[Token, ...]:
    """The tokens with numbers in digits (up to 999, "zero point four" too) and units after them in one spelling.

    "one" is a number alone, within a larger one, before a unit, or last after "is" or "answer"; else it may be a
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
# An option without its brackets and symbols, in an answer that has none either: "English" is no "English (UK)".
BARE = Reading(bare, _if_bare)
CANONICAL = Reading(canonical, canonical)
BARE_CANONICAL = Reading(_bare_canonical, _if_bare_canonical)


def lowered(text: str) -> str:
    """The text in which tokens have their places."""
    return DASH.sub("-", normalize("NFKC", text).lower()).replace("\u266f", "#")


def _blank(found: regex.Match) -> str:
    return " " * len(found.group())


def _number(text: str) -> str:
    """A number as it is compared: `minus 1,000` is -1000."""
    negative, digits = regex.fullmatch(r"(-|minus|negative)?\s*(.*)", text).groups()
    return ("-" if negative else "") + (digits.replace(",", "") if regex.match(THOUSANDS, digits) else digits)


def _canonical(said: tuple[Token, ...]) -> tuple[Token, ...]:
    parts = list(_with_accidentals([part for token in said for part in _parts(token)]))
    return tuple(_with_units(list(_with_numbers(parts))))


def _with_accidentals(said: list[Token]) -> Iterator[Token]:
    """Notes in words as in signs: "C sharp" is c#; "a flat voice" is none."""
    skip = False
    for token, after in zip_longest(said, said[1:]):
        if not skip and after and token.text in tuple("bcdefg") and after.text in ACCIDENTAL:
            yield Token(token.text + ACCIDENTAL[after.text], token.start, after.end)
            skip = True
        elif not skip:
            yield token
        else:
            skip = False


def _parts(token: Token) -> Iterator[Token]:
    """A number and the unit that is written with it, "0.4m", as two."""
    number = WITH_UNIT.fullmatch(token.text)
    if number and number["unit"] in UNIT:
        middle = token.end - len(number["unit"])
        yield Token(number["value"], token.start, middle)
        yield Token(number["unit"], middle, token.end)
    else:
        yield token


def _with_numbers(said: list[Token]) -> Iterator[Token]:
    texts = [token.text for token in said]
    place = 0
    while place < len(said):
        negative = texts[place] in ("minus", "negative")
        value, count = _spelled(texts[place + negative :])
        end = place + negative + count
        more = _scale(texts[max(end, place + 1) :]) if value is not None or SHORT.fullmatch(texts[place]) else 0
        if more:  # "two thousand", "2 and a half": another number than 2, kept in its words
            end = max(end, place + 1) + more
            yield Token(" ".join(texts[place:end]), said[place].start, said[end - 1].end)
            place = end
        elif value is None or (texts[place:end] == ["one"] and not _counts(texts, place)):
            yield said[place]._replace(text=_shortest(texts[place]))
            place += 1
        else:
            yield Token(("-" if negative else "") + value, said[place].start, said[end - 1].end)
            place = end


def _scale(said: list[str]) -> int:
    """How many of these words after a number make it another one."""
    if said[:1] and said[0] in SCALES:
        return 1
    return 3 if said[:2] in (["and", "a"], ["and", "one"]) and said[2:3] and said[2] in SCALES else 0


def _counts(said: list[str], place: int) -> bool:
    """Whether the word "one" in that place is a number and no pronoun."""
    after = said[place + 1 : place + 2]
    ends = after in ([], ["answer"])
    return said == ["one"] or (bool(after) and after[0] in UNIT) or (ends and place > 0 and said[place - 1] in COUNTING)


def _spelled(said: list[str]) -> tuple[str | None, int]:
    """The number in words that texts begin with, and how many of them it takes; None where they begin with none."""
    value, count = (0, 0) if said[:1] == ["point"] else _below_hundred(said)
    hundreds = 1 if value is None else value
    if said[count : count + 1] == ["hundred"] and 0 < hundreds < 10:
        count += 1
        joined = said[count : count + 1] == ["and"]
        rest, more = _below_hundred(said[count + joined :])
        value, count = 100 * hundreds + (rest or 0), count + (joined + more if rest else 0)
    if value is None or said[count : count + 1] != ["point"]:
        return (None if value is None else str(value)), count
    decimals = [str(ONES[name]) for name in takewhile(lambda name: ONES.get(name, 10) < 10, said[count + 1 :])]
    if not decimals:
        return (str(value), count) if count else (None, 0)
    return _shortest(f"{value}.{''.join(decimals)}"), count + 1 + len(decimals)


def _below_hundred(said: list[str]) -> tuple[int | None, int]:
    first, second = [*said[:2], "", ""][:2]
    if first in TENS:
        more = ONES.get(second, 0)
        return (TENS[first] + more, 2) if 0 < more < 10 else (TENS[first], 1)
    return (ONES[first], 1) if first in ONES else (None, 0)


def _shortest(text: str) -> str:
    """A number in its shortest form, 0.40 as 0.4; what is none, or has more digits than are to be trusted, as it is."""
    return f"{Decimal(text).normalize():f}" if SHORT.fullmatch(text) else text


def _with_units(said: list[Token]) -> Iterator[Token]:
    for place, token in enumerate(said):
        counted = place and said[place - 1].text[-1].isdigit()
        yield token._replace(text=UNIT[token.text]) if counted and token.text in UNIT else token
