"""Hold blocks on image models against plain hooks: a vision transformer, and a model of images and texts together."""

from functools import cache

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

from loupe import Model
from loupe.errors import RowsError
from tests import tiny

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PIXELS = {"image_size": 8, "patch_size": 4}


@cache
def vit():
    torch.manual_seed(0)
    config = ViTConfig(**WIDTHS, **PIXELS, num_labels=3, attn_implementation="eager")
    return ViTForImageClassification(config).eval()


@cache
def clip():
    torch.manual_seed(0)
    ids = {"vocab_size": 64, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(text_config={**WIDTHS, **ids}, vision_config={**WIDTHS, **PIXELS}, projection_dim=8)
    return CLIPModel(config).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


TEXTS = torch.tensor([[5, 6, 7, 1], [9, 8, 1, 1], [2, 3, 4, 1]])


def test_an_image_models_sites_are_those_of_plain_hooks(images):
    model = Model(vit())
    paths = ["vit.embeddings.patch_embeddings.projection", "vit.layers.0.mlp", "vit.layers.1", "classifier"]
    seen, out = tiny.outputs_of(vit(), paths, images)
    with model.trace(images):
        found = [model.get(path).output.save() for path in reversed(paths)]
        logits = model.output.logits.save()
    for path, value in zip(reversed(paths), found, strict=True):
        torch.testing.assert_close(value.value, seen[path])
    torch.testing.assert_close(logits.value, out.logits)


def test_a_patch_of_an_image_is_written_as_by_a_hook(images):
    model = Model(vit())

    def change(output):
        output[:, 2] = output[:, 1] * 3

    with tiny.hooked(vit(), {"vit.layers.0": change}):
        want = vit()(images).logits
    with model.trace(pixel_values=images):
        hidden = model.vit.layers[0].output
        hidden[:, 2] = hidden[:, 1] * 3
        logits = model.output.logits.save()
    torch.testing.assert_close(logits.value, want)
    assert not torch.allclose(want, vit()(images).logits, atol=1e-4)


def test_invokes_of_images_see_their_own_rows_and_take_values_from_each_other(images):
    model = Model(vit())
    clean, plain = tiny.outputs_of(vit(), ["vit.layers.0"], images[:2])
    with tiny.hooked(vit(), {"vit.layers.0": lambda output: clean["vit.layers.0"][:1]}):
        want = vit()(images[2:]).logits
    with model.trace() as tracer:
        with tracer.invoke(pixel_values=images[:2]):
            first = model.vit.layers[0].output
            kept, untouched = first.save(), model.output.logits.save()
        with tracer.invoke(pixel_values=images[2:]):
            model.vit.layers[0].output = first[:1]
            patched = model.output.logits.save()
    torch.testing.assert_close(kept.value, clean["vit.layers.0"])
    torch.testing.assert_close(untouched.value, plain.logits)
    torch.testing.assert_close(patched.value, want)


def test_the_attention_pattern_of_an_image_is_the_one_that_the_model_gives(images):
    model, number = Model(vit()), torch.zeros(2, 1, 5, 5)
    with torch.no_grad():
        want = vit()(images, output_attentions=True).attentions[1]
    with model.trace(images):
        pattern = model.vit.layers[1].attention.ops.softmax[0].output.save()
        shape = pattern.shape
    assert shape == want.shape == (3, 2, 5, 5)
    torch.testing.assert_close(pattern.value, want)
    with model.trace(images):
        model.vit.layers[1].attention.ops.softmax[0].output[:, 0] = number[0]
        mixed = model.vit.layers[1].attention.o_proj.input.save()
    assert not mixed[..., :8].any()
    assert mixed[..., 8:].all()


def test_a_text_and_image_model_is_read_on_both_sides():
    model, images = Model(clip()), torch.randn(3, 3, 8, 8)
    paths = ["text_model.encoder.layers.1", "vision_model.encoder.layers.0.mlp", "text_projection", "visual_projection"]
    seen, out = tiny.outputs_of(clip(), paths, input_ids=TEXTS, pixel_values=images)
    with model.trace(input_ids=TEXTS, pixel_values=images):
        found = [model.get(path).output.save() for path in paths]
        scores = model.output.logits_per_image.save()
    for path, value in zip(paths, found, strict=True):
        torch.testing.assert_close(value.value, seen[path])
    torch.testing.assert_close(scores.value, out.logits_per_image)


def test_pairs_of_texts_and_images_are_batched(images):
    model = Model(clip())
    seen, want = tiny.outputs_of(clip(), ["text_projection", "visual_projection"], input_ids=TEXTS, pixel_values=images)
    text, image = seen["text_projection"], seen["visual_projection"]
    with model.trace() as tracer:
        with tracer.invoke(input_ids=TEXTS[:2], pixel_values=images[:2]):
            two = model.text_projection.output.save()
        with tracer.invoke(input_ids=TEXTS[2:], pixel_values=images[2:]):
            model.text_projection.output[:] = model.visual_projection.output
            one = model.text_projection.output.save()
        with tracer.invoke():
            scores = model.output.logits_per_text.save()
    torch.testing.assert_close(two.value, text[:2])
    torch.testing.assert_close(one.value, image[2:])
    torch.testing.assert_close(scores.value[:2], want.logits_per_text[:2])
    torch.testing.assert_close(scores.value[2, 2], clip().logit_scale.exp().detach())  # a vector and itself: cosine 1


def test_scores_of_each_text_with_each_image_belong_to_no_single_prompt(images):
    model = Model(clip())
    with pytest.raises(RowsError, match="cannot be told apart"):
        with model.trace() as tracer:
            for start in (0, 1):
                part = slice(start, start + 1)
                with tracer.invoke(input_ids=TEXTS[part], pixel_values=images[part]):
                    model.output.logits_per_image.save()
