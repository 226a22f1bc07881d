"""A ledger in SQLAlchemy, which writes one step at a time. DRIVER names the driver: psycopg or asyncpg."""

import asyncio
import json
import os
from decimal import Decimal
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import URL, create_engine, delete, func, insert, inspect, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from steps import serve

from ledger.models import models

_where = json.loads(os.environ["DATABASE"])
URLS = {
    driver: URL.create(
        f"postgresql+{driver}",
        username=_where["user"],
        host=_where["host"],
        port=int(_where["port"]),
        database=_where["dbname"],
    )
    for driver in ("psycopg", "asyncpg")
}
IS_ASYNC = os.environ["DRIVER"] == "asyncpg"
migrating = create_engine(URLS["psycopg"])
engine = create_async_engine(URLS["asyncpg"]) if IS_ASYNC else create_engine(URLS["psycopg"])
loop = asyncio.new_event_loop()


def migrate(direction, revision):
    """Run Alembic as a deployment does, after which the application is started anew."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.attributes["engine"] = migrating
    getattr(command, direction)(config, revision)
    if IS_ASYNC:
        loop.run_until_complete(engine.dispose())
    else:
        engine.dispose()


def differences():
    """Return what `alembic revision --autogenerate` would change, without and with a look at all schemas."""
    found = []
    with migrating.connect() as connection:
        Account, _ = models(_is_grown(connection))
        for options in ({}, {"include_schemas": True, "include_name": include_name}):
            context = MigrationContext.configure(connection, opts=options)
            found.append([str(each[0]) for each in compare_metadata(context, Account.metadata)])
    return found


def include_name(name, type_, parent_names):
    return type_ != "schema" or name != "cdc"


def _is_grown(connection):
    return "title" in {column["name"] for column in inspect(connection).get_columns("account")}


def write_in_two_phases():
    with migrating.connect() as connection:
        Account, Entry = models(_is_grown(connection))
    with Session(migrating, twophase=True) as session:
        account = Account(name="two phases", entries=[Entry(amount=1), Entry(amount=2)])
        session.add(account)
        session.commit()
        account.entries[0].amount = 3
        session.commit()
        account.entries[0].amount = 4
        session.flush()
        session.rollback()


def write():
    if not IS_ASYNC:
        with Session(engine) as session:
            return _write(session)

    async def write():
        async with AsyncSession(engine) as session:
            return await session.run_sync(_write)

    return loop.run_until_complete(write())


def _write(session):
    grown = _is_grown(session.connection())
    Account, Entry = models(grown)
    seen = []

    ann = Account(name='Ann\'s \\ "account"', meta={"a": [1, {"ö": None}], "big": 2**70})
    ann.entries = [Entry(amount=Decimal(n) / 4, tags=["a", "b,c", '"', ""]) for n in range(10)]
    session.add(ann)
    session.flush()
    ann.balance = sum(entry.amount for entry in ann.entries)
    ann.meta = {**ann.meta, "touched": True}
    del ann.entries[3:5]
    session.commit()

    many = [Entry(account=ann, amount=Decimal(n)) for n in range(1050)]
    session.add_all(many)  # with RETURNING, a thousand at a time
    session.commit()
    seen.append(len({entry.id for entry in many}))
    values = [{"account_id": ann.id, "amount": Decimal(n)} for n in range(300)]
    ids = session.scalars(insert(Entry).returning(Entry.id, sort_by_parameter_order=True), values).all()
    seen.append(len(ids))
    session.execute(update(Entry), [{"id": each, "amount": Decimal(each % 7)} for each in ids[:100]])
    session.commit()

    merging = upsert(Account).values([{"name": name, "balance": 1} for name in ("bob", "eve", ann.name)])
    merging = merging.on_conflict_do_update(
        index_elements=[Account.name], set_={"balance": Account.balance + merging.excluded.balance}
    )
    seen.append(len(session.scalars(merging.returning(Account.id)).all()))
    session.execute(upsert(Account).values(name="bob").on_conflict_do_nothing())
    session.commit()

    try:
        with session.begin_nested():
            session.add(Entry(account=ann, amount=1))
            session.add(Account(name="bob"))
            session.flush()
    except IntegrityError:
        seen.append("refused")
    changed = update(Account).where(Account.name == "eve").values(state="closed", name="Eve").returning(Account.name)
    seen += session.scalars(changed).all()
    session.commit()
    session.add(Account(name="never"))
    session.flush()
    session.rollback()

    session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
    total = session.scalar(select(func.sum(Entry.amount)).where(Entry.account_id == ann.id))
    session.execute(update(Account).where(Account.id == ann.id).values(balance=total))
    session.commit()
    gone = delete(Entry).where(Entry.account_id == ann.id, Entry.amount < 100).returning(Entry.id)
    seen.append(len(session.scalars(gone).all()))
    session.delete(session.get(Account, ann.id))
    session.execute(delete(Account).where(Account.name.in_(["bob", "Eve"])))
    count = session.scalar(select(func.count()).select_from(Account))
    kept = Account(name=f"kept {count}", entries=[Entry(amount=Decimal("0.5"))])
    if grown:
        kept.state = "frozen"
    session.add(kept)
    session.execute(text("INSERT INTO label VALUES (:id) ON CONFLICT (id) DO UPDATE SET colour = :id"), {"id": "x"})
    session.commit()
    return [*seen, count]


serve({"migrate": migrate, "write": write, "differences": differences, "write in two phases": write_in_two_phases})
