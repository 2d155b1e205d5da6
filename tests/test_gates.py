"""The ready-made gates of `jobserver.gates`: when they open, and that they never hang a program.

Not about what `submit` does with a gate's answer: that is tested with `sleep_fn`. The sources in
/proc and /sys are written by the tests, in the kernel's formats, under a folder that stands for
the root of the file system; the last tests read the real ones. Time is a number that a test sets.
"""

from __future__ import annotations

import errno
import math
import os
import pickle
import signal
import sys
import threading
import time

import pytest

from jobserver import gates

MIB = 1 << 20
ENDLESS = 9223372036854771712  # how cgroup v1 writes "no limit"

MEMINFO = """\
MemTotal:        1024000 kB
MemFree:          100000 kB
MemAvailable:     512000 kB
HugePages_Total:       0
"""
INSTALLED, AVAILABLE = 1024000 * 1024, 512000 * 1024

V2_MOUNT = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw shared:17 - cgroup cgroup rw,memory"
OTHER_MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(gates, "monotonic", clock)
    return clock


class Root:
    """A folder that the gates take for "/"."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, path, text):
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cgroups(self, membership, mounts):
        self.write("/proc/self/cgroup", membership + "\n")
        self.write("/proc/self/mountinfo", OTHER_MOUNTS + mounts + "\n")

    def v1(self, path, limit, usage, stat=""):
        folder = f"/sys/fs/cgroup/memory{path}"
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{usage}\n")
        self.write(f"{folder}/memory.stat", stat)

    def v2(self, path, limit, usage, stat="", high="max"):
        folder = f"/sys/fs/cgroup{path}"
        self.write(f"{folder}/memory.max", f"{limit}\n")
        self.write(f"{folder}/memory.high", f"{high}\n")
        self.write(f"{folder}/memory.current", f"{usage}\n")
        self.write(f"{folder}/memory.stat", stat)


@pytest.fixture
def root(tmp_path, monkeypatch):
    read = gates._read
    monkeypatch.setattr(gates, "_read", lambda path: read(f"{tmp_path}{path}"))
    root = Root(tmp_path)
    root.write("/proc/meminfo", MEMINFO)
    return root


class Door:
    """A condition that a test opens and shuts."""

    def __init__(self, is_open=False):
        self.is_open = is_open
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return self.is_open


def always():
    return True


def never():
    return False


def has(at_least):
    """Whether a new memory gate is open."""
    return gates.memory_available(at_least, patience=None)() is None


def assert_available(amount):
    """The memory gate's idea of what is available is exactly this."""
    assert has(amount)
    assert not has(amount + 1)


# Manners: what every gate does.


def test_open_gate_says_go_and_closed_gate_says_when_to_ask_again(clock):
    door = Door()
    gate = gates.Gate(door, patience=60, every=2.5)
    assert gate() == 2.5
    door.is_open = True
    assert gate() is None


def test_closed_gate_lets_one_job_through_each_time_its_patience_runs_out(clock):
    gate = gates.Gate(never, patience=10, every=1)
    for _ in range(3):
        assert gate() == 1
        clock.now += 9.75
        assert gate() == 0.25  # not later than the end of patience
        clock.now += 0.25
        assert gate() is None


def test_patience_starts_anew_with_the_next_refusal(clock):
    gate = gates.Gate(never, patience=10, every=1)
    gate()
    clock.now += 10
    assert gate() is None
    clock.now += 3600  # while the job that was let through runs, say
    assert gate() == 1
    clock.now += 10
    assert gate() is None


def test_opening_renews_patience(clock):
    door = Door()
    gate = gates.Gate(door, patience=10, every=1)
    gate()
    clock.now += 9
    door.is_open = True
    assert gate() is None
    door.is_open = False
    clock.now += 9
    assert gate() == 1
    clock.now += 9
    assert gate() == 1
    clock.now += 1
    assert gate() is None


def test_gate_without_patience_waits_for_ever(clock):
    gate = gates.Gate(never, patience=None, every=3)
    gate()
    clock.now += 1e9
    assert gate() == 3


def test_patience_is_finite_by_default(clock, root, monkeypatch):
    root.write("/proc/pressure/cpu", "some avg10=90.00 avg60=90.00 avg300=90.00 total=1\n")
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    closed = [
        gates.Gate(never),
        gates.memory_available(1.0),
        gates.load_average(1),
        gates.pressure("cpu", 1),
    ]
    assert None not in [gate() for gate in closed]
    clock.now += 3600
    assert [gate() for gate in closed] == [None] * 4


def test_ready_made_gates_take_patience_and_every(clock, root, monkeypatch):
    root.write("/proc/pressure/cpu", "some avg10=90.00 avg60=90.00 avg300=90.00 total=1\n")
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    for gate in [
        gates.memory_available(1.0, patience=7, every=5),
        gates.load_average(1, patience=7, every=5),
        gates.pressure("cpu", 1, patience=7, every=5),
    ]:
        start = clock.now
        assert gate() == 5
        clock.now = start + 7
        assert gate() is None


class HesitantGate(gates.Gate):
    """Lets other threads run after each look at its state, before it can act on it."""

    @property
    def _closed_since(self):
        since = self.since
        time.sleep(0)
        return since

    @_closed_since.setter
    def _closed_since(self, since):
        self.since = since


def test_patience_lets_one_job_through_however_many_threads_ask(clock):
    gate = HesitantGate(never, patience=10)
    gate()
    rounds, threads = 50, 8
    start = threading.Barrier(threads)
    answers = []

    def ask():
        for _ in range(rounds):
            if start.wait(60) == 0:
                clock.now += 10
            start.wait(60)
            answers.append(gate())

    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(answers) == rounds * threads
    assert answers.count(None) == rounds


def test_gate_works_in_a_process_forked_while_another_thread_asked():
    gate = gates.Gate(always)
    with gates._lock:  # as that other thread would hold it
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # the deadline: a deadlock ends in SIGALRM
            os._exit(0 if gate() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_gates_can_be_pickled(clock, root, monkeypatch):
    root.write("/proc/pressure/cpu", "some avg10=90.00 avg60=90.00 avg300=90.00 total=1\n")
    root.cgroups("0::/job", V2_MOUNT)
    root.v2("/job", 100 * MIB, 90 * MIB)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    for gate in [
        gates.memory_available(20 * MIB, every=5),
        gates.load_average(1, every=5),
        gates.pressure("cpu", 1, every=5),
    ]:
        assert pickle.loads(pickle.dumps(gate))() == 5
        assert pickle.loads(pickle.dumps(gates.all_of(gate)))() == 5


def test_error_of_a_condition_reaches_the_caller():
    def broken():
        raise LookupError("no such sensor")

    with pytest.raises(LookupError, match="no such sensor"):
        gates.Gate(broken)()


@pytest.mark.parametrize("name", ["patience", "every"])
@pytest.mark.parametrize(
    "value, error",
    [
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_bad_times_are_refused_by_name(name, value, error):
    for make in [
        lambda **times: gates.Gate(always, **times),
        lambda **times: gates.load_average(1, **times),
        lambda **times: gates.memory_available(1, **times),
    ]:
        with pytest.raises(error, match=name):
            make(**{name: value})


def test_every_must_be_a_time_above_zero():
    with pytest.raises(ValueError, match="every"):
        gates.Gate(always, every=0)
    with pytest.raises(TypeError, match="every"):
        gates.Gate(always, every=None)


def test_condition_must_be_callable():
    with pytest.raises(TypeError, match="is_open"):
        gates.Gate(True)


# all_of


def test_all_of_says_go_when_every_gate_does(clock):
    first, second = Door(True), Door(True)
    both = gates.all_of(gates.Gate(first, every=2), gates.Gate(second, every=3))
    assert both() is None
    second.is_open = False
    assert both() == 3
    first.is_open = False
    assert both() == 2


def test_all_of_asks_no_gate_after_the_first_refusal(clock):
    door = Door()
    gates.all_of(gates.Gate(never), gates.Gate(door))()
    assert door.asked == 0


def test_all_of_takes_a_callers_own_sleep_fn():
    assert gates.all_of(lambda: None, lambda: 0)() == 0


@pytest.mark.parametrize("patience, others", [(60, 45), (45, 60), (60, 60), (1, 600)])
def test_all_of_gates_with_patience_never_hangs(clock, patience, others):
    both = gates.all_of(gates.Gate(never, patience=patience), gates.Gate(never, patience=others))
    deadline = clock.now + 2 * (patience + others)
    while True:
        seconds = both()
        if seconds is None:
            break
        clock.now += seconds
        assert clock.now <= deadline


def test_all_of_refuses_what_is_not_callable():
    with pytest.raises(TypeError, match="60"):
        gates.all_of(gates.Gate(always), 60)


# memory_available


def test_memory_without_cgroups_is_what_the_machine_has(root):
    assert_available(AVAILABLE)


def test_memory_is_read_anew_at_each_asking(root):
    gate = gates.memory_available(AVAILABLE, patience=None)
    assert gate() is None
    root.write("/proc/meminfo", MEMINFO.replace("512000", "511999"))
    assert gate() is not None


def test_fraction_is_of_the_machine_when_nothing_limits_it(root):
    assert has(AVAILABLE / INSTALLED)
    assert not has(AVAILABLE / INSTALLED + 0.001)


def test_fraction_is_of_the_lowest_limit(root):
    root.cgroups("0::/a/b", V2_MOUNT)
    root.v2("/a/b", 200 * MIB, 100 * MIB)
    root.v2("/a", 400 * MIB, 320 * MIB)  # leaves 80 MiB of at most 200
    assert has(0.4)
    assert not has(0.41)


def test_int_is_bytes_and_float_a_fraction(root):
    assert has(1)
    assert not has(1.0)


def test_v2_limit_of_the_own_cgroup(root):
    root.cgroups("0::/job", V2_MOUNT)
    root.v2("/job", 100 * MIB, 30 * MIB)
    assert_available(70 * MIB)


def test_v2_limit_of_an_ancestor(root):
    root.cgroups("0::/user/app/job", V2_MOUNT)
    root.v2("/user", 100 * MIB, 60 * MIB)
    root.v2("/user/app", "max", 50 * MIB)
    root.v2("/user/app/job", 90 * MIB, 10 * MIB)
    assert_available(40 * MIB)


def test_v2_limit_above_a_lower_one_binds_when_less_is_left_under_it(root):
    root.cgroups("0::/a/b", V2_MOUNT)
    root.v2("/a", 800 * MIB, 790 * MIB)
    root.v2("/a/b", 100 * MIB, 20 * MIB)
    assert_available(10 * MIB)


def test_v2_throttling_limit_counts(root):
    root.cgroups("0::/job", V2_MOUNT)
    root.v2("/job", 100 * MIB, 30 * MIB, high=50 * MIB)
    assert_available(20 * MIB)


def test_v2_page_cache_counts_as_available(root):
    root.cgroups("0::/job", V2_MOUNT)
    stat = f"anon {9 * MIB}\nfile {7 * MIB}\ninactive_file {4 * MIB}\nactive_file {2 * MIB}\n"
    root.v2("/job", 100 * MIB, 30 * MIB, stat + f"slab_reclaimable {MIB}\n")
    assert_available(77 * MIB)


def test_v2_cgroup_without_memory_controller_is_passed_over(root):
    root.cgroups("0::/a/b", V2_MOUNT)
    root.v2("/a", 100 * MIB, 30 * MIB)
    root.write("/sys/fs/cgroup/a/b/cgroup.procs", "1\n")
    assert_available(70 * MIB)


def test_limit_set_after_the_gate_was_made_counts(root):
    root.cgroups("0::/job", V2_MOUNT)
    root.v2("/job", "max", 30 * MIB)
    gate = gates.memory_available(100 * MIB, patience=None)
    assert gate() is None
    root.v2("/job", 100 * MIB, 30 * MIB)
    assert gate() is not None


def test_cgroup_without_limit_costs_no_read_of_its_usage(root, monkeypatch):
    root.cgroups("4:memory:/job", V1_MOUNT.format(root="/"))
    root.v1("/job", ENDLESS, 30 * MIB)
    paths = []
    read = gates._read
    monkeypatch.setattr(gates, "_read", lambda path: paths.append(path) or read(path))
    assert has(AVAILABLE)
    names = {os.path.basename(path) for path in paths}
    assert "memory.limit_in_bytes" in names
    assert not names & {"memory.usage_in_bytes", "memory.stat"}


def test_nothing_is_available_above_a_lowered_limit(root):
    root.cgroups("0::/job", V2_MOUNT)
    root.v2("/job", 10 * MIB, 30 * MIB)
    assert_available(0)


def test_the_machine_binds_when_it_has_less_than_the_limit_leaves(root):
    root.cgroups("0::/job", V2_MOUNT)
    root.v2("/job", 900 * MIB, 100 * MIB)
    assert_available(AVAILABLE)


def test_v1_limits_of_the_own_cgroup_and_its_ancestors(root):
    root.cgroups("4:hugetlb,memory:/a/b\n3:cpu,cpuacct:/c\n0::/", V1_MOUNT.format(root="/"))
    root.v1("", ENDLESS, 500 * MIB)
    root.v1("/a", 100 * MIB, 60 * MIB)
    root.v1("/a/b", ENDLESS, 10 * MIB)
    assert_available(40 * MIB)
    root.v1("/a/b", 20 * MIB, 10 * MIB)
    assert_available(10 * MIB)


def test_v1_page_cache_counts_as_available(root):
    root.cgroups("4:memory:/job", V1_MOUNT.format(root="/"))
    stat = f"cache {9 * MIB}\ntotal_inactive_file {4 * MIB}\ntotal_active_file {2 * MIB}\n"
    root.v1("/job", 100 * MIB, 30 * MIB, stat)
    assert_available(76 * MIB)


def test_v1_container_that_sees_its_path_as_the_host_does(root):
    root.cgroups("4:memory:/docker/4f2a/job", V1_MOUNT.format(root="/docker/4f2a"))
    root.v1("", 100 * MIB, 60 * MIB)
    root.v1("/job", 90 * MIB, 80 * MIB)
    assert_available(10 * MIB)


def test_container_that_does_not_see_its_own_path_takes_the_top_that_it_sees(root):
    root.cgroups("4:memory:/", V1_MOUNT.format(root="/docker/4f2a"))
    root.v1("", 100 * MIB, 60 * MIB)
    assert_available(40 * MIB)


def test_cgroup_outside_of_the_namespace_takes_the_top_that_is_seen(root):
    root.cgroups("0::/../other", V2_MOUNT)
    root.v2("", 100 * MIB, 60 * MIB)
    root.v2("/../other", 10 * MIB, 0)  # whatever lies there is not ours to see
    assert_available(40 * MIB)


def test_hybrid_of_v1_and_v2_heeds_both(root):
    v2 = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    root.cgroups("4:memory:/a\n0::/b", V1_MOUNT.format(root="/") + "\n" + v2)
    root.v1("/a", 100 * MIB, 60 * MIB)
    root.v2("/unified/b", 100 * MIB, 70 * MIB)
    assert_available(30 * MIB)
    root.v1("/a", 100 * MIB, 90 * MIB)
    assert_available(10 * MIB)


def test_mount_point_with_a_blank_in_its_name(root):
    root.cgroups("0::/job", V2_MOUNT.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040own"))
    root.v2("/my own/job", 100 * MIB, 60 * MIB)
    assert_available(40 * MIB)


def test_cgroup_with_a_colon_in_its_name(root):
    root.cgroups("0::/a:b", V2_MOUNT)
    root.v2("/a:b", 100 * MIB, 60 * MIB)
    assert_available(40 * MIB)


def test_system_that_does_not_tell_its_memory_is_an_error_at_once(root):
    root.write("/proc/meminfo", "MemTotal: 1024000 kB\nMemFree: 100000 kB\n")
    with pytest.raises(OSError, match="MemAvailable"):
        gates.memory_available(1)
    (root.folder / "proc/meminfo").unlink()
    with pytest.raises(OSError, match="meminfo"):
        gates.memory_available(1)


@pytest.mark.parametrize(
    "at_least, error",
    [
        (-1, ValueError),
        (-0.5, ValueError),
        (1.5, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        ("1G", TypeError),
        (None, TypeError),
    ],
)
def test_bad_amounts_of_memory_are_refused(at_least, error):
    with pytest.raises(error, match="at_least"):
        gates.memory_available(at_least)


# load_average


@pytest.mark.parametrize("minutes, load", [(1, 1.5), (5, 2.5), (15, 3.5)])
def test_load_average_is_compared_over_the_chosen_minutes(monkeypatch, minutes, load):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 2.5, 3.5))
    assert gates.load_average(load, minutes=minutes)() is None
    assert gates.load_average(load - 0.01, minutes=minutes)() is not None


def test_system_that_does_not_tell_its_load_is_an_error_at_once(monkeypatch):
    def refuse():
        raise OSError("load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", refuse)
    with pytest.raises(OSError, match="load averages"):
        gates.load_average(1)


@pytest.mark.parametrize(
    "at_most, error",
    [
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_bad_loads_are_refused(at_most, error):
    with pytest.raises(error, match="at_most"):
        gates.load_average(at_most)


@pytest.mark.parametrize(
    "minutes, error", [(2, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError)]
)
def test_bad_minutes_are_refused(minutes, error):
    with pytest.raises(error, match="minutes"):
        gates.load_average(1, minutes=minutes)


# pressure


@pytest.mark.parametrize("resource", ["cpu", "memory", "io"])
@pytest.mark.parametrize(
    "stalled, average, per_cent",
    [
        ("some", "avg10", 11.5),
        ("some", "avg60", 12.5),
        ("some", "avg300", 13.5),
        ("full", "avg10", 1.5),
        ("full", "avg60", 2.5),
        ("full", "avg300", 3.5),
    ],
)
def test_pressure_is_compared_in_the_chosen_line_and_average(
    root, resource, stalled, average, per_cent
):
    for other in ["cpu", "memory", "io"]:
        root.write(f"/proc/pressure/{other}", "some avg10=99.00 avg60=99.00 avg300=99.00 total=9\n")
    root.write(
        f"/proc/pressure/{resource}",
        "some avg10=11.50 avg60=12.50 avg300=13.50 total=123\n"
        "full avg10=1.50 avg60=2.50 avg300=3.50 total=45\n",
    )

    def ask(at_most):
        return gates.pressure(resource, at_most, stalled=stalled, average=average)()

    assert ask(per_cent) is None
    assert ask(per_cent - 0.01) is not None


def test_kernel_without_pressure_files_is_an_error_at_once(root):
    with pytest.raises(FileNotFoundError, match="CONFIG_PSI") as raised:
        gates.pressure("io", 10)
    assert raised.value.filename == "/proc/pressure/io"


def test_kernel_with_pressure_switched_off_is_an_error_at_once(monkeypatch):
    def refuse(path):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(gates, "_read", refuse)
    with pytest.raises(OSError, match="psi=1") as raised:
        gates.pressure("cpu", 10)
    assert raised.value.errno == errno.EOPNOTSUPP


def test_kernel_without_the_full_line_of_cpu_is_an_error_at_once(root):
    root.write("/proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    gates.pressure("cpu", 10)
    with pytest.raises(OSError, match="'full'"):
        gates.pressure("cpu", 10, stalled="full")


@pytest.mark.parametrize(
    "at_most, error",
    [
        (-1, ValueError),
        (100.5, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_bad_pressures_are_refused(at_most, error):
    with pytest.raises(error, match="at_most"):
        gates.pressure("io", at_most)


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("resource", "disk", ValueError),
        ("resource", None, TypeError),
        ("stalled", "all", ValueError),
        ("stalled", True, TypeError),
        ("average", "avg30", ValueError),
        ("average", 10, TypeError),
    ],
)
def test_bad_choices_of_pressure_are_refused(name, value, error):
    arguments = {"resource": "io", "at_most": 10, name: value}
    with pytest.raises(error, match=name):
        gates.pressure(**arguments)


# The real machine.


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/meminfo")
def test_real_memory_lies_between_nothing_and_an_exbibyte():
    assert has(MIB)
    assert not has(1 << 60)


def test_real_load_average_is_below_a_million():
    assert gates.load_average(1e6)() is None


@pytest.mark.parametrize("resource", ["cpu", "memory", "io"])
def test_real_pressure_is_at_most_all_of_the_time(resource):
    try:
        with open(f"/proc/pressure/{resource}") as file:
            file.read()
    except OSError:
        with pytest.raises(OSError, match="CONFIG_PSI"):
            gates.pressure(resource, 100)
    else:
        assert gates.pressure(resource, 100)() is None
