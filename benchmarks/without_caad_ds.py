"""Checks that a model folder gives the same answers through transformers alone, token for token.

    python benchmarks/without_caad_ds.py --model FOLDER --python OTHER_PYTHON [--question TEXT]... WAV...

OTHER_PYTHON is the interpreter of an environment with `transformers[audio]` and torch, and without caad_ds, which is
checked first. There, a pipeline and AutoModel with AutoProcessor answer each question about each clip; here, `caad_ds`
does. The exit status is 1 if any answer differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUESTIONS = ("Is the speaker female or male?", "Is the recording clean or noisy?")
LONGEST = 32  # tokens of an answer
ABSENT = ("caad_ds", "data_prep", "deepspeed", "peft")


def by_transformers(folder: str, questions: list[tuple[str, str]]) -> dict:
    """Return the answers' token ids of both ways, and versions; run by the other interpreter, without this package."""
    import importlib.metadata
    import importlib.util
    import platform

    if found := [name for name in ABSENT if importlib.util.find_spec(name)]:
        raise SystemExit(f"{', '.join(found)} can be imported there; give the python of another environment")
    from transformers import AutoModel, AutoProcessor, pipeline

    generate_answer: Any = pipeline("any-to-any", model=folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    answers = []
    for wav, question in questions:
        chat = [{"role": "user", "content": [{"type": "audio", "audio": wav}, {"type": "text", "text": question}]}]
        inputs = processor.apply_chat_template(chat, **options)
        length = inputs["input_ids"].shape[1]
        auto = model.generate(**inputs, max_new_tokens=LONGEST)[0, length:].tolist()
        [generated] = generate_answer(chat, max_new_tokens=LONGEST, return_tensors=True)
        answers.append({"pipeline": generated["generated_token_ids"][length:].tolist(), "AutoModel": auto})
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {"answers": answers, "versions": {"Python": platform.python_version(), **packages}}


def by_caad_ds(folder: Path, questions: list[tuple[str, str]]) -> tuple[list[list[int]], list[str]]:
    """Return the answers' token ids and texts."""
    import caad_ds
    from caad_ds.generation.decoding import generate
    from caad_ds.generation.decoding_settings import Decoding
    from caad_ds.generation.question import Question, recordings

    model = caad_ds.load(folder, "cpu")
    ids, texts = [], []
    for wav, question in questions:
        decoding = Decoding(max_new_tokens=LONGEST)
        prompted = model.prepare_prompt(model.clips(), Question(recordings([Path(wav)], [None]), question), decoding)
        ids.append(generate(model.lm, prompted.batch, max_new_tokens=LONGEST)[0].tolist())
        texts.append(prompted.answer())
    return ids, texts


def elsewhere(python: Path, folder: Path, questions: list[tuple[str, str]]) -> dict:
    """Run the other interpreter in a folder from which this project cannot be imported; returns its result."""
    from caad_ds.utils.files import read_json

    with tempfile.TemporaryDirectory() as root:
        result = Path(root) / "answered.json"
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [str(python), "-I", str(Path(__file__).resolve()), "--there", str(result)]
        request = json.dumps([str(folder), questions])
        offline = {"HF_HOME": root, "HF_HUB_OFFLINE": "1"}
        if subprocess.run(command, env=env | offline, cwd=root, input=request, text=True, check=False).returncode:
            sys.exit(f"{python} did not answer; its message is above")
        return read_json(result, "run it again")


def main() -> int:
    """Answer with both interpreters and print the agreement; returns the exit status."""
    if sys.argv[1:2] == ["--there"]:
        folder, questions = json.loads(sys.stdin.read())
        Path(sys.argv[2]).write_text(json.dumps(by_transformers(folder, questions)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True, help="of an environment without caad_ds")
    parser.add_argument("--question", action="append", help="may be given several times")
    parser.add_argument("wavs", type=Path, nargs="+")
    args = parser.parse_args()
    questions = [(str(wav.resolve()), question) for wav in args.wavs for question in args.question or QUESTIONS]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    theirs = elsewhere(args.python.absolute(), args.model.resolve(), questions)
    ours, texts = by_caad_ds(args.model, questions)
    print(f"there: {', '.join(f'{name} {version}' for name, version in theirs['versions'].items())}; no caad_ds")
    tokens = sum(map(len, ours))
    print(f"{len(args.wavs)} clips, {len(questions)} questions, {tokens} tokens by caad_ds, at most {LONGEST} each")
    counts = {
        way: sum(their[way] == own for their, own in zip(theirs["answers"], ours, strict=True))
        for way in ("pipeline", "AutoModel")
    }
    for way, alike in counts.items():
        print(f"{way}: {alike} of {len(questions)} answers token for token")
    print(f"{len(set(texts))} different answers, such as {', '.join(map(repr, sorted(set(texts))[:3]))}")
    return int(any(alike < len(questions) for alike in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
