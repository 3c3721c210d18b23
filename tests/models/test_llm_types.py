"""Every type of causal LM in the installed transformers: none is silently wrong, and the docs say what each is."""

from pathlib import Path

import pytest

from tests.models.llm_types import TYPES, sweep, table

PAGE = Path(__file__).parents[2] / "docs/models.md"


@pytest.mark.parametrize("kind", ["cohere", "opt", "mamba", "gpt2", "gemma2"])
def test_some_types(kind):
    [result] = sweep((kind,))
    assert result.status == "works"


def test_every_type_is_in_the_docs():
    told = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert told[1:] == list(TYPES)


@pytest.mark.slow
def test_no_type_is_silently_wrong():
    results = sweep()
    bad = [result for result in results if result.status not in ("works", "refused", "not built")]
    assert not bad
    assert table(results).splitlines()[25:] == PAGE.read_text().splitlines()[25:]
