"""Monte-Carlo masks against the any-order bound."""

import pytest
from estimating import assert_estimates_the_any_order_bound, assert_every_number_of_tokens_is_hidden_equally_often


@pytest.mark.parametrize("num_draws", [1, 3])
def test_expectation_is_the_any_order_bound(num_draws):
    assert_estimates_the_any_order_bound("monte_carlo", num_draws=num_draws)


def test_every_number_of_tokens_is_hidden_equally_often_and_two_draws_do_not_cover_all():
    hidden = assert_every_number_of_tokens_is_hidden_equally_often("monte_carlo")
    assert not bool(hidden.any(dim=1).all())
