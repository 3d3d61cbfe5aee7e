"""`evenhand review people` and `person`: who may work on a run's review page."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.errors import UsageError
from evenhand_ui.cli import DatabaseOption

__all__ = ["register_people"]

_RunArgument = Annotated[Path, typer.Argument(help="Folder that `evenhand run` wrote.")]


def register_people(group: typer.Typer) -> None:
    """Add the commands to `evenhand review`."""
    group.command("people")(_people)
    group.command("person")(_person)


def _people(run: _RunArgument, database: DatabaseOption = None) -> None:
    """List who may work on the page, and as what.

    Example: evenhand review people runs/demo
    """
    from evenhand.review import ReviewStore, people
    from evenhand_ui.runs import ReviewRun

    with ReviewStore(database or ReviewRun.open(run).database) as store:
        found = people(store)
    for one in found:
        signs = "signs" if one.has_passphrase else "no passphrase yet"
        typer.echo(f"{one.person_id}\t{one.name}\t{', '.join(sorted(one.roles))}\t{signs}")
    if not found:
        typer.echo("Nobody yet; add somebody with `evenhand review person RUN ID`.")


def _person(  # noqa: PLR0917 (typer reads a command's options from its parameters)
    run: _RunArgument,
    person: Annotated[str, typer.Argument(metavar="ID", help="Their pseudonym; all that shows.")],
    login: Annotated[str, typer.Option(help="What the proxy or OIDC calls them.")] = "",
    name: Annotated[str, typer.Option(help="Printed name under their signatures.")] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(help="reader, second-reader, adjudicator, auditor, admin; may be repeated."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take all rights away.")] = False,
    clear: Annotated[
        bool, typer.Option("--clear-passphrase", help="Let them choose a passphrase anew.")
    ] = False,
    database: DatabaseOption = None,
) -> None:
    """Add a person, change what they may do, or take it away; what they decided stays.

    The trail keeps each change, with the account that made it.

    Example: evenhand review person runs/demo r1 --login jlee --name "Dr. J. Lee" --role reader
    """
    from evenhand.review import (
        Author,
        Person,
        ReviewStore,
        clear_passphrase,
        parse_roles,
        put_person,
        remove_person,
    )
    from evenhand_ui.runs import ReviewRun

    if sum((remove, clear, bool(login or name or role))) != 1:
        raise UsageError(
            "Say one thing: --login, --name and --role to add or change a person, --remove, or "
            "--clear-passphrase."
        )
    by = Author.of_account()
    with ReviewStore(database or ReviewRun.open(run).database) as store:
        if remove:
            remove_person(store, person, by=by)
        elif clear:
            clear_passphrase(store, person, by=by)
        else:
            roles = parse_roles(role or [])
            one = Person(person_id=person, login=login, name=name, roles=roles)
            put_person(store, one, by=by)
    typer.echo(f"{person}: {'removed' if remove else 'cleared' if clear else 'kept'}")
