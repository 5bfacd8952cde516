from __future__ import annotations

import os
import sys

import pytest

from hopyard.program import _artifact

RUN = ("run", "factories:make")


@pytest.mark.parametrize(
    ("argv", "fragments"),
    [
        (("rum",), ("no command named 'rum'", "did you mean 'run'?", "plugins")),
        (("plugins", "lst"), ("no command named 'lst'", "'list'", "check")),
        ((), ("COMMAND", "hopyard --help")),
        (("run",), ("MODULE:FACTORY", "hopyard run --help")),
        ((*RUN, "--ot", "x.pt2"), ("no option named '--ot'", "'--out'", "--pipeline")),
        ((*RUN, "--seed", "many"), ("--seed", "'many'")),
        ((*RUN, "--tolerance", "nan"), ("--tolerance", "finite", "'nan'")),
        ((*RUN, "--tolerance", "much"), ("--tolerance", "'much'")),
        (("hooks", "extra"), ("hopyard hooks does not take 'extra'",)),
        (("passes", "rescal"), ("no pass named 'rescal'", "'rescale'", "keep")),
        ((*RUN, "--pipeline", "kep"), ("no pass named 'kep'", "'keep'", "rescale")),
        (
            (*RUN, "--pipeline", "rescale{facter=2}"),
            ("no option 'facter'", "'factor'", "label: text or none"),
        ),
        ((*RUN, "--pipeline", "rescale{factor=x}"), ("'factor'", "float", "not x")),
        ((*RUN, "--pipeline", "keep{"), ("column 6", "found the end")),
        (("run", "factores:make"), ("no module named 'factores'", "'factories'")),
        (("run", "torch.fxx:make"), ("no module named 'torch.fxx'", "'torch.fx'")),
        (("run", "factories.sub:make"), ("no module named 'factories.sub'",)),
        (("run", "torchh:make"), ("no module named 'torchh'", "did you mean 'torch'?")),
        (("run", "factories:mak"), ("no factory in 'factories' named 'mak'", "'make'", "raises")),
        (("run", "factories"), ("names no factory", "package.module:factory")),
        (("run", "factories.make"), ("names no factory; write factories:make",)),
        (("run", "./factories.py:make"), ("names no factory; write factories:make",)),
        (("run", "factories:"), ("names no factory",)),
        (("run", "factories:SIZE"), ("is a int, which cannot be called",)),
        (("run", "factories:needs"), ("without arguments", "'size'")),
        (("run", "factories:returns_module"), ("returned a Net; return (module_or_function,",)),
        (("run", "factories:returns_tensor_as_args"), ("returned a Tensor as args", "a tuple")),
        (("run", "factories:returns_number"), ("returned a int to capture",)),
        (("run", "factories:returns_list_as_kwargs"), ("returned a list as kwargs", "a dict")),
        ((*RUN, "--out", "missing/x.pt2"), ("no folder", "missing", "make it first")),
        ((*RUN, "--out", "x.pt"), ("does not end in .pt2", "--out x.pt2")),
        ((*RUN, "--out", "factories.py/x.pt2"), ("no folder",)),
        ((*RUN, "--out", ""), ("--out: ''", "name a file")),
        ((*RUN, "--out", "."), ("--out: '.'", "name a file")),
        ((*RUN, "--out", ".."), ("--out: '..'", "name a file")),
    ],
)
def test_misuse_is_one_line_with_what_was_probably_meant(refused, argv, fragments):
    message = refused(*argv)
    for fragment in fragments:
        assert fragment in message


def test_a_misspelt_plugin_is_named_with_those_there_are(refused, monkeypatch):
    monkeypatch.setenv("HOPYARD_PLUGINS_DENY", "goood")
    message = refused("plugins", "list")
    assert "HOPYARD_PLUGINS_DENY: there is no plugin named 'goood'; did you mean 'good'?" in message


@pytest.mark.parametrize("out", ["folder.pt2", "locked/x.pt2"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(
    place, refused, monkeypatch, out
):
    (place.folder / "folder.pt2").mkdir()
    (place.folder / "locked").mkdir(mode=0o500)
    if os.access(place.folder / "locked", os.W_OK):  # true for a superuser, whatever the mode
        monkeypatch.setattr("os.access", lambda path, mode: "locked" not in str(path))
    assert "--out: " in refused(*RUN, "--out", out)
    assert "factories" not in sys.modules


def test_a_factory_that_raises_is_shown_from_its_own_first_line_on(place):
    place.run("run", "factories:raises")
    assert place.code == 1
    assert place.out == ""
    header, first, *_, message = place.err.splitlines()
    assert header == "Traceback (most recent call last):"
    assert first.strip().startswith(f'File "{place.folder / "factories.py"}"')
    assert first.endswith("in raises")
    assert message == "hopyard: error: factory factories:raises raised ValueError: no weights"
    assert "hopyard/cli" not in place.err


def test_a_factory_that_exits_is_a_factory_that_fails(place):
    place.run("run", "factories:exits")
    assert place.code == 1
    assert "factory factories:exits raised SystemExit: 3" in place.err


@pytest.mark.parametrize(
    ("source", "fragment"),
    [
        ("import module_that_is_missing", "No module named 'module_that_is_missing'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_module_that_fails_differs_from_one_that_is_missing(place, source, fragment):
    place.write("package/__init__.py", "")
    place.write("package/failing.py", source)
    place.run("run", "package.failing:make")
    assert place.code == 1
    assert place.err.splitlines()[-1].startswith(
        "hopyard: error: importing 'package.failing' raised"
    )
    assert fragment in place.err
    assert 'failing.py", line 1' in place.err
    assert "importlib" not in place.err


def test_a_program_that_cannot_run_is_one_message_and_a_traceback_on_request(place):
    place.run("run", "factories:does_not_run")
    assert place.code == 1
    assert place.err.startswith("hopyard: error: capture: ")
    assert "factories.py:" in place.err
    assert "Traceback" not in place.err
    place.run("run", "factories:does_not_run", "--traceback")
    assert place.code == 1
    assert place.err.startswith("Traceback")
    assert "hopyard: error: capture: " in place.err.splitlines()[-1]


def test_a_pass_that_fails_is_named_with_its_plugin(place):
    place.run(*RUN, "--pipeline", "keep,explode", "--out", "net.pt2")
    assert place.code == 1
    assert "good [dist-good 1.0]: " in place.err
    assert "RuntimeError: the pass blew up" in place.err
    assert "Traceback" not in place.err
    assert list(place.folder.glob("*.pt2")) == []


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (OSError("disk full"), 1, "hopyard: error: save: cannot write"),
        (KeyboardInterrupt(), 130, "hopyard: interrupted"),
    ],
)
def test_a_half_written_file_never_replaces_a_good_one(place, monkeypatch, failure, code, message):
    place.run(*RUN, "--out", "net.pt2")
    good = (place.folder / "net.pt2").read_bytes()
    before = sorted(place.folder.rglob("*"))

    def save_half(path, *_):
        with open(path, "wb") as file:
            file.write(good[:100])
        raise failure

    monkeypatch.setattr(_artifact, "write_archive", save_half)
    place.run(*RUN, "--seed", "1", "--out", "net.pt2")
    assert place.code == code
    assert message in place.err
    assert (place.folder / "net.pt2").read_bytes() == good
    assert sorted(place.folder.rglob("*")) == before


def test_an_interrupt_is_quiet_and_leaves_nothing(place):
    # A shell's background job is started with interrupts ignored; the one sent here must arrive.
    place.write(
        "slow.py",
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def make():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n",
    )
    done = place.process("run", "slow:make", "--out", "net.pt2")
    assert done.returncode == 130
    assert done.stderr == "hopyard: interrupted\n"
    assert list(place.folder.glob("*.pt2")) == []


def test_a_reader_that_stops_reading_is_no_failure_of_ours(place):
    reading, writing = os.pipe()
    os.close(reading)
    done = place.process("hooks", stdout=writing)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_the_process_ends_with_the_exit_code(place):
    done = place.process("run", "factories:make", "--pipeline", "kep")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("hopyard: error: there is no pass named 'kep'")
