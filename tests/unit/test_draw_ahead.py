"""What a rollout takes does not depend on how far ahead it was drawn, nor on what was finished first."""

from hypothesis import assume, given
from hypothesis import strategies as st

from rpg_openrlhf.sampling.draw_ahead import DrawAhead


def one_by_one(passes: list[bool], wanted: int) -> int | None:
    """Draws until `wanted` of them have passed."""
    places = [draw for draw, passed in enumerate(passes) if passed]
    return places[wanted - 1] + 1 if len(places) >= wanted else None


@given(
    passes=st.lists(st.booleans(), max_size=60),
    wanted=st.integers(1, 12),
    seen=st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda two: (min(two), max(two))),
    order=st.randoms(use_true_random=False),
)
def test_it_takes_what_drawing_one_by_one_takes(passes, wanted, seen, order):
    ahead, open_draws = DrawAhead(wanted, *seen), set()
    while not ahead.complete:
        assert ahead.lacking + ahead.under_way <= wanted, "never more than at the start"
        missing = wanted - ahead.seen[0]
        assert ahead.lacking + ahead.under_way >= min(missing, wanted), "never less than one for one"
        new = range(ahead.drawn, min(ahead.drawn + ahead.lacking, len(passes)))
        open_draws |= set(new)
        ahead.drawn += len(new)
        if not open_draws:
            break
        draw = order.choice(sorted(open_draws))
        open_draws.remove(draw)
        ahead.finish(draw, passes[draw])
    length = one_by_one(passes, wanted)
    assert ahead.complete == (length is not None)
    assert ahead.length == (len(passes) if length is None else length)
    assert not set(range(ahead.length)) & open_draws


@given(st.integers(1, 40), st.integers(0, 10))
def test_nothing_is_drawn_ahead_while_nothing_is_rejected(wanted, before):
    ahead = DrawAhead(wanted, before, before)
    for draw in range(wanted):
        ahead.drawn += ahead.lacking
        assert ahead.drawn == wanted
        ahead.finish(draw, True)
    assert ahead.complete
    assert ahead.under_way == 0


@given(st.integers(2, 40))
def test_a_rate_that_is_known_keeps_the_start_under_way(wanted):
    """Half passes: with half of them still missing, as many are under way as at the start."""
    ahead = DrawAhead(wanted, 1000, 2000)
    ahead.drawn += ahead.lacking
    for draw in range(wanted // 2):
        ahead.finish(draw, draw % 2 == 0)
        ahead.drawn += ahead.lacking
        assert ahead.under_way == wanted


@given(st.integers(1, 5), st.integers(6, 20))
def test_a_late_draw_does_not_take_the_place_of_an_early_one(wanted, drawn):
    assume(drawn > wanted)
    ahead = DrawAhead(wanted)
    ahead.drawn += drawn
    for draw in reversed(range(1, drawn)):
        ahead.finish(draw, True)
        assert not ahead.complete, "the first is open"
    ahead.finish(0, True)
    assert (ahead.complete, ahead.length) == (True, wanted)
