"""Answers per second of `caad-ds serve` and `transformers serve` at several numbers of concurrent requests.

    python benchmarks/serve.py [--model FOLDER] [--concurrency 1 8 32] [--requests 64] [--tokens 32] [--rounds 3]

Both servers run as separate processes with the same model. OpenAI's client asks them in turns, with greedy decoding,
about different clips of 2 s. Without --model it is a Qwen2-Audio with random weights (hidden size 256, four layers),
whose answers seldom end before --tokens. --own leaves out `transformers serve`, which does not support our own family.
"""

import argparse
import asyncio
import base64
import io
import json
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import openai
import soundfile
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.utils.files import read_json

QUESTION = "Is the tone high or low?"
STARTING = 180  # seconds


def model_of(folder: Path) -> Path:
    """Save a Qwen2-Audio with random weights; returns its folder."""
    from tests.models.families.tiny import qwen2_audio

    return qwen2_audio.write(folder, hidden=256, layers=4)


@contextmanager
def server(command: list[str], port: int) -> Iterator[openai.AsyncOpenAI]:
    """Start a server; yields its client once it is healthy."""
    log = tempfile.TemporaryFile("w+")
    running = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    try:
        end = time.monotonic() + STARTING
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                if running.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"{' '.join(command)} does not answer:\n{log.read()[-2000:]}") from None
                time.sleep(0.2)
        yield openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
    finally:
        running.terminate()
        running.wait()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clips(count: int) -> list[str]:
    """Return different WAVs of 2 s in base64."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.1 * rng.standard_normal(2 * 16_000), 16_000, format="WAV")
        found.append(base64.b64encode(buffer.getvalue()).decode())
    return found


async def timed_requests(
    client: openai.AsyncOpenAI, model: str, audio: list[str], concurrency: int, tokens: int
) -> list[float]:
    """Ask a question about each clip, `concurrency` at once; returns seconds and mean tokens of an answer."""
    slots, began = asyncio.Semaphore(concurrency), time.perf_counter()

    async def one(data: str) -> int:
        part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        message = {"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}
        async with slots:
            done = await client.chat.completions.create(
                model=model,
                messages=[message],
                max_tokens=tokens,
                temperature=0,  # type: ignore[list-item]
            )
        assert done.usage is not None
        return done.usage.completion_tokens

    written = await asyncio.gather(*map(one, audio))
    return [time.perf_counter() - began, sum(written)]


async def measured(servers: dict[str, tuple[openai.AsyncOpenAI, str]], args: argparse.Namespace) -> dict[str, float]:
    """Return the answers per second by server and concurrency: medians over rounds, in which the servers take turns."""
    audio, found = clips(args.requests), {}
    for client, model in servers.values():
        await timed_requests(client, model, audio[:4], 2, args.tokens)  # warms up
    rates: dict[tuple[str, int], list[float]] = {}
    lengths: dict[str, float] = {}
    for _ in range(args.rounds):
        for concurrency in args.concurrency:
            for name, (client, model) in servers.items():
                seconds, tokens = await timed_requests(client, model, audio, concurrency, args.tokens)
                rates.setdefault((name, concurrency), []).append(args.requests / seconds)
                lengths[name] = tokens / args.requests
    first = args.concurrency[0]
    print("\n| requests at once | " + " | ".join(f"{name}, answers/s | over {first}" for name in servers) + " |")
    print("|---:|" + "---:|---:|" * len(servers))
    for concurrency in args.concurrency:
        cells = []
        for name in servers:
            rate = sorted(rates[name, concurrency])[args.rounds // 2]
            base = sorted(rates[name, first])[args.rounds // 2]
            found[f"{name} {concurrency}"] = rate
            cells += [f"{rate:.2f}", f"{rate / base:.2f}"]
        print(f"| {concurrency} | " + " | ".join(cells) + " |")
    print("\ntokens per answer: " + ", ".join(f"{name} {length:.1f}" for name, length in lengths.items()))
    return found


def main(argv: list[str] | None = None) -> None:
    """Print a table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder (default: a random Qwen2-Audio)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own", action="store_true", help="leave `transformers serve` out")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"serve on {torch.cuda.get_device_name() if device == 'cuda' else cpu_name()}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, openai {openai.__version__}, Python {platform.python_version()}; "
        f"{args.requests} requests, clips of 2 s, at most {args.tokens} tokens, median of {args.rounds} rounds"
    )
    with ExitStack() as stack:
        folder = args.model or model_of(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model")
        config = read_json(folder / "config.json", "give the folder of a model")
        print(f"model: {config['model_type']}, {folder.name}")
        port, servers = free_port(), {}
        ours = ["-m", "caad_ds", "serve", str(folder), "--name", "ours", "--port", str(port), "--device", device]
        servers["caad-ds serve"] = stack.enter_context(server(ours, port)), "ours"
        if not args.own:
            port = free_port()
            program = "from transformers.cli.transformers import main; main()"
            theirs = ["-c", program, "serve", str(folder), "--device", device, "--host", "127.0.0.1"]
            client = stack.enter_context(server([*theirs, "--port", str(port)], port))
            servers["transformers serve"] = client, str(folder)
        found = asyncio.run(measured(servers, args))
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
