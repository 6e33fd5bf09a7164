"""What R can be of."""

from dataclasses import replace
from math import exp, isfinite

import pytest
import torch

from lamina.evaluation.accuracy_matrix import AccuracyMatrix
from lamina.evaluation.answers import TokenAnswers, of_plain
from lamina.evaluation.halving import dominates, projected_accuracy, standing_of
from lamina.evaluation.leaderboard import leaderboard, read_row, written
from lamina.evaluation.measures import measure_in, measure_names, measure_of, named
from lamina.evaluation.measures.slot_f1 import slots_of
from lamina.registry import InputError

WANTED = (
    "HassTurnOn(area=attic, name=desk lamp)",
    "HassStartTimer(minutes=5)",
    "HassTimerStatus()",
    "HassTurnOff(name=a, b and c)",
)
SAID = (
    "HassTurnOn(name=desk lamp, area=attic)",
    "HassStartTimer(seconds=5)",
    "HassTimerStatus(",
    "HassTurnOff(name=a, b and c)",
)


@pytest.fixture
def found():
    return TokenAnswers(
        num_tokens=torch.tensor([8, 4, 2, 6]),
        num_right=torch.tensor([5, 3, 1, 6]),
        surprise=torch.tensor([4.0, 2.0, 3.0, 1.0], dtype=torch.float64),
        finite=torch.tensor([True] * 4),
        said=SAID,
        wanted=WANTED,
    )


def test_token_measures_are_those_of_their_formulas(found):
    values = {
        name: measure_of(name, "tokens").of(found)
        for name in ("exact_match", "token_accuracy", "perplexity")
    }
    assert values["exact_match"] == 0.25
    assert values["token_accuracy"] == 15 / 20
    assert values["perplexity"] == pytest.approx(exp(10 / 20))


def test_a_perplexity_is_finite_however_surprised_a_model_is(found):
    lost = replace(found, surprise=torch.full((4,), 1e6, dtype=torch.float64))
    assert measure_of("perplexity", "tokens").of(lost) == 1e9
    matrix = AccuracyMatrix([1, 1], [[2.0, 1e9], [1e9, 1e9]], measure="perplexity", better="min")
    assert all(map(isfinite, matrix.summaries().values()))


def test_slots_count_whatever_their_order_and_the_call_is_one_more(found):
    assert slots_of(WANTED[3]) == {"HassTurnOff()": 1, "name=a, b and c": 1}
    assert slots_of("no call at all") == {"no call at all": 1}
    # 3 of 3, 1 of 2, 0 of 1 and 2 of 2; as many were said as are right.
    assert measure_of("slot_f1", "tokens").of(found) == pytest.approx(2 * 6 / 16)


def test_texts_are_measured_as_their_libraries_do(found):
    sacrebleu = pytest.importorskip("sacrebleu")
    said, wanted = list(SAID), [list(WANTED)]
    assert measure_of("bleu", "tokens").of(found) == pytest.approx(
        sacrebleu.corpus_bleu(said, wanted).score / 100
    )
    assert measure_of("chrf", "tokens").of(found) == pytest.approx(
        sacrebleu.corpus_chrf(said, wanted).score / 100
    )
    # Words: 6 of 6 and 6, of which 4 are in one order; 2 of 3; all; all.
    expected = (4 / 6 + 2 / 3 + 1 + 1) / 4
    assert measure_of("rouge_l", "tokens").of(found) == pytest.approx(expected)


@pytest.mark.parametrize("name", [each for each in measure_names() if each != "accuracy"])
def test_what_is_all_right_is_best(name):
    right = TokenAnswers(
        torch.tensor([3]),
        torch.tensor([3]),
        torch.tensor([0.0], dtype=torch.float64),
        torch.tensor([True]),
        ("Turn(a=the second floor lamp)",),
        ("Turn(a=the second floor lamp)",),
    )
    assert measure_of(name, "tokens").of(right) == pytest.approx(1.0)


def test_answers_go_through_a_checkpoint_and_are_split(found):
    again = of_plain(found.plain())
    assert again.pairs == found.pairs
    assert torch.equal(again.surprise, found.surprise)
    first, second = found.split([1, 3])
    assert (first.wanted, len(second)) == (WANTED[:1], 3)
    assert torch.equal(second.right, found.right[1:])


def test_less_is_better_turns_forgetting_and_transfer_round():
    rows = [[2.0, None, None], [5.0, 3.0, None], [4.0, 6.0, 2.5]]
    matrix = AccuracyMatrix([1, 1, 1], rows, measure="perplexity", better="min")
    found = matrix.summaries(chance=None)
    assert found["average_perplexity"] == pytest.approx(12.5 / 3)
    assert found["forgetting"] == pytest.approx(((4 - 2) + (6 - 3)) / 2)
    assert found["forgetting_including_last"] == pytest.approx(2.5)
    assert found["backward_transfer"] == pytest.approx(-2.5)
    assert not any("accuracy" in name for name in found)


def test_of_less_that_is_better_a_trial_is_heading_for_less():
    holding = [[4.0, None, None], [4.0, 6.0, None]]
    rising = [[2.0, None, None], [5.0, 3.0, None]]
    # It rises by 3 a task: to 8 and to 6; a new task is learned as the others were.
    assert projected_accuracy(rising, 3, "min") == pytest.approx((8.0 + 6.0 + 2.5) / 3)
    assert projected_accuracy(holding, 3, "min") == pytest.approx((4.0 + 6.0 + 5.0) / 3)
    metrics = {"validation/average_perplexity": 5.0}
    first, second = (
        standing_of(name, "er", rows, metrics, 3, costs=())
        for name, rows in (("holding", holding), ("rising", rising))
    )
    assert dominates(first, second)


def test_a_measure_of_other_answers_is_refused_with_those_that_fit():
    with pytest.raises(InputError, match=r"training\.measure: 'rouge_l' is of tokens"):
        measure_of("rouge_l", "classes")
    with pytest.raises(InputError, match="allowed: bleu, chrf, exact_match"):
        measure_of("accuracy", "tokens")
    with pytest.raises(InputError, match="did you mean 'exact_match'"):
        measure_of("exact_mach", "tokens")
    assert measure_of(None, "classes").name == "accuracy"


def test_a_leaderboard_is_ranked_by_its_measure_and_names_it_in_files():
    def result(trial, value):
        metrics = {"validation/average_perplexity": value, "test/average_perplexity": value + 1}
        report = {"task": 0, "num_tasks": 1, "metrics": metrics}
        mapping = {
            "strategy": {"name": "finetune"},
            "scenario": {"kind": "domain_incremental"},
            "stream": {"name": "s"},
            "backbone": {"name": "b"},
            "tracking": {"enabled": False},
        }
        return {
            "trial": trial,
            "name": trial,
            "settings": {},
            "mapping": mapping,
            "status": "finished",
            "error": None,
            "reports": [report],
        }

    rows = leaderboard([result("a", 9.0), result("b", 4.0)])
    assert [row["trial"] for row in rows] == ["b", "a"]
    assert rows[0]["metric"] == "validation/average_perplexity"
    said = written(rows[0])
    assert said["average_perplexity"] == 5.0
    assert not any("accuracy" in key for key in said)
    assert read_row(said) == rows[0]
    assert measure_in({}) == "accuracy"
    assert named("pooled_accuracy", "chrf") == "pooled_chrf"
