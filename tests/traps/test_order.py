"""Sites are named in any order, and what cannot be ordered is an error that says which module comes too late."""

import pytest
import torch

from loupe import Model
from loupe.errors import NotReachedError, OrderError
from tests import tiny

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def plain():
    """What `a`, `b` and the three calls of `shared` give for X, by hand."""
    net = tiny.net()
    with torch.no_grad():
        a = net.a(X)
        first = net.shared(torch.relu(a))
        third = net.shared(net.shared(first))
        return {"a": a, "first": first, "third": third, "b": net.b(third)}


def test_modules_are_named_in_any_order():
    model = Model(tiny.net())
    with model.trace(X):
        late = model.b.output.save()
        early = model.a.output.save()
    assert torch.equal(late, plain()["b"])
    assert torch.equal(early, plain()["a"])


def test_a_module_that_has_passed_is_read_again():
    model = Model(tiny.net())
    with model.trace(X):
        seen = float(model.b.output.sum())  # the pass stands behind b
        early = model.a.output.save()
        again = float(model.a.output.sum())
    assert seen == pytest.approx(float(plain()["b"].sum()), rel=1e-5)
    assert torch.equal(early, plain()["a"])
    assert again == pytest.approx(float(plain()["a"].sum()), rel=1e-5)


def test_a_write_that_needs_a_later_module_is_an_error_that_names_it():
    model = Model(tiny.net())
    with pytest.raises(OrderError) as caught:
        with model.trace(X):
            model.a.output = model.b.output.sum() * model.a.output
            model.output["logits"].save()
    assert "needs b.output" in caught.value.fact
    assert "from a first trace" in caught.value.remedy
    assert "model.a.output = model.b.output.sum()" in str(caught.value)


def test_two_prompts_may_give_each_other_values_and_a_circle_is_an_error():
    model, net = Model(tiny.stack()), tiny.stack()
    one, two = torch.ones(1, 8), torch.full((1, 8), 0.5)
    results = []
    with model.trace() as tracer:
        with tracer.invoke(one):
            mine = model.layers[0].output.clone()
        with tracer.invoke(two):
            theirs = model.layers[0].output.clone()
            model.layers[0].output = mine
            results.append(model.output.save())
        with tracer.invoke(one):
            model.layers[0].output = theirs
            results.append(model.output.save())
    with torch.no_grad():
        assert torch.allclose(results[0], net(one), atol=1e-6)
        assert torch.allclose(results[1], net(two), atol=1e-6)

    with pytest.raises(OrderError, match=r"layers\.1"):
        with model.trace() as tracer:
            with tracer.invoke(one):
                late = model.layers[2].output
            with tracer.invoke(two):
                model.layers[1].output = late
                model.output.save()


def test_values_cross_between_prompts_without_a_barrier_and_with_any_number_of_them():
    model, net = Model(tiny.stack()), tiny.stack()
    one, two = torch.ones(1, 8), torch.full((1, 8), 0.5)
    results = []
    for count in (None, 1, 2, 7):
        with model.trace() as tracer:
            barrier = None if count is None else tracer.barrier(count)
            with tracer.invoke(one):
                taken = model.layers[1].output
                if barrier:
                    barrier()
            with tracer.invoke(two):
                model.layers[1].output = taken
                results.append(model.output.save())
    with torch.no_grad():
        want = net(one)  # from layer 1 on, the second prompt is the first
    assert len(results) == 4
    assert all(torch.allclose(found, want, atol=1e-6) for found in results)


def test_a_module_that_does_not_run_is_named_with_what_does():
    model = Model(tiny.net())
    with pytest.raises(NotReachedError) as caught:
        with model.trace(X):
            model.never.output.save()
    assert "never.output did not run" in caught.value.fact
    assert "shared" in caught.value.remedy
