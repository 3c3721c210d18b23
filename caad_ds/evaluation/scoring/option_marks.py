"""Resolve answers by option mark ("B", "(b)", "2.", "Option 2") with the options that the question enumerates.

A question enumerates options if it has consecutive marks from A, a or 1 on in one style ("A. happy B. sad",
"(a) yes (b) no", "1) loud 2) quiet"), or a list after an introduction ("Choose from: happy, sad, angry"). Otherwise
nothing is resolved. Marks joined by "or", "and" or a comma name several options.
"""

import re
from collections.abc import Callable, Sequence
from string import ascii_lowercase, ascii_uppercase

STYLES = (r"\({}\)", r"(?<![\w(]){}\)", r"(?<!\w){}\.(?=\s)", r"(?<!\w){}:(?=\s)")
ALPHABETS = (ascii_uppercase, ascii_lowercase, [str(number) for number in range(1, 27)])
END = re.compile(r"[.?!](?=\s|$)|\n|$")
JOINT = re.compile(r"[\s,;.]*\b(?:or|and)\s*$|[\s,;.]+$", re.IGNORECASE)
INTRODUCED = re.compile(
    r"\b(?:(?:choose|select|pick)(?:\s+one)?\s+(?:from|between|among)|(?:options?|choices?)(?:\s+(?:are|include))?|"
    r"answers?\s+(?:could|can|may|should|must)\s+be|one\s+of(?=\s*:|\s+(?:the|these)\s+(?:following|options|choices)\b))"
    r"(?:\s+(?:the|these)?\s*(?:following|options?|choices?|answers?)|\s+one\s+of\b)*\s*:?\s*(?P<list>[^.?!\n]+)",
    re.IGNORECASE,
)
SEPARATOR = re.compile(r"\s*[,;/|]\s*(?:(?:or|and)\s+)?|\s+(?:or|and)\s+", re.IGNORECASE)
LONGEST = 6  # words of an option in a list without marks; longer entries are clauses
QUOTES = " \t[](){}'\"`*"

MARK = r"(?P<mark>[A-Za-z]|\d{1,2})"
SIGN = re.compile(r"(?<!\w)(?:[A-Za-z]|\d{1,2})(?!\w)")
WORD = r"(?:options?|choices?)\s*(?:(?:is|are)\s*)?:?\s*"
ONE = rf"(?:{WORD})?[(\[\"'*]*{SIGN.pattern}[)\]\"'*.:]*"
LAST = (  # a bare "a", "I" or number before more words is an article, a pronoun or a count
    rf"(?:{WORD})?[(\[\"'*]*(?:{SIGN.pattern}(?:[)\]\"'*.:,;]+(?!\w)|(?=\s*$))|(?<!\w)[b-hj-z](?!\w))"
)
BETWEEN = r"(?:\s*[,;/&]\s*(?:(?:or|and)\s+)?|\s+(?:or|and)\s+|(?<=[)\]])\s+(?=[(\[]|\w{1,2}\)))"
SEVERAL = re.compile(
    rf"(?:^[\s*]*(?:(?:both|either)\s+)?(?:{WORD})?|\b{WORD}|\banswers?\s*(?:is|are|:)+\s*:?\s*)"
    rf"(?P<marks>{ONE}(?:{BETWEEN}{ONE})*{BETWEEN}{LAST})",
    re.IGNORECASE,
)
ALONE = re.compile(rf"^[\W_]*{MARK}[\W_]*$")
LEADING = re.compile(rf"^\s*(?:[(\[\"']{MARK}[)\]\"'][.:,]?|(?P<bare>[A-Za-z]|\d{{1,2}})(?:[.):](?!\d)|(?=\n)))(?=\s)")
AFTER_WORD = re.compile(
    rf"\b(?:(?:option|choice)\s*(?:is\s*)?:?\s*[(\[\"']?{MARK}[)\]\"']?(?!\w)"
    r"|answer\s*(?:is|:)+\s*:?\s*(?:[(\[\"'](?P<quoted>[A-Za-z]|\d{1,2})[)\]\"']"
    r"|(?P<ends>[A-Za-z]|\d{1,2})(?=[.,;:)]*(?:\s*$|[.,;:)]\s))))",  # not the article in "the answer is a man"
    re.IGNORECASE,
)

WITHIN = re.compile(r"(?<!\w)(?:\((?P<mark>[A-Z])\)|\[(?P<square>[A-Z])\])(?!\w)")


def enumerated(question: str) -> dict[str, str]:
    """Return the options that a question enumerates, by mark (A, b, 2), in order; empty if none.

    Lists without marks are numbered, unless an entry is itself a number or a letter: then each is its own mark.
    """
    for style in STYLES:
        for alphabet in ALPHABETS:
            if options := _marked(question, style, alphabet):
                return options
    return _introduced(question)


def marks(question: str, choices: Sequence[str] = ()) -> dict[str, str]:
    """Return the options by mark: the `choices` in order (A, B, ...) if known, else those that `question` enumerates.

    A choice that is a letter itself is its own mark.
    """
    by_text = {_plain(choice): choice for choice in choices}
    by_order = dict(zip(ascii_uppercase, choices, strict=False))
    return (
        {mark: by_text.get(mark.lower(), choice) for mark, choice in by_order.items()}
        if choices
        else enumerated(question)
    )


def spelled_out(answer: str, options: dict[str, str], within: bool = False) -> str:
    """Return the answer with each option mark replaced by the option; unchanged without marks.

    A mark, or several joined ones ("B or C"), is the whole answer, begins it ("B. sad"), or follows "option", "choice"
    or "answer is". If one of joined marks is unknown, the answer is unchanged. With `within`, a capital in brackets
    ("it is (B)") is a mark too, and a number is not: it may be the answer itself.
    """
    if not options or _plain(answer) in map(_plain, options.values()):
        return answer

    def named(mark: str) -> str | None:
        return _option(mark, options, by_place=not within)

    if SEVERAL.search(answer):
        return SEVERAL.sub(lambda found: _options(found, named), answer).strip()
    for pattern in (ALONE, LEADING):
        if found := pattern.search(answer):
            option = named(_mark(found))
            return answer if option is None else f"{option} {answer[found.end() :]}".strip()
    spelled = AFTER_WORD.sub(lambda found: named(_mark(found)) or found.group(), answer)
    return WITHIN.sub(lambda found: _bracketed(found, options), spelled) if within else spelled


def _bracketed(found: re.Match, options: dict[str, str]) -> str:
    """Resolve a capital in brackets, unless an option has it after the same word ("Type (A)")."""
    mark, before = _mark(found), found.string[: found.start()].split()
    worded = before and any(_plain(f"{before[-1]} {mark}") in _plain(option) for option in options.values())
    return found.group() if worded else _option(mark, options) or found.group()


def _options(found: re.Match, named: Callable[[str], str | None]) -> str:
    """Resolve joined marks."""
    options = [named(sign) for sign in SIGN.findall(found["marks"])]
    return found.group() if None in options else " or ".join(option for option in options if option)


def _mark(found: re.Match) -> str:
    return next(value for value in found.groupdict().values() if value)


def _option(mark: str, options: dict[str, str], by_place: bool = False) -> str | None:
    """Return the option with that mark in either case, or the option that equals it.

    With `by_place` also the option at that position (2 or B: the second) if marks are of the other kind.
    """
    by_mark = {**{_plain(option): option for option in options.values()}, **{m.lower(): o for m, o in options.items()}}
    if mark.lower() in by_mark:
        return by_mark[mark.lower()]
    numbered = any(name.isdigit() for name in options)
    if not by_place or mark.isdigit() == numbered:
        return None
    index = ascii_lowercase.index(mark.lower()) if numbered else int(mark) - 1
    return list(options.values())[index] if 0 <= index < len(options) else None


def _marked(question: str, style: str, alphabet: str | list[str]) -> dict[str, str]:
    """Return the options between consecutive marks of a style; empty unless there are two or more, each with text."""
    marks: list[tuple[str, re.Match]] = []
    start = 0
    for name in alphabet:
        found = re.compile(style.format(name)).search(question, start)
        if found is None:
            break
        marks.append((name, found))
        start = found.end()
    if len(marks) < 2:
        return {}
    ends = [found.start() for _, found in marks[1:]] + [len(question)]
    texts = [question[found.end() : end] for (_, found), end in zip(marks, ends, strict=True)]
    texts[-1] = texts[-1].lstrip()
    if end := END.search(texts[-1]):
        texts[-1] = texts[-1][: end.start()]
    options = {name: JOINT.sub("", text.strip()).strip(QUOTES) for (name, _), text in zip(marks, texts, strict=True)}
    return options if all(options.values()) else {}


def _introduced(question: str) -> dict[str, str]:
    """Return the entries of an introduced list, marked 1, 2, ..., or by themselves."""
    for found in INTRODUCED.finditer(question):
        entries = [entry.strip(QUOTES) for entry in SEPARATOR.split(found["list"])]
        if len(entries) > 1 and all(entry and len(entry.split()) <= LONGEST for entry in entries):
            if any(SIGN.fullmatch(entry) for entry in entries) and len(set(entries)) == len(entries):
                return {entry: entry for entry in entries}
            return {str(number): entry for number, entry in enumerate(entries, 1)}
    return {}


def _plain(text: str) -> str:
    return text.lower().strip(QUOTES + ".")
