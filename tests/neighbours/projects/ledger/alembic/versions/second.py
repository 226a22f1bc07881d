import sqlalchemy as sa
from alembic import op

revision = "second"
down_revision = "first"


def upgrade():
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE state ADD VALUE 'frozen'")
    with op.batch_alter_table("account") as account:
        account.alter_column("name", new_column_name="title")
        account.add_column(sa.Column("note", sa.String, nullable=False, server_default="none"))
        account.create_index("by_state", ["state"])
    op.execute("UPDATE account SET note = 'frozen by a migration', state = 'frozen' WHERE title LIKE 'kept%'")
    with op.batch_alter_table("entry") as entry:
        entry.alter_column("amount", type_=sa.Numeric(14, 4))


def downgrade():
    """An enum cannot lose a value, so the type is made anew."""
    with op.batch_alter_table("entry") as entry:
        entry.alter_column("amount", type_=sa.Numeric(12, 2))
    with op.batch_alter_table("account") as account:
        account.drop_index("by_state")
        account.drop_column("note")
        account.alter_column("title", new_column_name="name")
    op.execute("UPDATE account SET state = 'closed' WHERE state = 'frozen'")
    op.execute("ALTER TABLE account ALTER state DROP DEFAULT")
    op.execute("ALTER TYPE state RENAME TO old_state")
    op.execute("CREATE TYPE state AS ENUM ('open', 'closed')")
    op.execute("ALTER TABLE account ALTER state TYPE state USING state::text::state, ALTER state SET DEFAULT 'open'")
    op.execute("DROP TYPE old_state")
