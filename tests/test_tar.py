"""The reader of tar archives: what tarfile reads in a good one, and a refusal of what no two readers read alike."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_builder.train.tar import BLOCK, MOST_BYTES, MOST_HEADERS, Member, TarError, read_members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
PART = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)


def ours(data: bytes) -> list[Member]:
    return list(read_members(io.BytesIO(data)))


def theirs(data: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [Member(m.name, m.offset_data, m.size, m.isreg() and not m.issparse(), m.isdir()) for m in tar]


def header(name: str = "x", size: int = 0, kind: bytes = tarfile.REGTYPE, form: int = tarfile.USTAR_FORMAT) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(form)


def signed(block: bytes, *changes: tuple[int, bytes]) -> bytes:
    """A header with bytes changed and its sum made good."""
    new = bytearray(block)
    for place, value in changes:
        new[place : place + len(value)] = value
    new[148:156] = b" " * 8
    new[148:156] = b"%06o\0 " % sum(new)
    return bytes(new)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    content = b"".join(records)
    return header("pax", len(content), kind) + padded(content)


END = bytes(2 * BLOCK)


@given(
    st.lists(
        st.tuples(
            st.lists(PART, min_size=1, max_size=3).map("/".join),
            st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]),
            st.binary(max_size=1500),
            st.sampled_from(["", "x" * 100, "ä" * 60]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(FORMATS),
    st.dictionaries(st.sampled_from(["comment", "mtime", "SCHILY.x"]), st.text("0123456789", min_size=1), max_size=2),
)
def test_what_tarfile_reads_is_read_alike(
    given_members: list[tuple[str, bytes, bytes, str]], form: int, records: dict[str, str]
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=records) as tar:
        for name, kind, content, link in given_members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.pax_headers = kind, link, records
            member.size = len(content) if member.isreg() else 0
            try:
                tar.addfile(member, io.BytesIO(content))
            except ValueError:  # a name that ustar cannot hold
                return
    assert ours(file.getvalue()) == theirs(file.getvalue())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda block: signed(block, (124, b"\xff" * 10 + b"\xfe\0")), "a member of -512 bytes"),
        (lambda block: signed(block, (124, b"\x80" + b"\xff" * 11)), "unexpected end of data"),
        (lambda block: signed(block, (124, b"00000001001\0")), "unexpected end of data"),
        (lambda block: signed(block, (124, b"zzzz")), "bad number"),
        (lambda block: block[:3] + b"!" + block[4:], "bad checksum"),
    ],
)
def test_a_header_that_lies_is_refused(change: Callable[[bytes], bytes], message: str) -> None:
    good = header("a.png", 5) + padded(b"hello")
    with pytest.raises(TarError, match=message):
        ours(good + change(header("x.txt")) + b"")


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (pax(b"12 size=-99\n"), "whose size is not a number"),
        (pax(b"13 size=zzzz\n"), "whose size is not a number"),
        (pax(b"99 path=a\n"), "a damaged pax header"),
        (pax(b"0 path=a\n"), "a damaged pax header"),
        (pax(b"path\n"), "a damaged pax header"),
        (pax(b"13 comment=a\n", b"no length" * 9), "a damaged pax header"),  # once an endless loop
        (pax(b"8 path=\n"), "a member without a name"),
        (pax(b"10 path=b\n") * 2, "is set twice"),
        (pax(b"10 size=0\n", kind=tarfile.XGLTYPE), "a global pax header sets"),
        (pax(b"13 comment=a\n") * (MOST_HEADERS + 1), f"more than {MOST_HEADERS} headers for one member"),
        (header("pax", MOST_BYTES + 1, tarfile.XHDTYPE), "bytes of names and pax headers"),
        (header("long", 2**40, tarfile.GNUTYPE_LONGNAME, tarfile.GNU_FORMAT), "bytes of names and pax headers"),
        (header("long", 4, tarfile.GNUTYPE_LONGNAME) + padded(b"abcd" + b"e"), "is longer than it says"),
    ],
)  # fmt: skip
def test_records_before_a_member_are_bounded(before: bytes, message: str) -> None:
    with pytest.raises(TarError, match=message):
        ours(before + header() + END)


def test_every_cut_of_an_archive_is_refused() -> None:
    whole = pax(b"20 path=" + b"y" * 11 + b"\n") + header("a", 700) + bytes(b"z" * 700) + bytes(324)
    for cut in range(0, len(whole) + 1, 100):
        with pytest.raises(TarError):
            ours(whole[:cut])
    assert [member.name for member in ours(whole + END)] == ["y" * 11]


def test_members_are_not_kept() -> None:
    import tracemalloc

    data = header("junk.txt") * 20_000 + END
    file = io.BytesIO(data)
    tracemalloc.start()
    assert sum(1 for _ in read_members(file)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
