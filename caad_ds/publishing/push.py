"""`caad-ds push`: upload a model folder to the Hugging Face hub, private by default."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from caad_ds.models.origin_names import is_valid_id
from caad_ds.publishing.model_files import ModelFiles, model_files
from caad_ds.tracking.secrets import HIDDEN, hide_secrets
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from caad_ds.utils.model_names import is_hub_id, model_folder

MAIN = "main"
MESSAGE = "Upload a model by caad-ds push"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
AGAIN = "run the same command again, which sends what is missing"
REMEDIES = {
    401: f"the hub does not accept the token; {LOG_IN}",
    403: "the token may not write there; use one with write access to it (the hub's page Settings, Access Tokens)",
    404: "no such repository, branch or organisation, or the token may not see it; check --repo and --revision",
    409: "the repository is there and the token may not see it, or someone else is changing it; check --repo",
    413: "the hub finds it too large",
    429: "the hub wants fewer requests; wait some minutes",
}


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    parser.add_argument("folder", type=Path, metavar="MODEL", help="a model folder, or the folder of a finished run")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository on the hub; created if missing")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and use no network")
    parser.add_argument("--public", action="store_true", help="make a new repository public; default: private")
    parser.add_argument("--revision", default=MAIN, metavar="BRANCH", help="branch to write to (default %(default)s)")
    parser.add_argument("--message", default=MESSAGE, help="of the commit (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Check the folder, list its files and push them; return the exit status."""
    push(args.folder, args.repo, public=args.public, revision=args.revision, message=args.message, dry=args.dry_run)
    return 0


def push(
    model: str | Path,
    repo: str,
    *,
    public: bool = False,
    revision: str = MAIN,
    message: str = MESSAGE,
    dry: bool = False,
) -> str | None:
    """Send a model folder, or a finished run's, to a repository of the hub, and print what is sent.

    A missing repository is created, private unless `public`. `dry` only lists the files. The token is that of `hf auth
    login`, or HF_TOKEN.

    Returns:
        The URL of the commit; None for a dry run.

    Raises:
        UserError: the folder holds no complete model, the hub cannot be reached or refuses, or the repository is public
            and `public` is not set.
    """
    if is_hub_id(str(model)):
        raise UserError(f"{model}: no such folder; give the folder of a model on this machine")
    folder = model_folder(model)
    _check_id(repo)
    files = model_files(folder)
    _show(folder, files, f"{repo}, branch {revision}")
    if dry:
        print(f"dry run: nothing was sent; a new repository would be {'public' if public else 'private'}")
        return None
    token = _token()
    with _user_errors(repo, token):
        api = HfApi(token=token)
        private = _prepare_repository(api, repo, public, revision)
        names = [escape(name) for name in files.sent]
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, revision=revision, commit_message=message
        )
    return _show_commit(commit, repo, private)


def _check_id(repo: str) -> None:
    if not is_valid_id(repo) or repo.count("/") != 1:
        raise UserError(
            f"--repo {repo!r}: no id of a repository; give OWNER/NAME, of letters, digits, '-', '_' and '.'"
        )


def _show(folder: Path, files: ModelFiles, target: str) -> None:
    """Print which files are sent and which are left out."""
    print(f"{folder} to {constants.ENDPOINT}/{target}:")
    for name, size in files.sent.items():
        print(f"  {_size(size):>10}  {name if name.isprintable() else repr(name)}")
    for name, reason in files.left_out.items():
        print(f"  {'left out':>10}  {name!r} ({reason})")
    print(f"{counted(len(files.sent), 'file')}, {_size(sum(files.sent.values()))}", flush=True)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def _token() -> str:
    """Return the user's token; raises UserError if there is none, or the hub is offline."""
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it (--dry-run needs no network)")
    try:
        token = get_token()
    except Exception as error:  # depends on the login that the machine uses
        raise UserError(f"the token of the hub cannot be read ({type(error).__name__}); {LOG_IN}") from None
    if not token:
        raise UserError(f"no token of the hub is on this machine; {LOG_IN}")
    return token


def _prepare_repository(api: HfApi, repo: str, public: bool, revision: str) -> bool:
    """Create the repository and its branch if missing; return whether it is private."""
    try:
        private = bool(api.model_info(repo).private)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public, repo_type="model")
        private = not public
    if not private and not public:
        raise UserError(f"--repo {repo}: it is there and is public; add --public to publish the model, or name another")
    if private and public:
        print(f"{repo} is there and stays private; its page Settings makes it public", flush=True)
    if revision != MAIN:
        api.create_branch(repo, branch=revision, exist_ok=True)
    return private


@contextmanager
def _user_errors(repo: str, token: str) -> Iterator[None]:
    """Turn failures of the upload into a one-line UserError, without the token in it or in a traceback."""
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt:
        print(f"interrupted; {AGAIN}")
        raise
    except HfHubHTTPError as error:
        status, message = error.response.status_code, _line(error.server_message or "", token)
        remedy = REMEDIES.get(status, f"the hub has failed; {AGAIN} (later)")
        raise UserError(f"--repo {repo}: HTTP {status}{message and f' ({message})'}: {remedy}") from None
    except ValueError as error:  # such as front matter that the hub rejects
        raise UserError(
            f"--repo {repo}: the hub does not take these files ({_line(error, token)}); correct that"
        ) from None
    except Exception as error:  # the libraries below huggingface_hub have no common base class
        reason = _line(error, token) or type(error).__name__
        raise UserError(f"--repo {repo}: the hub is not reached, or the upload broke off ({reason}); {AGAIN}") from None


def _line(message: object, token: str) -> str:
    """Return an error message as one line without secrets."""
    return f"{' '.join(hide_secrets(str(message).replace(token, HIDDEN)).split()):.200}"


def _show_commit(commit: CommitInfo, repo: str, private: bool) -> str:
    """Print where the model is; return the URL of the commit."""
    print(f"pushed to {constants.ENDPOINT}/{repo} ({'private' if private else 'public'}): {commit.commit_url}")
    return commit.commit_url
