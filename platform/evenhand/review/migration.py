"""Brings a review database of the version before up to date, on SQLite and PostgreSQL alike.

Decisions are neither copied nor touched: columns are added, and each row goes on
to say in which layout its hash was made (`evenhand.review.tables`). Claims, which
last minutes, start anew. All of it is one transaction.
"""

from sqlalchemy import update
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
    decisions, claims, people = (
        Base.metadata.tables[row.__tablename__] for row in (DecisionRow, ClaimRow, PersonRow)
    )
    for name in ("row_schema", *ADDED_IN_3):
        column = CreateColumn(decisions.columns[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE decisions ADD COLUMN {column}")
    claims.drop(connection)
    Base.metadata.create_all(connection, tables=[claims, people])
    session.execute(update(SchemaRow).values(version=SCHEMA_VERSION))
