"""What gets no answer: the status of each, in OpenAI's form, and a server that answers the next request as before."""

import contextlib
import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import openai
import pytest

from caad_ds.data.audio.usable_audio import Levels
from caad_ds.serving.server import batching, bounded_body, start_server
from caad_ds.serving.server.chat_request import NEUTRAL, ChatRequest, read_request
from caad_ds.serving.server.decoded_audio_limit import Room, Share
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.model_input import prepare
from caad_ds.serving.server.refusals import Refused
from tests.serving.server.conftest import LIMITS, asking, running, written
from tests.serving.server.hostile import ONE, QUESTION, RAW, REFUSED, WIDE, wide

JSON = "Content-Type: application/json\r\n"
MIB = 1 << 20


def refusal(answer: httpx2.Response, status: int) -> str:
    """The message of a refusal in OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert len(answer.content) < 1000, "what was sent is sent back"
    return error["message"]


@pytest.fixture
def alive(served, model):
    """After a test the server still answers."""
    yield
    said = served.client().chat.completions.create(**asking(QUESTION, ONE))
    assert said.choices[0].message.content == model.answer(ONE, QUESTION, max_new_tokens=8)
    served.wait(lambda: not served.service.inside)


@pytest.mark.parametrize("what", REFUSED)
def test_a_request_that_cannot_be_answered_gets_the_reason(served, what):
    content, message = REFUSED[what]
    assert message in refusal(served.post(content), 400)


@pytest.mark.parametrize("what", RAW)
def test_a_body_that_is_no_request(served, alive, what):
    refusal(served.post(data=RAW[what], headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_what_asks_for_nothing_is_taken(served, nothing):
    assert served.post(asking("a", user="ann", **NEUTRAL)).status_code == 200
    assert served.post(asking("a", surprise=nothing, **dict.fromkeys(NEUTRAL, nothing))).status_code == 200


@pytest.mark.parametrize("what", WIDE)
def test_a_body_of_many_objects_is_refused_before_it_is_parsed(monkeypatch, what):
    monkeypatch.setattr(ChatRequest, "model_validate_json", None)
    with pytest.raises(Refused, match="more than 65,536 bytes and strings beside its texts"):
        read_request(wide(what, MIB))


def test_long_texts_with_escapes_are_no_structure(monkeypatch):
    for text in ("a" * 99_999, '"' * 99_999, "\\" * 99_999, '[{"a":1},' * 10_000, "\u00e4" * 99_999):
        request = asking(f"{text}?", ONE)
        assert read_request(json.dumps(request).encode()).messages[0].content[-1].text == f"{text}?"
    bounded_body.check_structure(json.dumps([["a\\", '"'] * 5000]).encode())
    for broken in (b'"', b'"\\', b"\\", b'"a\\"', b'{"'):
        bounded_body.check_structure(broken)


def test_openai_s_client_raises_its_own_error(served):
    with pytest.raises(openai.BadRequestError) as refused:
        served.client().chat.completions.create(**asking("a", stop=["."], stream=True))
    assert refused.value.param == "stop" and refused.value.type == "invalid_request_error"


def test_other_places_methods_and_types(served):
    assert "no such path" in refusal(httpx2.get(f"{served.address}/v1/none"), 404)
    assert "method not allowed" in refusal(httpx2.get(f"{served.address}/v1/chat/completions"), 405)
    head = httpx2.head(f"{served.address}/health")  # as load balancers ask
    assert (head.status_code, head.content) == (200, b"")
    options = httpx2.options(f"{served.address}/v1/chat/completions", headers={"Origin": "http://evil.example"})
    refusal(options, 405)
    assert not [name for name in options.headers if name.startswith("access-control")]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"Content-Type": kind} if kind else {}
        message = refusal(served.post(data=json.dumps(asking("a")).encode(), headers=headers), 415)
        assert message.startswith("Content-Type: ")
    assert httpx2.get(f"{served.address}/docs").status_code == 404, "a page that loads scripts from elsewhere"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "0.0.0.0", ""])
def test_a_request_to_another_name_is_refused_on_loopback(served, host):
    message = refusal(httpx2.get(f"{served.address}/v1/models", headers={"Host": host}), 421)
    assert message.startswith("Host: ")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", "[::1]", "127.0.0.2:8000"]
)
def test_a_request_to_the_machine_itself_is_taken(served, host):
    assert httpx2.get(f"{served.address}/v1/models", headers={"Host": host}).status_code == 200


def raw(served, head: str, body: bytes = b"", parts: int = 1) -> int:
    """Send raw bytes; returns the status."""
    port = int(served.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sent:
        sent.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        for _ in range(parts):
            sent.sendall(body)
        answer = http.client.HTTPResponse(sent)
        answer.begin()
        assert "error" in json.loads(answer.read())
        return answer.status


def test_bodies_that_are_too_large(served, alive):
    too_long = {**asking("a"), "x": "a" * (LIMITS["body_bytes"])}
    assert "larger than 1,048,576 bytes" in refusal(served.post(too_long), 413)
    with pytest.raises(openai.APIStatusError) as refused:
        served.client().chat.completions.create(**asking(QUESTION, bytes(20 * MIB)))
    assert refused.value.status_code == 413
    assert raw(served, f"{JSON}Content-Length: 2000000000") == 413  # of which nothing comes
    assert raw(served, f"{JSON}Content-Length: {10**15}") == 413
    part = f"{MIB:x}\r\n".encode() + bytes(MIB) + b"\r\n"
    assert raw(served, f"{JSON}Transfer-Encoding: chunked", part, 8) == 413


def test_a_length_that_is_not_true(model):
    with running(model, seconds=1.0) as served:
        assert raw(served, f"{JSON}Content-Length: 1000", b'{"model": "stu') == 408
        assert raw(served, f"{JSON}Content-Length: 4", json.dumps(asking("a")).encode()) == 400
        assert served.post(asking(QUESTION)).status_code == 200


def test_an_answer_that_takes_too_long(model, endless):
    with running(model, seconds=0.7) as served:
        long = asking(QUESTION, max_tokens=1500)
        assert "no whole answer within 0.7 s" in refusal(served.post(long), 408)
        said = []
        with pytest.raises(openai.APIError, match="no whole answer within"):
            for chunk in served.client().chat.completions.create(**long, stream=True):
                said.append(chunk.choices[0].delta.content)
        assert len(said) > 2
        [worker] = served.service._workers.values()
        served.wait(lambda: not worker._running, 1.0)
        assert served.metric('caad_requests_total{status="408"}') == 2
        assert served.post(asking(QUESTION, max_tokens=2)).status_code == 200


def test_a_full_server_says_so(model, gate):
    with running(model, waiting=2, batch=1) as served:
        with ThreadPoolExecutor(2) as pool:
            first = [pool.submit(served.post, asking(QUESTION)) for _ in range(2)]
            served.wait(lambda: served.service.inside == 2)
            full = served.post(asking(QUESTION))
            assert "2 requests wait already" in refusal(full, 429) and full.headers["retry-after"] == "1"
            with pytest.raises(openai.RateLimitError):
                served.client().chat.completions.create(**asking(QUESTION))
            assert served.metric("caad_requests_inside") == 2
            gate.set()
            assert [each.result().status_code for each in first] == [200, 200]
        assert served.post(asking(QUESTION)).status_code == 200


def test_the_audio_inside_is_bounded(model, gate):
    """A minute of silence is some kilobytes of FLAC."""
    second = written(np.zeros(16_000, np.float32), format="FLAC")
    with running(model, audio_seconds=3.5, request_seconds=2.5) as served, ThreadPoolExecutor(2) as pool:
        assert "the clips last more than 2.5 s together" in refusal(served.post(asking(QUESTION, *[second] * 3)), 400)
        assert served.service.room.taken == 0
        first = pool.submit(served.post, asking(QUESTION, second, second))
        served.wait(lambda: served.service.room.taken == 2)
        full = served.post(asking(QUESTION, second, second))
        assert "2 s of audio already" in refusal(full, 429).replace("3 s", "2 s") and full.headers["retry-after"] == "1"
        beside = pool.submit(served.post, asking(QUESTION, second))
        served.wait(lambda: served.service.room.taken == 3)
        gate.set()
        assert [each.result().status_code for each in (first, beside)] == [200, 200]
        served.wait(lambda: served.service.room.taken == 0)
        assert served.post(asking(QUESTION, second, second)).status_code == 200


def test_no_more_is_decoded_than_a_request_may_have(model, monkeypatch):
    """A model that takes long audio does not make a short limit costly."""
    minute = written(np.zeros(60 * 16_000, np.float32), format="FLAC")
    monkeypatch.setattr(model.reader, "longest_seconds", 3600.0)
    request, decoded = read_request(json.dumps(asking(QUESTION, ONE, minute)).encode()), []
    add = Levels.add
    monkeypatch.setattr(
        Levels, "add", lambda levels, block, *more: decoded.append(len(block)) or add(levels, block, *more)
    )
    with pytest.raises(Refused, match="the clips last more than 2 s together"):
        prepare(request, model.reader, Limits(**LIMITS), Share(Room(7200, 2)))
    assert sum(decoded) <= 2 * 16_000


def test_a_request_that_has_ended_takes_no_room():
    room = Room(10, 10)
    with Share(room) as share:
        share.take(4)
        assert room.taken == 4
    with pytest.raises(Refused):
        share.take(4)
    assert room.taken == 0


def test_connections_and_headers_are_bounded(model, monkeypatch):
    """Others are served while silent connections are open, and these do not stay."""
    monkeypatch.setattr(start_server, "CONNECTIONS", 4)
    monkeypatch.setattr(start_server, "ASKING", 2.0)
    with running(model, waiting=2) as served:
        port = int(served.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sent:
            sent.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * start_server.HEADERS)
            assert sent.recv(100).startswith(b"HTTP/1.1 400 "), "headers without end are waited for"
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(6)]
        silent[0].sendall(b"GET /health HTTP/1.1\r\nX: ")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as beyond:
            assert closed(beyond)
        assert all(closed(each) for each in silent), "a connection that asks nothing stays open"
        assert httpx2.get(f"{served.address}/health").status_code == 200


def test_what_is_left_of_a_refused_body_is_not_read_for_ever(model, monkeypatch):
    monkeypatch.setattr(start_server, "ASKING", 0.5)
    with running(model) as served:
        port = int(served.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sent:
            sent.sendall(b"POST /none HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n")
            assert sent.recv(100).startswith(b"HTTP/1.1 404 ")
            assert closed(sent)


GET = "GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"  # which is refused


@pytest.mark.parametrize("asked", [GET, POST], ids=["page", "refusal"])
def test_a_client_that_reads_nothing_does_not_keep_its_connection(model, monkeypatch, asked):
    monkeypatch.setattr(start_server, "CONNECTIONS", 2)
    monkeypatch.setattr(start_server, "ASKING", 1.0)
    with running(model, waiting=2) as served:
        port = int(served.address.rpartition(":")[2])
        deaf = [reading_nothing(port, asked) for _ in range(4)]
        served.wait(lambda: works(served, "/health"), 10)
        for each in deaf:
            each.close()


def reading_nothing(port: int, asked: str) -> socket.socket:
    """A connection with more requests than the server can answer while nobody reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.settimeout(0.3)
    with contextlib.suppress(OSError):  # it is full, or closed
        while True:
            connection.sendall(asked.encode() * 100)
    return connection


def works(served, path: str) -> bool:
    """Whether a request is answered."""
    try:
        return httpx2.get(f"{served.address}{path}").status_code == 200
    except httpx2.HTTPError:
        return False


def test_a_stream_whose_model_is_slow_is_not_cut(model, monkeypatch, endless):
    """Nothing is sent for longer than a client may take to read."""
    monkeypatch.setattr(start_server, "ASKING", 0.2)
    begin = batching.Rows.__call__

    def slowly(rows, *given, **options):
        time.sleep(0.5)
        return begin(rows, *given, **options)

    monkeypatch.setattr(batching.Rows, "__call__", slowly)
    with running(model) as served:
        chunks = list(served.client().chat.completions.create(**asking(QUESTION, ONE, max_tokens=5), stream=True))
        assert chunks[-1].choices[0].finish_reason == "length"


def closed(connection: socket.socket) -> bool:
    """Whether the server closes a connection, before its time-out."""
    try:
        while connection.recv(1000):
            pass
        return True
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_texts_are_bounded_together(model):
    """They are tokenised before their number of tokens is known."""
    with running(model, body_bytes=1 << 23) as served:
        long = [{"role": role, "content": "a" * 60_000} for role in ("user", "assistant", "user")]
        message = refusal(served.post({**asking(QUESTION), "messages": long}), 400)
        assert "texts have more than 100,000 characters" in message


def test_a_server_whose_model_s_thread_is_dead_takes_nothing(model, monkeypatch):
    with running(model) as served:
        [worker] = served.service._workers.values()
        worker.close()
        assert "the server has failed" in refusal(served.post(asking(QUESTION)), 503)
        assert httpx2.get(f"{served.address}/health").json() == {"status": "failed"}


def test_a_server_that_fails_again_and_again_says_so(model, monkeypatch, capsys):
    def failing(*given, **options):
        raise RuntimeError("CUDA error")

    with running(model) as served:
        with monkeypatch.context() as broken:
            broken.setattr(batching, "generate", failing)
            for _ in range(batching.FAILED):
                assert httpx2.get(f"{served.address}/health").status_code == 200
                assert "the model failed" in refusal(served.post(asking(QUESTION)), 500)
            assert httpx2.get(f"{served.address}/health").status_code == 503
        assert served.post(asking(QUESTION)).status_code == 200, "it may have been the requests"
        served.wait(lambda: httpx2.get(f"{served.address}/health").status_code == 200)


def test_a_key(model):
    key = "sk-not-to-be-told"
    with running(model, key=key, local=False) as served:
        for path in ("/v1/models", "/metrics", "/v1/none", "/v1/chat/completions"):
            for headers in (
                {},
                {"Authorization": key},
                {"Authorization": f"Bearer {key}x"},
                {"Authorization": "Bearer é"},
            ):
                got = httpx2.get(f"{served.address}{path}", headers={k: v.encode() for k, v in headers.items()})
                assert "the key is missing or wrong" in refusal(got, 401) and key not in got.text
        for path in ("/", "/page.js", "/page.css", "/health"):
            assert httpx2.get(f"{served.address}{path}").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            served.client("sk-wrong").chat.completions.create(**asking(QUESTION))
        assert served.client(key).chat.completions.create(**asking(QUESTION)).choices
        by_name = {"Authorization": f"Bearer {key}", "Host": "example.org"}
        response = httpx2.get(f"{served.address}/metrics", headers=by_name)
        assert response.status_code == 200 and key not in response.text
