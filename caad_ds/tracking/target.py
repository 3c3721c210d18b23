"""Where runs are logged: as given by the user, else by MLflow's variables, else a SQLite file; and its page."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from caad_ds.tracking.secrets import hide_secrets
from caad_ds.utils.errors import UserError

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "caad-ds"
URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
# Without these MLflow 3 shows an experiment's traces, of which training has none.
CHARTS = "compareRunsMode=CHART&workflowType=machine_learning"
TRAININGS = "tags.kind = 'training'"


@dataclass(frozen=True)
class Target:
    """An MLflow store or server and an experiment, each with the source of its name."""

    uri: str
    experiment: str
    uri_from: str
    experiment_from: str

    @classmethod
    def of(
        cls, uri: str | None, experiment: str | None, names: tuple[str, str] = ("tracking.uri", "tracking.experiment")
    ) -> "Target":
        """Choose the arguments, which the user gave as `names`, else MLflow's variables, else the default.

        Raises:
            UserError: a URI that is not an MLflow store.
        """
        uri, uri_from = _first((uri, names[0]), (os.environ.get(URI_VARIABLE) or None, URI_VARIABLE), DEFAULT_URI)
        named = os.environ.get(EXPERIMENT_VARIABLE) or None
        experiment, experiment_from = _first((experiment, names[1]), (named, EXPERIMENT_VARIABLE), DEFAULT_EXPERIMENT)
        if experiment_from == "default" and os.environ.get("MLFLOW_EXPERIMENT_ID"):
            experiment_from = f"default; of MLflow's variables {EXPERIMENT_VARIABLE} is read, MLFLOW_EXPERIMENT_ID not"
        check_uri(uri, uri_from)
        return cls(uri, experiment, uri_from, experiment_from)

    def __str__(self) -> str:
        where = f"{hide_secrets(self.uri)} ({self.uri_from})"
        return f"{where}, experiment {self.experiment} ({self.experiment_from})"


def _first(given: tuple[str | None, str], variable: tuple[str | None, str], default: str) -> tuple[str, str]:
    """Return the first value that is given, and its source."""
    return next(((value, name) for value, name in (given, variable) if value is not None), (default, "default"))


def check_uri(uri: str, name: str) -> None:
    """Raise UserError for a URI that MLflow cannot use as a store, including folders."""
    if urlsplit(uri).scheme.split("+")[0] not in SCHEMES:
        hint = "sqlite:///mlflow.db or a server such as http://host:5000"
        raise UserError(f"{name} {hide_secrets(uri)!r} is no MLflow store: give {hint}")


def is_server(uri: str) -> bool:
    """Return whether the store is a server with its own pages."""
    return urlsplit(uri).scheme in ("http", "https")


def page(server: str, experiment_id: str, only: str = TRAININGS) -> str:
    """Return the address of an experiment's curves on a server, without credentials.

    `only` is a filter. MLflow sorts charts by name, and the bars of evaluations would come before all curves.
    """
    scheme, netloc, path, query, _ = urlsplit(server)
    host = urlunsplit((scheme, netloc.rpartition("@")[2], path.rstrip("/"), query, ""))
    searched = f"&searchFilter={quote(only)}" if only else ""
    return f"{host}/#/experiments/{experiment_id}/runs?{CHARTS}{searched}"


def curves(target: Target, experiment_id: str) -> str:
    """Describe where an experiment's curves are: its page on a server, else the command that shows the store."""
    if is_server(target.uri):
        return page(target.uri, experiment_id)
    option = "" if target.uri == DEFAULT_URI else f" --mlflow {hide_secrets(target.uri)}"
    return f"`caad-ds dashboard{option}`, then {page('http://127.0.0.1:5000', experiment_id)}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a SQLite URI; None for other stores."""
    scheme, _, path = uri.partition(":///")
    return Path(path).absolute() if scheme.startswith("sqlite") and path else None
