"""The private PostgreSQL of the tests: it answers, and it is not a faster imitation."""

import psycopg
import pytest

# Creating a cluster takes some seconds, and tens of them where the disk is slow.
pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]


def test_the_server_answers(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_the_server_syncs_what_it_commits(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("show fsync").fetchone() == ("on",)


def test_the_server_refuses_strangers(postgres_url: str) -> None:
    host = postgres_url.partition("@")[2]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://genesis:wrong@{host}")
