from __future__ import annotations

from tuneloop.models import Node
from tuneloop.models.flat import Forest, layout
from tuneloop.train.batch import collate
from tuneloop.types import Example

HEAD = tuple(range(10, 20))


def test_a_shared_beginning_stands_once() -> None:
    batch = collate(
        [Example("a", (*HEAD, 1, 2), (False,) * 11 + (True,)), Example("b", (*HEAD, 3), (False,) * 10 + (True,))]
    )
    assert batch.input_ids_1T.tolist() == [[*HEAD, 1, 2, 3]]
    assert batch.layout.position_ids_1T.tolist() == [[*range(10), 10, 11, 10]]
    assert batch.source_N.tolist() == [10, 9]
    assert batch.target_N.tolist() == [2, 3]
    assert batch.real_tokens == 23


def test_without_sharing_rows_stand_one_after_another() -> None:
    batch = collate([Example("a", (1, 2), (False, True)), Example("b", (1, 3), (False, True))], share_prefixes=False)
    assert batch.input_ids_1T.tolist() == [[1, 2, 1, 3]]
    assert batch.layout.position_ids_1T.tolist() == [[0, 1, 0, 1]]


def test_equal_rows_are_computed_once_and_counted_twice() -> None:
    row = Example("a", (*HEAD, 5), (False,) * 10 + (True,))
    batch = collate([row, Example("b", row.input_ids, row.loss_mask, weight=3.0)])
    assert batch.input_ids_1T.shape == (1, 11)
    assert batch.target_N.tolist() == [5, 5]
    assert batch.weight_N.tolist() == [1.0, 3.0]


def test_a_short_common_beginning_is_not_worth_a_node() -> None:
    forest = Forest.grow([(1, 2, 3, 9), (1, 2, 3, 8)])
    assert [(n.start, n.end, n.parent) for n in forest.nodes] == [(0, 4, -1), (4, 8, -1)]


def test_layout_masks_allow_ancestors_and_the_past_of_the_own_node_only() -> None:
    plan = layout([Node(0, 2), Node(2, 4, 0), Node(4, 5, 0)])
    (tile,) = plan.tiles
    assert tile.mask_QK is not None
    assert (tile.mask_QK == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert plan.longest == 4
