"""Requests that cannot be answered, each with its error message."""

import json
import struct

import numpy as np

from caad_ds.serving.server.chat_request import NEUTRAL
from tests.serving.server.conftest import NAME, asking, clip, file_of, user, written

QUESTION = "who speaks ?"
ONE = file_of("one")


def message(**content) -> dict:
    return {"model": NAME, "messages": [{"role": "user", **content}]}


def of_parts(*parts) -> dict:
    return message(content=[*parts])


def of_data(data: object) -> dict:
    return of_parts(
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, {"type": "text", "text": "a"}
    )


def of_file(data: bytes) -> dict:
    return asking(QUESTION, data)


def patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


TEXT = {"type": "text", "text": QUESTION}
SILENCE = np.zeros(16_000 * 60, np.float32)
REFUSED = {
    # what is no request
    "an empty object": ({}, "model: Field required"),
    "a list": ([], "object"),
    "no messages": ({"model": NAME, "messages": []}, "messages: List should have at least 1 item"),
    "101 messages": ({"model": NAME, "messages": [user("a")] * 101}, "messages: List should have at most 100"),
    "messages of the wrong type": ({"model": NAME, "messages": "hello"}, "messages: "),
    "a message of the wrong type": ({"model": NAME, "messages": [1]}, "messages.0: "),
    "a model of the wrong type": ({"model": 1, "messages": [user("a")]}, "model: "),
    "no content": (message(), "messages.0.content: "),
    "null as content": (message(content=None), "messages.0.content: "),
    "a number as content": (message(content=5), "messages.0.content: "),
    "an unknown role": ({"model": NAME, "messages": [{"role": "king", "content": "a"}]}, "messages.0.role: "),
    "a tool's message": ({"model": NAME, "messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: "),
    "an unknown part": (of_parts({"type": "image_url", "image_url": {"url": "x"}}), "messages.0.content.0: "),
    "a part without a type": (of_parts({"text": "a"}), "messages.0.content.0: "),
    "a text of the wrong type": (of_parts({"type": "text", "text": 5}), "messages.0.content.0.text: "),
    "a field too many in a part": (of_parts({**TEXT, "cache": 1}), "messages.0.content.0.text.cache: "),
    "a text of 100,001 characters": (message(content="a" * 100_001), "messages.0.content: String should have at most"),
    # texts that make no prompt
    "an empty question": (asking(" ", ONE), "messages.0.content: there is no text"),
    "audio alone": (of_parts(clip(ONE)), "messages.0.content: there is no text"),
    "text on both sides": (of_parts(TEXT, clip(ONE), TEXT), "messages.0.content: text on both sides of an audio"),
    "the assistant's turn last": (
        {"model": NAME, "messages": [user("a"), {"role": "assistant", "content": "b"}]}, "the last one is not",
    ),
    "audio of the assistant": (
        {"model": NAME, "messages": [{"role": "assistant", "content": [clip(ONE), TEXT]}, user("a")]}, "put it into",
    ),
    "a control token": (asking("who <eos> speaks ?", ONE), "messages: its user message 1 holds '<eos>'"),
    "an audio's marker in text": (asking("<|AUDIO|> who ?", ONE), "messages.0.content: its text holds '<|AUDIO|>'"),
    "a marker of its span": (asking("<start_audio> who ?"), "messages.0.content: its text holds '<start_audio>'"),
    "a control token in a transcript": (asking("who ?", ONE, caad_transcripts=["<eos>"]), "transcript 1 holds '<eos>'"),
    "a prompt beyond the positions": (asking("who " * 3000, ONE), "messages: prompt take"),
    "a prompt that leaves no room": (asking("who " * 1000, ONE, max_tokens=1500), "max_tokens: a prompt of "),
    # audio
    "base64 with a blank": (of_data("AAAA AAAA"), "clip 1: its data is no base64"),
    "base64 without its end": (of_data("AAAAA"), "clip 1: its data is no base64"),
    "letters that are not ASCII": (of_data("ääää"), "clip 1: its data is no base64"),
    "a data URL": (of_data("data:audio/wav;base64,AAAA"), "clip 1: its data is no base64"),
    "data of the wrong type": (of_data(7), "messages.0.content.0.input_audio.data: "),
    "empty data": (of_data(""), "clip 1: it is empty"),
    "a text as audio": (of_file(b"hello, this is no audio"), "clip 1: "),
    "zeros as audio": (of_file(bytes(4096)), "clip 1: "),
    "a WAV cut in its header": (of_file(ONE[:30]), "clip 1: "),
    "a WAV that is cut short": (of_file(ONE[:8000]), "clip 1: the file is cut short"),
    "a WAV that claims 2 GB": (of_file(patched(ONE, 40, struct.pack("<I", 2_000_000_000))), "clip 1: the file is cut"),
    "a WAV without samples": (of_file(written(SILENCE[:0])), "clip 1: the audio is empty"),
    "a WAV of 10 hours": (of_file(patched(written(np.zeros(36_000)), 24, struct.pack("<I", 1))), "lasts more than 1 s"),
    "a WAV at 4 GHz": (of_file(patched(ONE, 24, struct.pack("<I", 2**32 - 1))), "clip 1: "),
    "a FLAC of a minute": (of_file(written(SILENCE, format="FLAC")), "clip 1: it lasts more than 1 s"),
    "an Ogg of a minute": (of_file(written(SILENCE, format="OGG")), "clip 1: it lasts more than 1 s"),
    "an MP3 of a minute": (of_file(written(SILENCE, format="MP3")), "clip 1: it lasts more than 1 s"),
    "a FLAC of many channels": (
        of_file(written(np.zeros((2000, 8)), 96_000, "FLAC")), "8 channels at 96000 Hz are more than 400,000 values",
    ),
    "five clips": (asking(QUESTION, *[ONE] * 5), "messages: 5 clips, and this model takes 4 here"),
    "a playlist": (of_file(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.wav\n"), "clip 1: "),
    "transcripts of another number": (asking(QUESTION, ONE, caad_transcripts=["a", "b"]), "caad_transcripts: 2 for 1"),
    # settings
    "no tokens": (asking("a", max_tokens=0), "max_tokens: "),
    "too many tokens": (asking("a", max_tokens=1501), "max_tokens: 1501 are more than the 1500"),
    "two lengths": (asking("a", max_tokens=5, max_completion_tokens=6), "max_tokens and max_completion_tokens differ"),
    "tokens as a text": (asking("a", max_tokens="5"), "max_tokens: "),
    "half a token": (asking("a", max_tokens=0.5), "max_tokens: "),
    "true as a number": (asking("a", max_tokens=True), "max_tokens: "),
    "a temperature below 0": (asking("a", temperature=-1), "temperature: "),
    "alpha that overflows": (asking("a", ONE, caad_alpha=1e38), "caad_alpha: Input should be less than or equal to"),
    "a temperature of 3": (asking("a", temperature=3), "temperature: "),
    "a temperature as a text": (asking("a", temperature="hot"), "temperature: "),
    "top_p of 0": (asking("a", temperature=1, top_p=0), "top_p: "),
    "top_p alone": (asking("a", top_p=0.5), "top_p: does nothing without temperature"),
    "top_k at temperature 0": (asking("a", top_k=5, temperature=0), "top_k: does nothing without temperature"),
    "top_k of -1": (asking("a", top_k=-1, temperature=1), "top_k: "),
    "a seed beyond 64 bits": (asking("a", seed=2**70), "seed: "),
    "stream as a text": (asking("a", stream="yes"), "stream: "),
    "options of no stream": (asking("a", stream_options={}), "stream_options: belongs to a stream"),
    "an unknown option of a stream": (asking("a", stream=True, stream_options={"x": 1}), "stream_options.x: "),
    "alpha without audio": (asking("a", caad_alpha=1), "caad_alpha: there is no audio to contrast with"),
    "alpha below 0": (asking("a", ONE, caad_alpha=-0.1), "caad_alpha: "),
    "a negative alone": (asking("a", ONE, caad_negative="noise"), "caad_negative: does nothing without caad_alpha"),
    "the negative of others": (asking("a", ONE, caad_alpha=1, caad_negative="shuffled"), "caad_negative: "),
    "an unknown negative": (asking("a", ONE, caad_alpha=1, caad_negative="x"), "caad_negative: "),
    "plausibility of 2": (asking("a", ONE, caad_alpha=1, caad_plausibility=2), "caad_plausibility: "),
    "a gate without alpha": (asking("a", ONE, caad_alpha_gate="text_certainty"), "caad_alpha_gate: weakens a contrast"),
    "an unknown gate": (asking("a", ONE, caad_alpha=1, caad_alpha_gate="x"), "caad_alpha_gate: "),
    "m without a gate": (asking("a", ONE, caad_alpha=1, caad_gate_m=3), "caad_gate_m: belongs to an alpha gate"),
    "m of 1": (asking("a", ONE, caad_alpha=1, caad_alpha_gate="text_certainty", caad_gate_m=1), "caad_gate_m: "),
    "an unknown field": (asking("a", surprise=0), "surprise: no such parameter"),
    "a field of a mebibyte": (asking("a", **{"x" * 500_000: 1}), f"{'x' * 80}: no such parameter"),
    **{
        f"{name} asked for": (asking("a", **{name: value}), f"{name}: not supported here")
        for name, value in {
            **dict.fromkeys(NEUTRAL, "x"), "n": 2, "stop": ["."], "logprobs": True, "tools": [{"type": "function"}],
            "modalities": ["text", "audio"], "response_format": {"type": "json_object"}, "frequency_penalty": 0.5,
        }.items()
    },
}  # fmt: skip
RAW = {
    "nothing": b"", "no JSON": b"hello", "half of an object": b'{"model": ', "a null": b"null",
    "100,000 brackets": b"[" * 100_000, "100,000 objects": b'{"a":' * 100_000,
    "deep content": b'{"model":"a","messages":[{"role":"user","content":' + b"[" * 50_000 + b"]" * 50_000 + b"}]}",
    "bytes that are no UTF-8": b'{"model": "\xff\xfe"}', "half a surrogate pair": b'{"model": "\\ud800"}',
    "no number": json.dumps(asking("a", temperature=float("nan"))).encode(),
    "an infinite alpha": json.dumps(asking("a", ONE, caad_alpha=float("inf"))).encode(),
    "a number of 100,000 digits": b'{"model": "student", "seed": ' + b"9" * 100_000 + b"}",
}  # fmt: skip
# What is repeated in a body that is many objects once it is parsed.
WIDE = {
    "lists": b'{"x":[%s]}', "objects": b'{"model":[%s]}', "parts": b'{"messages":[{"role":"user","content":[%s]}]}',
    "numbers": b'{"x":[%s]}', "texts": b'{"caad_transcripts":[%s]}', "names": b"{%s}", "blanks": b"[%s]",
    "quotes": b"%s", "escapes": b'{"x":["\\\\",%s]}',
}  # fmt: skip
REPEATED = {
    "lists": b"[],", "objects": b'{"a":1},', "parts": b"{},", "numbers": b"1,", "texts": b'"",', "names": b'"":0,',
    "blanks": b" ", "quotes": b'"', "escapes": b'"\\"",',
}  # fmt: skip


def wide(what: str, size: int) -> bytes:
    """A body of about so many bytes."""
    one = REPEATED[what]
    return WIDE[what] % (one * ((size - 100) // len(one)))
