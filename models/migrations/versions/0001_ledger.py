"""The ledger: batches, rows, jobs, attempts, outputs, objects, accounts, entries, decisions, leases.

Written out, so that it makes the same tables for ever, whatever `models.tables` says later. The entries are append-only
by word of the database itself: it refuses to change or remove one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.Text().with_variant(sa.String(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("budget_micros", sa.BigInteger(), nullable=True),
        sa.Column("exposure_limit_micros", sa.BigInteger(), nullable=False),
        sa.Column("reserved_micros", sa.BigInteger(), nullable=False),
        sa.Column("charged_micros", sa.BigInteger(), nullable=False),
        sa.Column("exposed_micros", sa.BigInteger(), nullable=False),
        sa.Column("rebought_micros", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
    )
    op.create_table(
        "batches",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("rehearsal", sa.Boolean(), nullable=False),
        sa.Column("engine", sa.String(10), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("code", sa.String(120), nullable=True),
        sa.Column("message", WORDS, nullable=True),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(64), nullable=False),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("region", sa.String(40), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("quote_micros", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.UniqueConstraint("name", "rehearsal", name="uq_batches_name_rehearsal"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", ID, nullable=False),
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("edit", sa.JSON(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("worst_case_micros", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("throttles", sa.Integer(), nullable=False),
        sa.Column("copies", sa.Integer(), nullable=False),
        sa.Column("holds", sa.Integer(), nullable=False),
        sa.Column("hold", sa.Integer(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("answered_attempt_id", ID, nullable=True),
        sa.Column("claim_token", sa.String(32), nullable=True),
        sa.Column("claim_owner", sa.String(200), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("code", sa.String(120), nullable=True),
        sa.Column("message", WORDS, nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_jobs_batch_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("batch_id", "digest", name="uq_jobs_batch_id_digest"),
    )
    op.create_index("ix_jobs_dispatch", "jobs", ["batch_id", "status", "model", "id"])
    op.create_index("ix_jobs_lease", "jobs", ["status", "lease_until"])
    op.create_index(
        "ix_jobs_unbought",
        "jobs",
        ["batch_id", "model", "worst_case_micros"],
        sqlite_where=sa.text("status = 'planned' AND answered_attempt_id IS NULL"),
        postgresql_where=sa.text("status = 'planned' AND answered_attempt_id IS NULL"),
    )
    op.create_index(
        "ix_jobs_paid_waiting",
        "jobs",
        ["batch_id"],
        sqlite_where=sa.text("status = 'planned' AND answered_attempt_id IS NOT NULL"),
        postgresql_where=sa.text("status = 'planned' AND answered_attempt_id IS NOT NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("hold", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("verdict", sa.String(12), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("request_id", sa.String(120), nullable=True),
        sa.Column("code", sa.String(120), nullable=True),
        sa.Column("message", WORDS, nullable=True),
        sa.Column("pictures", sa.Integer(), nullable=False),
        sa.Column("usage", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_attempts_batch_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.UniqueConstraint("job_id", "hold", name="uq_attempts_job_id_hold"),
    )
    op.create_index("ix_attempts_batch_id_opened_at", "attempts", ["batch_id", "opened_at"])
    op.create_index("ix_attempts_batch_id_outcome", "attempts", ["batch_id", "outcome"])
    op.create_table(
        "decisions",
        sa.Column("id", ID, nullable=False),
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("what", sa.String(20), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=True),
        sa.Column("who", sa.String(120), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_decisions_batch_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_decisions_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_batch_id", "decisions", ["batch_id"])
    op.create_index("ix_decisions_job_id", "decisions", ["job_id"])
    op.create_table(
        "rows",
        sa.Column("id", ID, nullable=False),
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("destinations", sa.JSON(), nullable=False),
        sa.Column("seeded_destinations", sa.JSON(), nullable=True),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_rows_batch_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_rows_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_rows"),
        sa.UniqueConstraint("batch_id", "number", name="uq_rows_batch_id_number"),
    )
    op.create_index("ix_rows_batch_id_sku", "rows", ["batch_id", "sku"])
    op.create_index("ix_rows_job_id", "rows", ["job_id"])
    op.create_table(
        "entries",
        sa.Column("id", ID, nullable=False),
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("hold", sa.Integer(), nullable=False),
        sa.Column("attempt_id", ID, nullable=True),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.id"], name="fk_entries_attempt_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_entries_batch_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_entries_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
        sa.UniqueConstraint("batch_id", "seq", name="uq_entries_batch_id_seq"),
    )
    op.create_index(
        "uq_entries_once_per_hold",
        "entries",
        ["job_id", "hold", "kind"],
        unique=True,
        sqlite_where=sa.text("kind <> 'adjust'"),
        postgresql_where=sa.text("kind <> 'adjust'"),
    )
    op.create_index("ix_entries_job_id", "entries", ["job_id"])
    op.create_index(
        "uq_entries_one_charge_per_attempt",
        "entries",
        ["attempt_id"],
        unique=True,
        sqlite_where=sa.text("kind = 'charge'"),
        postgresql_where=sa.text("kind = 'charge'"),
    )
    op.create_table(
        "outputs",
        sa.Column("id", ID, nullable=False),
        sa.Column("attempt_id", ID, nullable=False),
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lost", sa.String(120), nullable=True),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.id"], name="fk_outputs_attempt_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_outputs_batch_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_outputs_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_outputs"),
        sa.UniqueConstraint("attempt_id", "number", name="uq_outputs_attempt_id_number"),
    )
    op.create_index("ix_outputs_job_id", "outputs", ["job_id"])
    op.create_index("ix_outputs_waiting", "outputs", ["batch_id", "stored_at", "expires_at"])
    op.create_table(
        "objects",
        sa.Column("id", ID, nullable=False),
        sa.Column("output_id", ID, nullable=False),
        sa.Column("row_id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["output_id"], ["outputs.id"], name="fk_objects_output_id"),
        sa.ForeignKeyConstraint(["row_id"], ["rows.id"], name="fk_objects_row_id"),
        sa.PrimaryKeyConstraint("id", name="pk_objects"),
        sa.UniqueConstraint("output_id", "row_id", name="uq_objects_output_id_row_id"),
    )
    op.create_index("ix_objects_row_id", "objects", ["row_id"])
    for statement in GUARDS[op.get_bind().dialect.name]:
        op.execute(statement)


GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER entries_are_never_{what} BEFORE {event} ON entries "
        "BEGIN SELECT RAISE(ABORT, 'entries are append-only; write an adjust'); END"
        for what, event in (("changed", "UPDATE"), ("removed", "DELETE"))
    ],
    "postgresql": [
        "CREATE FUNCTION entries_are_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'entries are append-only; write an adjust'; END $$",
        "CREATE TRIGGER entries_are_append_only BEFORE UPDATE OR DELETE ON entries "
        "FOR EACH ROW EXECUTE FUNCTION entries_are_append_only()",
    ],
}
