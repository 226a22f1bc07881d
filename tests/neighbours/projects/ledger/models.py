"""The tables of a ledger, as its migrations leave them: `Account` and `Entry` before and after the second one."""

import datetime
from decimal import Decimal

from sqlalchemy import ARRAY, Enum, ForeignKey, Numeric, String, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


def models(grown):
    class Base(DeclarativeBase):
        pass

    states = ["open", "closed", "frozen"] if grown else ["open", "closed"]

    class Account(Base):
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column("title" if grown else "name", String(80), unique=True)
        state: Mapped[str] = mapped_column(Enum(*states, name="state"), server_default="open")
        balance: Mapped[Decimal] = mapped_column(Numeric(14, 2), server_default=text("0"))
        meta: Mapped[dict] = mapped_column(JSONB, server_default=text("'{}'"))
        opened: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
        if grown:
            note: Mapped[str] = mapped_column(server_default="none")
        entries: Mapped[list["Entry"]] = relationship(cascade="all, delete-orphan", back_populates="account")

    class Entry(Base):
        __tablename__ = "entry"
        id: Mapped[int] = mapped_column(primary_key=True)
        account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
        amount: Mapped[Decimal] = mapped_column(Numeric(14, 4) if grown else Numeric(12, 2))
        tags: Mapped[list[str]] = mapped_column(ARRAY(String), server_default=text("'{}'"))
        account: Mapped[Account] = relationship(back_populates="entries")

    return Account, Entry
