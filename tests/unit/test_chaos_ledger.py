"""Ledgers survive a kill at any byte, and a publisher goes on where its ledger ends."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from interlock.chaos import ledger
from interlock.chaos.ledger import Ledger
from interlock.chaos.lines import Attempt, Line, Outcome, Started
from interlock.chaos.publisher import place_of

LINES: list[Line] = [
    Started(at=1.0),
    Attempt(at=1.5, key="k", seq=0, deadline_s=4.0),
    Outcome(at=1.6, key="k", seq=0, result="acknowledged", stream_seq=7),
    Attempt(at=1.7, key="k", seq=1, deadline_s=4.0),
    Attempt(at=1.7, key="l", seq=0, deadline_s=4.0),
    Outcome(at=5.7, key="k", seq=1, result="unknown"),
]


def write(path: Path, lines: list[Line]) -> None:
    book = Ledger(path)
    for line in lines:
        book.write(line)
    book.close()


@given(data=st.data())
def test_a_kill_at_any_byte_takes_at_most_the_line_it_hit(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger"
        write(path, LINES)
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert ledger.read(path) == LINES[:kept]
        # The next life writes on behind it, and nothing of its own is lost.
        write(path, [Started(at=9.0)])
        read = ledger.read(path)
        assert read[-1] == Started(at=9.0)
        # A line that lacked its end of line alone is whole again.
        assert read[:-1] in (LINES[:kept], LINES[: kept + 1])


def test_a_ledger_is_read_on_from_where_the_last_reading_ended(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert ledger.read_from(path, 0) == ([], 0)
    write(path, LINES[:2])
    first, offset = ledger.read_from(path, 0)
    with path.open("ab") as file:
        file.write(b'{"type":"star')
    nothing, same = ledger.read_from(path, offset)
    with path.open("ab") as file:
        file.write(b'ted","at":3.0}\n')
    rest, _ = ledger.read_from(path, same)
    assert first == LINES[:2]
    assert nothing == []
    assert rest == [Started(at=3.0)]


def test_a_publisher_goes_on_where_its_ledger_ends() -> None:
    place = place_of("k", LINES)
    assert place.next == 2
    assert place.unknown == {1}
    assert place_of("l", LINES).unknown == {0}
    assert place_of("m", LINES).next == 0
