"""Flat columns: nothing is lost or mixed up between sequences, however they are cut, joined and padded."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpg_openrlhf.sampling.columns import Columns, Row, pad, spans, strip

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def made(lengths: list[int], first: int = 0) -> Columns:
    """Sequence i has ids 100 i, 100 i + 1, ...; entry t of its action column is that of token t + 1."""
    ids = [np.arange(n, dtype=np.int32) + 100 * (first + i) for i, n in enumerate(lengths)]
    log_probs = np.concatenate([one[1:].astype(np.float32) for one in ids])
    names = [f"sequence {first + i}" for i in range(len(lengths))]
    return Columns(lengths, np.concatenate(ids), {"log_probs": log_probs}, {"name": names})


def read(columns: Columns) -> list[tuple]:
    return [
        (row.value("name"), columns.ids_of(row.place).tolist(), columns.actions_of("log_probs", row.place).tolist())
        for row in columns.rows()
    ]


@given(LENGTHS)
def test_each_sequence_is_found_again(lengths):
    columns = made(lengths)
    assert len(columns) == len(lengths)
    for i, (name, ids, log_probs) in enumerate(read(columns)):
        assert name == f"sequence {i}"
        assert ids == list(range(100 * i, 100 * i + lengths[i]))
        assert log_probs == ids[1:]


@given(LENGTHS, LENGTHS, st.data())
def test_any_rows_of_any_columns_in_any_order(some, others, data):
    first, second = made(some), made(others, first=len(some))
    rows = data.draw(st.permutations([*first.rows(), *second.rows()]))
    rows = rows[: data.draw(st.integers(1, len(rows)))]
    known = dict(zip(((id(first), i) for i in range(len(some))), read(first), strict=True))
    known |= dict(zip(((id(second), i) for i in range(len(others))), read(second), strict=True))
    expected = [known[id(row.columns), row.place] for row in rows]
    joined = Columns.of(rows)
    assert read(joined) == expected
    assert read(Columns.of(list(joined.rows()))) == expected
    assert joined.ids.dtype == np.int32
    assert joined.actions["log_probs"].dtype == np.float32


@given(LENGTHS, st.sampled_from([0, 7, -1]))
def test_padding_comes_off_again(lengths, fill):
    columns = made(lengths)
    padded = pad(columns.ids, lengths, fill, np.int64)
    assert padded.shape == (len(lengths), max(lengths))
    assert padded.dtype == np.int64
    assert np.array_equal(strip(padded, lengths), columns.ids)
    inside = spans([0] * len(lengths), lengths, max(lengths))
    assert (padded[~inside] == fill).all()
    assert np.array_equal(padded[inside], columns.ids)
    actions = pad(columns.actions["log_probs"], columns.action_lengths)
    assert np.array_equal(strip(actions, columns.action_lengths), columns.actions["log_probs"])


@given(st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), min_size=1, max_size=9), st.integers(0, 9))
def test_spans_are_what_a_loop_says(ends, width):
    found = spans([begin for begin, _ in ends], [end for _, end in ends], width)
    assert found.tolist() == [[begin <= t < end for t in range(width)] for begin, end in ends]


@given(LENGTHS)
def test_columns_and_rows_are_pickled_whole(lengths):
    columns = made(lengths)
    assert read(pickle.loads(pickle.dumps(columns))) == read(columns)
    row = pickle.loads(pickle.dumps(Row(columns, len(lengths) - 1)))
    assert row.value("name") == f"sequence {len(lengths) - 1}"
    assert row.columns.ids_of(row.place).tolist() == read(columns)[-1][1]


@pytest.mark.parametrize(
    ("ids", "log_probs", "names", "message"),
    [(4, 3, 2, "4 tokens for 5"), (5, 4, 2, "not one entry per action"), (5, 3, 1, "not one value per sequence")],
)
def test_columns_that_do_not_match_are_refused(ids, log_probs, names, message):
    with pytest.raises(AssertionError, match=message):
        Columns([2, 3], np.zeros(ids), {"log_probs": np.zeros(log_probs)}, {"name": ["a"] * names})


def test_entries_left_over_are_refused():
    with pytest.raises(AssertionError, match="5 entries for 4"):
        pad(np.zeros(5), [1, 3])
