"""Name operations that no graph may name, and attributes and methods that lead out of a value."""

from tests.wire.hostile.table import X, applied, argued

applied("a system call", "names the unknown operation 'os.system'", "os.system", "id")
applied("a builtin", "names the unknown operation 'builtins.eval'", "builtins.eval", "1")
applied("a builtin without a module", "names the unknown operation 'eval'", "eval", "1")
applied("an import", "__import__ is refused: its name begins with an underscore", "__import__", "os")
applied("a load of torch", "torch.load is refused: it ", "torch.load", "/tmp/weights.pt")
applied("a save of torch", "torch.save is refused: it ", "torch.save", X, "/tmp/out.pt")
applied("a tensor from a file", "torch.from_file is refused: it ", "torch.from_file", "/etc/passwd")
applied("a download", "names the unknown operation 'torch.hub.load'", "torch.hub.load", "a/b", "c")
applied("an operation of torch.ops", "names the unknown operation 'torch.ops.aten.add'", "torch.ops.aten.add", X, X)
applied("a pointer", "Tensor.data_ptr is refused: it ", "Tensor.data_ptr", X)
applied("a window on memory", "torch.as_strided is refused: it ", "torch.as_strided", X, [9], [1], 100)
applied(
    "a window on memory by a method",
    "Tensor.as_strided is refused: it ",
    "Tensor.as_strided",
    X,
    [9],
    [1],
)
applied("a storage", "Tensor.untyped_storage is refused: it ", "Tensor.untyped_storage", X)
applied("a hook", "Tensor.register_hook is refused: it ", "Tensor.register_hook", X, X)
applied("a map with a function", "Tensor.map_ is refused: it ", "Tensor.map_", X, X, X)
applied(
    "an attribute by its operator",
    "names the unknown operation 'operator.attrgetter'",
    "operator.attrgetter",
    "__class__",
)
applied("a call by its operator", "names the unknown operation 'operator.call'", "operator.call", X)
applied("an operation without a name", "names the unknown operation ''", "", X)
applied("an operation with a nought byte", "names the unknown operation 'torch.neg\\\\x00'", "torch.neg\0", X)
applied("an operation in capitals", "names the unknown operation 'torch.NEG'", "torch.NEG", X)
applied("a function of this process", "f is a Python function, which runs in this process only", "local.f", X)
applied("a lambda of this process", "<lambda> is a Python function, which runs in", "local.<lambda>", X)
for attribute in (
    "__class__",
    "__dict__",
    "_base",
    "grad_fn",
    "device_index",
    "untyped_storage",
    "_version",
    "__reduce_ex__",
):
    applied(
        f"the attribute {attribute}", f"the attribute '{attribute}' of a value is none", "python.getattr", X, attribute
    )
for method in ("__reduce__", "__class__", "__getattribute__", "numpy", "tofile", "share_memory_", "data_ptr", "pop"):
    applied(f"the method {method}", f"the method '{method}' of a value is none", "python.call_method", X, method)
applied("an attribute that is a node", "python.getattr names no attribute", "python.getattr", X, {"ref": 1})
applied("an attribute with a default", "python.getattr names no attribute", "python.getattr", X, "T", 1)
applied("an attribute that is a number", "python.getattr names no attribute", "python.getattr", X, 1)
applied("an attribute of a value without a name", "python.getattr names no attribute", "python.getattr", X)
argued("a device in other digits", "names the unknown device 'cuda:\u0660'", {"device": "cuda:\u0660"})
argued("a device with a nought too many", "names the unknown device 'cuda:01'", {"device": "cuda:01"})
argued("a device that torch cannot count to", "names the unknown device 'cuda:128'", {"device": "cuda:128"})
applied("a method that is a node", "python.call_method names no method", "python.call_method", X, {"ref": 1})
applied("an attribute by a keyword", "python.getattr names no attribute", "python.getattr", X, "T", name="__class__")
