"""Brings a review database of a version before up to date, on SQLite and PostgreSQL alike.

Decisions are neither copied nor touched: columns are added, and each row goes on
to say in which layout its hash was made (`evenhand.review.tables`). Claims, which
last minutes, start anew. Who may work here is written down once, as it was found:
from then on each change is recorded. All of it is one transaction.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateColumn

from evenhand.review.authors import Author, Way
from evenhand.review.people_changes import PEOPLE_CHANGES, PersonChange, PersonEvent
from evenhand.review.records import Role
from evenhand.review.tables import SCHEMA_VERSION, Base, ClaimRow, DecisionRow, PersonRow, SchemaRow

__all__ = ["migrate"]

_OLDEST = 2


def migrate(session: Session, version: int) -> bool:
    """Turn a database of an older schema into one of this, within the session's transaction.

    Args:
        session: of the database; it writes.
        version: the schema that the database has.

    Returns:
        Whether that was done; False: from this version there is no way, or none is needed.
    """
    if not _OLDEST <= version < SCHEMA_VERSION:
        return False
    connection = session.connection()
    if version == _OLDEST:
        _add(session, "row_schema")
        Base.metadata.tables[ClaimRow.__tablename__].drop(connection)
    for schema, added in DecisionRow.added.items():
        if schema > version:
            _add(session, *added)
    Base.metadata.create_all(connection)  # those that are not there yet
    for row in session.scalars(select(PersonRow).order_by(PersonRow.person_id)):
        PEOPLE_CHANGES.append(session, _found(row))
    session.execute(update(SchemaRow).values(version=SCHEMA_VERSION))
    return True


def _add(session: Session, *names: str) -> None:
    connection = session.connection()
    columns = Base.metadata.tables[DecisionRow.__tablename__].columns
    for name in names:
        column = CreateColumn(columns[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE decisions ADD COLUMN {column}")


def _found(row: PersonRow) -> PersonChange:
    return PersonChange(
        change=PersonEvent.FOUND,
        person_id=row.person_id,
        login=row.login,
        name=row.name,
        roles=frozenset(Role(name) for name in row.roles.split()),
        by=Author(name="evenhand", way=Way.MIGRATION),
    )
