"""What is called how in a job's output folder: who writes a file and who reads it agree on it here.

::

    leaderboard.json                        the trials of a sweep as they rank
    events.jsonl                            everything that was reported, a line each
    report.html                             the page of `lamina report`
    trials/TRIAL/                           a trial of the sweep: accuracy_matrix.json, bundle/, and
                                            error.txt where it failed
    run/TRIAL/                              a lone run: the same, result.json and events.jsonl; and
                                            store/, until it has learned all
"""

LEADERBOARD = "leaderboard.json"
EVENTS = "events.jsonl"
PAGE = "report.html"
TRIALS = "trials"
"""The folder of a sweep's trials."""
RUNS = "run"
"""The folder of lone runs."""
RESULT = "result.json"
"""A lone run's row of a leaderboard."""
MATRIX = "accuracy_matrix.json"
ERROR = "error.txt"
"""Why a trial failed: all of the traceback."""
BUNDLE = "bundle"
"""The folder of what a trial learned, in the trial's."""
PREDICTIONS = "predictions.csv"
"""A bundle's answers to the test part, a row each."""
