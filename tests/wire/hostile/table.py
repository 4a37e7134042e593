"""Keep the table of hostile files, and enter files into it that are right but for one change."""

import struct

from tests.wire.by_hand import container, entries, packed, valid

HOSTILE = {}


def hostile(fragment, name=None):
    """Enter a way to make a file into the table, with a part of the message that it is refused with."""

    def enter(make):
        key = (name or make.__name__).replace("_", " ").strip()
        assert key not in HOSTILE
        HOSTILE[key] = (make, fragment)
        return make

    return enter


def changed(name, fragment, change, start=valid):
    """A file whose document is right but for one change; its hashes are right."""

    def make():
        file = start()
        change(file)
        return file.bytes

    hostile(fragment, name)(make)


def rewritten(name, fragment, change):
    """A file whose text is another one than the document's."""
    hostile(fragment, name)(lambda: container(change(valid().text), valid().tensors))


def headed(name, fragment, change, data=lambda data: data):
    """A container whose header is right but for one change."""

    def make():
        file = valid()
        header = {"__metadata__": {"loupe": file.text}, **entries(file.tensors)}
        change(header)
        return packed(header, data(b"".join(stored.data for stored in file.tensors.values())))

    hostile(fragment, name)(make)


def raw(name, fragment, change):
    """A file whose bytes are those of a right one but for one change."""
    hostile(fragment, name)(lambda: change(valid().bytes))


TENSOR = valid().content["constants"][0]["tensor"]
HEADER = struct.unpack("<Q", valid().bytes[:8])[0]


def applied(name, fragment, /, *call, **kwargs):
    """A file with one operation more."""
    changed(name, fragment, lambda file: file.applied(*call, **kwargs))


def argued(name, fragment, argument):
    """A file with an argument of an odd form."""
    applied(name, fragment, "torch.neg", argument)


def noded(name, fragment, **fields):
    """A file with one node more."""
    changed(name, fragment, lambda file: file.node(**fields))


READ = {"kind": "read"}
X = {"ref": 0}
