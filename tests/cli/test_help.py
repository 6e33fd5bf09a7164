"""What a newcomer sees first: commands in the order of use, and lines for data of one's own."""

from lamina.cli import main


def test_commands_come_in_the_order_of_use_and_new_ones_last(lamina, monkeypatch):
    commands = main.list_commands(None)
    assert commands[:5] == ["init", "check", "run", "sweep", "report"]
    assert commands[-2:] == ["strategies", "doctor"]
    assert commands.index("predict") < commands.index("federate") < commands.index("trials")
    monkeypatch.setitem(main.commands, "another", main.commands["run"])
    assert main.list_commands(None)[-1] == "another"


def test_help_ends_with_what_to_do_with_data_of_ones_own(lamina):
    lines = lamina("--help").output.splitlines()
    assert [line.split("#")[0].strip() for line in lines[-3:]] == [
        "Data of your own, a csv file say:",
        "lamina init tickets.csv",
        "lamina sweep tickets.yaml",
    ]
    assert max(map(len, lines)) <= 80
