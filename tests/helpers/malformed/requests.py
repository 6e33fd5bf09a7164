"""Requests to `lamina serve` that are no question, with the key that the answer names."""

import base64
import json
import pickle

REQUESTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "body"),
    "no JSON": (b"{no", "body"),
    "bytes": (b"\xff\xfe\x00", "body"),
    "a list": (b"[]", "body"),
    "a text": (b'"hello"', "body"),
    "null": (b"null", "body"),
    "a number that is not finite": (b"NaN", "body"),
    "lists nested a million deep": (b"[" * 10**6 + b"]" * 10**6, "body"),
    "mappings nested a hundred thousand deep": (
        b'{"inputs": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        "body",
    ),
    "a number of a million digits": (b'{"top_k": ' + b"9" * 10**6 + b"}", "body"),
    "a pickle": (pickle.dumps({"inputs": ["x"]}), "body"),
    "no inputs": (b"{}", "inputs"),
    "inputs that are null": (b'{"inputs": null}', "inputs"),
    "inputs that are a text": (b'{"inputs": "x"}', "inputs"),
    "inputs that are a mapping": (b'{"inputs": {"0": "x"}}', "inputs"),
    "no input": (b'{"inputs": []}', "inputs"),
    "an empty text": (b'{"inputs": [""]}', "inputs[0]"),
    "blanks": (b'{"inputs": ["x", " \\t\\n"]}', "inputs[1]"),
    "a number as an input": (b'{"inputs": ["x", 3]}', "inputs[1]"),
    "a list as an input": (b'{"inputs": [["x"]]}', "inputs[0]"),
    "half a character": (b'{"inputs": ["\\ud800"]}', "inputs[0]"),
    "too many inputs": (json.dumps({"inputs": ["x"] * 100_000}).encode(), "inputs"),
    "a text that is too long": (json.dumps({"inputs": ["x" * 10**6]}).encode(), "inputs[0]"),
    "an unknown key": (b'{"inputs": ["x"], "inptus": 1}', "inptus"),
    "an unknown bundle": (b'{"inputs": ["x"], "bundle": "another"}', "bundle"),
    "a bundle that is a path": (b'{"inputs": ["x"], "bundle": "../../etc"}', "bundle"),
    "a bundle that is a number": (b'{"inputs": ["x"], "bundle": 3}', "bundle"),
    "a task where none is told": (b'{"inputs": ["x"], "task": "task 0"}', "task"),
    "a task that is a list": (b'{"inputs": ["x"], "task": []}', "task"),
    "no answers": (b'{"inputs": ["x"], "top_k": 0}', "top_k"),
    "a negative number of answers": (b'{"inputs": ["x"], "top_k": -1}', "top_k"),
    "more answers than classes": (b'{"inputs": ["x"], "top_k": 1000}', "top_k"),
    "a share of an answer": (b'{"inputs": ["x"], "top_k": 1.5}', "top_k"),
    "a truth value as a number": (b'{"inputs": ["x"], "top_k": true}', "top_k"),
    "an image where texts are read": (
        json.dumps({"inputs": [{"image": base64.b64encode(b"x").decode()}]}).encode(),
        "inputs[0]",
    ),
}
