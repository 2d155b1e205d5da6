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

/// A namespace, and a name in it.
type DictPlace = (Py<PyDict>, Py<PyString>);

/// The values of the variables that are set.
type OwnValues = [Option<Vec<u8>>; CHANGED.len()];
type Values<'py> = [Option<Bound<'py, PyBytes>>; CHANGED.len()];

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Setup {
    interpreter: Arc<Known>,
    own: Own,
    /// Whether `_bootstrap` was replaced at the last check.
    bootstrap_is_replaced: AtomicBool,
    prepared: Mutex<Option<Arc<Variables>>>,
}

/// What differs between a job and jobs of its own.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Own {
    /// What the places get; None leaves a place as it is. The last is stdin.
    values: Vec<Option<Py<PyAny>>>,
    /// The attributes of the parent's object in multiprocessing.
    parent: Py<PyDict>,
    /// multiprocessing's children of the job.
    children: Py<PySet>,
}

/// What is the same in a job and in jobs of its own: where an interpreter has its state.
struct Known {
    /// The dictionary of `os.environ`: names and values are bytes.
    environ: Py<PyDict>,
    /// What is assigned.
    places: Vec<DictPlace>,
    registries: Registries,
    hooks: Hooks,
    /// The names of the variables, as they are in `environ`.
    names: [Py<PyBytes>; CHANGED.len()],
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

/// The variables for a job: the values that they were made from, and those that the job has.
struct Variables {
    before: OwnValues,
    after: OwnValues,
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
    /// For jobs in which these places get their own values. If stdin, the last, gets one, descriptor
    /// 0 is the null device.
    #[new]
    fn new(
        py: Python<'_>,
        environ: Py<PyDict>,
        places: Vec<(Py<PyDict>, String)>,
        own: Own,
        registries: Registries,
        hooks: Hooks,
    ) -> Setup {
        // New strings, which are next to each other in memory, because each assignment counts a
        // reference to one.
        let new = |(space, name): (_, String)| (space, PyString::new(py, &name).unbind());
        let known = Known {
            environ,
            places: places.into_iter().map(new).collect(),
            registries,
            hooks,
            names: CHANGED.map(|name| PyBytes::new(py, name.as_bytes()).unbind()),
        };
        let (bootstrap_is_replaced, prepared) = Default::default();
        Setup { interpreter: Arc::new(known), own, bootstrap_is_replaced, prepared }
    }

    /// In a job: the same for jobs of its own.
    fn renewed(&self, own: Own) -> Setup {
        let interpreter = Arc::clone(&self.interpreter);
        let bootstrap_is_replaced = AtomicBool::new(self.bootstrap_is_replaced());
        let prepared = Mutex::new(self.prepared().clone());
        Setup { interpreter, own, bootstrap_is_replaced, prepared }
    }

    /// Makes the assignments.
    fn assign(&self, py: Python<'_>) -> PyResult<()> {
        for ((namespace, name), value) in self.interpreter.places.iter().zip(&self.own.values) {
            let (namespace, Some(value)) = (namespace.bind(py), value) else { continue };
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
        let now = self.interpreter.hooks.process.bind(py).getattr(intern!(py, "_bootstrap"))?;
        let is_replaced =
            self.interpreter.hooks.bootstrap.as_ref().is_none_or(|usual| !now.is(usual));
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
        if known.is_none_or(|known| !known.are_for(&before)) {
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
        let null_stdin = self.own.values.last().is_some_and(Option::is_some);
        fill_standard(null_stdin).map_err(to_python)?;
        self.assign(py)?;
        // The channel is readable after the owner has ended, or needs nothing more from this
        // process.
        self.own.parent.bind(py).set_item(intern!(py, "_sentinel"), channel.fileno())?;
        self.name_pool(py, pool)?;
        if self.interpreter.registries.something_inherited(py)? {
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
            self.interpreter.environ.bind(py).set_item(&variable.name, &variable.value)?;
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
    pub(crate) fn nothing_begun(&self, py: Python<'_>) -> bool {
        self.interpreter.registries.nothing_begun(py) && self.own.children.bind(py).is_empty()
    }

    /// Whether this process has no jobs of its own, nor processes for them.
    pub(crate) fn own_jobs_are_at_rest(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.interpreter.registries.has_owners(py)? || !has_left() && upcalls::are_at_rest(py)?)
    }

    /// Whether the process has nothing to do at its end.
    pub(crate) fn nothing_to_end(&self, py: Python<'_>) -> PyResult<bool> {
        let registries = &self.interpreter.registries;
        Ok(!registries.has_owners(py)?
            && self.nothing_begun(py)
            && !registries.exit_functions(py)?)
    }

    /// Whether a tool had replaced multiprocessing's `_bootstrap` at the last check.
    pub(crate) fn bootstrap_is_replaced(&self) -> bool {
        self.bootstrap_is_replaced.load(Ordering::Relaxed)
    }

    /// Calls the function that a tool has put in the place of `os._exit`, if there is one.
    pub(crate) fn call_replaced_exit(&self, py: Python<'_>, code: i32) -> PyResult<()> {
        let now =
            self.interpreter.hooks.os.bind(py).get_item(&self.interpreter.hooks.exits_name)?;
        match (now, &self.interpreter.hooks.exit) {
            (Some(now), Some(usual)) if now.is(usual) => Ok(()),
            (Some(now), _) => now.call1((code,)).map(drop),
            (None, _) => Ok(()),
        }
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Values<'py>> {
        let environ = self.interpreter.environ.bind(py);
        let mut values = Values::default();
        for (value, name) in values.iter_mut().zip(&self.interpreter.names) {
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

    fn nothing_begun(&self, py: Python<'_>) -> bool {
        self.threads.bind(py).len() < 2 && self.finalizers.bind(py).is_empty()
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
        let (mut after, mut changed) = (before.clone(), Vec::new());
        let named = CHANGED.iter().zip(pool.variables(existing, fds));
        for ((name, value), after) in named.zip(&mut after) {
            let Some(value) = value else { continue };
            *after = Some(value.as_bytes().to_vec());
            changed.push(Variable {
                name: PyBytes::new(py, name.as_bytes()).unbind(),
                value: PyBytes::new(py, value.as_bytes()).unbind(),
                assignment: CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?,
            });
        }
        Ok(Variables { before, after, place: None, changed })
    }

    /// Whether they are for jobs of a process with these values: they were made from these, or they
    /// are these already, because the process is a job that was set up with them.
    fn are_for(&self, now: &Values<'_>) -> bool {
        let are_now = |values: &OwnValues| {
            let now = now.iter().map(|value| value.as_ref().map(|value| value.as_bytes()));
            values.iter().map(Option::as_deref).eq(now)
        };
        are_now(&self.before) || are_now(&self.after)
    }
}
