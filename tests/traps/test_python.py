"""A block is ordinary Python: with or without source, in any context, with any statement in it."""

import asyncio
from contextlib import ExitStack

import pytest
import torch

from loupe import Model
from tests import tiny

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def a_of(x=X):
    with torch.no_grad():
        return tiny.net().a(x)


@pytest.mark.parametrize("filename", ["<string>", "<stdin>", "<ipython-input-1>"])
def test_a_block_needs_no_source(filename):
    names = {"model": Model(tiny.net()), "x": X}
    program = "with model.trace(x):\n    hidden = model.a.output\n    doubled = (hidden * 2).save()\n"
    exec(compile(program, filename, "exec"), names)
    assert torch.equal(names["doubled"], a_of() * 2)


def test_the_body_may_stand_on_the_line_of_its_with():
    model = Model(tiny.net())
    with model.trace(X): hidden = model.a.output.save()  # noqa: E701  # fmt: skip
    names = {"model": model, "x": X}
    exec("with model.trace(x): inner = model.a.output.save()", names)
    assert torch.equal(hidden, a_of())
    assert torch.equal(names["inner"], a_of())


def test_a_block_is_opened_by_a_lambda_or_a_stack_of_contexts():
    model = Model(tiny.net())
    opened = lambda stack: stack.enter_context(model.trace(X))  # noqa: E731
    with ExitStack() as stack:
        opened(stack)
        hidden = model.a.output.save()
    assert torch.equal(hidden, a_of())


def test_return_and_break_leave_a_block_and_what_was_saved_is_there():
    model = Model(tiny.net())

    def read():
        with model.trace(X):
            return model.a.output.save()

    for number in range(5):
        with model.trace(X * number):
            hidden = model.a.output.save()
            if number == 2:
                break
    assert torch.equal(read(), a_of())
    assert number == 2
    assert torch.equal(hidden, a_of(X * 2))


def test_a_generator_and_a_coroutine_may_stand_still_in_a_block():
    model = Model(tiny.net())

    def reads():
        with model.trace(X):
            hidden = model.a.output.save()
            yield "inside"
            doubled = (hidden * 2).save()
        yield doubled

    async def read():
        with model.trace(X):
            await asyncio.sleep(0)
            hidden = model.a.output.save()
        return hidden

    inside, doubled = reads()
    assert inside == "inside"
    assert torch.equal(doubled, a_of() * 2)
    assert torch.equal(asyncio.run(read()), a_of())


def test_a_block_may_begin_with_try_and_catch_an_error_of_its_own():
    model = Model(tiny.net())
    with model.trace(X):
        try:
            (model.a.output @ torch.ones(3, 3)).sum().item()
        except RuntimeError:
            kept = "another kind of error"
        except Exception as error:
            kept = str(error)
        hidden = model.a.output.save()
    assert "(model.a.output @ torch.ones(3, 3)).sum().item()" in kept
    assert torch.equal(hidden, a_of())


def test_a_comment_at_column_0_does_not_end_a_block(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "with model.trace(x):\n    hidden = model.a.output.save()\n# a comment\n    doubled = (hidden * 2).save()\n"
    )
    names = {"model": Model(tiny.net()), "x": X}
    exec(compile(program.read_text(), program, "exec"), names)
    assert torch.equal(names["hidden"], a_of())
    assert torch.equal(names["doubled"], a_of() * 2)


@pytest.mark.parametrize("context", [torch.no_grad(), torch.inference_mode()], ids=["no_grad", "inference_mode"])
def test_a_second_context_on_the_line_of_the_with_holds_in_the_body(context):
    model = Model(tiny.net())
    assert torch.is_grad_enabled()
    with model.trace(X), context:
        inside = torch.is_grad_enabled()
        mine = torch.ones(3, requires_grad=True) * 2
        hidden = model.a.output.save()
    assert not inside
    assert not mine.requires_grad
    assert not hidden.requires_grad
    assert torch.equal(hidden, a_of())
