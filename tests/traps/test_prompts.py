"""Each prompt of a batch sees its own rows and arguments, and gives what it gives alone."""

import pytest
import torch

from loupe import LanguageModel, Model
from loupe.errors import InputError, RowsError
from tests import tiny


def test_a_table_as_long_as_the_batch_is_not_cut_into_rows():
    model, net = Model(tiny.stack()), tiny.stack()
    assert net.table.num_embeddings == 2
    with model.trace() as tracer:
        with tracer.invoke(torch.ones(1, 8)):
            table = model.table.output.save()
            row = model.layers[0].output.save()
        with tracer.invoke(torch.zeros(1, 8)):
            model.output.save()
    assert torch.equal(table, net.table.weight)
    assert row.shape == (1, 8)

    with pytest.raises(RowsError, match="shared by all prompts"):
        with model.trace() as tracer:
            with tracer.invoke(torch.ones(1, 8)):
                model.table.output = model.table.output * 2
            with tracer.invoke(torch.zeros(1, 8)):
                model.output.save()


def test_arguments_of_prompts_that_differ_are_refused():
    model, x = Model(tiny.net()), torch.ones(2, 4)
    with pytest.raises(InputError) as caught:
        with model.trace() as tracer:
            with tracer.invoke(x, scale=2.0):
                model.b.output.save()
            with tracer.invoke(x, scale=3.0):
                model.b.output.save()
    assert "give the same value in each invoke" in caught.value.remedy
    assert "tracer.invoke(x, scale=3.0)" in str(caught.value)


def test_a_prompt_of_several_has_its_own_beams():
    hf = tiny.hf_model("gpt2")
    model = LanguageModel(hf)
    options = {"max_new_tokens": 2, "num_beams": 2, "eos_token_id": None}
    with model.generate(**options) as tracer:
        with tracer.invoke([[1, 2, 3]]):
            first = model.transformer.h[1].output[0].save()
        with tracer.invoke([[7, 8, 9]]):
            second = model.transformer.h[1].output[0].save()
    for ids, found in (([[1, 2, 3]], first), ([[7, 8, 9]], second)):
        seen, _ = tiny.outputs_of(hf, ["transformer.h.1"], torch.tensor(ids))
        want = seen["transformer.h.1"]
        want = want[0] if isinstance(want, tuple) else want
        assert torch.allclose(found, want.expand(2, -1, -1), atol=1e-5)


@pytest.mark.parametrize("given", ["invokes", "list", "padded ids"])
def test_a_prompt_shorter_than_the_longest_gives_what_it_gives_alone(given):
    hf = tiny.hf_model("gpt2")
    model = LanguageModel(hf)
    short, long = [3, 4], [5, 6, 7, 8, 9]
    if given == "invokes":
        with model.trace() as tracer:
            with tracer.invoke(short):
                found = model.output[:, -1].save()
            with tracer.invoke(long):
                model.output.save()
    elif given == "list":
        with model.trace([short, long]):
            found = model.output[:1, -1].save()
    else:
        ids, mask = torch.tensor([[0, 0, 0, *short], long]), torch.tensor([[0, 0, 0, 1, 1], [1] * 5])
        with model.trace(ids, attention_mask=mask):
            found = model.output[:1, -1].save()
    with torch.no_grad():
        want = hf(torch.tensor([short])).logits[:, -1]
    assert torch.allclose(found, want, atol=1e-5)
