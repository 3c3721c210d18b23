"""Download data sets from the Hugging Face hub into its cache, or find them there offline."""

from pathlib import Path

from caad_ds.evaluation.benchmarks.hf_datasets import TABLES
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.progress import waiting


def hub_folder(named: str) -> Path:
    """Return the folder with the tables of a data set, `OWNER/NAME` or `OWNER/NAME@REVISION`; raises UserError if the
    hub has none or cannot be reached."""
    from huggingface_hub import snapshot_download  # takes a while to import

    name, _, revision = named.partition("@")
    tables = [f"*{suffix}" for suffix in TABLES]
    try:
        with waiting(f"looking up {named} on the hub"):
            return Path(snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=tables))
    except Exception as error:  # the libraries below huggingface_hub have no common base class
        reason = first_line(error)
        raise UserError(f"{named}: the data set cannot be read from the hub ({reason}); give --data") from error
