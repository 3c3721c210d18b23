"""Answer a question about a recording: python -m examples.api.answer MODEL AUDIO QUESTION."""

import soundfile

import caad_ds


def main(folder: str, audio: str, question: str) -> list[str]:
    """Answer from a file, from samples in memory, and by contrastive decoding."""
    model = caad_ds.load(folder)
    answers = [
        model.answer(audio, question, max_new_tokens=32),
        model.answer(soundfile.read(audio), question, max_new_tokens=32),  # (samples, rate)
        model.answer(audio, question, max_new_tokens=32, contrast_alpha=1.0),
    ]
    print(*answers, sep="\n")
    return answers


if __name__ == "__main__":
    from examples.api.script import run

    run(main)
