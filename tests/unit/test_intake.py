"""The bytes of a trip reach the artifact that they belong to, however they are cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.moving.intake import Intake
from interlock.artifacts.transports.base import Piece


class Memory:
    """An artifact that is taken into memory; refuses the byte 0xff."""

    def __init__(self, id: str, sizes: Sequence[int]) -> None:
        self.id = id
        self.missing = [
            Piece(id, f"f{number}", 0, size, whole=True) for number, size in enumerate(sizes)
        ]
        self.data = b""

    @property
    def complete(self) -> bool:
        return len(self.data) == sum(piece.length for piece in self.missing)

    def write(self, data: memoryview) -> None:
        if 0xFF in bytes(data):
            raise TransferFailed("damaged", "a byte that is none")
        self.data += bytes(data)

    async def close(self) -> None:
        return


@given(
    sizes=st.lists(st.lists(st.integers(1, 20), max_size=3), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=40),
)
def test_each_byte_reaches_its_artifact(sizes: list[list[int]], cuts: list[int]) -> None:
    artifacts = [Memory(f"{number}", each) for number, each in enumerate(sizes)]
    counted: list[int] = []
    intake = Intake(artifacts, counted.append)
    contents = [bytes([number]) * sum(each) for number, each in enumerate(sizes)]
    stream = b"".join(contents)
    at = 0
    for cut in [*cuts, len(stream) + 1]:
        if at < len(stream):
            assert intake.current == f"{stream[at]}"
            intake(memoryview(stream[at : at + cut]))
            at += cut
    assert intake.current is None
    assert [each.data for each in artifacts] == contents
    assert all(each.complete for each in artifacts)
    assert sum(counted) == len(stream) == sum(intake.received.values())
    with pytest.raises(TransferFailed, match="more bytes"):
        intake(memoryview(b"x"))


def test_the_one_that_refuses_is_known() -> None:
    artifacts = [Memory("a", [3]), Memory("b", [2, 2]), Memory("c", [1])]
    intake = Intake(artifacts, lambda _: None)
    with pytest.raises(TransferFailed):
        intake(memoryview(b"aaabb\xffbc"))
    assert intake.current == "b"
    assert intake.refused is not None
    assert intake.refused.code == "damaged"
    assert artifacts[0].complete


def test_once_closed_it_takes_nothing() -> None:
    artifact = Memory("a", [3])
    intake = Intake([artifact], lambda _: None)
    intake(memoryview(b"aa"))
    intake.close()
    with pytest.raises(TransferFailed):
        intake(memoryview(b"a"))
    assert artifact.data == b"aa"
