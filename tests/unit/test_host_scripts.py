"""What is run on hosts without an agent: nothing that varies is ever read by a shell as program."""

import hashlib
import io
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.locks.fence import FileFence
from interlock_schemas.artifacts import FileEntry, Manifest
from interlock_sync_router.hosts import outcomes, pushing, scripts
from interlock_sync_router.hosts.archive import Member, archive
from interlock_sync_router.hosts.pushing import LARGE_BYTES
from interlock_sync_router.hosts.scripts import Tokens

ID = "ab" + "1" * 62
TOKENS = Tokens(order=3, store=4)
WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=80)
NASTY = st.one_of(
    WORDS,
    st.sampled_from(["-rf", "$(touch x)", "`id`", "a\nb", "'; exit 7 #", "\\", "!x", "~", "*"]),
)


def commands(root: str, word: str) -> list[str]:
    return [
        scripts.prepare(root),
        scripts.show(root, TOKENS),
        scripts.begin(root, TOKENS, ID, "1"),
        scripts.unpack(root, ID, "1"),
        scripts.append(root, ID, "1", word, 7, executable=True),
        scripts.remove(root, ID, "1", [word.encode()])[0],
        scripts.verify_staged(root, ID, "1"),
        scripts.verify_held(root, ID),
        scripts.commit(root, TOKENS, ID, "1"),
        scripts.drop(root, TOKENS, ID, "1"),
        scripts.quarantine(root, ID, "s", word),
        scripts.holds(root, ID),
        scripts.listing(root, "ab"),
        scripts.look(root),
        scripts.tidy(root),
    ]


@given(root=NASTY, word=NASTY)
@settings(max_examples=50, deadline=None)
def test_words_arrive_as_they_are_and_are_no_part_of_the_program(root: str, word: str) -> None:
    constant = [shlex.split(each)[3] for each in commands("/srv", "x")]
    for command, script in zip(commands(root, word), constant, strict=True):
        words = shlex.split(command)
        assert words[:5] == ["exec", "sh", "-c", script, "sh"]
        assert words[5] == root
    told = scripts.append(root, ID, "1", word, 7, executable=False)
    shown = subprocess.run(
        ["sh", "-c", told.replace("exec sh -c ", "set -- ", 1) + "; printf '%s\\0' \"$@\""],
        capture_output=True,
        check=True,
    )
    assert shown.stdout.split(b"\0")[2:-1] == [
        each.encode() for each in (root, ID, "1", word, "7", "644")
    ]


def test_every_script_is_one_that_a_shell_can_read() -> None:
    for command in commands("/srv/interlock", "x"):
        subprocess.run(["sh", "-n", "-c", shlex.split(command)[3]], check=True)


def test_no_word_has_a_byte_0() -> None:
    with pytest.raises(ValueError, match="byte 0"):
        scripts.prepare("/srv/\0")


def test_a_token_beyond_what_a_shell_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="higher than a shell counts"):
        scripts.show("/srv", Tokens(store=2**63))


# The fence, which is the same on both sides


def run(command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "it's a store"
    assert run(scripts.prepare(str(root))).returncode == 0
    return root


def test_tokens_that_were_shown_over_ssh_are_seen_by_an_agent(root: Path) -> None:
    assert run(scripts.show(str(root), TOKENS)).returncode == 0
    fence = FileFence(root / layout.FENCE)
    assert (fence.highest("orders"), fence.highest("store")) == (3, 4)
    with fence.guard("store", 9):
        pass
    refused = run(scripts.show(str(root), TOKENS))
    assert refused.returncode == scripts.STALE
    assert scripts.parse_stale(refused.stderr.decode()) == scripts.Stale("store", 4, 9)
    assert run(scripts.show(str(root), Tokens(store=9))).returncode == 0


def test_a_record_that_is_gone_is_not_taken_for_none(root: Path) -> None:
    assert run(scripts.show(str(root), TOKENS)).returncode == 0
    for record in (root / layout.FENCE).glob("*.json"):
        record.unlink()
    assert run(scripts.show(str(root), TOKENS)).returncode == scripts.DAMAGED_FENCE


def test_a_record_that_makes_no_sense_is_not_taken_for_none(root: Path) -> None:
    assert run(scripts.show(str(root), TOKENS)).returncode == 0
    for record in (root / layout.FENCE).glob("*.json"):
        record.write_bytes(record.read_bytes()[:-9])
    assert run(scripts.show(str(root), TOKENS)).returncode == scripts.DAMAGED_FENCE


@given(st.lists(st.integers(1, scripts.LARGEST_TOKEN), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_the_highest_token_wins(tmp_path_factory: pytest.TempPathFactory, shown: list[int]) -> None:
    root = tmp_path_factory.mktemp("store")
    assert run(scripts.prepare(str(root))).returncode == 0
    highest = 0
    for token in shown:
        code = run(scripts.show(str(root), Tokens(store=token))).returncode
        assert code == (scripts.STALE if token < highest else 0)
        highest = max(highest, token)
    assert FileFence(root / layout.FENCE).highest("store") == highest


def test_a_host_without_flock_is_refused_by_name(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    done = subprocess.run(
        ["/bin/sh", "-c", scripts.prepare(str(tmp_path / "store"))],
        env={"PATH": str(tools)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == scripts.NO_TOOL
    assert outcomes.failure(done.returncode, done.stderr.decode(), "nas").code == "denied"
    assert b"flock is not installed" in done.stderr


def test_a_folder_that_is_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store" / layout.ARTIFACTS).symlink_to(tmp_path / "elsewhere")
    done = run(scripts.prepare(str(tmp_path / "store")))
    assert done.returncode == scripts.LAID_ACROSS


# What they print


COMPONENT = st.text(
    st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=30
).filter(lambda name: name not in (".", ".."))


@given(st.dictionaries(COMPONENT, st.binary(max_size=600), max_size=6))
@settings(max_examples=25, deadline=None)
def test_what_is_unpacked_has_the_names_and_digests_that_it_had(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("store")
    here = tmp_path_factory.mktemp("here")
    assert run(scripts.prepare(str(root))).returncode == 0
    assert run(scripts.begin(str(root), TOKENS, ID, "1")).returncode == 0
    members = []
    for number, (name, data) in enumerate(files.items()):
        path = here / str(number)
        path.write_bytes(data)
        target = f"{layout.FILES}/d{number}/{name}"
        members.append(Member(name=target, path=path, size=len(data), executable=number == 1))
    sent = run(scripts.unpack(str(root), ID, "1"), b"".join(archive(members, 0)))
    assert sent.returncode == 0, sent.stderr
    found = scripts.parse_found(run(scripts.verify_staged(str(root), ID, "1")).stdout)
    assert found.strange == ()
    assert found.digests == {
        f"{layout.FILES}/d{number}/{name}".encode(): hashlib.sha256(data).hexdigest()
        for number, (name, data) in enumerate(files.items())
    }
    again = run(scripts.begin(str(root), TOKENS, ID, "2"))
    assert scripts.parse_sizes(again.stdout) == {
        f"d{number}/{name}".encode(): len(data) for number, (name, data) in enumerate(files.items())
    }


def test_long_names_arrive(root: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    name = f"{layout.FILES}/" + "/".join(["ü" * 127] * 12)
    assert run(scripts.begin(str(root), TOKENS, ID, "1")).returncode == 0
    stream = b"".join(archive([Member(name=name, path=tmp_path / "x", size=1)], 0))
    assert run(scripts.unpack(str(root), ID, "1"), stream).returncode == 0
    found = scripts.parse_found(run(scripts.verify_staged(str(root), ID, "1")).stdout)
    assert list(found.digests) == [name.encode()]


def test_what_is_no_plain_file_is_found(root: Path) -> None:
    run(scripts.begin(str(root), TOKENS, ID, "1"))
    files = root / layout.STAGING / f"{ID}.1" / scripts.CONTENT / layout.FILES
    (files / "-link\n").symlink_to("/etc/passwd")
    found = scripts.parse_found(run(scripts.verify_staged(str(root), ID, "1")).stdout)
    assert found.strange == (b"files/-link\n",)


@given(st.binary(max_size=300))
def test_digests_that_break_off_are_not_taken_for_all(data: bytes) -> None:
    whole = b"\0" + b"".join(b"a" * 64 + b"  files/%d\0" % number for number in range(4))
    assert len(scripts.parse_found(whole).digests) == 4
    for text in (whole[: len(data) % len(whole)], data.replace(b"\0", b"")):
        try:
            found = scripts.parse_found(text)
        except ValueError:
            continue
        assert whole.startswith(text)
        assert len(found.digests) < 4


def test_a_shell_that_prints_something_of_its_own_is_noticed(root: Path) -> None:
    told = run(scripts.prepare(str(root))).stdout
    assert scripts.parse_prepared(told) is not None
    assert scripts.parse_prepared(b"interlock:ready \n") == ""
    assert scripts.parse_prepared(b"Welcome!\n" + told) is None
    assert scripts.parse_prepared(told + b"x\n") is None


def test_ids_are_those_in_their_own_part() -> None:
    other = "cd" + "2" * 62
    data = f"./ab/{ID}\n./ab/{other}\n./cd/{other}\n./ab/lost+found\n".encode()
    assert scripts.parse_ids(data) == [ID, other]
    assert scripts.parse_ids(f"ab/{ID}\n".encode()) == [ID]


def test_room_is_told_for_file_systems_of_any_name() -> None:
    look = scripts.parse_look(b"a b 7%  100  60  40  60% /mnt/x\n2\n5\n")
    assert look == scripts.Look(40 * 1024, 100 * 1024, 2, 5)
    assert scripts.parse_look(b"none - - - - /\n0\n0\n").free_bytes is None


# What is to be sent, and what is wrong with what is there


def entry(path: str, size: int, *, executable: bool = False, data: bytes = b"") -> FileEntry:
    digest = hashlib.sha256(data).hexdigest()
    return FileEntry(path=path, size=size, sha256=digest, executable=executable)


def manifest(*files: FileEntry) -> Manifest:
    return Manifest(dataset="games", name="n", kind="folder", files=files)


def test_what_is_there_is_not_sent_again() -> None:
    large = LARGE_BYTES + 10
    told = manifest(entry("a", 1), entry("b", 2), entry("c", large), entry("x", 1, executable=True))
    todo = pushing.outstanding(told, {b"a": 1, b"b": 1, b"c": 5, b"x": 1})
    assert [file.path for file in todo.together] == ["b", "x"]
    assert [(rest.file.path, rest.offset) for rest in todo.alone] == [("c", 5)]
    assert not pushing.outstanding(told, {b"c": large}).alone
    assert pushing.outstanding(told, {b"c": large + 1}).alone[0].offset == 0
    assert pushing.outstanding(told, {b"c": large}, {b"c"}).alone[0].offset == 0


def test_what_is_missing_what_is_too_much_and_what_is_other_is_named() -> None:
    told = manifest(entry("a", 1), entry("b", 1), entry("c", 0))
    good = hashlib.sha256(b"").hexdigest()
    digests = {b"files/a": good, b"files/b": "0" * 64, b"files/d": good, b"manifest.json": ID}
    wrong = pushing.judge(told, ID, scripts.Found(digests, (b"files/link",)))
    assert set(wrong) == {b"files/b", b"files/c", b"files/d", b"files/link"}
    assert pushing.contents(wrong) == {b"b", b"c", b"d", b"link"}


def test_a_file_that_is_shorter_than_it_should_be_ends_the_stream(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12")
    with pytest.raises(TransferFailed) as raised:
        list(archive([Member(name="x", path=tmp_path / "x", size=3)], 0))
    assert raised.value.code == "damaged"


def test_the_stream_is_one_that_others_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12")
    stream = b"".join(archive([Member(name="-a\n", path=tmp_path / "x", size=2)] * 2, 7))
    with tarfile.open(fileobj=io.BytesIO(stream)) as read:
        assert [(each.name, each.size, each.mtime) for each in read] == [("./-a\n", 2, 7)] * 2


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (
            2,
            "tar: ./files/x: Wrote only 512 of 10240 bytes\n./y: No space left on device",
            "no_space",
        ),
        (1, "cat: write error: Disk quota exceeded", "no_space"),
        (1, "mkdir: cannot create directory 'x': Permission denied", "denied"),
        (1, "mkdir: cannot create directory 'x': Read-only file system", "denied"),
        (2, "tar: ./files/x: Cannot open: File name too long", "refused_name"),
        (1, "cat: read error: Input/output error", "io"),
        (127, "sh: not found", "denied"),
        (scripts.STALE, "stale store 3 9", "stale_token"),
        (scripts.BUSY, "no turn", "io"),
        (scripts.NO_STORE, "no store at /srv", "io"),
        (1, "", "io"),
    ],
)
def test_what_a_host_says_has_a_code(code: int, said: str, expected: str) -> None:
    assert outcomes.failure(code, said, "nas").code == expected
