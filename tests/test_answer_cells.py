"""Answers in real kernels: a picture is in the saved notebook and in the next turn, a stopped answer has no
count."""

import pytest

from nbllm import simulator

from .kernels import Kernel

pytestmark = pytest.mark.slow

PICTURE = 'src="data:image/png;base64,iVBOR'


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.01, gap=0.001) as server:
        yield server


def started(sim, *, front_end):
    env = {
        "OPENAI_BASE_URL": sim.base_url("openai_chat"),
        "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
        "GEMINI_BASE_URL": sim.base_url("gemini"),
    }
    return Kernel(
        front_end=front_end,
        **env,
        **dict.fromkeys(
            ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "sk-canary-0123456789abcdef"
        ),
    )


@pytest.fixture(scope="module")
def kernel(sim):
    with started(sim, front_end=True) as k:
        yield k


@pytest.mark.parametrize("model", ["openai/m", "responses/m", "gemini/m"])
def test_a_picture_is_in_the_saved_cell(kernel, model):
    """As a PNG in our HTML, sent once, and as words in the text; its bytes are in _llm."""
    ran = kernel.run(f"%%llm {model}@images=1,tokens=5\ndraw")
    assert ran.ok, ran.error
    assert [1, 1] == [ran.html.count(PICTURE), str(ran.messages).count(PICTURE)]
    assert "[image, 64x48 PNG]" in ran.text
    assert [["89504e47"], True] == kernel.value(
        "[[i.data[:4].hex() for i in _llm.images], '[image, 64x48 PNG]' in repr(_llm)]"
    )
    assert "image/png" in kernel.run("_llm.images[0]").outputs[0]["data"]


def test_headless_it_is_there_too(sim):
    """In nbclient and papermill."""
    with started(sim, front_end=False) as k:
        assert PICTURE in k.run("%%llm gemini/m@images=1,tokens=5\ndraw").html


def test_a_conversation_keeps_its_pictures(kernel):
    """The next turn sends it, to its maker and to others."""
    assert kernel.run("%%llm gemini/m@images=1,tokens=5 chat=pictures\ndraw").ok
    for model in ("gemini/m", "openai/m", "responses/m", "claude/m"):
        ran = kernel.run(f"%%llm {model} chat=pictures\nredder, {model}")
        assert ran.ok, ran.error
        assert 1 == kernel.value(
            "sum(type(p).__name__ == 'Image' for m in _llm.request.messages for p in m.parts)"
        )


def test_columns_have_their_pictures(kernel):
    """Each its own."""
    ran = kernel.run("%%llm openai/m@images=1;tokens=5,gemini/m@images=2;tokens=5\ndraw")
    assert ran.ok, ran.error
    assert 3 == ran.html.count(PICTURE)


def test_a_stopped_answer_shows_an_estimate(kernel):
    """Stop on a Claude answer: about how much came, in the live line and in the end; no count, and no 1."""
    seen = []

    def grown(message):
        seen.append(
            str(message["content"].get("data", {}).get("text/plain", ""))
            if message["msg_type"] == "update_display_data"
            else ""
        )
        return sum(map(bool, seen)) >= 5

    parent = kernel.start("%%llm claude/m@gap=0.01,tokens=2000\nhello")
    kernel.collect(parent, grown)
    kernel.interrupt()
    ran = kernel.collect(parent)
    assert "≈" in seen[-1]
    assert "→ ≈" in ran.text.replace("\u00a0", " ")
    assert [None, None, "cancelled"] == kernel.value(
        "[_llm.usage.output_tokens, _llm.cost, _llm.finish_reason]"
    )
    assert kernel.value("_llm.usage.input_tokens") > 0
    kernel.run("calls = %llm log n=1")
    assert "estimate" == kernel.value("calls['tok_source'].iloc[-1]")
