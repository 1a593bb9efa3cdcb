"""Pickles that attack their reader, written opcode by opcode."""

import functools


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def _array_of(shape: bytes, *, dtype: bytes = b"f8", data: bytes = b"U\x04abcd") -> bytes:
    kind = b"cnumpy\ndtype\n(U" + bytes([len(dtype)]) + dtype + b"I0\nI1\ntR"
    kind += b"(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    return start + b"(I1\n(" + shape + b"t" + kind + b"I00\n" + data + b"tb."


def _laughs(levels: int) -> bytes:
    """t0 = (), t = (t, t) again and again, then a dictionary with t as its key: 2^levels hashes."""
    return b"})" + b"q\x01h\x01\x86" * levels + b"K\x01s."


def _deep(levels: int) -> bytes:
    return b"})" + b"\x85" * levels + b"K\x01s."


@functools.cache
def corpus() -> dict[str, bytes]:
    """name → pickle."""
    touch = b"(U\x0aecho pwnedtR"
    return {
        "os.system": b"cos\nsystem\n" + touch + b".",
        "posix.system, nested": b"}U\x01a]cposix\nsystem\n" + touch + b"as.",
        "builtins.eval": b"cbuiltins\neval\n(U\x0f__import__('os')tR.",
        "Python 2 eval": b"c__builtin__\neval\n(U\x011tR.",
        "subprocess by INST": b"(U\x02lsisubprocess\nPopen\n.",
        "subprocess by OBJ": b"(csubprocess\nPopen\nU\x02lso.",
        "subprocess by NEWOBJ": b"csubprocess\nPopen\n(U\x02lst\x81.",
        "subprocess by NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n(U\x02lst}\x92.",
        "getattr chain": b"cbuiltins\ngetattr\n(cos\nsystem\nU\x08__call__tR(U\x02lstR.",
        "functools.partial": b"cfunctools\npartial\n(cos\nsystem\nU\x02lstR)R.",
        "operator.attrgetter": b"coperator\nattrgetter\n(U\x06systemtR(cos\npath\ntR.",
        "importlib": b"cimportlib\nimport_module\n(U\x09antigravitytR.",
        "dotted name": b"\x80\x04" + _text("os") + _text("path.join") + b"\x93(U\x01atR.",
        "dotted name through an allowed module": (
            b"\x80\x04" + _text("collections") + _text("OrderedDict.fromkeys.__call__") + b"\x93."
        ),
        "numpy load": b"cnumpy\nload\n(U\x01atR.",
        "numpy runstring": b"cnumpy.testing._private.utils\nrunstring\n(U\x01a}tR.",
        "codecs that decompress": b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x03zlibtR.",
        "bytes bomb": b"cbuiltins\nbytes\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR.",
        "EXT1": b"\x82\x01.",
        "EXT2": b"\x83\x01\x00.",
        "EXT4": b"\x84\x01\x00\x00\x00.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "persistent id": b"U\x01aQ.",
        "memo bomb": b"K\x01r\xff\xff\xff\x7f.",
        "memo bomb in text": b"K\x01p99999999999\n.",
        "memo entry never stored": b"h\x07.",
        "a billion laughs": _laughs(60),
        "tuples too deep to hash": _deep(100_000),
        "array of 2^40 numbers": _array_of(b"\x8a\x06\x00\x00\x00\x00\x00\x01"),
        "array of negative extent": _array_of(b"I-1\n"),
        "array of overflowing extents": _array_of(b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"I16\n"),
        "array longer than its bytes": _array_of(b"I2\n"),
        "array shorter than its bytes": _array_of(b"I1\n", data=b"U\x10" + b"a" * 16),
        "array of objects": _array_of(b"I1\n", dtype=b"O8", data=b"(lK\x01a"),
        "array of several objects": _array_of(b"I2\n", dtype=b"O", data=b"(lK\x01aK\x01a"),
        "array with an odd dtype": _array_of(b"I1\n", dtype=b"V8"),
        "array with a dtype expression": _array_of(b"I1\n", dtype=b"f8,f8"),
        "array never filled": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR."
        ),
        "array of a subclass": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmemmap\n(I0\ntU\x01btR."
        ),
        "array copied a million times": (
            b"]T\x00\x00\x10\x00"
            + b"a" * (1 << 20)
            + b"q\x010"
            + (b"c_codecs\nencode\n(h\x01tRa" * 500)
            + b"."
        ),
        "state set on a builder": b"ccollections\nOrderedDict\n}U\x08__init__K\x01sb.",
        "state set on a builtin value": b"]}U\x06appendK\x01sb.",
        "tuple calls": b"(K\x01tR.",
        "unhashable key": b"}]K\x01s.",
        "stack underflow": b"\x86.",
        "no STOP": b"K\x01",
        "empty file": b"",
        "not a pickle": b"\xff\xd8\xff\xe0JFIF",
        "future protocol": b"\x80\x7fK\x01.",
        "length beyond the file": b"\x8e\x00\x00\x00\x00\x00\x00\x00\x7fabc.",
        "frame beyond the file": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fK\x01.",
        "long decimal": b"L" + b"9" * 100_000 + b"L\n.",
    }
