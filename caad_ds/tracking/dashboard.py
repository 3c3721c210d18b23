"""Serve MLflow's pages of a store, and print the address of its curves."""

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

from caad_ds.tracking.mlflow_store import connect, holds, newest_experiment
from caad_ds.tracking.secrets import hide_secrets
from caad_ds.tracking.target import DEFAULT_URI, TRAININGS, URI_VARIABLE, Target, is_server, page, sqlite_path
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import Heartbeat

if TYPE_CHECKING:
    from mlflow.entities import Experiment

HOST, PORT = "127.0.0.1", 5000
PORTS = 50  # ports to try from PORT on
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
    """Serve the store until Ctrl-C, or find the page on its server; print the address."""
    target = Target.of(args.mlflow, args.experiment, ("--mlflow", "--experiment"))
    path = sqlite_path(target.uri)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no such store ({target.uri_from}); train first, or name the store with --mlflow")
    with Heartbeat() as heartbeat:
        heartbeat.begin(f"reading {hide_secrets(target.uri)}")
        shown = _shown(target, args.experiment)
        if is_server(target.uri):
            _show(target.uri, *shown, args.open, heartbeat)
            return 0
        port = _free_port(args.port)
        heartbeat.begin("starting MLflow's server")
        with _server(target.uri, port) as server:
            _show(f"http://{HOST}:{port}", *shown, args.open, heartbeat)
            heartbeat.say("Ctrl-C ends it")
            heartbeat.enabled = False
            return _until_interrupted(server)


def _shown(target: Target, named: str | None) -> "tuple[Experiment, str]":
    """Return the experiment to show, and the filter of its runs: its trainings if it has any; UserError without one."""
    client, only = connect(target.uri), ""
    try:
        experiment = client.get_experiment_by_name(named) if named else newest_experiment(client)
        if experiment is not None and holds(client, experiment.experiment_id, TRAININGS):
            only = TRAININGS
    except Exception as error:
        raise UserError(f"{hide_secrets(target.uri)} cannot be read: {hide_secrets(str(error))[:300]}") from error
    if experiment is None:
        what = f"no experiment {named}" if named else "no runs yet"
        raise UserError(f"{hide_secrets(target.uri)}: {what}; train first, or name another --experiment or --mlflow")
    return experiment, only


def _show(server: str, experiment: "Experiment", only: str, opens: bool, heartbeat: Heartbeat) -> None:
    address = page(server, experiment.experiment_id, only)
    heartbeat.say(f"curves of experiment {experiment.name}: {address}")
    if only:
        heartbeat.say(f"the page's search shows the trainings alone ({only}); clear it for evaluations and comparisons")
    if opens and not webbrowser.open(address):
        heartbeat.say("no browser was found here; open that address in one")


@contextmanager
def _server(uri: str, port: int) -> Iterator[subprocess.Popen]:
    """Start MLflow's server in its own process group, and wait until it answers; the context ends it."""
    # Its agent jobs are eight processes that are not used here.
    env = {"PYTHONWARNINGS": "ignore", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]
    # The URI may contain a password, which a command line would expose.
    server = subprocess.Popen(command, env={**env, "MLFLOW_BACKEND_STORE_URI": uri}, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, which also ends the server
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


def _free_port(requested: int | None) -> int:
    """Return the requested port, else the first free one from PORT on; UserError if it is taken."""
    ports = range(PORT, PORT + PORTS) if requested is None else [requested]
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    taken = f"--port {requested} is taken" if requested else f"ports {PORT} to {PORT + PORTS - 1} are taken"
    raise UserError(f"{taken}; give a free one as --port")
