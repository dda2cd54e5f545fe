import json
import os
import struct

import pytest

from forkpoint.sandbox.inside import folder, wire


def frame(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def arriving(data: bytes):
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        return wire.decode(wire.receive(reader))
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        frame(b"{"),
        frame(b"\xff\xfe\xfd"),
        frame(b"[" * 60_000),
        frame(b"9" * 5000),
        frame(b"[" * 102 + b"]" * 102),
        frame(b'{"t": 1}'),
        frame(b'{"t": "text"}'),
        frame(b'{"z": []}'),
        frame(b'{"t": [], "s": []}'),
        frame(b"{}"),
        frame(b'{"s": [[]]}'),
        frame(b'{"d": [[[], 1]]}'),
        frame(b'{"d": [1]}'),
        frame(b'{"d": [[1, 2, 3]]}'),
        frame(b'{"b": "0"}'),
        frame(b'{"b": 1}'),
        frame(b'{"i": "x"}'),
        frame(b'{"i": 7}'),
        frame(b'{"c": [1]}'),
        frame(b'{"c": ["a", "b"]}'),
    ],
)
def test_what_is_no_value_is_said_to_be_none(data):
    with pytest.raises(wire.WireError):
        arriving(data)


@pytest.mark.parametrize("data", [b"", b"\0\0", frame(b"[1]")[:-1]])
def test_what_ends_early_is_an_end(data):
    with pytest.raises(EOFError):
        arriving(data)


def test_hostile_subclasses_are_not_asked():
    class Liar(int):
        def __index__(self):
            raise RuntimeError

        __int__ = __repr__ = __str__ = __eq__ = __hash__ = __index__  # type: ignore[assignment]

    class Text(str):
        def __str__(self):
            raise RuntimeError

        __repr__ = __len__ = __str__  # type: ignore[assignment]

    class Endless(list):
        def __iter__(self):
            while True:
                yield 1

    class Growing(dict):
        def items(self):
            raise RuntimeError

    value = wire.decode(json.loads(json.dumps(wire.encode([Liar(5), Text("t"), Endless([1]), Growing(a=1)]))))
    assert value == [5, "t", [1], {"a": 1}]
    assert [type(item) for item in value] == [int, str, list, dict]


def test_what_cannot_travel_is_refused():
    loop: list[object] = []
    loop.append(loop)
    for value in (loop, object(), range(3), (number for number in []), len, {"a": object()}):
        with pytest.raises(wire.WireError):
            wire.encode(value)


def test_a_frame_is_bounded(monkeypatch):
    monkeypatch.setattr(wire, "LARGEST", 10)
    reader, writer = os.pipe()
    try:
        with pytest.raises(wire.WireError, match="more than 10 bytes"):
            wire.send(writer, "x" * 9)
        os.write(writer, struct.pack("!I", 11))
        with pytest.raises(wire.WireError, match="more than 10 bytes"):
            wire.receive(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_folder_goes_with_all_that_is_in_it_and_nothing_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(outside)
    (home / "d" / "e").mkdir(parents=True)
    (home / "d" / "e" / "link").symlink_to(outside / "kept")
    (home / "d" / "e" / "closed").mkdir(0o000)
    os.mkfifo(home / "d" / "pipe")
    (home / "shut").mkdir()
    (home / "shut" / "file").write_text("x")
    (home / "shut").chmod(0)
    folder.remove(str(home))
    assert not home.exists()
    assert (outside / "kept").read_text() == "x"
    link = tmp_path / "link"
    link.symlink_to(outside)
    folder.remove(str(link))
    assert (outside / "kept").exists()
