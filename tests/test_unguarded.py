"""Programs without a main guard: jobs do not import their main module, whose functions and classes
are sent by value; and what counts as a guard.

What travels by value, and how it comes back, is `test_main_modules.py`'s.
"""

from __future__ import annotations

import shutil
import textwrap
import types
from pathlib import Path

import pytest
from programs import Script

from jobserver import _guard

with_pickled_work = pytest.mark.parametrize("method", ["forkserver", "spawn"])

#: What the programs begin with: each import of one leaves a line in `runs`.
BEGIN = """
import os, sys
from jobserver import Jobserver, JobserverExecutor

method = sys.argv[1]
with open("runs", "a") as file:
    file.write("run\\n")

def double(x):
    return 2 * x

def name():
    return __name__
"""

HIDE = '\nsys.modules["cloudpickle"] = None\n'


def run(script: Script, method: str, text: str, *args: str) -> tuple[int, str, str]:
    """Runs a program that begins so, and goes on with this text."""
    script.write("program.py", BEGIN + textwrap.dedent(text))
    return script.run(*(args or ("program.py",)), method)


def runs(script: Script) -> int:
    """How often the main module was executed."""
    return len((script.folder / "runs").read_text().splitlines())


#: Ways to submit from outside a main guard; each prints 42.
SUBMITTED = {
    "at module level": """
        with Jobserver(method, slots=2) as js:
            print(js(double, 21).result())
    """,
    "in a function": """
        def main():
            with Jobserver(method, slots=2) as js:
                print(*js.map(double, [(21,)]))
        try:
            main()
        finally:
            pass
    """,
    "in a thread": """
        import threading
        def main():
            with Jobserver(method, slots=2) as js:
                print(js(double, 21).result())
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
    """,
    "in an event loop": """
        import asyncio
        js = Jobserver(method, slots=2)
        print(asyncio.run(js.run(double, 21)))
        js.close()
    """,
    "by an executor": """
        with JobserverExecutor(2, method) as executor:
            print(*executor.map(double, [21]))
    """,
    "by an executor, when the script has ended": """
        import threading
        ended = threading.Event()
        getattr(threading, "_register_atexit", lambda call: call())(ended.set)
        def until_then():
            ended.wait()
        js = Jobserver(method, slots=1).with_options(sleep_fn=until_then)
        future = JobserverExecutor(jobserver=js).submit(double, 21)
        future.add_done_callback(lambda future: print(future.result()))
    """,
    "in an initializer": """
        def set_up(answer):
            os.environ["ANSWER"] = answer
        with Jobserver(method, slots=2, initializer=set_up, initargs=("42",)) as js:
            print(js(os.getenv, "ANSWER").result())
    """,
    "after an early exit of imports": """
        if __name__ != "__main__":
            sys.exit()
        with Jobserver(method, slots=2) as js:
            print(js(double, 21).result())
    """,
    "below a guard, after others that were not": """
        with Jobserver(method, slots=2) as js:
            js(double, 1).result()
        if __name__ == "__main__":
            with Jobserver(method, slots=2) as js:
                print(js(double, 21).result())
    """,
}


@pytest.mark.parametrize("way", SUBMITTED)
def test_a_program_needs_no_guard_and_is_not_executed_again(
    script: Script, method: str, way: str
) -> None:
    pytest.importorskip("cloudpickle")
    assert run(script, method, SUBMITTED[way]) == (0, "42\n", "")
    assert runs(script) == 1


def test_a_module_that_is_run_by_its_name_needs_none(script: Script, method: str) -> None:
    pytest.importorskip("cloudpickle")
    script.write("package/__init__.py", "")
    script.write("package/module.py", BEGIN + textwrap.dedent(SUBMITTED["at module level"]))
    assert script.run("-m", "package.module", method) == (0, "42\n", "")
    assert runs(script) == 1


def test_a_script_that_another_runs_by_runpy_needs_none(script: Script, method: str) -> None:
    pytest.importorskip("cloudpickle")
    text = "import runpy\nrunpy.run_path('program.py', run_name='__main__')\n"
    script.write("runner.py", text)
    assert run(script, method, SUBMITTED["at module level"], "runner.py") == (0, "42\n", "")
    assert runs(script) == 1


FORKED = {
    "by the main thread": "forked(1)",
    "by another thread": "in_a_thread(forked, 1)",
    "by another thread, to stay": "in_a_thread(forked, None)",
    "by an executor": """
with JobserverExecutor(1, "fork") as executor:
    print(executor.submit(nested).result())
""",
}


@with_pickled_work
@pytest.mark.parametrize("how", FORKED)
def test_jobs_that_are_forked_from_it_may_start_others_by_another_method(
    script: Script, method: str, how: str
) -> None:
    """Also where a thread has forked them, which does not execute the main module."""
    pytest.importorskip("cloudpickle")
    text = """
        import threading

        def nested():
            with Jobserver(method, slots=1) as js:
                return js(double, 21).result()

        def forked(tasks):
            with Jobserver("fork", slots=1, max_tasks_per_child=tasks) as js:
                print(js(nested).result())

        def in_a_thread(*call):
            thread = threading.Thread(target=call[0], args=call[1:])
            thread.start()
            thread.join()
    """
    code, out, err = run(script, method, textwrap.dedent(text) + "\n" + FORKED[how])
    assert (code, out) == (0, "42\n"), err
    assert runs(script) == 1


@with_pickled_work
def test_without_cloudpickle_functions_of_other_modules_run(script: Script, method: str) -> None:
    text = """
        import json
        with Jobserver(method, slots=2) as js:
            print(js(abs, -42).result(), js(json.dumps, [1]).result())
    """
    assert run(script, method, HIDE + textwrap.dedent(text)) == (0, "42 [1]\n", "")
    assert runs(script) == 1


@with_pickled_work
def test_without_cloudpickle_the_refusal_says_where_it_is_and_both_remedies(
    script: Script, method: str
) -> None:
    code, out, err = run(script, method, HIDE + textwrap.dedent(SUBMITTED["at module level"]))
    assert (code, out) == (1, "")
    line = 1 + (script.folder / "program.py").read_text().splitlines().index(
        "    print(js(double, 21).result())"
    )
    place = f"{script.folder}/program.py, line {line}"
    assert "double is defined in a main module that jobs cannot import" in err
    assert f"(it starts jobs at {place}, which is not below a main guard)" in err
    assert "`pip install cloudpickle`" in err
    assert err.endswith('the program:\n\n    if __name__ == "__main__":\n        main()\n\n')
    assert runs(script) == 1


@pytest.mark.parametrize("tasks", ["1", "None"])
def test_under_fork_its_functions_need_no_cloudpickle(script: Script, tasks: str) -> None:
    text = f"""
        with Jobserver(method, slots=1, max_tasks_per_child={tasks}) as js:
            print(js(double, 21).result(), js(os.getpid).result() == js(os.getpid).result())
    """
    expected = (0, f"42 {tasks == 'None'}\n", "")
    assert run(script, "fork", HIDE + textwrap.dedent(text)) == expected


def test_a_worker_that_is_forked_gets_its_functions_by_name(script: Script) -> None:
    """By value, what the function counts would be lost."""
    text = """
        count = 0
        def counted():
            global count
            count += 1
            return count
        with Jobserver(method, slots=1, max_tasks_per_child=None) as js:
            print(js(counted).result(), js.submit(counted, env={"IN": "1"}).result())
    """
    assert run(script, "fork", text) == (0, "1 2\n", "")


#: Guards, and what is on either side of one; each prints the name that the main module has in jobs.
GUARDED = {
    "the usual one": """
        if __name__ == '__main__':
            print(submitted())
    """,
    "turned round": """
        if "__main__" == __name__: print(submitted())
    """,
    "else": """
        if __name__ != "__main__":
            pass
        else:
            print(submitted())
    """,
    "in a try": """
        try:
            if __name__ == "__main__":
                print(submitted())
        finally:
            pass
    """,
    "and": """
        __name__ == "__main__" and print(submitted())
    """,
    "around text that it executes": """
        if __name__ == "__main__":
            exec("\\n" * 7 + "print(submitted())")
    """,
    "the parent": """
        import multiprocessing
        if multiprocessing.parent_process() is None:
            print(submitted())
    """,
    "a Jobserver made before": """
        js = Jobserver(method, slots=1)
        executor = JobserverExecutor(jobserver=js)
        if __name__ == "__main__":
            print(executor.submit(name).result())
            executor.shutdown()
            js.close()
    """,
    "an import that starts a job in the program only": """
        import beside
        if __name__ == "__main__":
            print(submitted())
    """,
}

BESIDE = """
import multiprocessing, sys
from jobserver import Jobserver

if multiprocessing.parent_process() is None:
    with Jobserver(sys.argv[1], slots=1) as js:
        assert js(abs, -1).result() == 1
"""


@with_pickled_work
@pytest.mark.parametrize("guard", GUARDED)
def test_jobs_import_a_main_module_that_starts_them_below_a_guard(
    script: Script, method: str, guard: str
) -> None:
    text = """
        def submitted():
            with Jobserver(method, slots=1) as js:
                return js(name).result()
    """
    script.write("beside.py", BESIDE)
    text = HIDE + textwrap.dedent(text) + textwrap.dedent(GUARDED[guard])
    code, out, err = run(script, method, text)
    assert (code, out, err) == (0, "__mp_main__\n", "")


@with_pickled_work
def test_a_module_that_starts_jobs_as_jobs_import_it_is_named(script: Script, method: str) -> None:
    module = """
        import os, sys
        from jobserver import Jobserver

        def double(x):
            return 2 * x

        with Jobserver(sys.argv[1], slots=1) as js:
            print(js(double, 21).result())
    """
    script.write("beside.py", module)
    code, out, err = run(script, method, "import beside")
    assert (code, out) == (1, "")
    assert f"{script.folder}/beside.py, line 9, starts a job" in err
    assert "the main module first" not in err


COPIED = """
    import sys
    sys.modules["cloudpickle"] = None
    {imports}
    from jobserver import Jobserver

    class Point:
        pass

    def moved(point):
        point.by = [name for name in sys.modules if name.endswith(".externals.cloudpickle")]
        return point

    with Jobserver(sys.argv[1], slots=1) as js:
        point = js(moved, Point()).result()
        print(type(point) is Point, point.by)
"""


@with_pickled_work
@pytest.mark.parametrize("imports", ["import joblib", ""])
def test_a_program_that_uses_joblib_has_joblibs_copy_of_cloudpickle(
    script: Script, method: str, imports: str
) -> None:
    """joblib before 1.6 brings one. Here is another joblib, which has nothing else."""
    cloudpickle = pytest.importorskip("cloudpickle", minversion="3")
    folder = script.folder / "joblib" / "externals"
    shutil.copytree(Path(cloudpickle.__file__).parent, folder / "cloudpickle")
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    script.write("program.py", COPIED.format(imports=imports))
    code, out, err = script.run("program.py", method)
    if imports:
        assert (code, out, err) == (0, "True ['joblib.externals.cloudpickle']\n", "")
    else:
        assert (code, out) == (1, "") and "pip install cloudpickle" in err


@pytest.mark.parametrize(
    "source",
    [
        "here",
        "if here: pass",
        "if True:\n    with a:\n        here",
        "def f(x=here): pass",
        "if __name__ == 'main': pass\nhere",
        "@here\ndef f(): __name__",
        "f(__name__,\n  here)",
        "import here",
        "for x in (\n    here\n): pass",
    ],
)
def test_what_is_not_below_a_guard_is_reached_by_imports(tmp_path: Path, source: str) -> None:
    assert is_reached(tmp_path, source)


@pytest.mark.parametrize(
    "source",
    [
        "if __name__ == '__main__':\n    here",
        "if __name__ == '__main__': here",
        "if a and __name__ == '__main__':\n    try:\n        here\n    finally: pass",
        "try:\n    if __name__ != '__main__': pass\n    elif a: here\nfinally: pass",
        "here if __name__ == '__main__' else None",
        "__name__ == '__main__' and f(\n    here\n)",
        "while __name__ == '__main__':\n    here",
        "if current_process().name == 'MainProcess':\n    here",
        "import here\nif __name__ == '__main__': pass",
        "here is no Python",
    ],
)
def test_what_is_below_a_guard_is_not_nor_are_sources_that_cannot_be_read(
    tmp_path: Path, source: str
) -> None:
    assert not is_reached(tmp_path, source)


def is_reached(folder: Path, source: str) -> bool:
    """Whether imports of a main module with this source get to the line with `here`."""
    main = types.ModuleType("__main__")
    main.__file__ = str(folder / "program.py")
    Path(main.__file__).write_text(source)
    [line] = [line for line, text in enumerate(source.splitlines(), 1) if "here" in text]
    return _guard.is_reached(main, _guard.Place(main.__file__, line))
