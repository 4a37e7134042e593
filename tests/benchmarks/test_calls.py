"""Bound the work of recording, of a tap and of a look by the calls that Python makes, which no busy machine changes.

A bound is a fifth above what was counted with Python 3.11 when it was set; a change that passes it has made every block
slower. (Instructions say more, and `test_instructions.py` bounds them where valgrind can count them.)
"""

import gc
import sys

import pytest
import torch

from benchmarks.linear_stack import LinearStack

EMPTY = 220  # 183 were counted
OPERATION = 61  # 51
SAVED_SITE = 130  # 108: recording, planning, tap and saving
LOOK = 266  # 222, without those of the worker thread


@pytest.fixture(scope="module")
def suite():
    return LinearStack()


def calls(run):
    """How many functions, of Python's or of C's, are called in a run that has been done before."""
    run()
    run()
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    gc.collect()
    gc.disable()
    sys.setprofile(counted)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def each(run, few, many):
    """The calls for one more of what a run does `few` or `many` times."""
    return (calls(lambda: run(many)) - calls(lambda: run(few))) / (many - few)


def test_an_empty_block_makes_few_calls_beside_the_model(suite):
    with torch.no_grad():
        model = calls(lambda: suite.module(suite.x))
    assert calls(suite.loupe_empty) - model <= EMPTY


def test_a_recorded_operation_makes_few_calls(suite):
    def chain(length):
        with suite.model.trace(suite.x):
            value = suite.model[0].output
            for _ in range(length):
                value = value + 1
            value.save()

    assert each(chain, 10, 30) <= OPERATION


def test_a_saved_site_makes_few_calls(suite):
    def save(layers):
        with suite.model.trace(suite.x):
            for layer in range(layers):
                suite.model[layer].output.save()

    assert each(save, 2, 12) - each_layer(suite) <= SAVED_SITE


def each_layer(suite):
    """The calls of the model for one layer: a block that saves more runs further."""
    with torch.no_grad():
        return calls(lambda: suite.module(suite.x)) / len(suite.module)


def test_a_look_makes_few_calls_however_many_there_were_before(suite):
    def look(times):
        with suite.model.trace(suite.x):
            value = suite.model[0].output
            for _ in range(times):
                value = value + 1
                float(value[0, 0])

    first, later = each(look, 10, 20), each(look, 60, 70)
    assert first <= LOOK
    assert later <= first * 1.1
