"""Joint: its losses, state and answers against naive versions."""

from nouns import make_learner


def test_joint_trains_once_on_everything_and_only_the_last_row_is_defined(nouns, tiny_bert):
    learner = make_learner("joint", nouns, tiny_bert)
    reports = list(learner.learn())
    assert len(reports) == 1
    assert reports[0].done
    assert None not in reports[0].test
    assert learner.scores.matrices["test"].rows[:2] == [[None] * 3] * 2
    assert "test/forgetting" not in reports[0].metrics
    assert learner.num_steps == 2 * -(-30 // 4)
