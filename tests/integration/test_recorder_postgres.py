"""The recorder's contract, on a real PostgreSQL server.

Never here: promises that only this database keeps, except how it fails.
"""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from mesh.errors import ConfigError, StorageError
from nodes.recorder.postgres import PostgresStore
from nodes.recorder.store import Store
from tests.integration.test_recorder_sqlite import RecorderContract

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(90)]  # the server starts once, slowly


class TestPostgres(RecorderContract):
    """The contract in a database of its own."""

    @pytest.fixture
    def store(self, postgres_url: str) -> Iterator[Store]:
        name = f"recorder_{uuid4().hex[:12]}"
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        made = PostgresStore(postgres_url.rpartition("/")[0] + f"/{name}")
        made.open()
        assert made.migrate(1) == 1
        yield made
        made.close()
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))

    def test_a_lost_connection_is_a_storage_error_and_opening_heals_it(
        self, store: Store, postgres_url: str
    ) -> None:
        ours = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s"
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(ours, ("genesis-recorder",))
        with pytest.raises(StorageError):
            store.write([], {("execution", "a1"): 1})
        store.open()
        store.write([], {("execution", "a1"): 1})
        assert store.offsets() == {("execution", "a1"): 1}


def test_an_unreachable_server_is_a_storage_error_of_one_line() -> None:
    with pytest.raises(StorageError) as caught:
        PostgresStore("postgresql://nobody:secret@127.0.0.1:1/none").open()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_url_is_a_configuration_error_that_keeps_the_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        PostgresStore("postgres:/user:secret@host/name").open()
    assert "secret" not in str(caught.value)
