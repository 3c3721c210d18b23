"""Decide whether an English answer asserts an option that it mentions: not denied, not hedged, no other quantity."""

from collections.abc import Container
from functools import lru_cache

import regex

from caad_ds.evaluation.scoring.normalization import UNIT, Token, canonical, lowered, tokens

Mention = tuple[int, int, str]  # start and end of an option in a text, and its joined exact tokens

# Denials before an option, with only BETWEEN words in between: "not male", "the opposite of a dog", "isn't a dog".
BETWEEN = (
    "a an the any be been it is its it's was that this he she they are there in of to for if whether really clearly "
    "exactly only sure certain think believe know tell say hear sound sounds like contain contains have has sign"
)
QUOTES = r"[\s\"'\u2018-\u201d()\[\]{}*_`]"
DENIED = regex.compile(
    r"(?<!\w)(?:(?:no|not|nor|neither|never|cannot|without|than|at (?:least|most)|instead of|anything but|far from|"
    r"hardly|(?:opposite|contrary|reverse|lack|absence) (?:of|to)|opposed to|except(?: for)?|unlike|lacks|"
    r"excludes|excluding|(?:is|are|was|were|do|does|did|ca|wo|would|could|should|has|have|ai)n['\u2019\u02bc]?t)(?!\w)|not-|non(?:-|(?!\w))|anti-)"
    rf"{QUOTES}*(?:(?:{'|'.join(BETWEEN.split())}){QUOTES}+)*$"
)
COPULA = r"(?:is|are|was|were|seems|sounds|would be|can be)"
REFUSED = regex.compile(
    rf"{QUOTES}*{COPULA} (?:(?:definitely|clearly|probably|certainly|also) )?"
    r"(?:incorrect|wrong|false|untrue|unlikely|impossible|ruled out|excluded|absent|"
    r"not (?:(?:the|a) )?(?:correct|right|true|answer|case|likely|possible|present|heard|it)(?!\w))"
)
# Hedges that leave the answer open; "probably", "I think" and "it sounds like" do not.
HEDGED = regex.compile(
    r"(?<!\w)(?:maybe|perhaps|possibly|potentially|might|could|may (?:well |also )?(?:be|have)|"
    r"not (?:\w+ )?(?:sure|certain)|unsure|uncertain|unclear|ambiguous|"
    r"(?:hard|difficult|impossible) to (?:tell|say|know|determine)|no idea|"
    r"(?:do not|don['\u2019]?t|cannot|can not|can['\u2019]?t) (?:\w+ )?(?:know|tell|say|determine|be sure))(?!\w)"
    r"(?! (?:about|of|what|which|how|why|who|where)(?!\w))"
)
SENTENCE = regex.compile(r"[.!?\u3002\uff1f](?!\S)|[;\n]")

# Words next to a number that make it another quantity: "2 percent", "5 dB below", "over two", "2 or more", "2 to 5".
AFTER = frozenset(
    "times fold x percentage point points o'clock oclock am pm dollar dollars euro euros pound pounds cent cents inch "
    "inches foot feet mile miles hours days weeks months below above under over beyond less more fewer higher lower "
    "greater louder quieter faster slower longer shorter plus minus squared cubed tops max maximum minimum +".split()
)
BEFORE = frozenset(
    "over under above below beyond nearly almost within exceeds exceeding between minimum maximum half times divided "
    "multiplied".split()
)
IMPLIED = {  # the unit implied by words of a question that names none
    "years": "old age aged", "s": "long duration", "db": "snr loud louder loudness level volume",
    "hz": "pitch frequency", "bpm": "tempo",
}  # fmt: skip
IMPLIED_UNIT = {word: unit for unit, words in IMPLIED.items() for word in words.split()}
RANGE = frozenset("to or through and point dot comma".split())
BOUNDS = (("up", "to"), ("or", "more"), ("or", "less"), ("or", "fewer"), ("at", "least"), ("at", "most"), ("and", "up"))
COMPARED = regex.compile(r"(?<![\w\"'/])[<>\u2264\u2265\u00b1]=?\s*$")  # "> 2", and not "<answer>2"
NEXT_TO = regex.compile(r"[\s\-~]*")
SYMBOLS = regex.compile(r"[%\u2030\u00b0\p{Sc}]")
DECIMAL = regex.compile(r"(?<![\p{N}.,])0[.,]\s+\p{N}+")  # "0. 4" is neither 0 nor 4

# A letter that is a word: "a man", "I think"; "Speaker A speaks" and "A is right" name an option.
NAMED = regex.compile(
    r"(?<!\w)(?:speaker|option|answer|choice|clip|audio|sample|recording|voice|person|sentence|letter|segment|file|track|"
    rf"utterance|statement|note|key|grade|group|type|class|category|label){QUOTES}*$"
)
WORD = regex.compile(
    r"(?:['\u2019]|\s+(?!(?:is|are|was|and|or|because|since|as|for|with|but|seems|sounds|would|then)\b))\p{L}"
)
KEY = regex.compile(r"[\s-]+(?:minor|min|sharp|flat|diminished|dim|augmented|aug|suspended|sus|seventh)(?!\w)")


def names(text: str, mention: Mention) -> bool:
    """Return whether a mention in a lower-case text is the option, no article, pronoun, or part of a key or number."""
    first, last, _ = mention
    word = text[first:last]
    if word in ("a", "i") and WORD.match(text, last) and not NAMED.search(text[:first]):
        return False
    if regex.fullmatch(r"[a-g][#\u266d]?", word) and KEY.match(text, last):
        return False
    return not any(
        found.start() < first < found.end() or found.start() <= first < last < found.end()
        for found in DECIMAL.finditer(text)
    )


def asserts(prediction: str, found: list[Mention], question: str) -> bool:
    """Return whether an answer asserts the one option that it mentions, at all the mentions `found`.

    It does not if a mention is denied, or is a number with a unit that is not in the question, or if every sentence
    with a mention is hedged.
    """
    text = lowered(prediction)
    words = [token.text for token in tokens(question)]
    question_words = frozenset(
        [UNIT.get(word, word) for word in words] + [IMPLIED_UNIT[word] for word in words if word in IMPLIED_UNIT]
    )
    spans = frozenset(position for first, last, _ in found for position in range(first, last))
    return not any(
        _denied(text, mention, spans) or _is_other_quantity(prediction, text, mention, question_words)
        for mention in found
    ) and not all(_hedged(text, mention, spans) for mention in found)


def _denied(text: str, mention: Mention, spans: Container[int]) -> bool:
    """Return whether the words around a mention deny it; the "no" of "no, it is no" is itself a mention."""
    denial = DENIED.search(text[: mention[0]])
    return bool((denial and denial.start() not in spans) or REFUSED.match(text, mention[1]))


def _hedged(text: str, mention: Mention, spans: Container[int]) -> bool:
    """Return whether the sentence of a mention is a question or hedged."""
    ends = [*SENTENCE.finditer(text)]
    first = max((end.end() for end in ends if end.end() <= mention[0]), default=0)
    last = next((end for end in ends if end.start() >= mention[1]), None)
    if last is not None and last.group() in "?\uff1f":
        return True
    stop = len(text) if last is None else last.start()
    # An option may be a hedge itself ("unclear"); the "no" of "no idea" is not an option.
    hedges = HEDGED.finditer(text, first, stop)
    return any(not (hedge.start() in spans and hedge.end() - 1 in spans) for hedge in hedges)


def _is_other_quantity(prediction: str, text: str, mention: Mention, question_words: Container[str]) -> bool:
    """Return whether a mention is a number that its neighbours turn into a quantity that is not in the question."""
    first, last, _ = mention
    if not _is_number(text[first:last]):
        return False
    if COMPARED.search(text[:first]) or any(
        SYMBOLS.fullmatch(neighbour) and neighbour not in question_words
        for neighbour in (text[first - 1 : first], text[last : last + 1])
    ):
        return True
    answer_tokens = canonical(prediction)
    before = [token for token in answer_tokens if token.end <= first][-2:]
    after = [token for token in answer_tokens if token.start >= last][:2]
    return _changed_after(text, last, after, question_words) or _changed_before(text, first, before, question_words)


def _changed_after(text: str, last: int, after: list[Token], question_words: Container[str]) -> bool:
    """Return whether the words after a number that ends at `last` make it another quantity."""
    if not after or not NEXT_TO.fullmatch(text[last : after[0].start]):
        return False
    one, two = after[0].text, after[1].text if len(after) > 1 else ""
    if (one, two) in BOUNDS:
        return True
    if one in RANGE:
        return _is_digits(two)
    if _is_digits(one):
        return text[last : after[0].start].strip() != ""
    return one not in question_words and (one in AFTER or one in UNIT.values())


def _changed_before(text: str, first: int, before: list[Token], question_words: Container[str]) -> bool:
    """Return whether the words before a number that begins at `first` make it another quantity."""
    if not before or not NEXT_TO.fullmatch(text[before[-1].end : first]):
        return False
    two, one = before[-2].text if len(before) > 1 else "", before[-1].text
    if (two, one) in BOUNDS:
        return True
    if one in RANGE:
        return _is_digits(two) or two == "one"
    if _is_digits(one):
        return text[before[-1].end : first].strip() != ""
    return one not in question_words and one in BEFORE


def _is_digits(text: str) -> bool:
    return text[-1:].isdigit()


@lru_cache(1 << 10)
def _is_number(option: str) -> bool:
    return any(_is_digits(token.text) for token in canonical(option))
