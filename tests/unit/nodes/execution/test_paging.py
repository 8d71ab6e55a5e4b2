"""Pages: newest first, stable while the list grows."""

import pytest

from mesh.errors import Invalid
from nodes.execution.paging import page


def test_pages_go_back_in_time_while_the_list_grows() -> None:
    items: list[object] = [1, 2, 3, 4, 5]
    first = page(items, {"limit": 2})
    assert first == {"items": [5, 4], "next": "3"}
    items.append(6)
    assert page(items, {"limit": 2, "cursor": first["next"]}) == {"items": [3, 2], "next": "1"}
    assert page(items, {"limit": 2, "cursor": "1"}) == {"items": [1], "next": None}


def test_nothing_is_a_page() -> None:
    assert page([], None) == {"items": [], "next": None}


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"limit": "5"}, {"cursor": "x"}, {"cursor": 5}]
)
def test_odd_queries_are_refused(query: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        page([1], query)


def test_page_ends_before_its_answer_outgrows_a_frame() -> None:
    items: list[object] = ["x" * 1_000] * 900
    seen, cursor, pages = 0, None, 0
    while pages == 0 or cursor is not None:
        found = page(items, {"limit": 1_000, "cursor": cursor})
        seen, cursor, pages = seen + len(found["items"]), found["next"], pages + 1
        assert sum(map(len, found["items"])) < 256 * 1024
    assert (seen, pages) == (900, 5)
