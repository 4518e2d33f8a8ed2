"""Settings of the node-agent: how its node is described, what it watches, how it leaves."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from interlock.settings import ServiceSettings
from interlock_schemas.nodes import HEARTBEAT_S, MEMBER_TTL_S, PriceClass

__all__ = ["LIST_SEPARATOR", "Settings"]

#: Between the entries of a list, in a variable of the environment.
LIST_SEPARATOR = ","


class Settings(ServiceSettings):
    """What every service can be told, and what an agent has to know of its node."""

    agent_watch: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(Path("/"),),
        max_length=32,
        description="Folders whose disks are measured, with commas between.",
    )
    agent_zone: str = Field(
        default="",
        max_length=200,
        description="The node's zone: what fails together. As the next ones, it is used when the "
        "node is not described yet; afterwards `interlock nodes` says what it is.",
    )
    agent_provider: str = Field(
        default="", max_length=200, description="Who the machine is from: aws, gcp, a site."
    )
    agent_price_class: PriceClass = Field(
        default="on_demand", description="Whether the machine is owned, rented, or may be taken."
    )
    agent_roles: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), max_length=50, description="What the node is for, with commas between."
    )
    agent_labels: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        max_length=100,
        description="Labels of the node: name=value, with commas between.",
    )
    agent_gpus: bool = Field(default=True, description="Whether GPUs are measured.")
    agent_gpu_deadline_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="A GPU library that has not answered after so long, seconds, hangs.",
    )
    agent_heartbeat_s: float = Field(
        default=HEARTBEAT_S, ge=0.05, le=60, description="Seconds between two heartbeats."
    )
    agent_lease_s: int = Field(
        default=MEMBER_TTL_S,
        ge=2,
        le=3_600,
        description="Seconds that the node stays a member without its agent. It is renewed three "
        "times in that.",
    )
    agent_grace_s: float = Field(
        default=20.0,
        ge=0,
        le=3_600,
        description="Seconds that the node's workers get when it leaves, unless a notice says "
        "how long there is. Less than whoever stops the agent waits before it kills.",
    )
    agent_notice_file: Path | None = Field(
        default=None, description="Once this file is there, the node leaves."
    )
    agent_notice_command: str | None = Field(
        default=None,
        description="Once this command, run by the shell, exits with 0, the node leaves.",
    )
    agent_notice_provider: Literal["aws", "gcp"] | None = Field(
        default=None,
        description="Whose metadata service is asked whether the machine is about to be taken.",
    )
    agent_notice_url: str | None = Field(
        default=None,
        max_length=500,
        description="Address of that metadata service. Default: the provider's.",
    )
    agent_notice_every_s: float = Field(
        default=3.0, ge=0.05, le=600, description="Seconds between two looks for a notice."
    )
    agent_after_leave: Literal["wait", "exit"] = Field(
        default="wait",
        description="What the agent does when its node has left without being stopped. exit: it "
        "ends. wait: it stays and says nothing more, so that a supervisor does not start it again.",
    )

    agent_store: bool = Field(
        default=True,
        description="Whether the node has a store of artifacts, which the agent keeps.",
    )
    agent_store_lease_s: int = Field(
        default=15,
        ge=2,
        le=600,
        description="Seconds that the store stays with an agent that has vanished, before another "
        "one may write it.",
    )
    agent_ssh_identity: Path | None = Field(
        default=None,
        description="Private key to fetch artifacts with over SSH, where the description of a node "
        "names none.",
    )
    agent_known_hosts: Path | None = Field(
        default=None,
        description="Host keys in OpenSSH's format, for nodes whose description has none.",
    )
    agent_check_every_s: float = Field(
        default=5.0,
        ge=0.01,
        le=3_600,
        description="Seconds between two comparisons of a 256th of the store with its receipts.",
    )
    agent_scrub_bytes_per_s: float = Field(
        default=20e6,
        gt=0,
        description="How fast artifacts that lie in the store are read again and checked.",
    )
    agent_scrub_after_s: float = Field(
        default=7 * 86_400.0,
        ge=0,
        description="An artifact is checked again when its last check was so long ago, seconds.",
    )
    agent_inbox_settle_s: float = Field(
        default=5.0,
        ge=0,
        le=3_600,
        description="What is put into the inbox is sealed once it has not changed for so long, "
        "seconds.",
    )

    @field_validator("agent_watch", "agent_roles", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return _split(given)

    @field_validator("agent_labels", mode="before")
    @classmethod
    def _labelled(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        labels = {}
        for entry in _split(given):
            name, equals, value = entry.partition("=")
            if not equals or not name.strip():
                raise ValueError("write labels as name=value, with commas between")
            labels[name.strip()] = value.strip()
        return labels


def _split(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    return tuple(entry.strip() for entry in given.split(LIST_SEPARATOR) if entry.strip())
