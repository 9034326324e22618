"""Alembic's entry: runs on the connection it is handed (shared/db/migrate.py)."""

from alembic import context

from shared.db.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Run migrations with `lamppost run`, which hands Alembic its connection.")
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=False,
    render_as_batch=True,
)
context.run_migrations()
