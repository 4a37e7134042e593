"""Make containers with headers that lie, and tensors where none can be."""

import io
import pickle
import struct
import zipfile

from tests.wire.by_hand import entries, packed, valid
from tests.wire.hostile.table import HEADER, TENSOR, headed, hostile, raw

raw("no bytes at all", "a file of 0 bytes has no header", lambda data: b"")
raw("seven bytes", "a file of 7 bytes has no header", lambda data: data[:7])
raw("length of zero", "the header is no JSON object", lambda data: struct.pack("<Q", 0) + data[8:])
raw("length longer than the file", "and the file has", lambda data: struct.pack("<Q", len(data)) + data[8:])
raw("length of 2**63", f"says that it has {1 << 63} bytes", lambda data: struct.pack("<Q", 1 << 63) + data[8:])
raw(
    "length of 2**64 - 1", f"says that it has {(1 << 64) - 1}", lambda data: struct.pack("<Q", (1 << 64) - 1) + data[8:]
)
raw("length over the limit", "268435457 bytes, and 268435456 are", lambda data: struct.pack("<Q", (1 << 28) + 1) + data)
raw("length one too short", "the header is not JSON", lambda data: struct.pack("<Q", HEADER - 1) + data[8:])
raw(
    "length one too long",
    "no UTF-8 text",
    lambda d: struct.pack("<Q", HEADER + 1) + d[8 : 8 + HEADER] + b"\xff" + d[9 + HEADER :],
)
raw("cut inside the header", "and the file has", lambda data: data[: 8 + HEADER // 2])
raw("cut inside the data", "lies at bytes 0 to 32 of 31", lambda data: data[:-1])
raw("cut before the data", "lies at bytes 0 to 32 of 0", lambda data: data[: 8 + HEADER])
raw("bytes behind the end", "1 bytes stand behind the last tensor", lambda data: data + b"\0")
raw("data of another tensor", "has other data than its name says", lambda data: data[:-1] + b"\x01")
raw("a pickle", "says that it has", lambda data: pickle.dumps({"graph": [1, 2, 3]}))
raw("text", "says that it has", lambda data: b"this is no graph")
raw(
    "a byte order mark",
    "the header is no JSON object",
    lambda d: packed(b"\xef\xbb\xbf" + d[8 : 8 + HEADER], d[8 + HEADER :]),
)
raw("a header in UTF-16", "the header is no UTF-8 text", lambda d: packed(d[8 : 8 + HEADER].decode().encode("utf-16")))
raw("a header that is a list", "the header is no JSON object", lambda data: packed("[]"))
raw("a header with bytes that are no text", "no UTF-8 text: invalid", lambda data: packed(b'{"a":"\xc3\x28"}'))
raw("a header of white space", "the header is no JSON object", lambda data: packed(" " * 64))
raw("a header of brackets", "the header has containers more than 48 deep", lambda data: packed('{"a":' + "[" * 100_000))
raw("brackets in closing order", "the header is not JSON", lambda data: packed("{" + "]" * 100_000))
raw("a header with a comment", "the header is not JSON", lambda data: packed('{"a":1/*no*/}'))
raw("two headers", "the header is not JSON: Extra data", lambda data: packed("{}{}"))
raw("NaN in the header", "NaN is no number of JSON", lambda data: packed('{"a":NaN}'))
raw(
    "a long number in the header",
    "the header is not JSON: Exceeds the limit",
    lambda d: packed('{"a":' + "9" * 5000 + "}"),
)
raw("half strings with escapes", "the header is not JSON", lambda data: packed('{"a":"' + '\\"' * 200_000))
raw(
    "half strings with escapes to the end",
    "the header is not JSON",
    lambda d: packed('{"a":"' + '\\"' * 200_000 + "\\"),
)
raw("quotes without end", "the header is not JSON", lambda data: packed('{"' + '"' * 200_001))


@hostile("the key 'k0' stands twice")
def many_keys_of_which_the_last_is_there_already():
    keys = [f'"k{number}":0' for number in range(100_000)]
    return packed("{" + ",".join([*keys, '"k0":0']) + "}")


@hostile("the key 'k99999' stands twice")
def many_keys_of_which_the_last_stands_twice():
    keys = [f'"k{number}":0' for number in range(100_000)]
    return packed("{" + ",".join([*keys, '"k99999":0']) + "}")


@hostile("says that it has")
def a_zip_file():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02}q\x00.")
    return held.getvalue()


@hostile("a safetensors container without a graph")
def weights_without_metadata():
    return packed(entries(valid().tensors), b"".join(each.data for each in valid().tensors.values()))


@hostile("a safetensors container without a graph")
def weights_with_the_metadata_of_another_library():
    return packed({"__metadata__": {"format": "pt"}, **entries(valid().tensors)}, b"\0" * 32)


headed("metadata that is a list", "container without a graph", lambda header: header.update(__metadata__=["loupe"]))
headed("metadata that is null", "container without a graph", lambda header: header.update(__metadata__=None))
headed("metadata beside the graph", "has 'format' beside the graph", lambda h: h["__metadata__"].update(format="pt"))
headed("a graph that is an object", "is no string but dict", lambda header: header.update(__metadata__={"loupe": {}}))
headed("a graph that is a number", "is no string but int", lambda header: header.update(__metadata__={"loupe": 1}))
headed("an entry that is a list", "is not described by dtype, shape", lambda header: header.update({TENSOR: []}))
headed("an entry without a shape", "is not described by dtype, shape", lambda header: header[TENSOR].pop("shape"))
headed("an entry with a field more", "is not described by dtype", lambda header: header[TENSOR].update(strides=[1]))
headed("a dtype that nobody has", "has the unknown dtype 'F7'", lambda header: header[TENSOR].update(dtype="F7"))
headed("a dtype that is a number", "has the unknown dtype 7", lambda header: header[TENSOR].update(dtype=7))
headed("a dtype that is a list", "has the unknown dtype []", lambda header: header[TENSOR].update(dtype=[]))
headed("a shape that is a number", "has no shape of whole numbers: 8", lambda header: header[TENSOR].update(shape=8))
headed("a negative size", "has no shape of whole numbers: [-8]", lambda header: header[TENSOR].update(shape=[-8]))
headed("two negative sizes", "has no shape of whole numbers: [-2, -4]", lambda h: h[TENSOR].update(shape=[-2, -4]))
headed("a size with a point", "has no shape of whole numbers: [8.0]", lambda h: h[TENSOR].update(shape=[8.0]))
headed("a size that is true", "has no shape of whole numbers: [True, 8]", lambda h: h[TENSOR].update(shape=[True, 8]))
headed(
    "a size of 2**62",
    "has no shape of whole numbers: [4611686018427387904]",
    lambda h: h[TENSOR].update(shape=[1 << 62]),
)
headed("a huge shape", f"takes {4 << 40} bytes, and has 32", lambda header: header[TENSOR].update(shape=[1 << 40]))
headed(
    "a shape that overflows", "than any memory holds", lambda header: header[TENSOR].update(shape=[1 << 32, 1 << 32, 1])
)
headed("a shape that overflows to 8", "than any memory holds", lambda h: h[TENSOR].update(shape=[1 << 61, 1 << 61, 8]))
headed("a shape of none by too many", "than any memory holds", lambda h: h[TENSOR].update(shape=[0, 1 << 61, 1 << 61]))
headed("sixty-five dimensions", "has 65 dimensions, and 64 are", lambda h: h[TENSOR].update(shape=[8] + [1] * 64))
headed("offsets that are one number", "no data_offsets of two", lambda header: header[TENSOR].update(data_offsets=0))
headed("three offsets", "no data_offsets of two", lambda header: header[TENSOR].update(data_offsets=[0, 8, 32]))
headed("offsets with points", "no data_offsets of two", lambda header: header[TENSOR].update(data_offsets=[0.0, 32.0]))
headed("offsets the wrong way round", "lies at bytes 32 to 0", lambda h: h[TENSOR].update(data_offsets=[32, 0]))
headed("an offset before the data", "lies at bytes -8 to 24", lambda h: h[TENSOR].update(data_offsets=[-8, 24]))
headed("an offset behind the data", "lies at bytes 8 to 40 of 32", lambda h: h[TENSOR].update(data_offsets=[8, 40]))
headed(
    "an offset of 2**64",
    "lies at bytes 0 to 18446744073709551616",
    lambda h: h[TENSOR].update(data_offsets=[0, 1 << 64]),
)
headed(
    "a hole before the first tensor",
    "leaves a hole before it: it begins at 8, not at 0",
    lambda header: header[TENSOR].update(data_offsets=[8, 40]),
    lambda data: bytes(8) + data,
)
headed(
    "two tensors in one place",
    "overlaps with the one before it: it begins at 0, not at 32",
    lambda header: header.update(other=dict(header[TENSOR])),
)
headed(
    "tensors that overlap by half",
    "overlaps with the one before it: it begins at 16, not at 32",
    lambda header: header.update(other={**header[TENSOR], "data_offsets": [16, 48]}),
    lambda data: data + bytes(16),
)
headed(
    "a hole between tensors",
    "leaves a hole before it: it begins at 40, not at 32",
    lambda header: header.update(other={**header[TENSOR], "data_offsets": [40, 72]}),
    lambda data: data + bytes(40),
)
headed(
    "data that is read as another shape",
    "has other data than its name says",
    lambda header: header[TENSOR].update(shape=[2, 4]),
)
headed(
    "data that is read as another dtype",
    "has other data than its name says",
    lambda header: header[TENSOR].update(dtype="I32"),
)
