"""Job files that nobody can mean, and values that no setting can be, each with a part of the line
that is said."""

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
)
TEXTS = {
    "a list that holds itself": ("a: &a [1, *a]", "line 1, column 11: the alias *a stands for"),
    "a mapping that holds itself": ("a: &a {b: *a}", "line 1, column 11: the alias *a stands for"),
    "3,000 nested lists": ("a: " + "[" * 3000 + "]" * 3000, "line 1, column 53: nested too deep"),
    "3,000 nested mappings": ("{a: " * 3000 + "1" + "}" * 3000, "nested too deep (allowed: 50 lev"),
    "3,000 nested blocks": (
        "\n".join("  " * n + f"k{n}:" for n in range(3000)),
        "nested too deep (allowed: 50 levels)",
    ),
    "a billion laughs": (LAUGHS, "too large (allowed: 100,000 values, aliases written out)"),
    "a list as a key": ("[1, 2]: 3", "line 1, column 1: a list is not a key (allowed: names)"),
    "a list as a marked key": ("? [1, 2]\n: 3", "line 1, column 3: a list is not a key"),
    "a mapping as a key": ("{a: 1}: 3", "line 1, column 1: a mapping is not a key"),
    "an alias as a key": ("a: &x name\n*x : 1", "line 2, column 1: the alias *x is not a key"),
    "a number as a key": ("3: 4", "3: not a key (allowed: names joined by dots)"),
    "null as a key": ("~: 4", "null: not a key (allowed: names joined by dots)"),
    "a timestamp": ("seed: !!timestamp 2026-01-02", "line 1, column 7: the tag !!timestamp is not"),
    "a set": ("seed: !!set {a, b}", "line 1, column 7: the tag !!set is not allowed"),
    "binary": ("seed: !!binary aGk=", "line 1, column 7: the tag !!binary is not allowed"),
    "no truth value": ("seed: !!bool abc", "line 1, column 7: the tag !!bool is not allowed"),
    "no number": ("seed: !!int abc", "line 1, column 7: the tag !!int is not allowed"),
    "pairs": ("seed: !!omap [a: 1]", "line 1, column 7: the tag !!omap is not allowed"),
    "a tag of one's own": ("seed: !mine 3", "line 1, column 7: the tag !mine is not allowed"),
    "an object": (
        "seed: !!python/name:os.system",
        "the tag !!python/name:os.system is not allowed",
    ),
    "a key given twice": (
        "seed: 1\nname: x\nseed: 2",
        "line 3, column 1: not YAML ('seed' is given",
    ),
    "a nested key given twice": ("a: {b: 1, b: 2}", "line 1, column 11: not YAML ('b' is given"),
    "a dotted key given twice": (
        "training: {epochs: 1}\ntraining.epochs: 2",
        "training.epochs: giv",
    ),
    "a tab": ("training:\n\tepochs: 1", "line 2, column 1: not YAML"),
    "an unknown alias": ("seed: *x", "line 1, column 7: not YAML"),
    "two documents": ("name: x\n---\nname: y", "line 2, column 1: not YAML"),
    "an unclosed bracket": ("name: [x", "not YAML"),
    "a control character": ("name: \x07", "not YAML"),
    "nothing": ("", "is null (allowed: a mapping with the keys of a job)"),
    "a comment": ("# nothing", "is null (allowed: a mapping with the keys of a job)"),
    "a text": ("train it", "is 'train it' (allowed: a mapping with the keys of a job)"),
    "a list": ("- name: x", "(allowed: a mapping with the keys of a job)"),
    "a merge of a text": ("a: {<<: x}", "line 1, column 9: not YAML"),
    "a number of 5,000 digits": ("seed: " + "9" * 5000, "not YAML (Exceeds the limit"),
}
"""By name: the text of a file, and what is said of it."""

WIDE = "numbers from -3.4e+38 to 3.4e+38"
VALUES = [
    (
        "training.learning_rate=.nan",
        f"training.learning_rate: nan is not allowed (allowed: {WIDE})",
    ),
    ("training.learning_rate=.inf", "training.learning_rate: inf is not allowed (allowed: numbers"),
    ("training.learning_rate=1e39", "training.learning_rate: 1e+39 is not allowed"),
    ("training.learning_rate=-1", "training.learning_rate: -1.0 is not positive"),
    ("training.learning_rate=1e999", "training.learning_rate: inf is not allowed"),
    ("training.weight_decay=.nan", "training.weight_decay: nan is not allowed"),
    ("training.momentum=-.inf", "training.momentum: -inf is not allowed"),
    ("training.max_grad_norm=.nan", "training.max_grad_norm: nan is not allowed"),
    ("adapter.alpha=.nan", "adapter.alpha: nan is not allowed"),
    ("adapter.dropout=.inf", "adapter.dropout: inf is not allowed"),
    ("hosts.features_gb=.nan", "hosts.features_gb: nan is not allowed"),
    ("backbone.max_memory_gb=.inf", "backbone.max_memory_gb: inf is not allowed"),
    ("scenario.blurry=.nan", "scenario.blurry: nan is not allowed"),
    ("strategy={name: ewc, strength: .nan}", "strategy.strength: nan is not allowed"),
    ("sweep.verify=.nan", "sweep.verify: nan is not allowed"),
    ("sweep.scheduler={name: asha, x: .nan}", "sweep.scheduler.x: nan is not allowed"),
    ("sweep.variants=[{training.epochs: .nan}]", "sweep.variants.training.epochs: nan is not all"),
    (
        "sweep.space={training.learning_rate: {grid_search: [.nan]}}",
        "sweep.space.training.learning_rate.grid_search: nan is not allowed",
    ),
    ("adapter={kind: peft, peft_type: LOHA, config: {r: .nan}}", "adapter.config.r: nan is not"),
    ("federation={participation: .nan}", "federation.participation: nan is not allowed"),
    ("federation={clock: {dropout: .nan}}", "federation.clock.dropout: nan is not allowed"),
    (
        "training.epochs=9999999999999999999999999",
        "training.epochs: 9999999999999999999999999 is not allowed (allowed: numbers from "
        "-4,294,967,295 to 4,294,967,295)",
    ),
    ("training.epochs=1e3", "training.epochs: 1000.0 is not allowed (allowed: a whole number)"),
    ("adapter.rank=100000", "adapter.rank: 100000 is more than the width of "),
    ("adapter.rank=-1", "adapter.rank: -1 is not positive"),
    ("seed=-1", "seed: -1 is negative (allowed: 0, 1, 2, ...)"),
    ("seed=1e400", "seed: inf is not allowed"),
    ("seed=[1]", "seed: [1] is not allowed (allowed: a whole number)"),
    ("scenario={kind: class_incremental, validation: 0.6, test: 0.6}", "scenario.validation: 0.6"),
    ('output_dir="a\\0b"', "output_dir: 'a\\x00b' has a NUL (allowed: a path)"),
    ('name="a\\0b"', "name: 'a\\x00b' is no name of a folder"),
    ("name=../up", "name: '../up' is no name of a folder (allowed: up to 200 characters without"),
    ("name=''", "name: '' is no name of a folder"),
    ("output_dir=[a]", "output_dir: ['a'] is not allowed (allowed: a path or null)"),
    ("output_dir=" + "x" * 300, "output_dir: 'xxx"),
    ("training={[1]: 2}", "override 'training={[1]: 2}', line 1, column 2: a list is not a key"),
    ("seed=!!timestamp 2026-01-01", "the tag !!timestamp is not allowed"),
]
"""`KEY=VALUE` words."""
