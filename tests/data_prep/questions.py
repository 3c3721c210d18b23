"""A described manifest of any length, without audio files: Stage 1 reads none."""


def question(number: int) -> dict:
    """A record that a template or an LLM can answer; the prompts differ in text and length."""
    words = " ".join(["and so on"] * (number * 7 % 5))
    description = f"[00:00-00:02] clip {number} {words} (Gender: {'female' if number % 2 else 'male'})"
    asked = {"question": f"Who speaks in {number}?", "statement": f"The speaker of {number} is a person."}
    return {
        "id": f"clip{number}",
        "audios": [{"path": f"clips/{number}.wav", "text": f"clip {number}", "duration": 1.5}],
        "messages": [{"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho speaks?"}],
        "metadata": asked,
        "seed_description": description,
    }
