"""From any earlier revision of the record store's tables to the newest, at start.

Owns :func:`migrate`: one transaction, so a crash leaves the old or the new tables, never a mixture.
Refuses a database whose revision this program does not know: a newer program has written it.

A revision is a file in ``versions``; ``tests/stores/test_records.py`` checks that walking through all
of them gives the tables of ``stores.tables``.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from understudy.stores.databases import Database

_one_at_a_time = threading.Lock()  # alembic keeps the running migration in a module's globals


class NewerDatabase(Exception):
    """The record store belongs to a newer version of the program; it was not touched."""


def migrate(database: Database, revision: str = "head") -> None:
    """Create the tables or bring them up to ``revision``.

    Raises:
        NewerDatabase: the tables are at a revision that this program does not have.
    """
    config = Config()
    # The option is a template: a per cent sign in the path must be doubled.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    known = ScriptDirectory.from_config(config)
    with _one_at_a_time, database.writing() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        if present is not None and present not in {script.revision for script in known.walk_revisions()}:
            raise NewerDatabase(
                f"The records in {database.engine.url.render_as_string(hide_password=True)} are at revision "
                f"{present}; this version of Understudy knows revisions up to {known.get_current_head()}. "
                "They were written by a newer version: start that version, or restore a copy made before it."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
