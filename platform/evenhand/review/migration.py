"""Brings a review database of the version before up to date, on SQLite and PostgreSQL alike.

Decisions are neither copied nor touched: columns are added, and each row goes on
to say in which layout its hash was made (`evenhand.review.tables`). Claims, which
last minutes, start anew. All of it is one transaction.
"""

from sqlalchemy import Table, update
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateColumn

from evenhand.review.tables import (
    ADDED_IN_3,
    SCHEMA_VERSION,
    Base,
    ClaimRow,
    DecisionRow,
    PersonRow,
    SchemaRow,
)

__all__ = ["migrate_to_3"]


def migrate_to_3(session: Session) -> None:
    """Turn a database of schema 2 into one of schema 3, within the session's transaction."""
    connection = session.connection()
    decisions = DecisionRow.__table__
    for name in ("row_schema", *ADDED_IN_3):
        column = CreateColumn(decisions.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE decisions ADD COLUMN {column}")
    claims = ClaimRow.__table__
    assert isinstance(claims, Table)  # noqa: S101 - for the type checker
    claims.drop(connection)
    people = PersonRow.__table__
    assert isinstance(people, Table)  # noqa: S101 - for the type checker
    Base.metadata.create_all(connection, tables=[claims, people])
    session.execute(update(SchemaRow).values(version=SCHEMA_VERSION))
