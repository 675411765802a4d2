"""Names of tools: accepted everywhere, unique, the same every time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.messages import Tool
from nbllm.tools.names import valid_name, with_unique_names
from nbllm.tools.usable import Usable

EVERYWHERE = re.compile("[a-zA-Z][a-zA-Z0-9_-]{0,63}")


def usable(name, source="", where="engine"):
    return Usable(Tool(name), print, where=where, source=source)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("price", "price"),
        ("files__read_file", "files__read_file"),
        ("a.b/c d", "a_b_c_d"),
        ("größe", "gr__e"),
        ("_private", "private"),
        ("2fa", "t_2fa"),
        ("", "tool_e3b0c442"),
        ("価格", "tool_855e4ca0"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 55 + "_9537c5fd"),
    ],
)
def test_one_name(name, made):
    """Each other character becomes _, a letter stands first, a long name ends with a hash."""
    assert made == valid_name(name)


NAMES = st.text(st.sampled_from("aA._/ 9é価😀"), max_size=4) | st.text(max_size=140)


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["here", "engine"]), st.sampled_from(["", "mcp/a", "mcp/b"])))
)
def test_any_names(given):
    """They fit, are unique, lead back to their owners, and come out the same again in the same order."""
    tools = [usable(name, source, where) for name, where, source in given]
    made = with_unique_names(tools)
    assert all(map(EVERYWHERE.fullmatch, made))
    assert [t.source for t in tools] == [t.source for t in made.values()]
    assert list(made) == [t.tool.name for t in made.values()]
    assert list(made) == list(with_unique_names(tools))


def test_a_function_keeps_its_plain_name():
    """Wherever it stands; the same tool twice is one; a tool without code counts too."""
    server, function, other = (
        usable("price", "mcp/shop"),
        usable("price", "function price", "here"),
        Tool("price"),
    )
    made = with_unique_names([server, function, other, function])
    assert made["price"] is function
    first, _, third = made
    assert (first[:6], third[:6], len(made)) == ("price_", "price_", 3)
    assert made[third] == Tool(third)
