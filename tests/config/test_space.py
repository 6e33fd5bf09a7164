"""Search domains by name."""

import inspect

import pytest
from ray import tune

from lamina.config.space import _RANGES, FUNCTIONS, Domain, read_domain


def problems_of(given):
    problems = []
    assert read_domain("sweep.space.training.learning_rate", given, problems) is None
    return problems


def test_every_function_and_its_arguments_are_ray_tunes():
    for function in FUNCTIONS:
        parameters = dict(inspect.signature(getattr(tune, function)).parameters)
        # Ray Tune warns of whoever gives it: it has no effect on what is drawn.
        parameters.pop("base", None)
        if function in _RANGES:
            assert list(parameters) == list(_RANGES[function])
            for name, default in _RANGES[function].items():
                has_default = parameters[name].default is not inspect.Parameter.empty
                assert has_default == (default is not None), (function, name)
        else:
            assert len(parameters) == 1


def test_every_function_of_plain_arguments_is_there():
    sampling = {"randn", "grid_search"} | {
        name
        for name in tune.__all__
        if name.endswith(("uniform", "randint", "randn")) or name == "choice"
    }
    assert sampling == set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_read_can_be_given_to_ray_tune_and_drawn(function):
    given = {
        "grid_search": [1, 2],
        "choice": ["a", "b"],
        "randn": None,
        "qrandn": [0, 1, 0.5],
        "quniform": [0.1, 0.5, 0.1],
        "qloguniform": [2, 8, 2],
        "qlograndint": [2, 10, 2],
    }.get(function, [1, 9])
    domain = read_domain("sweep.space.x", {function: given}, [])
    made = getattr(tune, function)(*domain.args)
    assert domain.is_grid == (function == "grid_search") == isinstance(made, dict)
    if not domain.is_grid:
        made.sample()


def test_arguments_may_be_named():
    by_name = read_domain("k", {"loguniform": {"upper": 0.1, "lower": 0.001}}, [])
    assert by_name == read_domain("k", {"loguniform": [0.001, 0.1]}, [])
    assert read_domain("k", {"randn": {"sd": 2}}, []) == Domain("randn", (0.0, 2))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1, 2], "[1, 2] is not allowed (allowed: one function with its arguments"),
        ({"choice": [1], "uniform": [1, 2]}, "is not allowed (allowed: one function"),
        ({"logunifrm": [1, 2]}, "'logunifrm' is unknown; did you mean 'loguniform'?"),
        ({"grid_search": []}, "grid_search: [] is not allowed (allowed: a list of values)"),
        ({"choice": "ab"}, "choice: 'ab' is not allowed (allowed: a list of values)"),
        ({"uniform": [1]}, "uniform: [1] is not allowed (allowed: the numbers [lower, upper]"),
        ({"uniform": [2, 1]}, "with lower < upper)"),
        ({"uniform": [1, 2, 3]}, "uniform: [1, 2, 3] is not allowed"),
        ({"uniform": ["a", "b"]}, "uniform: ['a', 'b'] is not allowed"),
        ({"uniform": 3}, "uniform: 3 is not allowed"),
        ({"uniform": {"low": 1, "upper": 2}}, "is not allowed (allowed: the numbers"),
        ({"loguniform": [0, 1]}, "with lower < upper, lower above 0)"),
        ({"randint": [0.5, 2]}, "randint: [0.5, 2] is not allowed (allowed: the whole numbers"),
        ({"quniform": [0, 1, 0]}, "q above 0, bounds that are multiples of q)"),
        ({"quniform": [1, 9, 2]}, "q above 0, bounds that are multiples of q)"),
        ({"uniform": [0, float("inf")]}, "uniform: [0, inf] is not allowed"),
        ({"uniform": None}, "uniform: null is not allowed"),
    ],
)
def test_each_wrong_domain_is_one_line_that_names_the_key(given, said):
    (problem,) = problems_of(given)
    assert problem.startswith("sweep.space.training.learning_rate")
    assert said in problem
