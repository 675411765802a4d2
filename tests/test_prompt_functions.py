"""Prompts as functions and fragments, in a real kernel."""

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


def test_a_cell_becomes_a_function_of_its_names(kernel):
    """It asks with the values it is given, shows nothing, and knows its parameters; the cell itself asks
    nothing."""
    ran = kernel.run("%%llm sim/openai@echo=1 def=praise\nPraise {thing} in {n} words.")
    assert ran.ok, ran.error
    assert "praise(thing, n) is defined" in ran.text
    ran = kernel.run("answers = [praise('rain', 3), praise(thing='snow', n=5)]")
    assert ran.ok, ran.error
    assert [] == ran.outputs
    assert ["Praise rain in 3 words.", "Praise snow in 5 words."] == kernel.value("[a.text for a in answers]")
    assert "Praise {thing}" in kernel.value("praise.__doc__")
    assert not kernel.run("praise()").ok


def test_a_function_may_give_objects(kernel):
    """as= and schema= work as in a cell."""
    assert kernel.run('%%llm sim/openai schema="name, age int" as=object def=person\nInvent {who}.').ok
    assert {"name", "age"} == set(kernel.value("list(person('a sailor'))"))


def test_a_prompt_without_names_is_no_function(kernel):
    """With an example of one."""
    ran = kernel.run("%%llm sim/openai def=f\nHello.")
    assert "{text}" in "".join(ran.error["traceback"])


def test_fragments_are_kept_and_put_together(kernel):
    """save= sends nothing; use= puts them first, and fills their names then."""
    assert "tone is saved" in kernel.run("%%llm save=tone\nWrite like {author}.").text
    kernel.run("%%llm save=size\nAt most ten words.")
    kernel.run("author = 'Basho'")
    assert kernel.run("%%llm sim/openai@echo=1 use=tone,size out=a\nOn rain.").ok
    assert "Write like Basho.\n\nAt most ten words.\n\nOn rain." == kernel.value("a.text")
    ran = kernel.run("%%llm sim/openai use=nothing\nx")
    assert "tone, size" in "".join(ran.error["traceback"])


def test_parameters_are_names_that_nobody_else_knows(kernel):
    """Neither Python's own names nor the notebook's become parameters; the latter may be given all the
    same."""
    kernel.run("globals().pop('xs', None)\nlimit = 100\ndef shout(t): return t.upper()")
    kernel.run("%%llm sim/openai@echo=1 def=count\nLength {{len(text)}} of {{shout(text)}}")
    assert ["text"] == kernel.value("list(__import__('inspect').signature(count).parameters)")
    assert "Length 2 of HI" == kernel.value("count('hi').text")
    kernel.run("%%llm sim/openai@echo=1 def=pick\nBig ones: {{ [x for x in xs if x > limit] }}")
    assert "Big ones: [200]" == kernel.value("pick([1, 5, 200]).text")
    assert "Big ones: [5, 200]" == kernel.value("pick([1, 5, 200], limit=2).text")


def test_an_expression_has_one_scope(kernel):
    """A comprehension inside a function of the cell sees the same names as its outside."""
    kernel.run("xs, limit = [1, 200], 100")
    kernel.run("%%llm sim/openai@echo=1 out=a\n{{ [x for x in xs if x > limit] }}")
    assert "[200]" == kernel.value("a.text")
