"""Main modules: those that jobs import, and those whose functions and classes travel by value.

A notebook is `test_notebook.py`'s, and a program without a main guard `test_unguarded.py`'s.
"""

from __future__ import annotations

import pickle
import re
import zipapp
from typing import Any

import pytest
from programs import Script

from jobserver import _main

with_pickled_work = pytest.mark.parametrize("method", ["forkserver", "spawn"])


PROGRAM = """
    import sys
    from jobserver import Jobserver
    import beside

    class Trouble(Exception):
        pass

    class Point:
        def __init__(self, x):
            self.x = x

    def double(point):
        return Point(beside.double(point.x))

    def nested(js, point):
        return js(double, point).result()

    def trouble():
        raise Trouble("in " + __name__)

    if __name__ == "__main__":
        with Jobserver(sys.argv[1], slots=2) as js:
            point = js(nested, js, Point(21)).result()
            assert type(point) is Point
            try:
                js(trouble).result()
            except Trouble as e:
                print(point.x, e)
"""

BESIDE = """
    def double(x):
        return 2 * x
"""


def expected_name(method: str) -> str:
    """What multiprocessing calls the main module in a child."""
    return "__main__" if method == "fork" else "__mp_main__"


def test_functions_of_a_script_run_in_jobs(script: Script, method: str) -> None:
    script.write("program.py", PROGRAM)
    script.write("beside.py", BESIDE)
    expected = (0, f"42 in {expected_name(method)}\n", "")
    assert script.run("program.py", method) == expected


def test_functions_of_a_module_run_by_name_run_in_jobs(script: Script, method: str) -> None:
    script.write("package/__init__.py", "")
    script.write("package/module.py", PROGRAM.replace("import beside", "from . import beside"))
    script.write("package/beside.py", BESIDE)
    expected = (0, f"42 in {expected_name(method)}\n", "")
    assert script.run("-m", "package.module", method) == expected


#: A program that starts its first job below a guard, and others outside.
HALF_GUARDED = """
    import sys
    from jobserver import Jobserver

    with open("runs", "a") as file:
        file.write("run\\n")

    def double(x):
        return 2 * x

    if __name__ == "__main__":
        with Jobserver(sys.argv[1], slots=2) as js:
            print(js(double, 21).result())
    with Jobserver(sys.argv[1], slots=2) as js:
        print(js(double, 21).result())
"""


@with_pickled_work
def test_a_missing_guard_is_explained_and_starts_no_bomb(script: Script, method: str) -> None:
    script.write("program.py", HALF_GUARDED)
    code, out, err = script.run("program.py", method)
    assert (code, out) == (1, "")
    assert re.search(r"program.py, line \d+, starts a job, and so each job would start", err)
    assert err.endswith('\n\n    if __name__ == "__main__":\n        main()\n\n')
    assert len(err.splitlines()) <= 15 and err.count("Traceback") == 1
    # The owner, the job, and before it the helper if there is one.
    assert len((script.folder / "runs").read_text().splitlines()) <= 3


def test_a_missing_guard_that_exits_is_still_an_error_not_a_hang(
    script: Script, method: str
) -> None:
    script.write("program.py", HALF_GUARDED + "\n    sys.exit(0)\n")
    code, out, err = script.run("program.py", method)
    if method == "fork":
        assert (code, out) == (0, "42\n42\n")
    else:
        assert code == 1
        assert 'if __name__ == "__main__"' in err


@with_pickled_work
@pytest.mark.parametrize(
    "end, told",
    [("sys.exit(3)", "3"), ("sys.exit('no licence')", "'no licence'"), ("os._exit(4)", "4")],
)
def test_a_main_module_that_ends_the_process_when_it_is_imported_is_told_of(
    script: Script, method: str, end: str, told: str
) -> None:
    program = f"""
        import os, sys
        from jobserver import Jobserver

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=2) as js:
                print(js(abs, -42).result())
        {end}
    """
    script.write("program.py", program)
    code, out, err = script.run("program.py", method)
    assert (code, out) == (1, "")
    assert f"program.py, line 8, ends the process, with {told}" in err
    assert err.count("Traceback") == 1 and len(err.splitlines()) <= 15


@with_pickled_work
def test_an_import_that_fails_in_a_job_is_told_of_without_our_own_frames(
    script: Script, method: str
) -> None:
    program = """
        import sys
        from jobserver import Jobserver

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=2) as js:
                print(js(abs, -42).result())
        else:
            import nowhere_to_be_found
    """
    script.write("program.py", program)
    _, _, err = script.run("program.py", method)
    in_the_job = err.partition("The above exception")[0]
    assert "ModuleNotFoundError: No module named 'nowhere_to_be_found'" in in_the_job
    assert [line for line in in_the_job.splitlines() if line.startswith("  File")] == [
        f'  File "{script.folder}/program.py", line 9, in <module>'
    ]
    assert "sys.path" in err.splitlines()[-1]


def test_a_script_may_read_its_arguments_as_it_is_imported(script: Script, method: str) -> None:
    script.write(
        "program.py",
        """
        import argparse
        from jobserver import Jobserver

        parser = argparse.ArgumentParser()
        parser.add_argument("method")
        method = parser.parse_args().method

        def get():
            return method

        if __name__ == "__main__":
            with Jobserver(method, slots=2) as js:
                print(js(get).result())
        """,
    )
    assert script.run("program.py", method) == (0, f"{method}\n", "")


def test_a_program_without_a_file_can_run_what_is_imported(script: Script, method: str) -> None:
    program = f"""if True:
        from jobserver import Jobserver
        with Jobserver({method!r}, slots=2) as js:
            print(js(abs, -42).result())
    """
    assert script.run("-c", program) == (0, "42\n", "")


#: What a program of any kind has of its own. (Nothing of it is in a main module that jobs import.)
DEFINED = """
import os, sys
{hide}
from jobserver import Jobserver

class Trouble(Exception):
    pass

class Point:
    def __init__(self, x):
        self.x = x

    def doubled(self):
        return js(double, self).result()  # so that the class refers to the Jobserver

def double(point):
    return Point(2 * point.x)

def fail():
    raise Trouble("told")

js = Jobserver(os.environ["METHOD"], slots=2, max_tasks_per_child=eval(os.environ["TASKS"]))
try:
    point = js(Point(3).doubled).result()
    assert type(point) is Point, type(point)
    print(point.x, *[each.x for each in js.map(double, [(Point(1),), (point,)])])
    js(fail).result()
except Trouble as trouble:
    print(trouble)
finally:
    js.close()
"""

HIDE = 'sys.modules["cloudpickle"] = None'

GUARDED = "if __name__ == '__main__':\n    "
TYPED = "exec(open('typed').read())"
ELSEWHERE = "exec(open('typed').read(), {'__name__': 'elsewhere'})"

#: How a program of each kind is run: what is written to which file, the arguments, and the input.
KINDS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "-c": ({}, ["-c", "{text}"], ""),
    "standard input": ({}, [], "{text}"),
    "standard input by name": ({}, ["/dev/stdin"], "{text}"),
    "a prompt": ({}, ["-i", "-q", "-c", ""], TYPED),
    "a prompt after a script": ({"loaded.py": ""}, ["-i", "loaded.py"], TYPED),
    "below the guard": ({"program.py": "{below}"}, ["program.py"], ""),
    "made by exec": ({"program.py": GUARDED + TYPED}, ["program.py"], ""),
    "made by exec elsewhere": ({"program.py": GUARDED + ELSEWHERE}, ["program.py"], ""),
    "a file that is gone": (
        {"program.py": "import os; os.remove(__file__)\n{text}"},
        ["program.py"],
        "",
    ),
    "a folder": ({"app/__main__.py": "{text}"}, ["app"], ""),
    "a zip file": ({"app/__main__.py": "{text}"}, ["app.pyz"], ""),
    "without a main guard": ({"program.py": "{text}"}, ["program.py"], ""),
    "by name, without a main guard": (
        {"app/__init__.py": "", "app/module.py": "{text}"},
        ["-m", "app.module"],
        "",
    ),
    "-m package": ({"app/__init__.py": "", "app/__main__.py": "{text}"}, ["-m", "app"], ""),
    "IPython": ({}, ["-m", "IPython", "--quick", "-c", "{text}"], ""),
}


def run_kind(script: Script, kind: str, text: str, **env: str) -> tuple[int, str, str]:
    """Runs a program as one of a kind; in its folder it is also in the file `typed`."""
    files, args, stdin = KINDS[kind]
    below = GUARDED + "\n    ".join(["", *text.splitlines()])

    def filled(template: str) -> str:
        return template.replace("{text}", text).replace("{below}", below)

    script.write("typed", text)
    for name, template in files.items():
        script.write(name, filled(template))
    if kind == "a zip file":
        zipapp.create_archive(script.folder / "app", script.folder / "app.pyz")
    if kind == "IPython":
        env["IPYTHONDIR"] = str(script.folder / "ipython")
    return script.run(*map(filled, args), stdin=filled(stdin), **env)


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_what_jobs_cannot_import_travels_by_value_and_comes_back(
    script: Script, kind: str, method: str
) -> None:
    pytest.importorskip("cloudpickle")
    if kind == "IPython":
        pytest.importorskip("IPython")
    if kind == "made by exec elsewhere" and method == "fork":
        pytest.skip("what is not sent cannot come back by value as it was")
    text = DEFINED.format(hide="")
    code, out, err = run_kind(script, kind, text, METHOD=method, TASKS="1")
    assert (code, out) == (0, "6 2 12\ntold\n"), err


@pytest.mark.parametrize(
    "kind", ["-c", "standard input", "below the guard", "without a main guard", "-m package"]
)
def test_so_it_does_with_processes_that_stay(script: Script, kind: str, method: str) -> None:
    pytest.importorskip("cloudpickle")
    text = DEFINED.format(hide="")
    code, out, err = run_kind(script, kind, text, METHOD=method, TASKS="None")
    assert (code, out) == (0, "6 2 12\ntold\n"), err


@every_kind
@with_pickled_work
def test_without_cloudpickle_the_refusal_names_it_and_says_what_to_install(
    script: Script, kind: str, method: str
) -> None:
    if kind == "IPython":
        pytest.importorskip("IPython")
    code, out, err = run_kind(script, kind, DEFINED.format(hide=HIDE), METHOD=method, TASKS="1")
    told = err + out  # IPython prints tracebacks to its standard output
    assert re.search(r"PicklingError\S*: .*\b(Point|double)\b.*`pip install cloudpickle`", told), (
        told
    )


@pytest.mark.parametrize("kind", ["-c", "below the guard"])
@pytest.mark.parametrize("tasks", ["1", "None"])
def test_under_fork_nothing_needs_cloudpickle(script: Script, kind: str, tasks: str) -> None:
    text = DEFINED.format(hide=HIDE)
    code, out, err = run_kind(script, kind, text, METHOD="fork", TASKS=tasks)
    assert (code, out) == (0, "6 2 12\ntold\n"), err


#: A program that defines things again, as a notebook does; its processes stay.
AGAIN = """
import enum, os, sys
{hide}
from jobserver import Jobserver

def value():
    return factor

class Point:
    def name(self):
        return "old"

class Colour(enum.Enum):
    RED = 1

js = Jobserver(os.environ["METHOD"], slots=1, max_tasks_per_child=None)
factor = 1
print(js(value).result(), js(Point().name).result(), js(Colour, 1).result() is Colour.RED)
factor = 2
def name(self):
    return "patched"
Point.name = name
print(js(value).result(), js(Point().name).result(), js(Colour, 1).result() is Colour.RED)

def value():
    return "new"

class Point:
    def name(self):
        return "newer"

print(js(value).result(), js(Point().name).result(), *js.map(value, [()]))
js.close()
"""


@pytest.mark.parametrize("hide", ["", HIDE])
def test_a_process_that_stays_uses_the_newest_definitions(
    script: Script, method: str, hide: str
) -> None:
    if not hide:
        pytest.importorskip("cloudpickle")
    elif method != "fork":
        pytest.skip("these need cloudpickle")
    code, out, err = run_kind(script, "-c", AGAIN.format(hide=hide), METHOD=method)
    assert (code, err) == (0, "")
    assert out == "1 old True\n2 patched True\nnew newer new\n"


#: What a job returns is of its owner's classes, and leaves them as they are.
CLASSES = """
import dataclasses, enum, gc, os, threading, typing
from jobserver import Jobserver

@dataclasses.dataclass
class Data:
    x: int

class Colour(enum.Enum):
    RED = 1

class Pair(typing.NamedTuple):
    a: int
    b: int

class Outer:
    class Inner:
        pass

class Locked:
    made = 0
    lock = None  # in this process, something that cannot be pickled

    def count(self):
        type(self).made += 1
        return self

class Child(Locked):
    pass

def first(): return [Data(1), Colour.RED, Pair(1, 2), Outer.Inner(), Child().count()]
def of_first(): return js(first).result()
def made_in_job():
    class Local:
        y = 5
    return [Local(), Local()]
def typed(kind): return kind

with Jobserver(os.environ["METHOD"], slots=2, max_tasks_per_child=None) as js:
    init = Data.__init__
    for fn in (first, of_first):
        for _ in range(2):
            kinds = [type(each) for each in js(fn).result()]
            assert kinds == [Data, Colour, Pair, Outer.Inner, Child], kinds
    assert Data.__init__ is init and Locked.made == 0
    assert all(js(typed, kind).result() is kind for kind in (Data, Colour, Outer.Inner, Child))
    one, two = js(made_in_job).result()
    assert type(one) is type(two) and one.y == 5

    # The program drops the class, as a notebook does that defines it again.
    job = js(typed, Data(7))
    class Data:
        pass
    gc.collect()
    assert job.result().x == 7 and type(job.result()) is not Data
    print("as they were")
"""


@with_pickled_work
def test_what_comes_back_is_of_its_owners_classes_which_stay_as_they_are(
    script: Script, method: str
) -> None:
    pytest.importorskip("cloudpickle")
    expected = (0, "as they were\n", "")
    assert run_kind(script, "-c", CLASSES, METHOD=method) == expected


#: Jobs of jobs, each with functions of the program, which refer to the Jobserver as a global.
NESTED = """
import os
from jobserver import Jobserver

def leaf(n):
    return n

def tree(depth):
    if depth == 0:
        return [[js.slots]]
    below = js(tree, depth - 1).result()
    mapped = list(js.map(leaf, [(n,) for n in range(depth)]))
    return [*below, mapped, js.submit(lambda: leaf(depth)).result()]

js = Jobserver(os.environ["METHOD"], slots=2, max_tasks_per_child=eval(os.environ["TASKS"]))
print(js(tree, 3).result())
js.close()
"""


@pytest.mark.parametrize("tasks", ["1", "None"])
def test_jobs_of_jobs_may_run_functions_of_the_program_at_any_depth(
    script: Script, method: str, tasks: str
) -> None:
    pytest.importorskip("cloudpickle")
    code, out, err = run_kind(script, "-c", NESTED, METHOD=method, TASKS=tasks)
    assert (code, out) == (0, "[[2], [0], 1, [0, 1], 2, [0, 1, 2], 3]\n"), err


#: Everything else that a submission sends.
BESIDE_THE_FUNCTION = """
import os
from jobserver import Jobserver

state = {}

def set_up(value): os.environ["SET_UP"] = value
def prepare(): os.environ["PREPARED"] = "yes"
def seen(): return os.environ["SET_UP"], os.environ["PREPARED"]
def told(what): state["told"] = what
def never(): state["asked"] = True

js = Jobserver(os.environ["METHOD"], slots=1, initializer=set_up, initargs=("so",))
future = js.submit(seen, preexec_fn=prepare, sleep_fn=never)
future.when_done(told, "done")
print(*future.result(), state)
js.close()
"""


def test_initializers_and_hooks_travel_and_callbacks_stay(script: Script, method: str) -> None:
    pytest.importorskip("cloudpickle")
    code, out, err = run_kind(script, "-c", BESIDE_THE_FUNCTION, METHOD=method)
    assert (code, out) == (0, "so yes {'asked': True, 'told': 'done'}\n"), err


@with_pickled_work
def test_a_global_that_cannot_be_sent_is_named(script: Script, method: str) -> None:
    pytest.importorskip("cloudpickle")
    program = f"""if True:
        import threading
        from jobserver import Jobserver
        lock, plain = threading.Lock(), 1
        def locked(x):
            with lock:
                return plain * x
        def indirect(x):
            return locked(x)
        class Counter:
            def count(self):
                return locked(1)
        def over(it):
            return lambda: it
        with Jobserver({method!r}, slots=1) as js:
            submissions = [
                lambda: js(locked, 1),
                lambda: js(indirect, 1),
                lambda: js(Counter().count),
                lambda: js(over(threading.Lock())),
                lambda: list(js.map(indirect, [(1,)])),
                lambda: js(print, (lambda: 0, threading.Lock())),
            ]
            for submit in submissions:
                try:
                    submit()
                except Exception as error:
                    print(error)
    """
    code, out, err = script.run("-c", program)
    assert (code, err) == (0, "")
    of_locked = "(the global 'lock', which locked uses, is sent with it)"
    of_closure = "(the variable 'it', which over.<locals>.<lambda> uses, is sent with it)"
    expected = [of_locked, of_locked, of_locked, of_closure, of_locked, ""]
    lines = out.splitlines()
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected):
        assert "cannot pickle '_thread.lock' object" in line and part in line
        assert ("is sent with it" in line) is bool(part)


def test_a_fork_server_imports_cloudpickle_if_its_first_job_needs_it(script: Script) -> None:
    """So that its jobs need not: that takes longer than a job."""
    pytest.importorskip("cloudpickle")
    program = """if True:
        from jobserver import Jobserver
        for first in (abs, lambda x: x):
            with Jobserver("forkserver", slots=1) as js:
                js(first, -1).result()
                print(js(eval, "'cloudpickle' in __import__('sys').modules").result())
    """
    assert script.run("-c", program) == (0, "False\nTrue\n", "")


def test_a_forked_process_that_stays_has_functions_that_the_program_defines_later(
    script: Script,
) -> None:
    script.write(
        "program.py",
        """
        from jobserver import Jobserver

        with Jobserver("fork", slots=1, max_tasks_per_child=None) as js:
            js(abs, -1).result()

            def double(x):
                return 2 * x

            print(js(double, 21).result())
        """,
    )
    assert script.run("program.py") == (0, "42\n", "")


@with_pickled_work
def test_what_a_script_binds_in_other_ways_is_found_by_name(script: Script, method: str) -> None:
    """Without cloudpickle all of it would be refused if it were not."""
    script.write(
        "program.py",
        """
        import sys
        sys.modules["cloudpickle"] = None
        from collections import namedtuple
        from jobserver import Jobserver

        Point = namedtuple("Point", "x y")
        try:
            def tried(): return "tried"
        finally:
            pass

        def define():
            global inner
            def inner(): return "inner"
        define()
        globals()["later"] = type("later", (), {})

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=1) as js:
                for fn in (tried, inner):
                    print(js(fn).result())
                assert type(js(Point, 1, 2).result()) is Point
                assert type(js(later).result()) is later
        """,
    )
    assert script.run("program.py", method) == (0, "tried\ninner\n", "")


@pytest.mark.parametrize("name", ["T", "Outer", "é", "x" * 150, "x" * 250])
def test_a_name_is_found_in_a_pickle_and_not_where_it_is_part_of_another(name: str) -> None:
    def is_found(*values: Any) -> bool:
        return _main._may_have(pickle.dumps(values, pickle.HIGHEST_PROTOCOL), name.encode())

    numbers = list(range(100_000))  # all pairs of bytes are in their pickle
    assert is_found(numbers, name)
    assert is_found(numbers, f"{name}.inner")
    assert is_found(numbers, f"{name}.{'y' * 300}")
    assert is_found(numbers, f"a{name}", f"{name}a") is (len(name) > 200)  # by reading, then
