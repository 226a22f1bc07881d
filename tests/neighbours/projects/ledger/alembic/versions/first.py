import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "first"
down_revision = None


def upgrade():
    op.create_table(
        "account",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False, unique=True),
        sa.Column("state", sa.Enum("open", "closed", name="state"), nullable=False, server_default="open"),
        sa.Column("balance", sa.Numeric(14, 2), nullable=False, server_default=sa.text("0")),
        sa.Column("meta", JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("opened", sa.DateTime, nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "entry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
        sa.Column("amount", sa.Numeric(12, 2), nullable=False),
        sa.Column("tags", sa.ARRAY(sa.String), nullable=False, server_default=sa.text("'{}'")),
    )
    op.create_table("label", sa.Column("id", sa.String(20), primary_key=True), sa.Column("colour", sa.String(9)))
