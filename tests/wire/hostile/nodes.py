"""Make nodes of unknown kinds, at sites that are none, with paths that lead out of the model."""

from tests.wire.hostile.table import READ, X, changed, noded

changed(
    "a node that is a list",
    "node 7 is a list, not an object",
    lambda file: file.nodes.append([]) or file.block["notes"]["places"].append(None),
)
noded("a node without a kind", "node 7 has no 'kind'", target="x")
noded("an unknown kind", "node 7 is of the unknown kind 'exec'", kind="exec", target="print(1)")
noded("a kind that is a list", "'kind' of node 7 is a list", kind=["apply"])
noded("an unknown field of a node", "node 7 has the unknown field 'line'", kind="given", target="strength", line=3)
noded(
    "a site where none is",
    "node 7 has the unknown field 'site'",
    kind="given",
    target="strength",
    site={"path": "", "port": "output"},
)
noded("a read without a site", "node 7 has no 'site'", **READ)
noded("a site that is a text", "'site' of node 7 is a string", **READ, site="layers.0.output")
noded("an unknown port", "node 7 names the unknown port 'weight'", **READ, site={"path": "", "port": "weight"})
noded("a gradient by its port", "names the unknown port 'grad'", **READ, site={"path": "%0", "port": "grad"})
noded(
    "an unknown field of a site",
    "has the unknown field 'hook'",
    **READ,
    site={"path": "", "port": "output", "hook": "f"},
)
noded("a negative call", "the call of node 7 is -1", **READ, site={"path": "", "port": "output", "call": -1})
noded(
    "a call that says nothing",
    "'call' of the site of node 7 says what",
    **READ,
    site={"path": "", "port": "output", "call": 0},
)
noded(
    "an index without an operation",
    "has an index without an operation",
    **READ,
    site={"path": "", "port": "output", "index": 1},
)
noded(
    "an operation by a dunder",
    "names the operation '__call__'",
    **READ,
    site={"path": "", "port": "output", "op": "__call__"},
)
noded(
    "an operation that is null",
    "'op' of the site of node 7 is null",
    **READ,
    site={"path": "", "port": "output", "op": None},
)
noded(
    "a path with a dunder",
    "names '__class__.__base__', which leads out",
    **READ,
    site={"path": "__class__.__base__", "port": "output"},
)
noded(
    "a path into a dunder",
    "names 'layers.__dict__', which leads out",
    **READ,
    site={"path": "layers.__dict__", "port": "output"},
)
noded(
    "a path of a file",
    "names '/etc/passwd', which is no path of a module",
    **READ,
    site={"path": "/etc/passwd", "port": "output"},
)
noded(
    "a path to a folder above",
    "names '../../secret', which is no path",
    **READ,
    site={"path": "../../secret", "port": "output"},
)
noded("a path with a hole", "names 'layers..0', which is no path", **READ, site={"path": "layers..0", "port": "output"})
noded("a path with a space", "names 'layers 0', which is no path", **READ, site={"path": "layers 0", "port": "output"})
noded("a path with a nought byte", "which is no path of a module", **READ, site={"path": "layers\0", "port": "output"})
noded(
    "a path of a thousand parts",
    "names a path of 3999 characters",
    **READ,
    site={"path": ".".join(["abc"] * 1000), "port": "output"},
)
noded("a result's input", "names a site of the run as a whole", **READ, site={"path": "#result", "port": "input"})
noded("a parameter by a dunder", "names '__class__', which leads out", kind="parameter", target="__class__")
noded(
    "a call of what is no module",
    "names '__init__.__globals__', which leads out",
    kind="call",
    target="__init__.__globals__",
    args=[X],
)
noded("a target that is a number", "'target' of node 7 is a whole number", kind="apply", target=7)
noded(
    "a read with arguments",
    "node 7 (read) has 1 arguments, and takes 0",
    **READ,
    site={"path": "", "port": "output"},
    args=[X],
)
noded("a save of two values", "node 7 (save) has 2 arguments, and takes 1", kind="save", target="two", args=[X, X])
noded("a save of a constant", "node 7 saves something that is no node", kind="save", target="c", args=[{"const": 0}])
noded("a save of a name that is taken", "the name 'out' is saved twice", kind="save", target="out", args=[X])
noded(
    "a cache under a name that is taken",
    "the name 'out' is saved twice",
    kind="cache",
    target="out",
    args=[{"tuple": ["layers"]}],
)
noded(
    "a given value that nobody gives",
    "takes 'strenght', which is no parameter of the graph",
    kind="given",
    target="strenght",
)
noded("a given value of another block", "takes 'block0.out', which is no parameter", kind="given", target="block0.out")
noded("an invoke that is not there", "the invoke of node 7 is 3", **READ, site={"path": "", "port": "output"}, invoke=3)
noded(
    "an invoke below nothing",
    "'invoke' of node 7 says what it is",
    **READ,
    site={"path": "", "port": "output"},
    invoke=-1,
)
noded("a gradient of what comes later", "the gradient of node 9, which is not before it", **READ, gradient={"of": 9})
noded("a gradient of itself", "the gradient of node 7, which is not before it", **READ, gradient={"of": 7})
noded("a gradient of a negative node", "the gradient of node -1", **READ, gradient={"of": -1})
noded("a backward pass from a number", "runs backward from something that is no node", kind="backward", args=[1.0])
noded("a backward pass with a hook", "node 7 (backward) takes no 'hook'", kind="backward", args=[X], kwargs={"hook": 1})
noded(
    "a graph kept by a number", "'retain_graph' of node 7 is 1", kind="backward", args=[X], kwargs={"retain_graph": 1}
)
noded("a stop at a negative step", "'step' of node 7 is -1", kind="stop", kwargs={"step": -1})
noded("a stop with arguments", "node 7 (stop) has 1 arguments", kind="stop", args=[X])
noded(
    "a cache of a list", "collects at something that is no tuple of paths", kind="cache", target="c", args=[["layers"]]
)
noded(
    "a cache of numbers",
    "collects at something that is no tuple of paths",
    kind="cache",
    target="c",
    args=[{"tuple": [1]}],
)
noded(
    "a cache at a dunder", "names '__dict__', which leads out", kind="cache", target="c", args=[{"tuple": ["__dict__"]}]
)
noded(
    "a cache at a file",
    "names 'C:\\\\\\\\secret', which is no path",
    kind="cache",
    target="c",
    args=[{"tuple": ["C:\\secret"]}],
)
noded(
    "a cache on an odd device",
    "'device' of node 7 is 'disk'",
    kind="cache",
    target="c",
    args=[{"tuple": [""]}],
    kwargs={"device": "disk"},
)
noded(
    "a cache of an odd dtype",
    "'dtype' of node 7 is 'float32'",
    kind="cache",
    target="c",
    args=[{"tuple": [""]}],
    kwargs={"dtype": "float32"},
)
noded(
    "a cache with a path to write to",
    "node 7 (cache) takes no 'file'",
    kind="cache",
    target="c",
    args=[{"tuple": [""]}],
    kwargs={"file": "/tmp/x"},
)
noded(
    "a keyword with a dunder",
    "has the keyword '__class__', which is no name",
    kind="apply",
    target="torch.neg",
    args=[X],
    kwargs={"__class__": 1},
)
noded(
    "a keyword with a dot",
    "has the keyword 'a.b', which is no name",
    kind="call",
    target="layers.0",
    args=[X],
    kwargs={"a.b": 1},
)
noded("arguments that are an object", "'args' of node 7 is an object", kind="apply", target="torch.neg", args={"0": X})
noded("keywords that are a list", "'kwargs' of node 7 is a list", kind="apply", target="torch.neg", kwargs=[X])
noded("arguments that say nothing", "'args' of node 7 says what it is without it", kind="stop", args=[])


def stepped(name, fragment, **steps):
    noded(name, fragment, **READ, site={"path": "", "port": "output"}, steps=steps)


stepped("steps out of order", "lists steps that are not in order", group=1, listed=[2, 1])
stepped("steps that stand twice", "lists steps that are not in order", group=1, listed=[1, 1])
stepped("no steps", "lists steps that are not in order", group=1, listed=[])
stepped("steps that are listed and bounded", "has the unknown field 'start'", group=1, listed=[1], start=0)
stepped("steps without a group", "the steps of node 7 has no 'group'", start=0)
stepped("a stride of nothing", "the stride of node 7 is 0", group=1, start=0, stride=0)
stepped("a stride backwards", "the stride of node 7 is -1", group=1, start=0, stride=-1)
stepped("a first step below nothing", "the first step of node 7 is -2", group=1, start=-2)
stepped(
    "a step of a huge number",
    "the last step of node 7 is 1267650600228229401496703205376",
    group=1,
    start=0,
    stop=1 << 100,
)


def in_modes(name, fragment, **modes):
    noded(name, fragment, **READ, site={"path": "", "port": "output"}, modes=modes)


in_modes("modes without a list", "the modes of node 7 has no 'autocast'", grad=True)
in_modes("a mode that is a number", "'grad' of the modes of node 7 is a whole number", grad=1, autocast=[])
in_modes(
    "an autocast to a dtype of nobody",
    "stands in the autocast ['cpu', 'object']",
    grad=True,
    autocast=[["cpu", "object"]],
)
in_modes(
    "an autocast on a device of nobody",
    "stands in the autocast ['fpga', 'float16']",
    grad=True,
    autocast=[["fpga", "float16"]],
)
in_modes("an autocast that is one text", "stands in the autocast 'bfloat16'", grad=True, autocast=["bfloat16"])
in_modes("an unknown mode", "has the unknown field 'inference'", grad=True, autocast=[], inference=True)
