"""A meter knows the last step within its budget before it is passed."""

from trainers.studies.leaderboard.budgets import Meter


def test_a_meter_with_slack_expects_a_longer_step():
    bold, careful = Meter(10, 1.0), Meter(10, 1.0, slack=1.25)
    for meter in (bold, careful):
        meter.advance(4.6)
    assert not bold.due() and not bold.exhausted
    assert careful.due() and careful.exhausted and not careful.due()


def test_nothing_is_validated_for_a_budget_that_a_long_step_has_passed():
    meter = Meter(10, 1.0)
    meter.advance(4)
    meter.advance(11)
    assert not meter.due() and meter.exhausted and meter.steps == 1
