"""Several prompts of one pass each give what they give alone, and values flow from one to another."""

import copy

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import BlockError, InputError, LoupeError, OrderError
from tests import tiny

FAMILIES = list(tiny.CONFIGS)
PROMPTS = ["w5 w9 w12 w3", "w7", "w1 w2 w3 w4 w5 w6 w7 w8 w9", "w40 w50"]


@pytest.fixture(scope="module")
def lm():
    return LanguageModel(tiny.hf_model("gpt2"), tokenizer=tiny.tokenizer())


def ids_of(text):
    return torch.tensor([[int(word[1:]) for word in text.split()]])


def alone(family, text, **kwargs):
    """The logits of a prompt by a plain call, `[seq, vocab]`."""
    with torch.no_grad():
        return tiny.hf_model(family)(ids_of(text), **kwargs).logits[0]


def close(one, other):
    torch.testing.assert_close(
        torch.as_tensor(one.value if hasattr(one, "value") else one), other, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "prompts", [PROMPTS, PROMPTS[::-1], PROMPTS[1:3], [PROMPTS[1]] * 3], ids=["all", "reversed", "two", "same"]
)
def test_each_prompt_gives_what_it_gives_alone(family, prompts):
    model = LanguageModel(tiny.hf_model(family), tokenizer=tiny.tokenizer())
    block = f"{tiny.BLOCKS[family]}.1"
    logits, hidden = [], []
    with model.trace() as tracer:
        for text in prompts:
            with tracer.invoke(text):
                hidden.append(model.get(block).output[0].save())
                logits.append(model.output.save())
    longest = max(len(text.split()) for text in prompts)
    for text, found, state in zip(prompts, logits, hidden, strict=True):
        length = len(text.split())
        assert found.shape == (1, longest, 64)
        close(found[0, -length:], alone(family, text))
        seen, _ = tiny.outputs_of(tiny.hf_model(family), [block], ids_of(text))
        close(state[0, -length:], seen[block][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_in_one_invoke_changes_that_prompt_alone(family):
    module = tiny.hf_model(family)
    model = LanguageModel(module, tokenizer=tiny.tokenizer())
    block = f"{tiny.BLOCKS[family]}.1"
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            first = model.output.save()
        with tracer.invoke(PROMPTS[2]):
            model.get(block).output[0][:, -1] = 0.25
            second = model.output.save()
        with tracer.invoke(PROMPTS[1]):
            model.get(block).output = model.get(block).output * 2
            third = model.output.save()

    def fill(output):
        output[:, -1] = 0.25

    close(first[0, -4:], alone(family, PROMPTS[0]))
    with tiny.hooked(module, {block: fill}):
        close(second[0], module(ids_of(PROMPTS[2])).logits[0])
    with tiny.hooked(module, {block: lambda output: output * 2}):
        close(third[0, -1:], module(ids_of(PROMPTS[1])).logits[0])


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPTS[0],
        [PROMPTS[0], PROMPTS[1]],
        [5, 9, 12, 3],
        [[5, 9, 12, 3], [7]],
        (5, 9, 12, 3),
        torch.tensor([5, 9, 12, 3]),
        torch.tensor([[5, 9, 12, 3], [1, 2, 3, 4]]),
        torch.tensor([5, 9, 12, 3]).numpy(),
        [torch.tensor([5, 9, 12, 3]), torch.tensor([7])],
        {"input_ids": torch.tensor([[5, 9, 12, 3]])},
        {"input_ids": [[5, 9, 12, 3]], "attention_mask": [[1, 1, 1, 1]]},
        {"input_ids": torch.tensor([[0, 0, 5, 9, 12, 3]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]])},
    ],
    ids="string strings ids lists tuple tensor tensor2 numpy tensors dict dict_of_lists masked".split(),
)
def test_every_kind_of_prompt_means_the_same_alone_and_in_an_invoke(lm, prompt):
    with lm.trace(prompt):
        single = lm.output.save()
    with lm.trace() as tracer:
        with tracer.invoke("w33 w34 w35 w36 w37 w38 w39"):
            lm.output.save()
        with tracer.invoke(prompt):
            joined = lm.output.save()
    want = alone("gpt2", PROMPTS[0])
    assert joined.shape[1] == 7
    assert single.shape[0] == joined.shape[0]
    close(single[0, -4:], want)
    close(joined[0, -4:], want)
    if single.shape[0] == 2 and not isinstance(prompt, torch.Tensor):
        close(single[1, -1:], alone("gpt2", PROMPTS[1]))
        close(joined[1, -1:], alone("gpt2", PROMPTS[1]))


def test_a_tokenizers_batch_is_a_prompt(lm):
    batch = lm.tokenizer([PROMPTS[0], "w1 w2 w3 w4"], return_tensors="pt")
    with lm.trace(batch):
        by_position = lm.output.save()
    with lm.trace(**batch):
        by_keyword = lm.output.save()
    close(by_position[0], alone("gpt2", PROMPTS[0]))
    close(by_keyword[1], alone("gpt2", "w1 w2 w3 w4"))


def test_a_right_padded_batch_with_its_mask_gives_what_it_gives_in_a_plain_call(lm):
    ids, mask = torch.tensor([[5, 9, 12, 3], [7, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    with lm.trace({"input_ids": ids, "attention_mask": mask}):
        logits = lm.output.save()
    close(logits[0], alone("gpt2", PROMPTS[0]))
    close(logits[1, :1], alone("gpt2", PROMPTS[1]))


def test_values_flow_between_invokes_with_and_without_a_barrier(lm):
    module = tiny.hf_model("gpt2")
    seen, _ = tiny.outputs_of(module, ["transformer.h.1"], ids_of("w9 w8 w7"))
    with tiny.hooked(module, {"transformer.h.1": lambda _: seen["transformer.h.1"]}):
        want = module(ids_of("w1 w2 w3")).logits
    for barriers in (False, True):
        with lm.trace() as tracer:
            barrier = tracer.barrier(2)
            with tracer.invoke("w9 w8 w7"):
                cat = lm.transformer.h[1].output[0]
                if barriers:
                    barrier()
            with tracer.invoke("w1 w2 w3"):
                if barriers:
                    barrier()
                lm.transformer.h[1].output[0][:] = cat
                logits = lm.output.save()
        close(logits, want)


def test_a_value_of_a_later_invoke_can_be_used_through_a_variable_of_an_earlier_layer(lm):
    module = tiny.hf_model("gpt2")
    seen, _ = tiny.outputs_of(module, ["transformer.h.0"], ids_of("w1 w2"))
    with lm.trace() as tracer:
        with tracer.invoke("w9 w8"):
            swap = lm.transformer.h[0].output.clone()
        with tracer.invoke("w1 w2"):
            mine = lm.transformer.h[0].output.clone()
            lm.transformer.h[1].input = swap
            second = lm.output.save()
        with tracer.invoke("w4 w4"):
            lm.transformer.h[1].input = mine
            third = lm.output.save()
    swapped, _ = tiny.outputs_of(module, ["transformer.h.0"], ids_of("w9 w8"))
    for found, state in ((second, swapped), (third, seen)):
        with tiny.hooked(module, {"transformer.h.0": lambda _, state=state: state["transformer.h.0"]}):
            close(found, module(ids_of("w7 w7")).logits)


def test_a_later_layers_value_cannot_go_back_in_another_invoke(lm):
    with pytest.raises(OrderError, match=r"transformer\.h\.0\.output"):
        with lm.trace() as tracer:
            with tracer.invoke("w9 w8"):
                late = lm.transformer.h[2].output
            with tracer.invoke("w1 w2"):
                lm.transformer.h[0].output[:] = late
                lm.output.save()


def test_an_invoke_without_input_sees_the_whole_batch(lm):
    with lm.trace() as tracer:
        with tracer.invoke([PROMPTS[0], PROMPTS[3]]):
            two = lm.output.save()
        with tracer.invoke(PROMPTS[1]):
            one = lm.output.save()
        with tracer.invoke():
            whole = lm.output.save()
            ids = lm.transformer.wte.input.save()
        outside = lm.transformer.h[0].output.save()
    assert (two.shape[0], one.shape[0], whole.shape[0], outside.shape[0]) == (2, 1, 3, 3)
    assert ids.tolist() == [[5, 9, 12, 3], [0, 0, 40, 50], [0, 0, 0, 7]]
    close(whole[:2], two.value)
    close(whole[2:], one.value)


def test_a_whole_batch_edit_reaches_every_prompt(lm):
    module = tiny.hf_model("gpt2")
    with lm.trace() as tracer:
        with tracer.invoke("w9 w8"):
            first = lm.output.save()
        with tracer.invoke("w1 w2"):
            second = lm.output.save()
        with tracer.invoke():
            lm.transformer.h[1].output[:] *= 0.5
    with tiny.hooked(module, {"transformer.h.1": lambda output: output * 0.5}):
        close(first, module(ids_of("w9 w8")).logits)
        close(second, module(ids_of("w1 w2")).logits)


def test_peeks_in_invokes_see_the_rows_of_theirs(lm):
    found = []
    with lm.trace() as tracer:
        for text in PROMPTS[:2]:
            with tracer.invoke(text):
                found.append(int(lm.output[0, -1].argmax()))
    assert found == [int(alone("gpt2", text)[-1].argmax()) for text in PROMPTS[:2]]


def test_one_invoke_is_like_a_trace(lm):
    with lm.trace() as tracer, tracer.invoke(PROMPTS[0]):
        logits = lm.output.save()
    close(logits[0], alone("gpt2", PROMPTS[0]))


def test_a_nested_invoke_is_refused_and_the_model_left_clean(lm):
    with pytest.raises(BlockError, match="inside another"):
        with lm.trace() as tracer:
            with tracer.invoke("w1"):
                with tracer.invoke("w2"):
                    pass


def test_an_invoke_in_a_trace_that_has_an_input_is_refused(lm):
    with pytest.raises(BlockError, match="has an input already"):
        with lm.trace("w1") as tracer:
            with tracer.invoke("w2"):
                pass
    with lm.trace("w5 w9 w12 w3") as tracer:
        with tracer.invoke():
            logits = lm.output.save()
    close(logits[0], alone("gpt2", PROMPTS[0]))


def test_an_invoke_outside_its_block_is_refused(lm):
    with lm.trace("w1") as tracer:
        lm.output.save()
    with pytest.raises(BlockError, match="outside its block"):
        with tracer.invoke():
            pass


def test_a_trace_with_no_input_at_all_says_so(lm):
    with pytest.raises(InputError, match="no input"):
        with lm.trace():
            lm.output.save()


def test_a_bad_prompt_of_an_invoke_is_refused_on_its_line(lm):
    with pytest.raises(InputError) as caught:
        with lm.trace() as tracer:
            with tracer.invoke("w1"):
                lm.output.save()
            with tracer.invoke(""):
                lm.output.save()
    assert caught.value.line.text == 'with tracer.invoke(""):'


def test_keyword_arguments_of_invokes_are_joined_by_rows_or_must_be_equal(lm):
    with lm.trace() as tracer:
        with tracer.invoke(PROMPTS[0], labels=ids_of(PROMPTS[0]), use_cache=False):
            first = lm.output.save()
        with tracer.invoke(PROMPTS[1], labels=ids_of(PROMPTS[1]), use_cache=False):
            lm.output.save()
        with tracer.invoke():
            loss, cache = lm.output.loss.save(), lm.output.past_key_values
            assert cache is None or cache.save() is not None
    rows = alone("gpt2", PROMPTS[0])
    close(first[0], rows)
    want = torch.nn.functional.cross_entropy(rows[:-1], ids_of(PROMPTS[0])[0, 1:])
    close(loss, want)
    with pytest.raises(InputError, match="use_cache"):
        with lm.trace() as tracer:
            with tracer.invoke(PROMPTS[0], use_cache=False):
                lm.output.save()
            with tracer.invoke(PROMPTS[1], use_cache=True):
                lm.output.save()
    with pytest.raises(InputError, match="labels"):
        with lm.trace() as tracer:
            with tracer.invoke(PROMPTS[0], labels=ids_of(PROMPTS[0])):
                lm.output.save()
            with tracer.invoke(PROMPTS[1]):
                lm.output.save()


# -- any module --------------------------------------------------------------------------------------------------------


def test_invokes_of_a_model_are_joined_along_dimension_0():
    module, model = tiny.net(), Model(tiny.net())
    inputs = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (1, 3, 2)]
    with model.trace() as tracer:
        found = []
        for each in inputs:
            with tracer.invoke(each, scale=2.0):
                found.append((model.shared.calls[1].output.save(), model.output["logits"].save()))
        whole = model.a.input.save()
    assert torch.equal(whole.value, torch.cat(inputs))
    for each, (middle, logits) in zip(inputs, found, strict=True):
        seen, result = tiny.outputs_of(module, ["shared"], each, scale=2.0)
        close(middle, seen["shared"][1])
        close(logits, result["logits"])


def test_arguments_of_a_model_that_cannot_be_joined_are_refused():
    model = Model(tiny.net())
    bad = [((torch.ones(1, 4),), {"scale": 2.0}), ((torch.ones(1, 4),), {"scale": 3.0})]
    other = [((torch.ones(1, 4),), {}), ((torch.ones(1, 4), 2.0), {})]
    shapes = [((torch.ones(1, 4),), {}), ((torch.ones(1, 5),), {})]
    for calls in (bad, other, shapes):
        with pytest.raises(InputError) as caught:
            with model.trace() as tracer:
                for args, kwargs in calls:
                    with tracer.invoke(*args, **kwargs):
                        model.output.save()
        assert caught.value.line is not None
        assert "collate=" in caught.value.remedy


class Ragged(nn.Module):
    """Sums lists of vectors of several lengths: nothing that joins along dimension 0 by itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, lists, gain=1.0):
        return self.inner(torch.stack([torch.stack(vectors).sum(0) for vectors in lists])) * gain


def collate(inputs):
    lists = [one for args, _ in inputs for one in args[0]]
    return (lists,), inputs[0][1], [len(args[0]) for args, _ in inputs]


def test_a_collate_joins_what_is_no_tensor():
    torch.manual_seed(0)
    module = Ragged()
    model = Model(module, collate=collate)
    one, two = [[torch.ones(3)] * 2], [[torch.zeros(3)], [torch.ones(3)] * 5]
    with model.trace() as tracer:
        with tracer.invoke(one):
            first = model.output.save()
        with tracer.invoke(two):
            model.inner.output[:, 0] = 9
            second = model.output.save()
    with torch.no_grad():
        want = module(two)
        want[:, 0] = 9
        close(first, module(one))
        close(second, want)


def test_a_collate_that_miscounts_is_refused():
    model = Model(Ragged(), collate=lambda inputs: (([x for args, _ in inputs for x in args[0]],), {}, [1]))
    with pytest.raises(LoupeError):
        with model.trace() as tracer:
            for _ in range(2):
                with tracer.invoke([[torch.ones(3)]]):
                    model.inner.output.save()


def pair_of(lm, one, other):
    """The logits of two prompts of one pass."""
    with lm.trace() as tracer:
        with tracer.invoke(one):
            first = lm.output.save()
        with tracer.invoke(other):
            second = lm.output.save()
    return first[0], second[0]


def test_token_ids_that_a_block_changes_in_place_are_as_they_were_in_the_next(lm):
    one, other = ids_of(PROMPTS[0]), ids_of(PROMPTS[3])
    for _again in range(2):
        with lm.trace() as tracer:
            with tracer.invoke(one):
                lm.transformer.wte.input[:, 0] = 9
                changed = lm.output.save()
            with tracer.invoke(other):
                lm.output.save()
        close(changed[0], alone("gpt2", PROMPTS[0].replace("w5", "w9", 1)))
    first, second = pair_of(lm, one, other)
    close(first, alone("gpt2", PROMPTS[0]))
    close(second[-2:], alone("gpt2", PROMPTS[3]))


def test_token_ids_that_numpy_changes_between_blocks_are_read_anew(lm):
    numbers = ids_of(PROMPTS[0]).numpy()
    one, other = torch.from_numpy(numbers), ids_of(PROMPTS[3])
    close(pair_of(lm, one, other)[0], alone("gpt2", PROMPTS[0]))
    numbers[:] = ids_of("w8 w6 w4 w2").numpy()
    close(pair_of(lm, one, other)[0], alone("gpt2", "w8 w6 w4 w2"))
    numbers[0, 0] = 1000
    with pytest.raises(InputError, match="1000 is not in the model's vocabulary"):
        pair_of(lm, one, other)


def test_a_model_that_is_changed_between_blocks_makes_another_call_of_the_same_ids():
    hf = copy.deepcopy(tiny.hf_model("gpt2"))
    lm, one, other = LanguageModel(hf), ids_of(PROMPTS[0]), ids_of(PROMPTS[3])
    for pad in (0, 33):
        hf.config.pad_token_id = pad
        with lm.trace() as tracer:
            with tracer.invoke(one):
                lm.output.save()
            with tracer.invoke(other):
                ids = lm.transformer.wte.input.save()
        assert ids[0].tolist() == [pad, pad, 40, 50]
    hf.resize_token_embeddings(41)
    with pytest.raises(InputError, match="50 is not in the model's vocabulary of 41"):
        pair_of(lm, one, other)
