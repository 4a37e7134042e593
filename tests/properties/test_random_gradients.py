"""A random program with backward passes equals the same program written with hooks and plain autograd."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties.places import FAMILIES, envoy_of, inputs_of, module_of, places_of

NUMBERS = st.sampled_from([-1.5, -0.5, 0.0, 0.5, 2.0])
FORWARD = ["add", "set", "replace", "push", "take", "note"]
BACKWARD = ["read", "scale", "zero", "assign", "push", "peek"]


@dataclass(frozen=True)
class Line:
    """A line: what it does, to which place (or to which value that was taken), with which number and second place."""

    verb: str
    place: int
    number: float
    other: int


@dataclass(frozen=True)
class Program:
    """Lines of a forward pass, then backward passes: terms of a loss, as places and numbers, and lines on gradients."""

    forward: list[Line]
    passes: list[tuple[list[tuple[int, float]], list[Line]]]


def lines(verbs, smallest, largest):
    one = st.builds(Line, verb=st.sampled_from(verbs), place=st.integers(0, 3), number=NUMBERS, other=st.integers(0, 3))
    return st.lists(one, min_size=smallest, max_size=largest)


terms = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-1.0, 0.5, 2.0])), min_size=1, max_size=3)
programs = st.builds(
    Program,
    forward=lines(FORWARD, 0, 6),
    passes=st.lists(st.tuples(terms, lines(BACKWARD, 1, 5)), min_size=1, max_size=2),
)


@dataclass
class Found:
    """What a program gave, by pass and line: gradients read and looked at; what each pass came by; the logits."""

    read: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    peeked: dict[tuple[int, int], float] = field(default_factory=dict)
    reached: list[set[int]] = field(default_factory=list)
    logits: torch.Tensor | None = None


def number_of(verb, program):
    return [number for number, line in enumerate(program.forward) if line.verb == verb]


def taken_by(program, line):
    """Which value a line on gradients is about: one of those that were taken, or the last value of a place."""
    takes = number_of("take", program)
    return takes[line.place % len(takes)] if takes and line.number != 0.5 else -1 - line.place


class ByHand:
    """The oracle: plain hooks do the lines about their place in order, hooks on tensors those about gradients."""

    def __init__(self, family, program, limit=None):
        self.family, self.program, self.limit, self.found = family, program, limit, Found()
        self.values, self.place_of, self.means = {}, {}, {}

    def run(self, inputs):
        module, family = module_of(self.family), self.family
        handles = [
            module.get_submodule(name).register_forward_hook(lambda _m, _a, value, place=place: self.at(place, value))
            for place, name in enumerate(places_of(family))
        ]
        try:
            output = module(inputs)
        finally:
            for handle in handles:
                handle.remove()
        logits = output if family == "stack" else output.logits
        self.found.logits = logits.detach()
        for number, (terms, rows) in enumerate(self.program.passes):
            self.backward(number, self.loss(terms, logits), rows)
        module.zero_grad(set_to_none=True)
        return self.found

    def at(self, place, value):
        for number, line in enumerate(self.program.forward):
            if line.verb == "push" and place == line.other > line.place:
                value = value + self.means[number] * line.number
            if place != line.place:
                continue
            if line.verb == "add":
                value[..., -1] += line.number
            elif line.verb == "set":
                value[:, -1] = line.number
            elif line.verb == "replace":
                value = value * line.number
            elif line.verb in ("push", "note"):
                self.means[number] = value.mean()
            elif line.verb == "take":
                self.values[number], self.place_of[number] = value, place
        self.values[-1 - place], self.place_of[-1 - place] = value, place
        return value

    def loss(self, terms, logits):
        loss = sum(
            self.means[number] * self.program.forward[number].number for number in number_of("note", self.program)
        )
        for place, factor in terms:
            value = logits if place == 4 else self.values[-1 - place]
            loss = loss + value.pow(2).mean() * factor
        return loss

    def backward(self, number, loss, rows):
        by_tensor, kept, self.reached = {}, {}, set()
        for key, value in self.values.items():
            by_tensor.setdefault(id(value), (value, []))[1].append(key)

        def hook_for(keys):
            def hook(gradient):
                self.found.reached[number].update(keys)
                for row, line in enumerate(rows):
                    if self.limit is not None and (number, row) > self.limit:
                        continue
                    gradient = self.do((number, row), line, keys, kept, gradient)
                return gradient

            return hook

        self.found.reached.append(set())
        handles = [v.register_hook(hook_for(keys)) for v, keys in by_tensor.values() if v.requires_grad]
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        for handle in handles:
            handle.remove()

    def do(self, at, line, keys, kept, gradient):
        mine, theirs = taken_by(self.program, line), -1 - line.other
        if line.verb == "push" and theirs in keys:
            kept[at] = gradient.mean()
        if mine not in keys:
            return gradient
        if line.verb in ("read", "peek"):
            self.found.read[at] = gradient.clone()
        elif line.verb == "scale":
            gradient = gradient * line.number
        elif line.verb == "zero":
            gradient = gradient.clone()
            gradient[:, -1] = 0
        elif line.verb == "assign":
            gradient = torch.full_like(gradient, line.number)
        elif line.verb == "push" and at in kept and line.other > self.place_of[mine]:
            gradient = gradient + kept[at] * line.number
        return gradient


class Recorded:
    """The same program as lines of a block; gradients that no pass comes by, as the oracle says, are left out."""

    def __init__(self, family, program, envoys, model, want):
        self.program, self.envoys, self.model, self.want, self.found = program, envoys, model, want, Found()
        self.values, self.place_of, means = {}, {}, {}
        for number, line in enumerate(program.forward):
            module, other = envoys[line.place], envoys[line.other]
            if line.verb == "add":
                module.output[..., -1] += line.number
            elif line.verb == "set":
                module.output[:, -1] = line.number
            elif line.verb == "replace":
                module.output = module.output * line.number
            elif line.verb == "push" and line.other > line.place:
                other.output = other.output + module.output.mean() * line.number
            elif line.verb == "note":
                means[number] = module.output.mean()
            elif line.verb == "take":
                self.values[number], self.place_of[number] = module.output, line.place
        for place, envoy in enumerate(envoys):
            self.values[-1 - place], self.place_of[-1 - place] = envoy.output, place
        self.notes = [means[number] * program.forward[number].number for number in means]
        self.logits = model.output
        self.found.logits = self.logits.save()

    def loss(self, number):
        loss = sum(self.notes)
        for place, factor in self.program.passes[number][0]:
            value = self.logits if place == 4 else self.values[-1 - place]
            loss = loss + value.pow(2).mean() * factor
        return loss

    def rows(self, number):
        reached = self.want.reached[number]
        for row, line in enumerate(self.program.passes[number][1]):
            mine, theirs = taken_by(self.program, line), -1 - line.other
            if mine not in reached:
                continue
            if line.verb == "push" and (theirs not in reached or line.other <= self.place_of[mine]):
                continue
            yield (number, row), line, self.values[mine], self.values[theirs]

    def backward(self, number):
        rows = list(self.rows(number))
        if not rows:
            return
        with self.loss(number).backward(retain_graph=True):
            self.read(rows)

    def read(self, rows):
        for at, line, mine, theirs in rows:
            if line.verb == "read":
                self.found.read[at] = mine.grad.clone().save()
            elif line.verb == "peek":
                self.found.peeked[at] = float(mine.grad.sum())
            elif line.verb == "scale":
                mine.grad = mine.grad * line.number
            elif line.verb == "zero":
                mine.grad[:, -1] = 0
            elif line.verb == "assign":
                mine.grad = line.number
            elif line.verb == "push":
                mine.grad = mine.grad + theirs.grad.mean() * line.number


def check(family, program, inputs, found, want):
    for at, value in found.read.items():
        torch.testing.assert_close(value.value, want.read[at], atol=1e-5, rtol=1e-3)
    for at, total in found.peeked.items():
        until_then = ByHand(family, program, limit=at).run(inputs).read[at]
        assert total == pytest.approx(float(until_then.sum()), abs=1e-3, rel=1e-3)
    torch.testing.assert_close(torch.as_tensor(found.logits.value), want.logits, atol=1e-4, rtol=1e-4)


@contextmanager
def weights(family, frozen):
    """The model's weights require no gradient for a while, where asked so; none has one afterwards."""
    module = module_of(family).requires_grad_(not frozen)
    try:
        yield
        assert all(parameter.grad is None for parameter in module.parameters())
    finally:
        module.requires_grad_(True)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs, frozen=st.booleans())
def test_a_random_program_with_backward_passes_equals_autograd(family, program, frozen):
    inputs = inputs_of(family)
    want = ByHand(family, program).run(inputs)
    model = envoy_of(family)
    envoys = [model.get(name) for name in places_of(family)]
    with warnings.catch_warnings(), weights(family, frozen), model.trace(inputs):
        recorded = Recorded(family, program, envoys, model, want)
        for number in range(len(program.passes)):
            recorded.backward(number)
    check(family, program, inputs, recorded.found, want)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(programs, min_size=2, max_size=3), frozen=st.booleans(), together=st.booleans())
def test_backward_passes_of_several_invokes_equal_each_alone(family, batch, frozen, together):
    inputs = [inputs_of(family, seed, rows=1 + seed % 2) for seed in range(len(batch))]
    wants = [ByHand(family, program).run(each) for program, each in zip(batch, inputs, strict=True)]
    model = envoy_of(family)
    envoys, recorded = [model.get(name) for name in places_of(family)], []
    with warnings.catch_warnings(), weights(family, frozen), model.trace() as tracer:
        for program, each, want in zip(batch, inputs, wants, strict=True):
            with tracer.invoke(each):
                recorded.append(Recorded(family, program, envoys, model, want))
                if not together:
                    for number in range(len(program.passes)):
                        recorded[-1].backward(number)
        if together and any(list(each.rows(0)) for each in recorded):
            with sum(each.loss(0) for each in recorded).backward():
                for each in recorded:
                    each.read(list(each.rows(0)))
    for program, each, want, found in zip(batch, inputs, wants, recorded, strict=True):
        check(family, program, each, found.found, want)
