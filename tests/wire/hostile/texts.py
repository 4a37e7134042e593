"""Make texts that are no JSON, say a thing twice, or are not in the one form that the format has."""

import json

from tests.wire.by_hand import entries, packed, valid
from tests.wire.hostile.table import hostile, rewritten

FORM = "the graph is JSON in another form"
rewritten("an empty text", "the graph is not JSON", lambda text: "")
rewritten("a text of null", "the graph is null, not an object", lambda text: "null")
rewritten("a text that is a list", "the graph is a list, not an object", lambda text: "[]")
rewritten("a text that is a number", "the graph is a whole number, not an object", lambda text: "7")
rewritten("half a text", "the graph is not JSON", lambda text: text[: len(text) // 2])
rewritten("a text of Python", "the graph is not JSON", lambda text: "__import__('os').system('id')")
rewritten("spaces", FORM, lambda text: text.replace(":", ": ", 1))
rewritten("a space at the end", FORM, lambda text: text + " ")
rewritten("a line of its own", FORM, lambda text: "\n" + text)
rewritten("a byte order mark in the text", "the graph is not JSON", lambda text: "\ufeff" + text)
rewritten("keys in another order", FORM, lambda text: '{"version":1,' + text[1:].replace(',"version":1', ""))
rewritten("escapes that are not needed", FORM, lambda text: text.replace("strength", "\\u0073trength"))
rewritten("an escaped slash", FORM, lambda text: text.replace("block.py", "block\\/py"))
rewritten("a number with an exponent", FORM, lambda text: text.replace("1.0", "1.0e0"))
rewritten("a number with a nought more", FORM, lambda text: text.replace("1.0", "1.00"))
rewritten("a nought below nothing", FORM, lambda text: text.replace('"version":1', '"version":-0'))
rewritten("a nought before a number", "the graph is not JSON", lambda text: text.replace('"version":1', '"version":01'))
rewritten("a number with a plus", "the graph is not JSON", lambda text: text.replace('"version":1', '"version":+1'))
rewritten("a hexadecimal number", "the graph is not JSON", lambda text: text.replace('"version":1', '"version":0x1'))
rewritten("a comma at the end", "the graph is not JSON", lambda text: text[:-1] + ",}")
rewritten("quotes of the other kind", "the graph is not JSON", lambda text: text.replace('"', "'"))
rewritten("NaN", "NaN is no number of JSON", lambda text: text.replace("1.0", "NaN"))
rewritten("Infinity", "Infinity is no number of JSON", lambda text: text.replace("1.0", "Infinity"))
rewritten("minus Infinity", "-Infinity is no number of JSON", lambda text: text.replace("1.0", "-Infinity"))
rewritten("a number beyond floats", FORM, lambda text: text.replace("1.0", "1e999"))
rewritten("a whole number of 5000 digits", "Exceeds the limit", lambda text: text.replace("1.0", "9" * 5000))
rewritten("two of the outermost key", "the key 'version' stands twice", lambda text: text[:-1] + ',"version":1}')
rewritten(
    "two of a block's key", "the key 'hash' stands twice", lambda text: text.replace('"hash":', '"hash":"","hash":')
)
rewritten(
    "two of a node's key", "the key 'kind' stands twice", lambda t: t.replace('"kind":', '"kind":"read","kind":', 1)
)
rewritten(
    "two of a note's key", "the key 'lines' stands twice", lambda text: text.replace('"lines":', '"lines":[],"lines":')
)
rewritten(
    "two of a key with an escape",
    "the key 'kind' stands twice",
    lambda t: t.replace('"kind":', '"\\u006bind":"read","kind":', 1),
)
rewritten(
    "a hundred thousand lists", "the graph has containers more than 48", lambda text: "[" * 100_000 + "]" * 100_000
)
rewritten(
    "a hundred thousand objects",
    "the graph has containers more than 48",
    lambda t: '{"a":' * 100_000 + "1" + "}" * 100_000,
)
rewritten("a raw line break in a string", "the graph is not JSON", lambda text: text.replace("block.py", "block\n.py"))
rewritten("a change without a new hash", "is not the one that its hash names", lambda text: text.replace("1.0", "2.0"))


def surrogates(name, fragment, old, new):
    """A file with half a surrogate pair in its text, which UTF-8 cannot hold, and an escape in the header can."""

    def make():
        header = {"__metadata__": {"loupe": valid().text.replace(old, new)}, **entries(valid().tensors)}
        return packed(json.dumps(header), valid().bytes[-32:])

    hostile(fragment, name)(make)


surrogates("half a surrogate pair in a note", "half a surrogate pair", "block.py", "\ud800")
surrogates("half a surrogate pair by an escape", FORM, "block.py", "\\ud800")
surrogates("half a surrogate pair in a name", "half a surrogate pair", '"out"', '"\udfff"')
surrogates("half a surrogate pair in a key", "half a surrogate pair", '"version"', '"\udfff"')


def valid_hash(text):
    return json.loads(text)["graph"]["hash"]


rewritten(
    "a hash that is null",
    "'hash' of the graph is null, not a string",
    lambda t: t.replace(f'"{valid_hash(t)}"', "null"),
)
rewritten(
    "a hash in capitals",
    "is not the one that its hash names",
    lambda text: text.replace(valid_hash(text), valid_hash(text).upper()),
)
