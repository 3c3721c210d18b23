"""Every type of causal LM in the installed transformers: none is silently wrong, and the docs say what each is."""

import pytest

from tests.models.language_model.llm_types import TYPES, sweep, table
from tests.root import ROOT

PAGE = ROOT / "docs/language_models.md"


@pytest.mark.parametrize("kind", ["cohere", "opt", "mamba", "gpt2", "gemma2"])
def test_some_types(kind):
    [result] = sweep((kind,))
    assert result.status == "works"


def statuses(page: str) -> list[list[str]]:
    """Type and status of each row of the table."""
    return [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| ")][1:]


def test_every_type_is_in_the_docs():
    assert [kind.removeprefix("| ") for kind, _ in statuses(PAGE.read_text())] == list(TYPES)


@pytest.mark.slow
def test_no_type_is_silently_wrong():
    results = sweep()
    bad = [result for result in results if result.status not in ("works", "refused", "not built")]
    assert not bad
    assert statuses(table(results)) == statuses(PAGE.read_text())
