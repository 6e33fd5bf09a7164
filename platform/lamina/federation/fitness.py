"""Which strategies can be federated: adapters average, summaries add; the rest is refused, and
why."""

from lamina.strategies.base import Strategy


def misfit(name: str, cls: type[Strategy], has_adapter: bool) -> str | None:
    """Why a strategy cannot be federated; None if it can."""
    takes_steps = cls.takes_gradient_steps(has_adapter)
    if cls.summary_rows:
        return (
            f"strategy {name!r} must see values of single rows, which never leave a client "
            "(allowed: strategies whose summaries are sums)"
        )
    if cls.data == "all":
        return f"strategy {name!r} trains on all tasks at once, which no client has"
    if takes_steps and cls.after_step is not Strategy.after_step:
        return (
            f"strategy {name!r} keeps a record of each step, and a client's steps are not the "
            "server's"
        )
    if takes_steps and cls.phases is not Strategy.phases:
        return f"strategy {name!r} trains a task in phases, and a round has one"
    return None


def previews(cls: type[Strategy]) -> bool:
    """Whether it looks at a task before learning it."""
    return cls.preview is not Strategy.preview


def reviews(cls: type[Strategy]) -> bool:
    """Whether it looks at a task after learning it."""
    return cls.review is not Strategy.review


def answers_midway(cls: type[Strategy]) -> bool:
    """Whether what it answers in the middle of a task is what it would answer at its end: not where
    that rests on what is only then looked at."""
    return cls.predict is Strategy.predict or not reviews(cls)


def trains(cls: type[Strategy], has_adapter: bool, task: int) -> bool:
    """Whether it takes gradient steps on a task."""
    if not cls.takes_gradient_steps(has_adapter):
        return False
    return cls.trained_tasks == "all" or task == 0
