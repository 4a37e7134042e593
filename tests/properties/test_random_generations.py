"""A random program over the steps of a generation equals the same program run by hand with hooks that count steps."""

import warnings
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties.places import envoy_of, inputs_of, module_of, places_of

FAMILIES = ["gpt2", "llama"]
STEPS = 4
OPTIONS = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
NUMBERS = st.sampled_from([-1.5, -0.5, 0.0, 0.5, 2.0])
VERBS = ["read", "add", "set", "replace", "join", "push", "carry", "recall", "peek"]


@dataclass(frozen=True)
class Line:
    """What a line does, to which of the places, with which number and which second place."""

    verb: str
    place: int
    number: float
    other: int


@dataclass(frozen=True)
class Section:
    """Lines about some steps: under `tracer.all()`, under `tracer.iter[...]`, or in a loop over these steps."""

    form: str
    bounds: tuple[int, int | None, int]
    lines: list[Line]

    @property
    def steps(self):
        return range(STEPS) if self.form == "all" else range(STEPS)[self.slice]

    @property
    def slice(self):
        """What is written in the brackets; a loop ends with the generation, where a `with` may go beyond."""
        start, stop, stride = self.bounds
        return slice(start, min(stop, STEPS) if self.form == "loop" and stop is not None else stop, stride)


lines = st.builds(Line, verb=st.sampled_from(VERBS), place=st.integers(0, 3), number=NUMBERS, other=st.integers(0, 3))
bounds = st.one_of(
    st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(0, 5)), st.integers(1, 2)),
    st.integers(0, 3).map(lambda step: (step, step + 1, 1)),
)
sections = st.builds(
    Section, form=st.sampled_from(["all", "with", "loop"]), bounds=bounds, lines=st.lists(lines, min_size=1, max_size=3)
)
programs = st.lists(sections, min_size=1, max_size=3)


Place = tuple[int, int]  # the number of a section, and of a line in it


@dataclass
class Found:
    """What a program gave: the token ids, the values that its lines kept, in order of steps, and those looked at."""

    ids: torch.Tensor | None = None
    kept: dict[Place, list[torch.Tensor]] = field(default_factory=dict)
    peeked: list[tuple[tuple[int, int, int], int, float]] = field(default_factory=list)

    def keep(self, at, value):
        self.kept.setdefault(at, []).append(value)


def is_active(section, line):
    """Whether a line means something in its section: what the first step gives is there from the second on."""
    if line.verb == "recall":
        return section.form == "loop" or 0 not in section.steps
    return section.form == "loop" if line.verb in ("carry", "peek") else True


class ByHand:
    """The oracle: at each place and step, do the lines about it in the order of the program, up to `limit`."""

    def __init__(self, program, limit=None):
        self.program, self.limit, self.found = program, limit, Found()
        self.copies, self.means, self.step_of = {}, {}, [0, 0, 0, 0]

    def run(self, family, inputs):
        module = module_of(family)
        handles = [
            module.get_submodule(name).register_forward_hook(lambda _m, _a, value, place=place: self.at(place, value))
            for place, name in enumerate(places_of(family))
        ]
        try:
            self.found.ids = module.generate(inputs, **OPTIONS)
        finally:
            for handle in handles:
                handle.remove()
        for at, section, line in self.lines():
            for step in section.steps if line.verb == "join" and self.limit is None else ():
                one, two = self.copies[at, line.place, step], self.copies[at, line.other, step]
                self.found.keep(at, one[:, -1] * two[:, -1])
        return self.found

    def lines(self):
        for number, section in enumerate(self.program):
            for row, line in enumerate(section.lines):
                if is_active(section, line):
                    yield (number, row), section, line

    def at(self, place, value):
        step, self.step_of[place] = self.step_of[place], self.step_of[place] + 1
        if step == 0:
            self.means[place] = value.mean()
        for at, section, line in self.lines():
            if step not in section.steps:
                continue
            turn = section.steps.index(step) if section.form == "loop" else 0
            if self.limit is None or (at[0], turn, at[1]) <= self.limit:
                value = self.do(at, section, line, place, step, value)
        return value

    def do(self, at, section, line, place, step, value):
        number = line.number
        if place in (line.place, line.other):
            self.copies[at, place, step] = value.clone()
        if line.verb == "push" and place == line.other > line.place:
            return value + self.copies[at, line.place, step].mean() * number
        if line.verb == "carry" and place == line.other and step != section.steps[0]:
            value[:, -1] += self.copies[at, line.place, step - section.steps.step].mean() * number
        if place != line.place:
            return value
        if line.verb in ("read", "peek"):
            self.found.keep(at, value[:, -1] * number + 1)
        elif line.verb == "add":
            value[..., -1] += number
        elif line.verb == "set":
            value[:, -1, :4] = number
        elif line.verb == "replace":
            return value * number
        elif line.verb == "recall" and step > 0:
            value[:, -1] += self.means[line.other] * number
        return value


class Recorded:
    """The same program as lines of a block."""

    def __init__(self, program, tracer, envoys):
        self.envoys, self.found, self.carried = envoys, Found(), {}
        with tracer.iter[0]:
            self.means = [envoy.output.mean() for envoy in envoys]
        for number, section in enumerate(program):
            rows = [(row, line) for row, line in enumerate(section.lines) if is_active(section, line)]
            if section.form == "loop":
                for turn, step in enumerate(tracer.iter[section.slice]):
                    for row, line in rows:
                        self.do((number, row), line, step, turn)
                continue
            for row, line in rows:
                if line.verb in ("read", "join"):
                    self.found.kept[number, row] = list().save()
            with tracer.all() if section.form == "all" else tracer.iter[section.slice]:
                for row, line in rows:
                    self.do((number, row), line, None, 0)
        self.found.ids = tracer.result.save()

    def do(self, at, line, step, turn):
        module, other, number = self.envoys[line.place], self.envoys[line.other], line.number
        if line.verb == "read":
            self.found.keep(at, (module.output[:, -1] * number + 1).save())
        elif line.verb == "peek":
            value = module.output[:, -1] * number + 1
            self.found.peeked.append(((at[0], turn, at[1]), step, float(value.sum())))
            self.found.keep(at, value.save())
        elif line.verb == "join":
            self.found.keep(at, (module.output[:, -1] * other.output[:, -1]).save())
        elif line.verb == "add":
            module.output[..., -1] += number
        elif line.verb == "set":
            module.output[:, -1, :4] = number
        elif line.verb == "replace":
            module.output = module.output * number
        elif line.verb == "push" and line.other > line.place:
            other.output = other.output + module.output.mean() * number
        elif line.verb == "recall" and step != 0:
            module.output[:, -1] += self.means[line.other] * number
        elif line.verb == "carry":
            mean = module.output.mean()
            if at in self.carried:
                other.output[:, -1] += self.carried[at] * number
            self.carried[at] = mean


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs)
def test_a_random_program_over_steps_equals_hooks_that_count_them(family, program):
    inputs = inputs_of(family)
    want = ByHand(program).run(family, inputs)
    model = envoy_of(family)
    with warnings.catch_warnings(), model.generate(inputs, **OPTIONS) as tracer:
        found = Recorded(program, tracer, [model.get(name) for name in places_of(family)]).found
    assert torch.equal(found.ids, want.ids)
    for at, values in found.kept.items():
        assert len(values) == len(want.kept.get(at, []))
        for value, expected in zip(values, want.kept.get(at, []), strict=True):
            torch.testing.assert_close(torch.as_tensor(value), expected, atol=1e-4, rtol=1e-4)
    for limit, step, total in found.peeked:
        place = (limit[0], limit[2])
        turn = limit[1]
        until_then = ByHand(program, limit).run(family, inputs).kept[place][turn]
        assert total == pytest.approx(float(until_then.sum()), abs=1e-2, rel=1e-3), (place, step)
