"""What is asked for through the broker, and how rsync's and the shell's portions are cut."""

from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts.transports import remote
from interlock.artifacts.transports.base import Piece
from interlock.artifacts.transports.relay import questions
from interlock.artifacts.transports.rsync import portions
from interlock.artifacts.transports.window import Window
from interlock_schemas.artifacts import Part, Read

ID = "ab" + "0" * 62
PIECES = st.lists(
    st.builds(
        Piece,
        id=st.sampled_from([ID, "cd" + "1" * 62]),
        path=st.sampled_from(["a", "b/-c", "d\ne", "long/" * 700 + "f"]),
        offset=st.integers(0, 10_000),
        length=st.integers(1, 10_000),
        whole=st.booleans(),
    ),
    max_size=50,
)


def parts_of(read: Read) -> list[Part]:
    assert read.path is not None
    first = Part(id=read.id, path=read.path, offset=read.offset, length=read.length)
    return [first, *read.more]


@given(pieces=PIECES, most=st.integers(1, 20_000))
def test_the_answers_put_together_are_the_pieces(pieces: list[Piece], most: int) -> None:
    asked: list[Part] = []
    for read, size in questions(pieces, most):
        parts = parts_of(read)
        assert sum(part.length for part in parts) == size <= most
        assert len(parts) == 1 or sum(len(part.path) for part in parts) <= 64 * 1024
        asked += parts
    for piece in pieces:
        at = piece.offset
        while at < piece.offset + piece.length:
            part = asked.pop(0)
            assert (part.id, part.path, part.offset) == (piece.id, piece.path, at)
            at += part.length
        assert at == piece.offset + piece.length
    assert not asked


@given(pieces=PIECES, most=st.integers(1, 50_000))
def test_portions_are_the_pieces_in_order(pieces: list[Piece], most: int) -> None:
    cut = list(portions(pieces, most))
    assert [piece for portion in cut for piece in portion] == pieces
    assert all(cut)


@given(pieces=PIECES)
def test_no_name_is_ever_part_of_a_command_line(pieces: list[Piece]) -> None:
    trips = list(remote.trips("/root of it's", pieces))
    assert [piece for trip in trips for piece in trip.pieces] == pieces
    for trip in trips:
        assert trip.length == sum(piece.length for piece in trip.pieces)
        assert ID not in trip.command
        assert "\n" not in trip.command
        names = trip.stdin.split(b"\0")[:-1]
        assert len(names) == len(trip.pieces) * (1 if trip.pieces[0].whole else 4)


@given(st.lists(st.none() | st.floats(0, 100), max_size=200))
def test_the_window_stays_within_its_bounds(answers: list[float | None]) -> None:
    window = Window()
    for took_s in answers:
        window = window.unanswered() if took_s is None else window.answered(took_s)
        assert 2 <= window.open <= window.most
        assert 2.0 <= window.patience_s <= 16.0


def test_the_window_grows_while_answers_come_quickly_and_shrinks_when_they_queue_up() -> None:
    window = Window()
    for _ in range(100):
        window = window.answered(0.01)
    assert window.open == window.most
    for _ in range(1_000):
        window = window.answered(0.5)
    assert window.open < window.most / 2
    assert window.unanswered().open <= window.open
