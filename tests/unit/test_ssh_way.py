"""The way to a host: its jump hosts in order, each with those that it is itself behind."""

import pytest

from interlock_health_monitor.ssh_outcome import SshFailed
from interlock_health_monitor.ssh_pool import way
from interlock_schemas.nodes import SshAccess


def names(access: SshAccess) -> list[str]:
    return [each.host for each in way(access)]


def test_a_host_without_jump_hosts_is_the_whole_way() -> None:
    assert names(SshAccess(host="a")) == ["a"]


def test_jump_hosts_come_first_and_theirs_before_them() -> None:
    inner = SshAccess(host="inner", jump=(SshAccess(host="outer"),))
    access = SshAccess(host="a", jump=(inner, SshAccess(host="next")))
    assert names(access) == ["outer", "inner", "next", "a"]
    assert all(each.jump == () for each in way(access))


def test_two_hosts_behind_one_share_the_way_to_it() -> None:
    jump = SshAccess(host="j", user="ops")
    first, second = (way(SshAccess(host=name, jump=(jump,))) for name in "ab")
    assert first[:-1] == second[:-1]


def test_a_way_that_is_too_long_is_our_own_fault() -> None:
    access = SshAccess(host="a")
    for number in range(12):
        access = SshAccess(host=f"h{number}", jump=(access,))
    with pytest.raises(SshFailed) as failed:
        way(access)
    assert failed.value.outcome.kind == "config"
