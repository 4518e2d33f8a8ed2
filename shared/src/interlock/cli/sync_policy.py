"""Commands on policies: where artifacts of a dataset are to be."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import msgspec
import typer

from interlock import amounts
from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.cli.router import ask, ask_on
from interlock.cli.table import write_table
from interlock.errors import InterlockError
from interlock_schemas import orders
from interlock_schemas.artifacts import Transport
from interlock_schemas.orders import AskPolicies, PoliciesPage, Policy, Priority, SetPolicy

if TYPE_CHECKING:
    from interlock.settings import ConnectionSettings

__all__ = ["app"]

#: Typed for a list, it stands for an empty one.
_NONE: Final = "none"

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Policies: where data of a dataset is to be."
)


@app.command()
def show(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="Default: all of them.")
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Show the policies, and what holds for a dataset without one."""
    page: PoliciesPage = base.run(ask(base.settings(state), orders.POLICIES, AskPolicies()))
    if dataset is None:
        found = page.policies
    else:
        found = tuple(each for each in page.policies if each.dataset == dataset)
    if json:
        whole = [msgspec.structs.asdict(each) for each in found]
        base.emit({"policies": whole, "default": msgspec.structs.asdict(page.default)})
    else:
        _write([*found, page.default], page.default)


@app.command("set")
def set_policy(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="For example games.")],
    copies: Annotated[
        int | None,
        typer.Option(min=1, max=1_000, help="Copies on nodes that stay, in different zones."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTOR", help="Besides, one on each of these nodes; none: on no others."
        ),
    ] = None,
    avoid: Annotated[
        list[str] | None, typer.Option(metavar="SELECTOR", help="None on these nodes.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(get_args(Priority))}.")
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(min=0, help="Of each configuration only so many of the newest; 0: all."),
    ] = None,
    largest: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Larger ones stay where they are: 5GB; none: no limit."),
    ] = None,
    transport: Annotated[
        list[str] | None,
        typer.Option(help=f"To be tried first, in this order: {', '.join(get_args(Transport))}."),
    ] = None,
    keep_at_origin: Annotated[
        bool | None,
        typer.Option(
            "--keep-at-origin/--drop-at-origin",
            help="Whether the origin keeps its copy once there are enough others.",
        ),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Take the policy away: the default holds.")
    ] = False,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Set a dataset's policy. What is not said stays as it is."""
    said: dict[str, Any] = {
        "copies": copies,
        "targets": _listed(target),
        "avoid": _listed(avoid),
        "priority": priority,
        "keep_last": keep_last,
        "largest_bytes": _largest(largest),
        "transports": _listed(transport),
        "keep_at_origin": keep_at_origin,
    }
    said = {key: value for key, value in said.items() if value is not None}
    if bool(said) == default:
        raise typer.BadParameter("say what holds, --copies 3 for one; or --default alone")
    policy, page = base.run(_set(base.settings(state), dataset, None if default else said))
    if json:
        whole = msgspec.structs.asdict(policy) if policy is not None else None
        base.emit({"dataset": dataset, "policy": whole})
    else:
        _write([policy or page.default], page.default)


async def _set(
    settings: "ConnectionSettings", dataset: str, said: dict[str, Any] | None
) -> tuple[Policy | None, PoliciesPage]:
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        page: PoliciesPage = await ask_on(fleet, orders.POLICIES, AskPolicies())
        policy = None
        if said is not None:
            standing = {each.dataset: each for each in page.policies}.get(dataset, page.default)
            whole = {**msgspec.to_builtins(standing), **said, "dataset": dataset}
            for unlimited, typed in (("keep_last", 0), ("largest_bytes", -1)):
                if whole.get(unlimited) == typed:
                    whole[unlimited] = None
            try:
                policy = msgspec.convert(whole, Policy)
            except msgspec.ValidationError as error:
                raise InterlockError(f"that is no policy: {error}") from None
        page = await ask_on(fleet, orders.SET_POLICY, SetPolicy(dataset=dataset, policy=policy))
        return policy, page


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file.")] = Path("sync.toml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Have policies be as a sync.toml says. Those of other datasets stay as they are."""
    from interlock.artifacts.policy_file import PolicyFileInvalid, read

    try:
        described = read(file)
    except PolicyFileInvalid as error:
        if json:
            base.emit({"error": str(error), "problems": error.problems})
            sys.stderr.write(f"error: {error}\n")
            sys.exit(1)
        raise
    changed, page = base.run(_apply(base.settings(state), described, dry_run=dry_run))
    names = {each.dataset for each in changed}
    unchanged = [each.dataset for each in described if each.dataset not in names]
    if json:
        whole = [msgspec.structs.asdict(each) for each in changed]
        base.emit({"changed": whole, "unchanged": unchanged, "dry_run": dry_run})
        return
    _write(list(changed), page.default)
    did = "would change" if dry_run else "changed"
    sys.stdout.write(f"{len(changed)} {did}, {len(unchanged)} as they were\n")


async def _apply(
    settings: "ConnectionSettings", described: tuple[Policy, ...], *, dry_run: bool
) -> tuple[tuple[Policy, ...], PoliciesPage]:
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        page: PoliciesPage = await ask_on(fleet, orders.POLICIES, AskPolicies())
        changed = tuple(each for each in described if each not in page.policies)
        for policy in () if dry_run else changed:
            asked = SetPolicy(dataset=policy.dataset, policy=policy)
            page = await ask_on(fleet, orders.SET_POLICY, asked)
        return changed, page


def _listed(given: list[str] | None) -> list[str] | None:
    return [] if given == [_NONE] else given


def _largest(text: str | None) -> int | None:
    if text is None:
        return None
    if text == _NONE:
        return -1
    try:
        return amounts.parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--largest") from None


def _write(policies: list[Policy], default: Policy) -> None:
    write_table(
        ("dataset", "copies", "also on", "not on", "priority", "keep", "largest", "by", "origin"),
        [
            (
                "(any other)" if each == default else each.dataset,
                str(each.copies),
                ", ".join(each.targets),
                ", ".join(each.avoid),
                each.priority,
                f"last {each.keep_last}" if each.keep_last is not None else "all",
                amounts.size(each.largest_bytes) if each.largest_bytes is not None else "",
                ", ".join(each.transports),
                "keeps its own" if each.keep_at_origin else "may drop its own",
            )
            for each in policies
        ],
    )
