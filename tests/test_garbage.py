import subprocess
import sys

LEAVES = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from lamina.garbage import OBJECTS, collect_seldom
collect_seldom()
print(gc.get_threshold()[0] == OBJECTS)
"""


def test_a_process_collects_seldom_and_leaves_without_looking_for_garbage():
    command = [sys.executable, "-c", LEAVES]
    assert subprocess.check_output(command, text=True).split() == ["True", "True"]
