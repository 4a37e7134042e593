"""A plain Model runs encoders, encoder-decoders and hybrids as the library's own modules, with tensors by name."""

import pytest
import torch

from loupe import Model
from tests import tiny
from tests.models import kinds
from tests.models.kinds import changed, close, states

CASES = {
    "bert": ("BertForMaskedLM", "bert.encoder.layer.0"),
    "t5": ("T5ForConditionalGeneration", "decoder.block.0"),
    "bart": ("BartForConditionalGeneration", "model.encoder.layers.0"),
    "jamba": ("JambaForCausalLM", "model.layers.1"),
}
ONE, TWO = torch.tensor([[5, 9, 12]]), torch.tensor([[7, 8, 6], [40, 50, 60]])


def arguments(family, ids):
    return {"input_ids": ids} | ({"decoder_input_ids": ids.flip(1)} if family in ("t5", "bart") else {})


@pytest.mark.parametrize("family", CASES)
def test_a_model_gives_what_the_library_returns(family):
    class_name, path = CASES[family]
    module = kinds.model(class_name, family)
    model = Model(module)
    seen, want = tiny.outputs_of(module, [path], **arguments(family, TWO))
    with model.trace(**arguments(family, TWO)):
        block, whole = model.get(path).output.save(), model.output.save()
    assert type(whole.value) is type(want)
    assert type(block.value) is type(seen[path])
    close(states(block.value), states(seen[path]))
    close(whole.logits, want.logits)


@pytest.mark.parametrize("family", CASES)
def test_invokes_of_a_model_see_and_change_their_own_rows(family):
    class_name, path = CASES[family]
    module = kinds.model(class_name, family)
    model = Model(module)
    with model.trace() as tracer:
        with tracer.invoke(**arguments(family, ONE)):
            first = model.output.logits.save()
        with tracer.invoke(**arguments(family, TWO)):
            states(model.get(path).output)[:, 1:] *= -2
            second = model.output.logits.save()

    def change(hidden):
        hidden[:, 1:] *= -2
        return hidden

    with torch.no_grad():
        close(first, module(**arguments(family, ONE)).logits)
    with tiny.hooked(module, {path: changed(change)}):
        close(second, module(**arguments(family, TWO)).logits)
