"""`caad-ds serve`: serve models through OpenAI's chat interface, with a page to ask them."""

import argparse
import importlib
import math
import socket
from importlib.util import find_spec
from pathlib import Path

from caad_ds.generation.arguments import MODEL, add_device_arguments
from caad_ds.generation.chat_client import key_of
from caad_ds.generation.decoding_settings import check_above_zero
from caad_ds.serving.server.limits import Limits
from caad_ds.utils.command import note, positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.loopback import is_loopback
from caad_ds.utils.model_names import model_folder, run_name

HOST, PORT = "127.0.0.1", 8000
KEY = "CAAD_API_KEY"  # the environment variable
PACKAGES = ("fastapi", "prometheus_client", "uvicorn")
MIB = 2**20


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.add_argument("model", type=model_folder, metavar="MODEL", help=MODEL)
    parser.add_argument("--name", help="what requests call it (default: its folder, run or hub id)")
    parser.add_argument("--vs", type=model_folder, metavar="MODEL", help="second model, served as well")
    parser.add_argument("--vs-name", metavar="NAME", help="what requests call the second model")
    parser.add_argument("--host", default=HOST, help=f"interface; another than {HOST} needs a key in {KEY}")
    parser.add_argument("--port", type=int, default=PORT, help=f"port, 0 for any that is free (default {PORT})")
    add_device_arguments(parser)
    bounds = parser.add_argument_group("limits")
    for flag, default, help in (
        ("--max-batch", 32, "requests that are answered together"),
        ("--max-waiting", 128, "requests inside at once; further ones get 429"),
        ("--max-body-mib", 16, "MiB of a request, whose audio is base64; larger ones get 413"),
        ("--max-clips", 8, "audio clips of a request"),
        ("--max-audio-seconds", 7200, "seconds of audio inside at once; further ones get 429"),
        ("--max-request-seconds", 1800, "seconds of audio of a request"),
        ("--max-new-tokens", 128, "tokens of an answer whose request does not say"),
        ("--most-new-tokens", 1024, "tokens that a request may ask for"),
    ):
        bounds.add_argument(flag, type=positive, default=default, metavar="N", help=f"{help} (default {default})")
    for flag, seconds, help in (
        ("--timeout", 120.0, "seconds from a request to the end of its answer; then it gets 408"),
        ("--drain", 30.0, "seconds that a server which is to end waits for the requests inside"),
    ):
        bounds.add_argument(flag, type=float, default=seconds, metavar="S", help=f"{help} (default {seconds:g})")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; everything that can be checked is checked before weights are loaded."""
    check_above_zero("--timeout", args.timeout)
    if not 0 <= args.drain < math.inf:
        raise UserError(f"--drain {args.drain}: give a number of seconds of at least 0")
    if args.max_request_seconds > args.max_audio_seconds:
        raise UserError(
            f"--max-request-seconds {args.max_request_seconds:g}: more than all requests have together "
            f"(--max-audio-seconds {args.max_audio_seconds:g}); lower it, or allow more"
        )
    models = _named(args)
    key, local = key_of(KEY, "environment variable"), is_loopback(args.host)
    if not key and not local:
        raise UserError(f"--host {args.host}: others reach this interface; export a key in {KEY}, or serve on {HOST}")
    _check_packages()
    listening = _bound(args.host, args.port)
    note("loading PyTorch and transformers")
    limits = Limits(
        body_bytes=args.max_body_mib * MIB, seconds=args.timeout, clips=args.max_clips,
        audio_seconds=args.max_audio_seconds, request_seconds=args.max_request_seconds, new_tokens=args.max_new_tokens,
        most_new_tokens=max(args.most_new_tokens, args.max_new_tokens), waiting=args.max_waiting, batch=args.max_batch,
        drain=args.drain,
    )  # fmt: skip
    return importlib.import_module("caad_ds.serving.server.start_server").serve(
        models, listening, key=key, local=local, limits=limits, device=args.device, dtype=args.dtype
    )


def _named(args: argparse.Namespace) -> dict[str, Path]:
    """Return the model folders by the names that requests use."""
    if args.vs is None:
        if args.vs_name is not None:
            raise UserError("--vs-name: there is no second model; give --vs as well")
        return {args.name or run_name(args.model): args.model}
    first, second = args.name or run_name(args.model), args.vs_name or run_name(args.vs)
    if first == second:
        raise UserError(f"--vs: both models are called {first!r}; give the second another name by --vs-name")
    return {first: args.model, second: args.vs}


def _check_packages() -> None:
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UserError(f"serve needs the package {package}; pip install 'caad-ds[serve]'")


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an interface and port, not listening yet; UserError if it cannot be bound."""
    if not 0 <= port < 1 << 16:  # larger ones would wrap
        raise UserError(f"--port {port}: no port has that number; give one up to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free
        bound.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({reason}); choose another") from error
    return bound
