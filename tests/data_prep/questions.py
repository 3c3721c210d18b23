"""A described manifest of any length, without audio files: Stage 1 reads none."""


def prompt(question: str, statement: str) -> dict:
    """The metadata of a record that `prep describe` wrote a prompt for."""
    asked = {"kind": "attribute", "condition": "none", "question": question, "statement": statement}
    return {"prompt": asked}


def question(number: int) -> dict:
    """A record that a template or an LLM can answer; the prompts differ in text and length."""
    words = " ".join(["and so on"] * (number * 7 % 5))
    description = f"[00:00-00:02] clip {number} {words} (Gender: {'female' if number % 2 else 'male'})"
    return {
        "id": f"clip{number}",
        "audios": [{"path": f"clips/{number}.wav", "text": f"clip {number}", "duration": 1.5}],
        "messages": [{"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho speaks?"}],
        "metadata": prompt(f"Who speaks in {number}?", f"The speaker of {number} is a person."),
        "seed_description": description,
    }
