"""Complementary pairs against the any-order bound."""

from estimating import assert_estimates_the_any_order_bound, assert_every_number_of_tokens_is_hidden_equally_often


def test_expectation_is_the_any_order_bound():
    assert_estimates_the_any_order_bound("complementary", num_draws=2)


def test_every_number_of_tokens_is_hidden_equally_often_and_pairs_cover_all():
    hidden = assert_every_number_of_tokens_is_hidden_equally_often("complementary")
    assert bool(hidden.any(dim=1).all())
