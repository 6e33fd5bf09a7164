"""R as a document."""

import json
from math import nan

from lamina.tracking.matrix import matrix_document


def test_what_is_undefined_or_not_reached_is_null():
    document = matrix_document(
        ["lights", "climate", "media"],
        validation=[[0.9, None, None], [0.5, 0.8, nan]],
        test=[[1.0, 0.1, None]],
    )

    assert json.loads(json.dumps(document, allow_nan=False)) == {
        "format": 1,
        "tasks": ["lights", "climate", "media"],
        "validation": [[0.9, None, None], [0.5, 0.8, None], [None, None, None]],
        "test": [[1.0, 0.1, None], [None, None, None], [None, None, None]],
    }
