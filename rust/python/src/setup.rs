//! Setup: makes the interpreter of a new process the interpreter of a job.
//!
//! If the process is forked, the setup is prepared before the fork. In a newly forked process the
//! kernel must copy every page that is written to, also if only a reference count changes. These
//! copies cost more than everything else in a job. So a job computes, makes and frees nothing here
//! that its owner can prepare. Not here: which objects these are (`_job.py`).

use crate::channel::Channel;
use crate::errors::to_python;
use crate::hooks;
use crate::pool::Pool as PyPool;
use crate::upcalls;
use jobserver_core::make::variables::CHANGED;
use jobserver_core::platform::fill_standard;
use jobserver_core::process::{getpid, has_left, Family};
use jobserver_core::slots::{Ends, Place};
use jobserver_core::worker::telling_by;
use jobserver_core::Pool;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PySet, PyString};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A namespace, a name in it, and the value that the name gets.
type DictItem = (Py<PyDict>, Py<PyString>, Py<PyAny>);

/// The values of the variables that are set.
type Values<'py> = [Option<Bound<'py, PyBytes>>; CHANGED.len()];

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Setup {
    /// The dictionary of `os.environ`: names and values are bytes.
    environ: Py<PyDict>,
    assignments: Vec<DictItem>,
    null_stdin: bool,
    /// The namespace and the name for the parent's sentinel.
    sentinel: (Py<PyDict>, Py<PyString>),
    registries: Registries,
    hooks: Hooks,
    /// Whether `_bootstrap` was replaced at the last check.
    bootstrap_is_replaced: AtomicBool,
    /// The names of the variables, as they are in `environ`.
    names: [Py<PyBytes>; CHANGED.len()],
    prepared: Mutex<Option<Arc<Variables>>>,
}

/// Objects that show whether a process has begun something that outlives a job, or has something to
/// do at its end.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Registries {
    /// The pid of the process that last used a Jobserver.
    owner: Py<PySet>,
    /// `threading._active`, by thread.
    threads: Py<PyDict>,
    /// multiprocessing's registry of finalizers.
    finalizers: Py<PyDict>,
    after_fork: Py<PyAny>,
    children: Py<PySet>,
    /// The count of functions registered with atexit, if jobs run those.
    exit_functions: Option<Py<PyAny>>,
}

/// Functions that tools replace to see multiprocessing's processes begin and end; None if they were
/// replaced before this package was imported.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Hooks {
    /// The class in which `_bootstrap` is looked up, and CPython's function.
    process: Py<PyAny>,
    bootstrap: Option<Py<PyAny>>,
    /// The same for `_exit`: the module's namespace, the name, and CPython's function.
    os: Py<PyDict>,
    exits_name: Py<PyString>,
    exit: Option<Py<PyAny>>,
}

/// The variables for a job, and the values that they were made from.
struct Variables {
    before: [Option<Vec<u8>>; CHANGED.len()],
    /// The place at which the job has the ends of the pipe that the variables name, if they name
    /// one.
    place: Option<Place>,
    changed: Vec<Variable>,
}

struct Variable {
    name: Py<PyBytes>,
    value: Py<PyBytes>,
    /// Both, in the form of the C library.
    assignment: CString,
}

#[pymethods]
impl Setup {
    /// For jobs with these assignments. With `null_stdin`, descriptor 0 is the null device.
    #[new]
    fn new(
        py: Python<'_>,
        environ: Py<PyDict>,
        assignments: Vec<(Py<PyDict>, String, Py<PyAny>)>,
        null_stdin: bool,
        sentinel: (Py<PyDict>, String),
        registries: Registries,
        hooks: Hooks,
    ) -> Setup {
        // New strings, which are next to each other in memory, because each assignment counts a
        // reference to one.
        let new = |name: String| PyString::new(py, &name).unbind();
        let assignments = assignments.into_iter();
        let assignments = assignments.map(|(space, name, value)| (space, new(name), value));
        Setup {
            environ,
            assignments: assignments.collect(),
            null_stdin,
            sentinel: (sentinel.0, new(sentinel.1)),
            registries,
            hooks,
            bootstrap_is_replaced: AtomicBool::new(false),
            names: CHANGED.map(|name| PyBytes::new(py, name.as_bytes()).unbind()),
            prepared: Mutex::default(),
        }
    }

    /// Makes the assignments.
    fn assign(&self, py: Python<'_>) -> PyResult<()> {
        for (namespace, name, value) in &self.assignments {
            let namespace = namespace.bind(py);
            let before = namespace.get_item(name)?;
            if before.as_ref().is_none_or(|before| !before.is(value)) {
                // The value before is leaked: to free it would write to memory, and run code.
                std::mem::forget(before);
                namespace.set_item(name, value)?;
            }
        }
        Ok(())
    }

    /// Checks whether a tool has replaced multiprocessing's `_bootstrap`. Called before a fork, and
    /// after an import of the user's modules; not more often, because each check writes to memory.
    fn look_for_hooks(&self, py: Python<'_>) -> PyResult<()> {
        let now = self.hooks.process.bind(py).getattr(intern!(py, "_bootstrap"))?;
        let is_replaced = self.hooks.bootstrap.as_ref().is_none_or(|usual| !now.is(usual));
        self.bootstrap_is_replaced.store(is_replaced, Ordering::Relaxed);
        Ok(())
    }

    /// In a process that jobs will be forked from: prepares what each job would otherwise prepare.
    fn get_ready(&self, py: Python<'_>, pool: &Bound<'_, PyPool>) -> PyResult<()> {
        self.refresh(py, &pool.get().0)
    }

    /// In a job of `pool` that was not forked from its owner: prepares and applies the setup.
    /// `tells` says whether the job reports to its owner that it gives its slot away.
    fn apply(
        &self,
        py: Python<'_>,
        pool: &Bound<'_, PyPool>,
        channel: &Bound<'_, Channel>,
        tells: bool,
    ) -> PyResult<()> {
        self.refresh(py, &pool.get().0)?;
        self.assume(py, &pool.get().0, channel.get(), tells)
    }

    /// Between two jobs of `pool`: another owner has this process from now on.
    #[staticmethod]
    fn change_owner(pool: &Bound<'_, PyPool>, channel: &Bound<'_, Channel>, tells: bool) {
        pool.get().0.set_on_yield(tells.then(|| telling_by(&channel.get().channel)));
    }
}

impl Setup {
    fn prepared(&self) -> MutexGuard<'_, Option<Arc<Variables>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before each fork: prepares again what may have changed since the last fork.
    pub(crate) fn refresh(&self, py: Python<'_>, pool: &Pool) -> PyResult<()> {
        self.look_for_hooks(py)?;
        let known = self.prepared().clone();
        let before = self.values(py)?;
        if known.is_none_or(|known| !known.are_made_from(&before)) {
            let place = pool.place_for_ends();
            let ends = place.as_ref().map(|place| place.ends());
            let made = Variables { place, ..Variables::naming(py, pool, ends, before)? };
            let replaced = self.prepared().replace(Arc::new(made));
            drop(replaced); // not while `prepared` is locked: these are Python objects
        }
        Ok(())
    }

    /// In the job: applies the setup.
    pub(crate) fn assume(
        &self,
        py: Python<'_>,
        pool: &Pool,
        channel: &Channel,
        tells: bool,
    ) -> PyResult<()> {
        pool.set_on_yield(tells.then(|| telling_by(&channel.channel)));
        Family::collect_orphans().map_err(to_python)?; // so that Future.kill finds all below it
        fill_standard(self.null_stdin).map_err(to_python)?;
        self.assign(py)?;
        // The channel is readable after the owner has ended, or needs nothing more from this
        // process.
        let (parent, name) = &self.sentinel;
        parent.bind(py).set_item(name, channel.fileno())?;
        self.name_pool(py, pool)?;
        if self.registries.something_inherited(py)? {
            upcalls::disinherit(py)?;
        }
        Ok(())
    }

    /// Makes MAKEFLAGS name the pool.
    fn name_pool(&self, py: Python<'_>, pool: &Pool) -> PyResult<()> {
        let prepared = self.prepared().clone();
        let (ends, variables) = match prepared {
            Some(prepared) => match &prepared.place {
                None => (None, prepared),
                Some(place) => match pool.open_ends_at(place) {
                    None => self.named_anew(py, pool)?,
                    ends => (ends, prepared),
                },
            },
            None => self.named_anew(py, pool)?,
        };
        pool.become_current(ends);
        for variable in &variables.changed {
            self.environ.bind(py).set_item(&variable.name, &variable.value)?;
            hooks::put_environment(py, variable.assignment.clone())?;
        }
        Ok(())
    }

    /// In the job: opens the ends of the pipe, if the variables name a pipe, at any free place.
    fn named_anew(&self, py: Python<'_>, pool: &Pool) -> PyResult<(Option<Ends>, Arc<Variables>)> {
        let ends = pool.open_ends().map_err(to_python)?;
        let variables = Variables::naming(py, pool, ends, self.values(py)?)?;
        Ok((ends, Arc::new(variables)))
    }

    /// Whether a job has begun nothing, jobs of its own apart, that would outlive it.
    pub(crate) fn nothing_begun(&self, py: Python<'_>) -> PyResult<bool> {
        self.registries.nothing_begun(py)
    }

    /// Whether this process has no jobs of its own, nor processes for them.
    pub(crate) fn own_jobs_are_at_rest(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.registries.has_owners(py)? || !has_left() && upcalls::are_at_rest(py)?)
    }

    /// Whether the process has nothing to do at its end.
    pub(crate) fn nothing_to_end(&self, py: Python<'_>) -> PyResult<bool> {
        let registries = &self.registries;
        Ok(!registries.has_owners(py)?
            && registries.nothing_begun(py)?
            && !registries.exit_functions(py)?)
    }

    /// Whether a tool had replaced multiprocessing's `_bootstrap` at the last check.
    pub(crate) fn bootstrap_is_replaced(&self) -> bool {
        self.bootstrap_is_replaced.load(Ordering::Relaxed)
    }

    /// Calls the function that a tool has put in the place of `os._exit`, if there is one.
    pub(crate) fn call_replaced_exit(&self, py: Python<'_>, code: i32) -> PyResult<()> {
        let now = self.hooks.os.bind(py).get_item(&self.hooks.exits_name)?;
        match (now, &self.hooks.exit) {
            (Some(now), Some(usual)) if now.is(usual) => Ok(()),
            (Some(now), _) => now.call1((code,)).map(drop),
            (None, _) => Ok(()),
        }
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Values<'py>> {
        let environ = self.environ.bind(py);
        let mut values = Values::default();
        for (value, name) in values.iter_mut().zip(&self.names) {
            *value = environ.get_item(name)?.map(|value| value.cast_into()).transpose()?;
        }
        Ok(values)
    }
}

impl Registries {
    fn something_inherited(&self, py: Python<'_>) -> PyResult<bool> {
        let registered = !self.finalizers.bind(py).is_empty();
        Ok(registered || self.after_fork.bind(py).len()? > 0 || self.exit_functions(py)?)
    }

    fn has_owners(&self, py: Python<'_>) -> PyResult<bool> {
        self.owner.bind(py).contains(getpid().as_raw_nonzero().get())
    }

    fn nothing_begun(&self, py: Python<'_>) -> PyResult<bool> {
        let processes = self.finalizers.bind(py).len() + self.children.bind(py).len();
        Ok(self.threads.bind(py).len() < 2 && processes == 0)
    }

    fn exit_functions(&self, py: Python<'_>) -> PyResult<bool> {
        let count = self.exit_functions.as_ref().map(|count| count.call0(py)?.extract::<usize>(py));
        Ok(count.transpose()?.is_some_and(|count| count > 0))
    }
}

impl Variables {
    /// The variables that name `pool`: by these descriptors, or otherwise by its own name.
    fn naming(
        py: Python<'_>,
        pool: &Pool,
        fds: Option<Ends>,
        before: Values<'_>,
    ) -> PyResult<Variables> {
        let before = before.map(|value| value.map(|value| value.as_bytes().to_vec()));
        let existing = before.each_ref().map(|value| value.as_deref().map(OsStr::from_bytes));
        let mut changed = Vec::new();
        for (name, value) in CHANGED.iter().zip(pool.variables(existing, fds)) {
            let Some(value) = value else { continue };
            changed.push(Variable {
                name: PyBytes::new(py, name.as_bytes()).unbind(),
                value: PyBytes::new(py, value.as_bytes()).unbind(),
                assignment: CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?,
            });
        }
        Ok(Variables { before, place: None, changed })
    }

    fn are_made_from(&self, before: &Values<'_>) -> bool {
        self.before.iter().zip(before).all(|pair| match pair {
            (Some(known), Some(value)) => known == value.as_bytes(),
            (known, value) => known.is_none() && value.is_none(),
        })
    }
}
