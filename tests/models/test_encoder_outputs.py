"""Hold what encoders give against plain calls: logits of heads that have them, other outputs, and what is inside."""

import torch

from loupe import LanguageModel
from tests import tiny
from tests.models import kinds
from tests.models.kinds import changed, close, ids_of, states

PROMPTS = ["w5 w9 w12 w3", "w7", "w11 w22 w33 w44 w55 w6 w7 w8 w9", "w40 w50"]


def bert(class_name="BertForMaskedLM"):
    return LanguageModel(kinds.model(class_name, "bert"), tokenizer=tiny.tokenizer())


def test_a_masked_language_models_output_is_its_logits():
    model = bert()
    with torch.no_grad():
        want = model._model(ids_of(PROMPTS[0]), labels=ids_of(PROMPTS[0]))
    with model.trace(PROMPTS[0], labels=ids_of(PROMPTS[0])):
        out = model.output
        assert isinstance(out, torch.Tensor)
        assert out.shape == (1, 4, 64)
        top, loss, field = out[0, 2].argmax().save(), out.loss.save(), out.logits.save()
    assert int(top) == int(want.logits[0, 2].argmax())
    close(loss, want.loss)
    close(field, want.logits)


def test_an_encoders_logits_can_be_assigned():
    model = bert()
    with model.trace(PROMPTS[0]):
        model.output = model.output * 0 + 3
        again = model.output.save()
    assert torch.equal(again.value, torch.full((1, 4, 64), 3.0))


def test_a_sequence_classifiers_output_is_one_row_of_logits_a_prompt():
    model = bert("BertForSequenceClassification")
    found = []
    with model.trace() as tracer:
        for text in PROMPTS:
            with tracer.invoke(text):
                found.append(model.output.save())
    with torch.no_grad():
        for text, logits in zip(PROMPTS, found, strict=True):
            close(logits, model._model(ids_of(text)).logits)
    with model.trace(PROMPTS):
        assert model.output.shape == (4, 2)
        best = model.output.argmax(-1).save()
    assert best.tolist() == [int(logits.argmax()) for logits in found]


def test_a_change_in_a_sequence_classifier_moves_its_class():
    model = bert("BertForSequenceClassification")
    block = "bert.encoder.layer.0"
    with model.trace(PROMPTS[0]):
        model.get(block).output[0][:, 0] *= -4
        logits = model.output.save()

    def turn(hidden):
        hidden[:, 0] *= -4
        return hidden

    with tiny.hooked(model._model, {block: changed(turn)}):
        close(logits, model._model(ids_of(PROMPTS[0])).logits)


def test_a_model_without_logits_gives_what_it_returns():
    model = bert("BertModel")
    with torch.no_grad():
        want = model._model(ids_of(PROMPTS[0]))
    with model.trace(PROMPTS[0]):
        assert model.output.last_hidden_state.shape == (1, 4, 32)
        whole, pooled = model.output.save(), model.output.pooler_output.save()
    assert type(whole.value) is type(want)
    close(pooled, want.pooler_output)
    questions = bert("BertForQuestionAnswering")
    with torch.no_grad():
        want = questions._model(ids_of(PROMPTS[0]))
    with questions.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            start = questions.output.start_logits.save()
        with tracer.invoke(PROMPTS[2]):
            pass
    close(start[:, :4], want.start_logits)


def test_labels_of_prompts_of_several_lengths_count_in_one_loss():
    model = bert()
    texts = PROMPTS[:3]
    with model.trace() as tracer:
        for text in texts:
            with tracer.invoke(text, labels=ids_of(text)):
                pass
        with tracer.invoke():
            loss = model.output.loss.save()
    with torch.no_grad():
        rows = [(model._model(ids_of(text)).logits[0], ids_of(text)[0]) for text in texts]
    logits, labels = (torch.cat(each) for each in zip(*rows, strict=True))
    close(loss, torch.nn.functional.cross_entropy(logits, labels))


# -- inside ------------------------------------------------------------------------------------------------------------


def test_an_encoders_attention_pattern_is_read_and_written():
    model = bert()
    eager = kinds.build("BertForMaskedLM", "bert", attn_implementation="eager")
    with torch.no_grad():
        want = eager(ids_of(PROMPTS[0]), output_attentions=True).attentions[1]
    layer = model.bert.encoder.layer[1].attention["self"]
    with model.trace(PROMPTS[0]):
        softmax = layer.ops.softmax[0].output.save()
    with model.trace(PROMPTS[0]):
        returned = layer.output[1].save()
    close(softmax, want)
    close(returned, want)
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            layer.ops.softmax[0].output = torch.eye(4).expand(1, 4, 4, 4)
            mixed = layer.output[0].save()
            values = layer.value.output.save()
        with tracer.invoke(PROMPTS[0]):
            other = layer.output[0].save()
    close(mixed, values.value)
    assert not torch.allclose(other.value, mixed.value)


def test_a_submodule_called_output_is_reached_by_its_name_in_brackets():
    model = bert()
    name = "bert.encoder.layer.1.output.dense"
    seen, _ = tiny.outputs_of(model._model, [name], ids_of(PROMPTS[0]))
    with model.trace(PROMPTS[0]):
        found = model.bert.encoder.layer[1]["output"].dense.output.save()
        same = model.get(name).output.save()
    close(found, seen[name])
    close(same, seen[name])


def test_gradients_reach_an_encoders_states():
    model = bert()
    block = model.get("bert.encoder.layer.0")
    with model.trace() as tracer:
        with tracer.invoke("w9 w8 w7"):
            pass
        with tracer.invoke("w5 w9"):
            hidden = block.output[0]
            hidden.retain_grad()
            model.output[0, 1, 3].backward()
            found = hidden.grad.save()
    kept = {}

    def keep(_module, _args, output):
        kept["hidden"] = states(output)
        kept["hidden"].retain_grad()

    handle = model._model.get_submodule("bert.encoder.layer.0").register_forward_hook(keep)
    model._model(ids_of("w5 w9")).logits[0, 1, 3].backward()
    handle.remove()
    model._model.zero_grad(set_to_none=True)
    close(found[:, :2], kept["hidden"].grad)
