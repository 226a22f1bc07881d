"""A table is copied into a new one, which takes its name, as on databases that cannot alter tables."""

import sqlalchemy as sa
from alembic import op

revision = "third"
down_revision = "second"


def upgrade():
    with op.batch_alter_table("label", recreate="always") as label:
        label.add_column(sa.Column("shade", sa.String(9), server_default="dark"))


def downgrade():
    with op.batch_alter_table("label", recreate="always") as label:
        label.drop_column("shade")
