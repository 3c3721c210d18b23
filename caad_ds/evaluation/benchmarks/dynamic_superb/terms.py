"""The term that some of Dynamic-SUPERB's tasks ask about; it stands in a column of its own, `text`.

SpokenTermDetection asks whether a word is spoken, SpeechTextMatching whether a text is. The instruction alone ("Tell
whether the given word is in the audio") cannot be answered, so the published readers put the text before it, as
asr-chatgpt does for both tasks: "The given word is {text} {instruction}".
"""

import re

from caad_ds.data.markers import AUDIO, END_AUDIO
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import present, task
from caad_ds.evaluation.benchmarks.items import Fault, text_of
from caad_ds.evaluation.scoring.matching import words

TASKS = ("SpokenTermDetection", "SpeechTextMatching")
WORDING = "The given word is {text} {instruction}"

NOUN = r"(?:word|term|text|phrase|sentence|transcript(?:ion)?|keyword)s?"
QUOTE = "[\"'“‘`]"
SENTENCE = rf"(?:^|[.!?>:\n]\s*)the given {NOUN} is:?\s+{QUOTE}?"  # The given word is rain
COLON = rf"\b{NOUN}\s*:\s*{QUOTE}?"  # Word: rain
QUOTED = rf"\b{NOUN}(?:\s+is)?\s+{QUOTE}"  # the word "rain"
PREDICATE = r"(?!(?:present|in|spoken|said|found|heard|part|there|to|not)\b)"  # The given word is in the audio
ANSWER = r"(?!(?:yes|no|true|false)\b)"  # Answer in one word: yes or no
TERM = re.compile(rf"(?:{SENTENCE}{PREDICATE}|(?:{COLON}|{QUOTED}){ANSWER})\w", re.IGNORECASE)
MARKS = re.compile(rf".*(?:{re.escape(AUDIO)}|{re.escape(END_AUDIO)})\s*", re.DOTALL)
LONG = 4  # words of a text that no instruction has by chance


def needs_term(instance: str) -> bool:
    """Whether rows of an instance ask about a term."""
    return task(present(instance)) in TASKS


def with_term(instruction: str, text: object) -> str:
    """The instruction with its term as the published readers put it; Fault where there is no term."""
    term = text_of(text)
    if term is None or not words(term):
        raise Fault(f"text {text!r:.60} is missing or empty, and its instruction asks about it")
    return WORDING.format(text=term, instruction=instruction)


def turn_with_term(content: str, text: object) -> str:
    """A user's turn with its term, put after the marks of audio where the turn does not have it yet.

    Without a `text`, the turn must name its term. Fault where it does not.
    """
    if text is None:
        if TERM.search(content):
            return content
        raise Fault('neither text nor messages hold the term that it asks about; give it as "text"')
    marks = MARKS.match(content)
    instruction = content[marks.end() :] if marks else content
    if _says(instruction, text):
        return content
    return content[: len(content) - len(instruction)] + with_term(instruction, text)


def _says(instruction: str, text: object) -> bool:
    """Whether an instruction has the term already: introduced, in quotes, or too long to be there by chance."""
    term = text_of(text) or ""
    if not words(term):
        return False
    named = rf"(?:{SENTENCE}|(?:{COLON}|(?<!\w){QUOTE}){ANSWER}){re.escape(term)}(?!\w)"
    if re.search(named, instruction, re.IGNORECASE):
        return True
    return len(words(term)) >= LONG and f" {' '.join(words(term))} " in f" {' '.join(words(instruction))} "
