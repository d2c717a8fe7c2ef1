"""Indexes for listings by time of creation and for one subject's audit trail."""

from __future__ import annotations

from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both indexes."""
    op.create_index("records_by_creation", "records", ["kind", "created_at_s", "name"])
    op.create_index("events_by_subject", "events", ["subject", "sequence"])


def downgrade() -> None:
    """Drop both indexes."""
    op.drop_index("events_by_subject", "events")
    op.drop_index("records_by_creation", "records")
