"""The term that some of Dynamic-SUPERB's tasks ask about, from the column `text`.

SpokenTermDetection asks whether a word is spoken, SpeechTextMatching whether a text is. The instruction alone ("Tell
whether the given word is in the audio") cannot be answered, so published readers put the text before it, like
asr-chatgpt for both tasks: "The given word is {text} {instruction}".
"""

import re

from caad_ds.data.audio_markers import AUDIO, END_AUDIO
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import current_name, task
from caad_ds.evaluation.benchmarks.items import Fault, text_of
from caad_ds.evaluation.scoring.normalization import words

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
LONG = 4  # words of a text that is not in an instruction by chance


def needs_term(instance: str) -> bool:
    """Return whether rows of an instance ask about a term."""
    return task(current_name(instance)) in TASKS


def with_term(instruction: str, text: object) -> str:
    """Return the instruction with its term before it; raises Fault if there is no term."""
    term = text_of(text)
    if term is None or not words(term):
        raise Fault(f"text {text!r:.60} is missing or empty, and its instruction asks about it")
    return WORDING.format(text=term, instruction=instruction)


def turn_with_term(content: str, text: object) -> str:
    """Return a user turn with its term, inserted after the audio marks unless the turn already has it.

    Without a `text`, the turn must name its term, else Fault is raised.
    """
    if text is None:
        if TERM.search(content):
            return content
        raise Fault('neither text nor messages hold the term that it asks about; give it as "text"')
    marks = MARKS.match(content)
    instruction = content[marks.end() :] if marks else content
    if _has_term(instruction, text):
        return content
    return content[: len(content) - len(instruction)] + with_term(instruction, text)


def _has_term(instruction: str, text: object) -> bool:
    """Return whether an instruction already has the term: introduced, quoted, or too long to occur by chance."""
    term = text_of(text) or ""
    if not words(term):
        return False
    named = rf"(?:{SENTENCE}|(?:{COLON}|(?<!\w){QUOTE}){ANSWER}){re.escape(term)}(?!\w)"
    if re.search(named, instruction, re.IGNORECASE):
        return True
    return len(words(term)) >= LONG and f" {' '.join(words(term))} " in f" {' '.join(words(instruction))} "
