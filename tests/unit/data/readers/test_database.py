"""Tables and queries of SQLite and of a real PostgreSQL."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.data.readers.conftest import PASSWORD
from tuneloop.data import DataConfig, SourceConfig, input_hashes
from tuneloop.data.readers import ReadOptions, database, reader_of
from tuneloop.data.rows import RawFile
from tuneloop.data.sources import files, read
from tuneloop.errors import DataError

SHARED = Path(__file__).parents[5] / "shared" / "data"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table orders (id integer primary key, text, image blob)")
        connection.executemany(
            "insert into orders values (?, ?, ?)", [(3, "c", b"\xff"), (1, "a", None), (2, "b", b"x")]
        )
        connection.execute("create table notes (body)")
        connection.execute("create view open_orders as select id from orders where id > 1")
    return path


def open_(path: Path, **options: str) -> RawFile:
    return reader_of(path)(path, path.name, ReadOptions(**options))


def refusal(path: Path, **options: str) -> list[str]:
    with pytest.raises(DataError) as error:
        list(open_(path, **options).rows)
    return str(error.value).splitlines()


def test_a_table_comes_in_the_order_of_its_primary_key(shop: Path) -> None:
    file = open_(shop, table="orders")
    assert [dict(row.fields) for row in file.rows] == [
        {"id": 1, "text": "a", "image": None},
        {"id": 2, "text": "b", "image": "x"},
        # SHA-256 of the byte ff, by sha256sum
        {"id": 3, "text": "c", "image": "binary: 1 bytes, sha256 a8100ae6aa1940d0"},
    ]
    assert file.columns == ("id", "text", "image")


def test_a_view_and_a_query_are_read_like_a_table(shop: Path) -> None:
    assert [row.fields["id"] for row in open_(shop, table="open_orders").rows] == [2, 3]
    query = "select text as q, text, '12:30 %' || ':x' as t from orders where text like '%a%'"
    assert [dict(row.fields) for row in open_(shop, query=query).rows] == [{"q": "a", "text": "a", "t": "12:30 %:x"}]


def test_columns_of_the_same_name_are_told_apart(shop: Path) -> None:
    file = open_(shop, query="select o.id, p.id from orders o, orders p where o.id = 1 and p.id = 2")
    assert [dict(row.fields) for row in file.rows] == [{"id": 1, "id_2": 2}]


def test_without_table_or_query_the_tables_are_listed(shop: Path) -> None:
    assert refusal(shop) == [
        "shop.sqlite: a database needs table: or query:",
        "hint: its tables: notes, open_orders, orders",
    ]
    assert refusal(shop, table="order")[1].startswith("hint: did you mean 'orders'?")


@pytest.mark.parametrize("statement", ["delete from orders", "drop table orders", "insert into notes values ('x')"])
def test_nothing_is_ever_written(shop: Path, statement: str) -> None:
    before = shop.read_bytes()
    assert "readonly database" in refusal(shop, query=statement)[0]
    assert shop.read_bytes() == before


def test_a_wrong_statement_is_two_lines(shop: Path) -> None:
    assert refusal(shop, query="selec 1") == [
        'shop.sqlite: the database says: near "selec": syntax error',
        "hint: check url, table and query",
    ]


def test_text_that_is_not_utf8_costs_its_row_only(shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("insert into orders values (4, cast(x'61ff62' as text), null)")
    *_, last = open_(shop, table="orders").rows
    assert last.problem == ("read", "wrong encoding: bytes that are not utf-8")
    assert last.raw == '{"id": 4, "text": "a\\xffb", "image": null}'


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        database.read_url(f"sqlite:///{tmp_path}/none.db", "none", ReadOptions(table="x"))
    assert not (tmp_path / "none.db").exists()


def test_hashes_follow_the_rows_and_not_the_file(shop: Path) -> None:
    config = DataConfig(sources=(SourceConfig(path=shop, table="orders"),))
    before = input_hashes(config)
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("insert into notes values ('elsewhere')")
    assert input_hashes(config) == before
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("update orders set text = 'new' where id = 2")
    assert input_hashes(config).keys() == before.keys() == {"shop.sqlite/orders"}
    assert input_hashes(config) != before


def test_a_real_database() -> None:
    path = SHARED / "db" / "chinook.sqlite"
    if not path.exists():
        pytest.skip("../shared/data/db is not on this machine")
    # 3,503 tracks, as the Chinook project's own scripts insert them
    rows = list(open_(path, table="Track").rows)
    assert len(rows) == 3_503
    assert rows[0].fields["Name"] == "For Those About To Rock (We Salute You)"


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("postgresql://u:secret@h/db", True),
        ("postgresql://u:${PG}@h/db", False),
        ("postgresql://u:${PG}x@h/db", True),
        ("postgresql://h/db?password=secret", True),
        ("postgresql://u@h/db", False),
        ("${DATABASE_URL}", False),
    ],
)
def test_a_password_is_seen(url: str, in_clear: bool) -> None:
    assert database.password_in_clear(url) is in_clear


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://u:${TEST_UNSET}@h/db", "TEST_UNSET is not set"),
        ("nonsense", "not a database URL"),
        ("postgresql://h:port/db", "not a database URL"),
        ("neverheardof://h/db", "no driver for this database"),
    ],
)
def test_a_url_that_cannot_be_used_is_two_lines(url: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as error:
        database.read_url(url, "rows", ReadOptions(table="x"))
    assert len(str(error.value).splitlines()) == 2


@pytest.fixture
def filled(postgres: str, monkeypatch: pytest.MonkeyPatch) -> str:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (tuneloop[sql])")
    monkeypatch.setenv("TEST_PG_PASSWORD", PASSWORD)
    port = int(postgres.rpartition(":")[2].partition("/")[0])
    with psycopg.connect(
        host="127.0.0.1", port=port, user="postgres", password=PASSWORD, autocommit=True
    ) as connection:
        connection.execute("drop table if exists tickets; drop schema if exists sales cascade; create schema sales")
        connection.execute("create sequence if not exists counter")
        connection.execute(
            "create table tickets (id int primary key, text text, at timestamptz, price numeric(6, 2), tags text[],"
            " extra jsonb, raw bytea, took interval)"
        )
        connection.execute(
            "insert into tickets select i, '票 ' || i, timestamptz '2024-05-01 10:30:00+00', i / 4.0,"
            " array['a', null], '{\"k\": [1]}', '\\xff00', interval '90 s' from generate_series(5000, 1, -1) i"
        )
        connection.execute("create table sales.leads as select 7 as id")
    return postgres


def test_postgresql_streams_typed_rows(filled: str) -> None:
    file = database.read_url(filled, "tickets", ReadOptions(table="tickets"))
    rows = list(file.rows)
    assert [row.fields["id"] for row in rows] == list(range(1, 5001))
    assert rows[0].fields == {
        "id": 1, "text": "票 1", "at": "2024-05-01T10:30:00+00:00", "price": "0.25", "tags": ["a", None], "extra": {"k": [1]},
        "raw": "binary: 2 bytes, sha256 ea5dbf9596d187e9", "took": "90 s",
    }  # fmt: skip


def test_postgresql_fetches_rows_as_they_are_read(filled: str) -> None:
    endless = "select generate_series(1, 2000000000) as i, repeat('x', 1000) as text"
    file = database.read_url(filled, "endless", ReadOptions(query=endless))
    assert next(file.rows).fields["i"] == 1
    del file
    gc.collect()


def test_postgresql_tables_of_other_schemas_have_their_schema_before_them(filled: str) -> None:
    file = database.read_url(filled, "leads", ReadOptions(table="sales.leads"))
    assert [dict(row.fields) for row in file.rows] == [{"id": 7}]
    with pytest.raises(DataError, match=r"no table 'sales.lead'") as error:
        database.read_url(filled, "leads", ReadOptions(table="sales.lead"))
    assert error.value.hint is not None
    assert error.value.hint.startswith("did you mean 'sales.leads'?")


def test_postgresql_is_never_written_to(filled: str) -> None:
    with pytest.raises(DataError, match="read-only transaction"):
        database.read_url(filled, "x", ReadOptions(query="select nextval('counter')"))


def test_a_password_is_in_no_message_name_or_configuration(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(sources=(SourceConfig(url=filled, query="select id from tickets order by id"),))
    (file,) = files(config)
    assert len(list(read(config, file).rows)) == 5_000
    monkeypatch.setenv("TEST_PG_PASSWORD", "Wr0ngButSecret")
    with pytest.raises(DataError, match="password authentication failed") as error:
        read(config, file)
    assert "Wr0ngButSecret" not in str(error.value)
    assert PASSWORD not in config.to_yaml() + file.name
