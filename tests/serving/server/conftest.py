"""A server in this process, on a random model, and the official client."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import numpy as np
import openai
import pytest
import soundfile
import uvicorn

import caad_ds
from caad_ds.generation.decoding import generate
from caad_ds.generation.model import Model
from caad_ds.serving.server import batching
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.service import Service
from caad_ds.serving.server.start_server import config_of
from tests.models.families.conftest import audio

NAME = "student"
LIMITS = {
    "body_bytes": 1 << 20, "seconds": 60.0, "clips": 4, "audio_seconds": 60.0, "request_seconds": 3.5,
    "new_tokens": 8, "most_new_tokens": 1500, "waiting": 128,
    "batch": 16, "drain": 5.0,
}  # fmt: skip


@dataclass
class Running:
    """A running server: its address and the model that it serves."""

    address: str
    service: Service

    def client(self, key: str = "none", **options) -> openai.OpenAI:
        """OpenAI's own client, which tries nothing again."""
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, **options)

    def post(self, content: object = None, **options) -> httpx2.Response:
        """What a plain client gets: of an object as JSON, or of `content=` as it is."""
        given = {"json": content} if content is not None else {}
        return httpx2.post(f"{self.address}/v1/chat/completions", timeout=30, **given, **options)

    def metric(self, line: str) -> float:
        """A number of /metrics, 0 where it is not counted yet."""
        lines = httpx2.get(f"{self.address}/metrics").text.splitlines()
        return next((float(each.split()[-1]) for each in lines if each.startswith(f"{line} ")), 0.0)

    def wait(self, done, seconds: float = 10.0) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it does not come to be so"
            time.sleep(0.01)


@contextmanager
def running(model: Model, key: str = "", local: bool = True, also=None, **limits) -> Iterator[Running]:
    """A server of a model, and of others by name, for a while."""
    service = Service({NAME: model, **(also or {})}, Limits(**(LIMITS | limits)))
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # so that a client must read what is sent to it
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(config_of(service, key, local))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    running = Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service)
    running.wait(lambda: server.started)
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join()
        service.close()


@pytest.fixture(scope="session")
def model(model_folder):
    return caad_ds.load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def served(model):
    with running(model) as server:
        yield server


@pytest.fixture
def endless(monkeypatch):
    """No answer ends before it is as long as may be."""

    def going_on(*given, **options):
        return generate(*given, **options, min_new_tokens=options["max_new_tokens"])

    monkeypatch.setattr(batching, "generate", going_on)


@pytest.fixture
def gate(monkeypatch):
    """Batches begin where this event is set; to be asked for after `endless`."""
    opened, begin = threading.Event(), batching.generate

    def waiting(*given, **options):
        assert opened.wait(30)
        return begin(*given, **options)

    monkeypatch.setattr(batching, "generate", waiting)
    yield opened
    opened.set()


def file_of(name: str, seconds: float = 0.5) -> bytes:
    """A WAV of noise that depends on the name."""
    return written(audio(name, seconds) / 4)


def written(samples: np.ndarray, rate: int = 16_000, format: str = "WAV") -> bytes:
    """Samples as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format)
    return buffer.getvalue()


def clip(data: bytes) -> dict:
    """A file as a part of a message."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def user(question: str, *files: bytes) -> dict:
    """A turn of the user."""
    return {"role": "user", "content": [*map(clip, files), {"type": "text", "text": question}]}


def asking(question: str, *files: bytes, **more) -> dict:
    """A request."""
    return {"model": NAME, "messages": [user(question, *files)], **more}
