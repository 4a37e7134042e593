"""Make arguments that refer to what is not there, nest too deep, or are of no known kind."""

from tests.wire.hostile.table import X, argued

argued("a reference to itself", "refers to node 7, which is not before it", {"ref": 7})
argued("a reference forwards", "refers to node 8, which is not before it", {"ref": 8})
argued("a negative reference", "refers to node -1, which is not before it", {"ref": -1})
argued("a reference that is a text", "an argument of node 7 is a string, not a whole number", {"ref": "0"})
argued("a reference that is true", "an argument of node 7 is true or false, not a whole number", {"ref": True})
argued("a constant that is not there", "takes constant 1, and there are 1", {"const": 1})
argued("a negative constant", "takes constant -1, and there are 1", {"const": -1})
argued("an object with two keys", "is an object with 2 keys", {"ref": 0, "const": 0})
argued("an object without keys", "is an object with 0 keys", {})
argued("an unknown kind of argument", "is of the unknown kind 'callable'", {"callable": "os.system"})
argued("a pickle as an argument", "is of the unknown kind 'pickle'", {"pickle": "gASVIQ=="})
argued("a module as an argument", "is of the unknown kind 'module'", {"module": "layers.0"})
argued("a number of 65 bits", "is 18446744073709551616", 1 << 64)
argued("a negative number of 65 bits", "is -9223372036854775809", -(1 << 63) - 1)
argued("a dtype that torch does not compute with", "names the unknown dtype 'qint8'", {"dtype": "qint8"})
argued("a dtype by a dunder", "names the unknown dtype '__class__'", {"dtype": "__class__"})
argued("a dtype by number", "names the unknown dtype 3", {"dtype": 3})
argued("a layout of nobody", "names the unknown layout 'sparse_coo'", {"layout": "sparse_coo"})
argued("a memory format of nobody", "names the unknown memory_format 'x'", {"memory_format": "x"})
argued("a device of nobody", "names the unknown device 'disk:0'", {"device": "disk:0"})
argued("a device with a long number", "names the unknown device 'cuda:99999'", {"device": "cuda:99999"})
argued("a device with a line break", "names the unknown device 'cpu\\\\n'", {"device": "cpu\n"})
argued("a float of an odd name", "is a float of the name 'NaN'", {"float": "NaN"})
argued("a float of a number", "is a float of the name 1.5", {"float": 1.5})
argued("an ellipsis that is false", "is no ellipsis", {"ellipsis": False})
argued("a complex number of whole numbers", "is a complex number of something else", {"complex": [1, 2]})
argued("a complex number of one part", "has 1 parts where 2 are meant", {"complex": [1.0]})
argued("a slice of two", "has 2 parts where 3 are meant", {"slice": [0, 1]})
argued("a slice of texts", "has a slice of something else than whole numbers", {"slice": ["a", "b", None]})
argued("a slice of slices", "has a slice of something else", {"slice": [{"slice": [0, 1, None]}, None, None]})
argued("a tuple that is a text", "an argument of node 7 is a string, not a list", {"tuple": "abc"})
argued("a dict that is an object", "an argument of node 7 is an object, not a list", {"dict": {"a": 1}})
argued("a dict with a key of two", "has the key 'a' twice", {"dict": [["a", 1], ["a", 2]]})
argued("a dict with a key that is true", "has a key that is no string and no whole number", {"dict": [[True, 1]]})
argued("a dict with a key that is null", "has a key that is no string and no whole number", {"dict": [[None, 1]]})
argued("a dict with a key that is a node", "has a key that is no string", {"dict": [[{"ref": 0}, 1]]})
argued("a dict of triples", "has 3 parts where 2 are meant", {"dict": [["a", 1, 2]]})
argued("a long text", "is a string of 70000 characters, and 65536 are the most", "x" * 70_000)


def nested(deep, wrap):
    found = X
    for _ in range(deep):
        found = wrap(found)
    return found


argued("lists in lists", "has containers more than 32 deep", nested(33, lambda inner: [inner]))
argued("lists of a million", "has 1048577 items, and 1048576 are the most", [0] * ((1 << 20) + 1))
