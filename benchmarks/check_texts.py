"""What a run's start takes to encode the texts of all its samples (caad_ds/training/usable.py), on one rank.

    python benchmarks/check_texts.py [--records 100000] [--tokenizer HuggingFaceTB/SmolLM2-135M-Instruct]

The texts are words of this repository's README, the audio is a few bytes that nothing reads. What is read lies in the
file system's cache.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.data.index import VERSION, IndexFile
from caad_ds.data.markers import user_content
from caad_ds.data.reader import IndexedReader
from caad_ds.models.llm import load_tokenizer
from caad_ds.models.prompt import Prompter
from caad_ds.text import read_text
from data_prep.shards import Block, ShardWriter, tarred

README = Path(__file__).resolve().parents[1] / "README.md"
QUERIES = 64
SHARD = 1 << 28


def write(folder: Path, count: int) -> None:
    """Shards of so many records, with a transcript, a question and an answer of 25, 15 and 30 words."""
    words = [word for word in read_text(README).split() if word.isalpha()]
    draw = random.Random(0)
    with ShardWriter(folder, SHARD) as writer:
        shards = []
        for number in range(count):
            texts = [" ".join(draw.choices(words, k=length)) for length in (25, 15, 30)]
            shards.append(writer.add(_block(f"clip-{number}", texts)))
        shards.append(writer.finish())
    IndexFile(VERSION, "", SHARD, 0, [shard for shard in shards if shard]).write(folder / "index.json")


def _block(key: str, texts: list[str]) -> Block:
    transcript, question, answer = texts
    record = {
        "id": key, "audios": [{"path": f"{key}.flac", "text": transcript, "duration": 5.0}],
        "messages": [{"role": "user", "content": user_content(question)}], "response": answer,
    }  # fmt: skip
    return Block(key, tarred({f"{key}.json": json.dumps(record).encode(), f"{key}.flac": bytes(4000)}), 5.0, 1, "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, help="number of records (%(default)s)")
    parser.add_argument("--tokenizer", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="hub id or folder")
    args = parser.parse_args()
    prompter = Prompter(load_tokenizer(args.tokenizer), QUERIES)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.records)
        reader = IndexedReader(folder)
        start = time.perf_counter()
        samples = [reader.without_audio(number) for number in range(len(reader))]
        read = time.perf_counter() - start
        start, cpu = time.perf_counter(), time.process_time()
        lengths = [prompter.length(sample) for sample in samples]
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"{cpu_name()}; {len(lengths)} records of {sum(lengths) / len(lengths):.0f} tokens with their {QUERIES} queries"
    )
    print(f"read: {read:.0f} s; encoded: {seconds:.0f} s, {1e3 * cpu / len(lengths):.2f} ms of CPU time each")


if __name__ == "__main__":
    main()
