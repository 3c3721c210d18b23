"""MLflow's pages for the runs of a store, by the address that opens on their curves."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from caad_ds.tracking.secrets import hide_secrets
from caad_ds.tracking.store import connect, holds, newest_experiment
from caad_ds.tracking.target import DEFAULT_URI, TRAININGS, URI_VARIABLE, Target, is_server, page, sqlite_path
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import Heartbeat

if TYPE_CHECKING:
    from mlflow.entities import Experiment

HOST, PORT = "127.0.0.1", 5000
PORTS = 50  # that are tried from PORT on
START_SECONDS = 120


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dashboard`."""
    parser.add_argument(
        "--mlflow", metavar="URI", help=f"MLflow store or server (default: {URI_VARIABLE}, else {DEFAULT_URI})"
    )
    parser.add_argument("--experiment", metavar="NAME", help="experiment to open (default: that of the newest run)")
    parser.add_argument("--port", type=positive, help=f"of the pages (default: {PORT}, or the next that is free)")
    parser.add_argument("--open", action="store_true", help="open a browser as well")


def run(args: argparse.Namespace) -> int:
    """Serve the store until Ctrl-C, or find the page on its server; prints the address."""
    target = Target.of(args.mlflow, args.experiment, ("--mlflow", "--experiment"))
    path = sqlite_path(target.uri)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no such store ({target.uri_from}); train first, or name the store with --mlflow")
    with Heartbeat() as voice:
        voice.begin(f"reading {hide_secrets(target.uri)}")
        shown = _shown(target, args.experiment)
        if is_server(target.uri):
            _show(target.uri, *shown, args.open, voice)
            return 0
        port = _free_port(args.port)
        voice.begin("starting MLflow's server")
        with _server(target.uri, port) as server:
            _show(f"http://{HOST}:{port}", *shown, args.open, voice)
            voice.say("Ctrl-C ends it")
            voice.enabled = False
            return _until_interrupted(server)


def _shown(target: Target, named: str | None) -> "tuple[Experiment, str]":
    """The experiment to open on, and the filter of its runs: its trainings if it has any; UserError without one."""
    client, only = connect(target.uri), ""
    try:
        found = client.get_experiment_by_name(named) if named else newest_experiment(client)
        if found is not None and holds(client, found.experiment_id, TRAININGS):
            only = TRAININGS
    except Exception as error:
        raise UserError(f"{hide_secrets(target.uri)} cannot be read: {hide_secrets(str(error))[:300]}") from error
    if found is None:
        what = f"no experiment {named}" if named else "no runs yet"
        raise UserError(f"{hide_secrets(target.uri)}: {what}; train first, or name another --experiment or --mlflow")
    return found, only


def _show(server: str, experiment: "Experiment", only: str, opens: bool, voice: Heartbeat) -> None:
    address = page(server, experiment.experiment_id, only)
    voice.say(f"curves of experiment {experiment.name}: {address}")
    if only:
        voice.say(f"the page's search shows the trainings alone ({only}); clear it for evaluations and comparisons")
    if opens and not webbrowser.open(address):
        voice.say("no browser was found here; open that address in one")


@contextmanager
def _server(uri: str, port: int) -> Iterator[subprocess.Popen]:
    """MLflow's own server in a process group of its own, once it answers; it is ended with the context."""
    # Its agents' jobs are eight processes that nothing here uses.
    env = {"PYTHONWARNINGS": "ignore", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]
    # The URI may hold a password, which a command line would show to all.
    server = subprocess.Popen(command, env={**env, "MLFLOW_BACKEND_STORE_URI": uri}, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C, and the server with it
    try:
        _wait_for(server, port)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(server: subprocess.Popen, port: int) -> None:
    """Return once the server answers; UserError if it ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise UserError(f"MLflow's server ended with status {server.returncode}; its own lines are above")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise UserError(f"MLflow's server did not answer on port {port} within {START_SECONDS} s")


def _until_interrupted(server: subprocess.Popen) -> int:
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0


def _free_port(asked: int | None) -> int:
    """The port that was asked for, else the first from PORT on that nobody listens on; UserError if it is taken."""
    ports = range(PORT, PORT + PORTS) if asked is None else [asked]
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    taken = f"--port {asked} is taken" if asked else f"ports {PORT} to {PORT + PORTS - 1} are taken"
    raise UserError(f"{taken}; give a free one as --port")
