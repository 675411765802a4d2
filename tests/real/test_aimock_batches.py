"""aimock's OpenAI batches, a server that others wrote, asked as rows of a table."""

import pandas as pd
import pytest

import nbllm

from .conftest import KEY


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs are kept in the test's own directory."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))


def test_rows_in_a_batch(aimock):
    """Handed in, watched and read; each answer on its row, in the order of the table."""
    df = pd.DataFrame({"text": ["hello", "unicode", "hello"]}, index=[7, 8, 9])
    given = {"base_url": f"{aimock}/v1", "api_key": KEY}
    job = nbllm.map(
        df,
        "{text}",
        model="openai/gpt-4o",
        mode="batch",
        run="r",
        wait=False,
        confirm="yes",
        dedupe=False,
        **given,
    )
    out = job.wait(lambda seconds: None)
    assert list(out.index) == [7, 8, 9]
    assert ["ok"] * 3 == list(out.llm_status)
    assert ["Mock batch completion"] * 3 == list(out.answer)  # whatever was asked
    assert ["done"] == list(nbllm.rows.batches().state)
