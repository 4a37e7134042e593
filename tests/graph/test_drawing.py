"""Hold what a drawn graph shows: sites in the order of the model, boxes beside them, lines to follow, plain SVG."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe import Graph, LanguageModel, Model
from loupe.errors import InputError, Line
from loupe.graph.node import Const, Event, Node, Ref, Site, Steps
from tests import tiny
from tests.graph.pictures import Picture

ROOT = Path(__file__).resolve().parents[2]


def graph_of(*nodes, constants=()):
    """A graph of nodes `(kind, target, *args)`, numbered in order; a dict at the end has further fields."""
    graph = Graph()
    for place, (kind, target, *args) in enumerate(nodes):
        fields = args.pop() if args and isinstance(args[-1], dict) else {}
        graph.nodes.append(Node(place, kind, target, tuple(args), **fields))
    graph.constants.extend(constants)
    return graph


def read(path, **fields):
    return ("read", Site(path, "output", fields.pop("call", 0)), fields)


def drawn(graph, **options):
    return Picture(graph.draw(**options))


@pytest.fixture(scope="module")
def landmarks():
    return LanguageModel("loupe/landmarks")


# -- the model's line --------------------------------------------------------------------------------------------------


def test_sites_stand_in_the_order_in_which_the_model_comes_to_them():
    module = tiny.hf_model("llama")
    paths = [f"model.layers.{i}{name}" for i in range(2) for name in ("", ".input_layernorm", ".self_attn", ".mlp")]
    came = []
    tokens = torch.tensor([[1, 2, 3]])
    with tiny.hooked(module, {path: lambda _, path=path: came.append(f"{path}.output") for path in paths}):
        module(tokens)
    model = Model(module)
    with model.trace(tokens) as tracer:
        for path in sorted(paths, reverse=True):
            model.get(path).output.save()
    assert drawn(tracer.graph).sites == came


def test_inputs_calls_and_operations_stand_where_they_happen():
    model = Model(tiny.net())
    with model.trace(torch.ones(2, 4)) as tracer:
        model.output.save()
        model.b.input.save()
        model.shared.calls[2].output.save()
        model.ops.relu[0].output.save()
        model.shared.output.save()
        model.a.output.save()
        model.input.save()
    expected = ["model.input", "a.output", "model.ops.relu[0].output", "shared.output", "shared.calls[2].output"]
    assert drawn(tracer.graph).sites == [*expected, "b.input", "model.output"]


def test_without_a_scan_numbered_modules_stand_in_the_order_of_their_numbers():
    graph = graph_of(read("h.10"), read("h.9"), read("h"), read("h.2"), read(""))
    assert drawn(graph).sites == ["h.2.output", "h.9.output", "h.10.output", "h.output", "model.output"]


def test_what_is_inside_a_module_that_the_block_calls_stands_where_it_is_called():
    graph = graph_of(read("sae.encoder"), read("h.1"), ("call", "sae", Ref(1)), read("h.2"), read(""))
    graph.events = [Event(path, phase, 0) for path in ("h.1", "h.2", "") for phase in ("in", "out")]
    assert drawn(graph).sites == ["h.1.output", "sae.encoder.output", "h.2.output", "model.output"]


# -- boxes and lines ---------------------------------------------------------------------------------------------------


def test_reads_lead_from_sites_and_writes_lead_back():
    graph = graph_of(
        read("h.1"),
        ("apply", "operator.mul", Ref(0), 2),
        read("h.5"),
        ("apply", "operator.add", Ref(2), 1),
        ("write", Site("h.3", "output"), Ref(1)),
    )
    picture = drawn(graph)
    assert picture.sites == ["h.1.output", "h.3.output", "h.5.output"]
    double, put, add = picture.box("· * 2"), picture.box("output = ·"), picture.box("· + 1")
    assert picture.joined("read", picture.mark("h.1.output"), double)
    assert picture.joined("value", double, put)
    assert picture.joined("write", put, picture.mark("h.3.output"))
    assert picture.joined("read", picture.mark("h.5.output"), add)
    assert sorted(line.kind for line in picture.lines) == ["read", "read", "value", "write"]
    assert double.y < put.y < add.y


def test_a_change_in_place_of_a_value_of_the_model_is_a_write_and_of_a_copy_it_is_not():
    change = ("apply", "operator.setitem", Ref(1), 0, 0.0)
    view = drawn(graph_of(read("h"), ("apply", "operator.getitem", Ref(0), 0), change))
    assert view.joined("write", view.box("·[0] = 0.0"), view.mark("h.output"))
    copied = drawn(graph_of(read("h"), ("apply", "Tensor.clone", Ref(0)), change))
    assert [line.kind for line in copied.lines] == ["read"]
    tracked = drawn(graph_of(read("h"), ("apply", "loupe.retain_grad", Ref(0))))
    assert [line.kind for line in tracked.lines] == ["read"]


def test_operations_that_follow_from_each_other_share_a_box_and_others_do_not():
    graph = graph_of(
        read("h"),
        ("apply", "operator.getitem", Ref(0), (slice(None), -1)),
        ("apply", "Tensor.norm", Ref(1)),
        ("apply", "operator.mul", Ref(2), 2),
        ("apply", "operator.mul", Ref(2), 3),
        ("apply", "torch.cat", [Ref(3), Ref(4)], {"kwargs": {"dim": 0}}),
    )
    assert [box.words for box in drawn(graph).boxes] == [
        ["·[:, -1]", "·.norm()"],
        ["· * 3"],
        ["· * 2", "cat([·, %4], dim=0)"],
    ]


def test_the_lines_of_a_box_read_like_python(landmarks):
    x, other = torch.ones(8), torch.ones(96)
    with landmarks.trace("The Eiffel Tower is in") as tracer:
        hidden = landmarks.transformer.h[3].output[0]
        hidden[:, -1] *= 2
        ((-hidden @ other).softmax(dim=-1) ** 2).unsqueeze(0)
        landmarks.lm_head(hidden).argmax(-1)
        (landmarks.lm_head.weight[0] - other).sum()
        1 - landmarks.transformer.h[4].output[0][..., 1:3, None]
        torch.stack([landmarks.transformer.h[5].mlp.output, x.sum() * hidden])
    shown = {tuple(box.words) for box in drawn(tracer.graph).boxes}
    assert {
        ("·[:, -1]", "· *= 2"),
        ("-·", "· @ f32[96]", "·.softmax(dim=-1)", "· ** 2", "·.unsqueeze(0)"),
        ("lm_head(·)", "·.argmax(-1)"),
        ("lm_head.weight[0]", "· - f32[96]", "·.sum()"),
        ("hidden states", "·[..., 1:3, None]", "1 - ·"),
    } <= shown


def test_a_saved_value_is_marked_with_its_name_or_the_variable_of_its_line(landmarks):
    with landmarks.trace("The Eiffel Tower is in") as tracer:
        paris = landmarks.transformer.h[3].output[0].save()  # noqa: F841
        landmarks.transformer.h[4].output[0].norm().save("size")
        both = [landmarks.transformer.h[5].mlp.output.save(), landmarks.transformer.h[6].mlp.output.save()]  # noqa: F841
    assert [box.saved for box in drawn(tracer.graph).boxes] == [
        ["saved as paris"],
        ["saved as size"],
        ["saved"],
        ["saved"],
    ]


def test_a_tooltip_has_the_line_of_the_user_and_the_printed_nodes(landmarks):
    with landmarks.trace("The Eiffel Tower is in") as tracer:
        size = landmarks.transformer.h[3].output[0].norm().save()  # noqa: F841
    line = sys._getframe().f_lineno - 1
    picture = drawn(tracer.graph)
    source = f"{line}: size = landmarks.transformer.h[3].output[0].norm().save()  # noqa: F841"
    for tooltip in (picture.boxes[0].tooltip, picture.marks[0][2]):
        assert source in tooltip
    printed = [text.partition("  #")[0].strip() for text in str(tracer.graph).splitlines()]
    assert printed[0] in picture.marks[0][2]
    assert all(text in picture.boxes[0].tooltip for text in printed[1:])


# -- invokes, steps, backward passes -----------------------------------------------------------------------------------


def test_each_invoke_has_a_column_and_values_cross_between_them():
    graph = graph_of(
        read("h", invoke=0),
        ("apply", "Tensor.clone", Ref(0), {"invoke": 0}),
        read("h", invoke=1),
        ("apply", "operator.setitem", Ref(2), slice(None), Ref(1), {"invoke": 1}),
        read("head"),
        ("save", "all", Ref(4)),
    )
    picture = drawn(graph)
    assert [word for word in picture.words if word in ("all rows", "invoke 0", "invoke 1")] == [
        "all rows",
        "invoke 0",
        "invoke 1",
    ]
    kept, first, second = picture.box("saved as all"), picture.box("·.clone()"), picture.box("%2[:] = %1")
    for column, box in zip(picture.columns, (kept, first, second), strict=True):
        assert column.x < box.x < box.right < column.right
    assert picture.joined("value", first, second)
    assert picture.joined("write", second, picture.mark("h.output"))


def test_many_invokes_share_the_last_column():
    nodes = []
    for invoke in range(20):
        nodes += [read("h", invoke=invoke), ("apply", "Tensor.norm", Ref(2 * invoke), {"invoke": invoke})]
    picture = drawn(graph_of(*nodes))
    assert len(picture.columns) == 6
    assert "invokes 5 to 19" in picture.words
    assert "13 more like this" in [word for box in picture.boxes for word in box.words]


def test_steps_of_a_generation_follow_each_other(landmarks):
    with landmarks.generate("The Eiffel Tower is in", max_new_tokens=4, do_sample=False) as tracer:
        ids = tracer.result.save()  # noqa: F841
        logits = [landmarks.lm_head.output[0, -1].save() for step in tracer.iter[:3]]  # noqa: F841
        with tracer.iter[1:4]:
            landmarks.transformer.h[5].output[0][:] = 0
        with tracer.all():
            landmarks.transformer.h[6].output[0][:] += 1
    picture = drawn(tracer.graph)
    titles = ["step 0", "every step", "step 1", "each of steps 1:4", "step 2", "after the last step"]
    assert [title for title, _ in picture.titles] == titles
    heads, h5, h6 = "lm_head.output", "transformer.h.5.output", "transformer.h.6.output"
    assert picture.sites == [heads, h6, heads, h5, heads, "tracer.result"]
    heights = sorted(
        [*((y, title) for title, y in picture.titles), *((rect.y, label) for label, rect, _ in picture.marks)]
    )
    assert [name for _, name in heights] == [name for pair in zip(titles, picture.sites, strict=True) for name in pair]


def test_a_step_wise_block_without_numbers_of_calls_is_drawn_from_its_graph_alone():
    steps = Steps(1, 2, 5)
    graph = graph_of(
        read("h", steps=steps), ("apply", "Tensor.norm", Ref(0), {"steps": steps}), ("save", "last", Ref(1))
    )
    picture = drawn(graph)
    assert [title for title, _ in picture.titles] == ["each of steps 2:5", "after the last step"]
    assert picture.joined("value", picture.box("·.norm()"), picture.box("saved as last"))


def test_gradients_come_by_in_the_opposite_order_after_their_backward_pass():
    model = Model(tiny.stack())
    with model.trace(torch.ones(2, 8)) as tracer:
        outputs = [model.layers[i].output for i in range(3)]
        with (model.output.sum() * 2).backward(retain_graph=True):
            first = [outputs[i].grad.norm().save() for i in (1, 0, 2)]  # noqa: F841
        with model.output.mean().backward():
            outputs[1].grad[:] = 0
            outputs[0].grad.sum().save("second")
    picture = drawn(tracer.graph)
    gradients = [f"∂ layers.{i}.output" for i in (2, 1, 0)]
    assert picture.sites == [*(f"layers.{i}.output" for i in range(3)), "model.output", *gradients, *gradients[1:]]
    assert [title for title, _ in picture.titles] == ["backward pass 0", "backward pass 1"]
    starts = [line for line in picture.lines if line.kind == "gradient" and line.points[0][0] > line.points[-1][0]]
    for line, (_, y) in zip(starts, picture.titles, strict=True):
        assert abs(line.points[-1][1] - y) < 10
    (change,) = [line for line in picture.lines if line.kind == "write"]
    assert any(
        rect.y <= change.points[-1][1] <= rect.bottom
        for label, rect, _ in picture.marks[-2:-1]
        if label == gradients[1]
    )


# -- long graphs -------------------------------------------------------------------------------------------------------


def test_what_repeats_is_shown_once_at_either_end(landmarks):
    with landmarks.trace("The Eiffel Tower is in") as tracer:
        for layer in landmarks.transformer.h:
            layer.attn.output[0].norm().save()
            layer.mlp.output.mean().save()
    picture = drawn(tracer.graph)
    shown = [f"transformer.h.{i}.{part}.output" for i in (0, 11) for part in ("attn", "mlp")]
    assert picture.sites == shown
    assert picture.boxes[2].words == ["10 more like this"]


def test_a_long_graph_loses_its_middle_and_says_how_much():
    chance = Random(0)
    names = [chance.choice(["sin", "cos", "tanh", "exp", "relu"]) for _ in range(150)]
    nodes = [read("h"), *(("apply", f"torch.{name}", Ref(place // 2)) for place, name in enumerate(names))]
    picture = drawn(graph_of(*nodes), rows=20)
    assert len(picture.boxes) <= 20
    (hidden,) = [word for box in picture.boxes for word in box.words if word.endswith("more operations")]
    shown = sum(len(box.words) for box in picture.boxes) - 1
    assert shown + int(hidden.split()[0]) == 150


def test_a_long_chain_is_one_box_of_few_lines():
    nodes = [read("h"), *(("apply", "operator.mul", Ref(place), place) for place in range(300))]
    (box,) = drawn(graph_of(*nodes)).boxes
    assert box.words[3] == "… 294 more"
    assert (box.words[0], box.words[-1]) == ("· * 0", "· * 299")


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="2 rows"):
        graph_of(read("h")).draw(rows=2)


# -- any graph ---------------------------------------------------------------------------------------------------------

PATHS = ["", "h.0", "h.1", "h.1.mlp", "h.10", "head"]


@st.composite
def graphs(draw):
    """Graphs of many shapes: reads, writes, changes, sums, saves, calls and gradients, in up to three invokes."""
    nodes = [read("h.0")]
    backwards = 0
    for place in range(1, draw(st.integers(1, 40))):
        refs = st.integers(max(0, place - 8), place - 1).map(Ref)
        scope = {"invoke": draw(st.sampled_from([None, None, 0, 1]))}
        site = Site(draw(st.sampled_from(PATHS)), draw(st.sampled_from(["output", "input"])), draw(st.integers(0, 1)))
        kind = draw(st.sampled_from(["read", "write", "set", "one", "two", "save", "call", "grad", "backward", "stop"]))
        if kind == "backward":
            backwards += 1
        nodes.append(
            {
                "read": ("read", site, scope),
                "write": ("write", site, draw(refs), scope),
                "set": ("apply", "operator.setitem", draw(refs), 0, draw(refs), scope),
                "one": ("apply", "Tensor.norm", draw(refs), scope),
                "two": ("apply", "operator.add", draw(refs), draw(refs), scope),
                "save": ("save", f"name{place}", draw(refs), scope),
                "call": ("call", "h.1", draw(refs), scope),
                "grad": ("read", Site(f"%{draw(refs).node}", "grad", max(backwards - 1, 0)), scope),
                "backward": ("backward", None, draw(refs)),
                "stop": ("stop", None),
            }[kind]
        )
    return graph_of(*nodes)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(5, 60))
def test_boxes_stand_apart_and_inside_the_picture(graph, rows):
    picture = drawn(graph, rows=rows)
    width, height = (float(picture.root.get(name)) for name in ("width", "height"))
    assert len(picture.boxes) <= rows
    for one, other in pairwise(picture.boxes):
        assert one.bottom <= other.y
    for thing in [*picture.boxes, *(rect for _, rect, _ in picture.marks)]:
        assert thing.x >= 0
        assert thing.y >= 0
        assert thing.right <= width
        assert thing.bottom <= height


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(5, 60))
def test_lines_join_boxes_and_sites_and_can_be_told_apart(graph, rows):
    picture = drawn(graph, rows=rows)
    marks = [
        *(rect.y + rect.height / 2 for _, rect, _ in picture.marks),
        *(y - 4 for _, y in [*picture.titles, *picture.gaps]),
    ]
    upright = []
    for line in picture.lines:
        for x, y in (line.points[0], line.points[-1]):
            assert any(box.touches(x, y) for box in picture.boxes) or any(abs(mark - y) <= 8 for mark in marks)
        for (ax, ay), (bx, by) in pairwise(line.points):
            assert not any(
                box.holds(ax + (bx - ax) * k / 20, ay + (by - ay) * k / 20) for k in range(21) for box in picture.boxes
            )
            if ax == bx:
                upright.append((ax, *sorted((ay, by)), line))
    for (x, top, bottom, one), (other_x, other_top, other_bottom, other) in combinations(upright, 2):
        if x == other_x and max(top, other_top) < min(bottom, other_bottom):  # one line that parts, or two that meet
            assert one.points[0] == other.points[0] or one.points[-1] == other.points[-1]


def test_the_same_graph_gives_the_same_picture_in_every_process():
    program = """
from loupe.graph.graph import Graph
from loupe.graph.node import Node, Ref, Site
graph = Graph()
for place in range(12):
    graph.nodes.append(Node(place, "read", Site(f"h.{place}", "output"), invoke=place % 3))
for place in range(12, 24):
    graph.nodes.append(Node(place, "apply", "torch.stack", ([Ref(place - 12), Ref(place - 8)],), invoke=place % 2))
    graph.nodes[-1].kwargs = {"dim": 0}
print(graph.draw())
"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    first, second = (run.communicate()[0] for run in runs)
    assert first == second
    assert first.startswith(b"<svg")


def test_names_with_any_characters_are_shown_as_they_are_and_run_nothing():
    name = "<script>alert('1')</script> & \"two\" ]]> \x00\x1b\ud800\uffff"
    line = Line("<stdin>&", 3)
    graph = graph_of(
        ("read", Site("h.<b>&'\"", "output"), {"line": line}),
        ("apply", "local.<lambda>", Ref(0), "</text><script>", {"line": line}),
        ("save", name, Ref(1)),
    )
    text = str(graph.draw())
    root = ET.fromstring(text)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg",
        "style",
        "rect",
        "path",
        "g",
        "text",
        "title",
        "tspan",
    }
    for element in root.iter():
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)
    picture = Picture(text)
    assert picture.sites == ["h.<b>&'\".output"]
    assert picture.boxes[0].words == ["<lambda>(·, '</text><script>')"]
    (saved,) = picture.boxes[0].saved
    assert saved.startswith("saved as <script>alert('1')</script> & \"two\" ]]> ")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_an_empty_graph_has_a_picture():
    assert drawn(Graph()).words == ["(empty graph)"]


# -- showing and saving ------------------------------------------------------------------------------------------------


def contrast(one, other):
    """How well two colours can be told apart, as the web's accessibility rules define it."""

    def light(colour):
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05

    return max(light(one), light(other)) / min(light(one), light(other))


def test_all_that_is_written_can_be_read_in_light_and_in_dark():
    text = ET.fromstring(str(Graph().draw())).find("{http://www.w3.org/2000/svg}style").text
    for sheet in text.split("@media(prefers-color-scheme:dark)"):
        colours = {}
        for selectors, rule in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
            for selector in selectors.split(","):
                for name, colour in re.findall(r"(fill|stroke):#(\w+)", rule):
                    colours[selector.split(" ")[-1], name] = colour
        for ground in (colours[".card", "fill"], colours[".box", "fill"]):
            for words in (".ink", ".dim", ".small", ".grad"):
                assert contrast(colours[words, "fill"], ground) >= 4.5, (words, ground)
            for wire in (".wire.read", ".wire.write", ".wire.gradient", ".wire.value"):
                assert contrast(colours[wire, "stroke"], ground) >= 3, (wire, ground)


def test_a_drawing_shows_itself_and_is_written_as_svg(tmp_path):
    drawing = graph_of(read("h"), ("save", "é", Ref(0))).draw()
    assert drawing._repr_svg_() == drawing._repr_html_() == str(drawing)
    drawing.save(tmp_path / "graph.svg")
    drawing.save(str(tmp_path / "bare"))
    for name in ("graph.svg", "bare"):
        assert (tmp_path / name).read_text(encoding="utf-8") == str(drawing)
    with pytest.raises(InputError, match=r"'graph\.svg'"):
        drawing.save(tmp_path / "graph.png")
    assert not (tmp_path / "graph.png").exists()


def test_a_notebook_shows_a_graph_as_its_picture_and_its_printed_lines():
    graph = graph_of(read("h"), ("save", "a<b", Ref(0)), constants=[Const(0)])
    page = ET.fromstring(graph._repr_html_().replace("<details open>", "<details>"))
    assert page.find("{http://www.w3.org/2000/svg}svg") is not None
    assert page.find("details/pre").text == str(graph)
    assert graph._repr_svg_() == str(graph.draw())
