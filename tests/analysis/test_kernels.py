"""Compiled code is kept where it can be, and is never that of another source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLER = """
import {package}.callee as callee
from bluesky_edgestem.analysis.kernels import kernel
from {package}.callee import ADDED, call, halved

@kernel
def found(x):
    return call(halved(x)) + ADDED

found(4)
hits = sum(found.stats.cache_hits.values())
print(found(4), "kept" if hits else "compiled")
"""
CALLEE = """
from bluesky_edgestem.analysis.kernels import kernel
from numba import types
from numba.extending import intrinsic

ADDED = {added}

@intrinsic
def call(typingctx, x):
    def generate(context, builder, signature, args):
        return builder.add(args[0], args[0].type({called}))
    return x(x), generate

@kernel
def halved(x):
    return x // {divisor}
"""


def found(folder: Path, *, before: str = "", **callee: int) -> str:
    """What a process says that runs the caller, of a callee that is written anew."""
    package = folder / "kernel_package"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "callee.py").write_text(CALLEE.format(**{"added": 0, "called": 0, "divisor": 2, **callee}))
    (package / "caller.py").write_text(CALLER.format(package="kernel_package"))
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", f"{before}\nimport kernel_package.caller"]
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def test_what_was_compiled_is_kept_until_something_changes_that_it_was_compiled_of(tmp_path: Path) -> None:
    assert found(tmp_path) == "2 compiled"
    assert found(tmp_path) == "2 kept"
    assert found(tmp_path, divisor=4) == "1 compiled", "a kernel of another file"
    assert found(tmp_path, divisor=4, added=5) == "6 compiled", "a constant of another file"
    assert found(tmp_path, divisor=4, added=5, called=7) == "13 compiled", "an intrinsic"
    assert found(tmp_path, divisor=4, added=5, called=7) == "13 kept"


TAKES_A_PAIR = """
from typing import NamedTuple
from bluesky_edgestem.analysis.kernels import kernel
{pair}

@kernel
def added(pair):
    return pair.a + pair.b

print(added(Pair(1, 2)), "kept" if sum(added.stats.cache_hits.values()) else "compiled")
"""
PAIR = """
class Pair(NamedTuple):
    a: int
    b: int
"""


def test_what_was_compiled_of_a_class_that_is_no_more_is_compiled_anew(tmp_path: Path) -> None:
    def said(pair: str) -> str:
        (tmp_path / "takes_a_pair.py").write_text(TAKES_A_PAIR.format(pair=pair))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        environment.pop("NUMBA_CACHE_DIR", None)
        command = [sys.executable, "-c", "import takes_a_pair"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    (tmp_path / "shapes.py").write_text("from typing import NamedTuple\n" + PAIR)
    lines = len(PAIR.splitlines())  # the kernel stays in its line, by which its file is found
    assert said("from shapes import Pair" + "\n" * (lines - 1)) == "3 compiled"
    (tmp_path / "shapes.py").unlink()
    assert said(PAIR.rstrip("\n")) == "3 compiled"
    assert said(PAIR.rstrip("\n")) == "3 kept"


NOWHERE = """
import tempfile
def refused(*args, **kwargs):
    raise PermissionError("no file can be made anywhere")
tempfile.TemporaryFile = refused
"""
FULL = """
import numba.core.caching as caching
def full(*args, **kwargs):
    raise OSError("no space left on device")
caching.IndexDataCacheFile.save = full
"""


@pytest.mark.parametrize("before", [NOWHERE, FULL], ids=["nowhere to write", "a full disk"])
def test_without_a_folder_to_keep_it_in_it_is_compiled_each_time(tmp_path: Path, before: str) -> None:
    for _ in range(2):
        assert found(tmp_path, before=before) == "2 compiled"
    assert not list(tmp_path.rglob("*.nb?"))


def test_the_packages_own_kernels_work_where_nothing_can_be_kept() -> None:
    """The readers, whose compiled code is of several files, in a process that can write no cache."""
    code = f"""{NOWHERE}
from bluesky_edgestem.analysis.bit_planes import add_planes
from bluesky_edgestem.stream.messages import Messages
from bluesky_edgestem.stream.protocol_v1 import ProtocolV1
assert type(add_planes._cache).__name__ == "NullCache"
print(ProtocolV1().all_events(Messages.of([[b'{{"htype":"dseries_end-1.0","series":3}}']])))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert said.stdout.strip() == "[End(series=3)]", said.stderr


def test_threads_that_compile_at_once_find_all_loaded() -> None:
    # What numba registers at its first compilation changed under the eyes of the other thread: RuntimeError.
    caller = """
from bluesky_edgestem.analysis.kernels import in_parts, kernel
from numba.core.typing.typeof import typeof_impl

@kernel
def found(x):
    return x + 1

known = []
in_parts(2, lambda part: known.append(len(typeof_impl.registry)))
found(4)
print(set(known) == {len(typeof_impl.registry)})
"""
    done = subprocess.run([sys.executable, "-c", caller], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
