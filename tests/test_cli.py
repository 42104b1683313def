"""The command line answers at once, and a mistake is one line."""

import signal
import sys
import time

import pytest

from bluesky_edgestem.cli import DELEGATED, main


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("demo", "run", "resume", "report", "catalog", "sim", "train", "analyse"))


@pytest.mark.parametrize("command", DELEGATED)
def test_commands_with_their_own_command_line_explain_themselves(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_half_a_command_is_answered_with_those_there_are(capsys):
    assert main(["stream"]) == 1
    assert "`edgestem stream record`" in capsys.readouterr().err


def test_help_on_the_first_of_two_words_lists_those_that_may_follow(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    told = capsys.readouterr().out
    assert all(second in told for second in ("descriptors", "library", "patterns", "strain"))
    with pytest.raises(SystemExit):
        main(["train", "descriptor"])
    assert "invalid choice: 'descriptor'" in capsys.readouterr().err


def test_two_words_are_a_command_of_their_own_beside_one(capsys):
    with pytest.raises(SystemExit):
        main(["train", "strain", "--help"])
    assert "usage: edgestem train strain" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_one_line(capsys):
    assert main(["run", "absent.toml"]) == 1
    assert capsys.readouterr().err == (
        "edgestem: cannot read the experiment file absent.toml: [Errno 2] No such file or directory: 'absent.toml'\n"
    )


def test_a_catalog_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["catalog", "search", "--folder", str(tmp_path)]) == 1
    assert "There is no catalog in" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1.5", "one"])
def test_a_seed_that_is_none_starts_nothing(seed, capsys):
    with pytest.raises(SystemExit):
        main(["demo", f"--seed={seed}"])
    assert f"'{seed}' is not a whole number of 0 or more" in capsys.readouterr().err


def test_ctrl_c_lets_an_import_end_before_it_interrupts(tmp_path, monkeypatch, capsys):
    # Interrupted in the middle, an import can leave the lock of all imports taken, and other threads waiting for it.
    (tmp_path / "command_that_imports.py").write_text(
        "import time\n\n\ndef main(words):\n    import interrupted_import\n\n    time.sleep(30)\n"
    )
    (tmp_path / "interrupted_import.py").write_text(
        "import signal, time\n\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nWHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(DELEGATED, "wait", ("command_that_imports", "wait"))
    began = time.monotonic()
    assert main(["wait"]) == 130
    assert time.monotonic() - began < 10, "interrupted, not waited for"
    assert sys.modules.pop("interrupted_import").WHOLE
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
