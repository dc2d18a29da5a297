"""Invariants of preparing data: every row is kept or counted, whatever the order; nothing is left to drop twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rpg_openrlhf.problems import filters, pipeline
from rpg_openrlhf.problems.rows import Row

TEXTS = st.sampled_from(
    ["Find $x$.", "Find x", "Find  x ", "Find 1.5", "Find 15", "求 x", "", "\\dfrac12?", "\\frac12?"]
)
ANSWERS = st.sampled_from(["1", "01", "1.0", "2", "\\frac12", "0.5", "", "no number"])
ROWS = st.lists(st.builds(Row, st.none(), TEXTS, ANSWERS), max_size=12)
CHOSEN = st.builds(pipeline.Settings, st.booleans(), st.sampled_from(["integer", "gradable", "any"]))


def prepared(rows: list[Row], chosen: pipeline.Settings) -> tuple[list[Row], pipeline.Counts]:
    counts = pipeline.Counts()
    problems = pipeline.distinct(((str(i), row) for i, row in enumerate(rows)), chosen, counts)
    return list(pipeline.sift(problems, chosen, None, counts)), counts


@given(ROWS, CHOSEN)
@settings(max_examples=60, deadline=None)
def test_every_row_is_kept_or_counted(rows, chosen):
    kept, counts = prepared(rows, chosen)
    assert counts.read == len(rows) == len(kept) + counts.dropped.total()
    assert counts.dropped.keys() == counts.places.keys()


@given(ROWS, CHOSEN, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_which_problems_are_kept_does_not_depend_on_the_order(rows, chosen, random):
    kept, _ = prepared(rows, chosen)
    shuffled = list(rows)
    random.shuffle(shuffled)
    again, _ = prepared(shuffled, chosen)

    def keys(found: list[Row]) -> list[tuple[str, str | None]]:
        return sorted((filters.spacing_key(row.text), filters.integer(row.answer) or "") for row in found)

    assert keys(kept) == keys(again)


@given(ROWS, CHOSEN)
@settings(max_examples=60, deadline=None)
def test_what_was_kept_is_kept_again(rows, chosen):
    kept, _ = prepared(rows, chosen)
    again, counts = prepared(kept, chosen)
    assert ([(r.text, r.answer) for r in again], counts.dropped.total()) == ([(r.text, r.answer) for r in kept], 0)


@given(st.lists(st.builds(Row, st.none(), st.text(min_size=1), st.just("1")), max_size=20), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_validation_part_has_the_size_asked_for(rows, size):
    distinct = {row.text: row for row in rows}.values()
    is_held = pipeline.held_out(distinct, size, seed=0)
    assert sum(map(is_held, distinct)) == min(size, len(distinct))
