"""Union-find."""

from __future__ import annotations

from tuneloop.data.groups import Groups


def test_joined_rows_share_the_smallest_as_their_name() -> None:
    groups = Groups()
    groups.join(5, 3)
    groups.join(3, 1)
    groups.join(6, 7)
    assert groups.names([f"r{i}" for i in range(8)]) == [None, "r1", None, "r1", None, "r1", "r6", "r6"]


def test_a_long_chain_has_one_root() -> None:
    groups = Groups()
    for i in range(5000):
        groups.join(i, i + 1)
    assert {groups.root(i) for i in range(5001)} == {0}
