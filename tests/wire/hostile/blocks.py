"""Make parameters, generations, sessions and notes that say what they may not."""

from tests.wire.by_hand import session
from tests.wire.hostile.table import changed


def opened(name, fragment, *parameters):
    changed(name, fragment, lambda file: file.content.update(parameters=[*file.content["parameters"], *parameters]))


opened("two parameters of a name", "leaves 'strength' open twice", {"name": "strength", "default": 2.0})
opened("a parameter with a dot", "leaves 'a.b' open, which is no name", {"name": "a.b"})
opened("a parameter without a name", "a parameter of the graph has no 'name'", {"default": 1})
opened("a parameter with a type", "has the unknown field 'type'", {"name": "x", "type": "os.PathLike"})
opened(
    "a parameter whose default is a node",
    "refers to node 0, which is not before it",
    {"name": "x", "default": {"ref": 0}},
)
opened("a parameter that is a text", "a parameter of the graph is a string", "x")
changed(
    "parameters that are an object",
    "'parameters' of the graph is an object",
    lambda f: f.content.update(parameters={"a": 1}),
)


def generating(name, fragment, **options):
    changed(name, fragment, lambda file: file.content.update(generation=options))


generating("code from the Hub", "generates with the option 'custom_generate'", custom_generate="someone/repository")
generating("a model from the Hub", "generates with the option 'assistant_model'", assistant_model="someone/model")
generating("trust in code", "generates with the option 'trust_remote_code'", trust_remote_code=True)
generating("a tokenizer from the Hub", "generates with the option 'tokenizer'", tokenizer="someone/tokenizer")
generating("a processor of logits", "generates with the option 'logits_processor'", logits_processor=["f"])
generating("a cache of a class", "generates with the option 'cache_implementation'", cache_implementation="static")
generating("an option by a dunder", "generates with the option '__class__'", __class__="x")
generating("an option that is a node", "refers to node 0, which is not before it", max_new_tokens={"ref": 0})
changed(
    "options that are a list", "'generation' of the graph is a list", lambda file: file.content.update(generation=[])
)

changed(
    "a block that takes what comes later",
    "takes 'block1.again', which no earlier block saves",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block1.again"),
    session,
)
changed(
    "a block that takes from one that is not there",
    "takes 'block7.out', which no earlier block saves",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block7.out"),
    session,
)
changed(
    "a block that takes what is not saved",
    "takes 'block0.secret', which no earlier",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block0.secret"),
    session,
)
changed(
    "a first block that takes from a later",
    "node 1 of block 0 takes 'block1.again'",
    lambda f: f.nodes[1].update(target="block1.again"),
    session,
)
changed(
    "a block number with a sign",
    "takes 'block-1.out'",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block-1.out"),
    session,
)
changed(
    "a block number in other digits",
    "takes 'block\u0660.out'",
    lambda f: f.blocks[1]["content"]["nodes"][0].update(target="block\u0660.out"),
    session,
)


def noted(name, fragment, **fields):
    changed(name, fragment, lambda file: file.block["notes"].update(fields))


noted("places of fewer nodes", "have the lines of 1 nodes, and there are 7", places=[0])
noted("a place that is not there", "a line of the graph is 5", places=[5] * 7)
noted("a negative place", "a line of the graph is -1", places=[-1] * 7)
noted("lines that are texts", "a line of the graph is not [file, number, text]", lines=["block.py:3"])
noted("a line with a negative number", "a line of the graph is -3", lines=[["block.py", -3, ""]])
noted(
    "a line with a number that is a text",
    "the number of a line of the graph is a string",
    lines=[["block.py", "3", ""]],
)
noted("an unknown note", "the notes of the graph has the unknown field 'author'", author="me")
noted("more edited nodes than there are", "the number of edited nodes of the graph is 8", edited=8)
noted("a look at what is not there", "a look of the graph is 7", looks=[[7, 0]])
noted("a look that is a number", "a look of the graph is no pair", looks=[3])
ORIGIN = {"fingerprint": "0" * 64, "kind": "Stack", "modules": {}}
noted(
    "an origin without a fingerprint",
    "the origin of the graph has no 'fingerprint'",
    origin={"kind": "Stack", "modules": {}},
)
noted("an origin with code", "has the unknown field 'source'", origin={**ORIGIN, "source": "class Stack: ..."})
noted(
    "an origin of modules by dunders",
    "names '__init__', which leads out",
    origin={**ORIGIN, "modules": {"__init__": "x"}},
)
noted(
    "an origin of modules by number",
    "the class of 'layers' is a whole number",
    origin={**ORIGIN, "modules": {"layers": 1}},
)
noted(
    "a revision that is a list",
    "'revision' of the origin of the graph is a list",
    origin={**ORIGIN, "revision": ["main"]},
)
changed("no notes", "the graph has no 'notes'", lambda file: file.block.pop("notes"))
