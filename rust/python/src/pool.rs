//! Pool and Slot.

use crate::errors::to_python;
use crate::jobs::has_jobs;
use jobserver_core as core;
use jobserver_core::make::flags::Auth;
use jobserver_core::platform::{self, Descriptor};
use jobserver_core::process::{getpid, Pid};
use jobserver_core::slots::{Adopted, Ends, InForce, NotJoined, OwnSlot, Style};
use jobserver_core::wire::Kind;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pool, and the slot of it that this process itself runs on, if it is a job.
///
/// The lock is held neither while the GIL is let go of, nor while Python can be called.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Pool {
    pub(crate) pool: core::Pool,
    own: Mutex<OwnSlot>,
    /// Of the job that runs in it, once there is one: its pid, and the descriptors, if any,
    /// by which MAKEFLAGS names the pool to programs below.
    job: Mutex<Option<(Pid, Option<Ends>)>>,
    /// Of a job whose owner wants to hear if it gives its slot away: by which to tell it, once.
    teller: Mutex<Option<core::Channel>>,
    told: AtomicBool,
}

impl From<core::Pool> for Pool {
    fn from(pool: core::Pool) -> Pool {
        let (own, job, teller) = (Mutex::default(), Mutex::default(), Mutex::default());
        Pool { pool, own, job, teller, told: AtomicBool::new(false) }
    }
}

impl Pool {
    pub(crate) fn own(&self) -> MutexGuard<'_, OwnSlot> {
        lock(&self.own)
    }

    /// In a new job: runs on what it has adopted. False if nothing may run.
    pub(crate) fn set_own(&self, adopted: Adopted) -> bool {
        self.told.store(false, Ordering::Relaxed);
        *self.own() = match adopted {
            Adopted::Slot(slot) => OwnSlot::new(slot),
            Adopted::Nothing => OwnSlot::default(),
            Adopted::Gone => return false,
        };
        true
    }

    /// In a new job: its owner is to hear if it gives its slot away.
    pub(crate) fn tells_by(&self, channel: Option<core::Channel>) {
        let replaced = std::mem::replace(&mut *lock(&self.teller), channel);
        std::mem::forget(replaced); // that of a job which has forked this one
    }

    /// Hands this process's own slot over to a job, if it has one here, and tells its owner: see
    /// [`core::Jobs::any_has_yielded`].
    fn hand_over(&self) -> Option<core::Slot> {
        let slot = self.own().hand_over()?;
        self.tell();
        Some(slot)
    }

    /// Gives it away for a wait, and tells its owner: whether there was one.
    pub(crate) fn give_away(&self) -> bool {
        self.own().give_away(|| self.tell())
    }

    fn tell(&self) {
        let teller = lock(&self.teller);
        if let Some(channel) = teller.as_ref().filter(|_| !self.told.swap(true, Ordering::Relaxed))
        {
            let _ = channel.send(Kind::Yielded, &[], &[]); // or it is gone
        }
    }

    fn job(&self) -> MutexGuard<'_, Option<(Pid, Option<Ends>)>> {
        lock(&self.job)
    }

    /// In a new job: this is its pool, which MAKEFLAGS names to it, by these descriptors if
    /// there are any.
    pub(crate) fn becomes_own(this: &Bound<'_, Pool>, fds: Option<Ends>) {
        *this.get().job() = Some((getpid(), fds));
        let replaced = lock(&OWN).replace(this.clone().unbind());
        std::mem::forget(replaced); // that of a job which has forked this one
    }

    /// Gives the slot back that this process runs on, if it is a job with one. False if it
    /// cannot, having closed its way to the pool: then it must end.
    pub(crate) fn release_own() -> bool {
        lock(&OWN).as_ref().is_none_or(|pool| {
            if has_jobs() {
                pool.get().tell(); // it will wait for them
            }
            pool.get().own().release()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a job: the pool that it was started in, and runs on a slot of (or, with `consume=0`,
/// not). Nobody else has it.
static OWN: Mutex<Option<Py<Pool>>> = Mutex::new(None);

pub(crate) fn duplicate(fd: RawFd) -> PyResult<Descriptor> {
    sys::duplicate(fd)
        .map_err(|e| to_python(core::Error::refused("cannot pass on a descriptor", e)))
}

#[pymethods]
impl Pool {
    /// A new one, named in the "fifo" or "pipe" style; or, with None, as the make on PATH takes it.
    #[new]
    #[pyo3(signature = (slots, style=None))]
    fn new(slots: usize, style: Option<&str>) -> PyResult<Pool> {
        let pool = core::Pool::new(slots).map_err(to_python)?;
        pool.set_style(match style {
            Some("fifo") => Style::Fifo,
            Some(_) => Style::Pipe,
            None => Style::for_make(),
        });
        Ok(Pool::from(pool))
    }

    /// The pool that another process has made, by its home.
    #[staticmethod]
    fn open(home: PathBuf) -> PyResult<Pool> {
        core::Pool::open(&home).map(Pool::from).map_err(to_python)
    }

    /// Joins the pool that MAKEFLAGS names in this way, of so many slots as far as it says.
    #[staticmethod]
    #[pyo3(signature = (auth, jobs))]
    fn join(auth: OsString, jobs: Option<usize>) -> PyResult<Pool> {
        let auth = Auth::parse(&auth).ok_or_else(|| PyValueError::new_err("no pool's name"))?;
        core::Pool::join_in_force(&auth, jobs).map(Pool::from).map_err(to_python)
    }

    /// How MAKEFLAGS names it.
    #[getter]
    fn auth(&self) -> OsString {
        self.pool.auth().to_os_string()
    }

    /// The folder by which other processes can open it.
    #[getter]
    fn home(&self) -> &OsStr {
        self.pool.home().as_os_str()
    }

    /// In a job: the descriptors that programs below must inherit to share the pool, if any.
    #[getter]
    fn pass_fds(&self) -> Option<Ends> {
        self.job().as_ref().and_then(|(_, fds)| *fds)
    }

    /// Whether this process is a job of it to which MAKEFLAGS names it so. Not one that a job
    /// has forked: that has no slot of its own, like a program below it.
    fn is_ours(&self, auth: OsString) -> bool {
        let Some((_, fds)) = self.job().filter(|(pid, _)| *pid == getpid()) else { return false };
        let by_fds = fds.map(|(read, write)| Auth::Pipe { read, write });
        self.pool.auth().to_os_string() == auth || by_fds.is_some_and(|a| a.to_os_string() == auth)
    }

    /// In a job: takes over the slot that it was launched on, if any, by the word that came with its
    /// launch. False if it is no longer for us, when nothing may run.
    fn adopt(&self, word: u64) -> PyResult<bool> {
        Ok(self.set_own(self.pool.adopt(word).map_err(to_python)?))
    }

    /// Whether this process is a job with a slot that it could lend or hand over.
    #[getter]
    fn runs(&self) -> bool {
        self.own().runs()
    }

    /// Its own slot for a job of its own: on loan or, if it `yields`, for good. It must not
    /// go on before `Jobs.resume` says so.
    pub(crate) fn own_slot(&self, yields: bool) -> Option<Slot> {
        let slot = if yields { self.hand_over() } else { self.own().lend() };
        slot.map(Slot::own)
    }

    /// Puts back the slots of processes that have been killed: whether there were any.
    fn reclaim(&self) -> bool {
        self.pool.reclaim()
    }

    #[getter]
    fn slots(&self) -> usize {
        self.pool.slots()
    }

    /// How many slots are free, for everybody.
    fn free(&self) -> PyResult<usize> {
        self.pool.free().map_err(to_python)
    }

    /// Whether this process could take a slot at this moment.
    fn has_one(&self) -> PyResult<bool> {
        self.pool.has_one().map_err(to_python)
    }

    fn try_take(&self) -> PyResult<Option<Slot>> {
        Ok(self.pool.try_take().map_err(to_python)?.map(Slot::free))
    }
}

/// In a job: the pool that it was started in.
#[pyfunction]
pub(crate) fn own_pool(py: Python<'_>) -> Option<Py<Pool>> {
    lock(&OWN).as_ref().map(|pool| pool.clone_ref(py))
}

/// The pool in force by these values of the variables that can name one: its name, how many
/// slots it has if that is said, and why it cannot be joined if that is clear.
#[pyfunction]
pub(crate) fn pool_in_force(
    values: Vec<OsString>,
) -> (Option<OsString>, Option<usize>, Option<String>) {
    match InForce::by(values) {
        InForce::Nothing => (None, None, None),
        InForce::OneJob => (None, Some(1), None),
        InForce::Closed(why) => (None, None, Some(why.to_string())),
        InForce::Pool(auth, jobs) => {
            let name = auth.to_os_string();
            (Some(name), jobs, Some(NotJoined::Stale(auth).to_string()))
        }
    }
}

/// A slot on its way from the pool to a job; launching empties it, dropping gives it back.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Slot {
    slot: Option<core::Slot>,
    /// It was this process's own: see `Jobs.resume`.
    #[pyo3(get)]
    own: bool,
}

impl Slot {
    pub(crate) fn free(slot: core::Slot) -> Slot {
        Slot { slot: Some(slot), own: false }
    }

    pub(crate) fn own(slot: core::Slot) -> Slot {
        Slot { slot: Some(slot), own: true }
    }
}

impl Slot {
    /// Puts the slot back that `take` took, of which nothing was made.
    pub(crate) fn put_back(&mut self, slot: core::Slot) {
        self.slot = Some(slot);
    }
}

#[pymethods]
impl Slot {
    /// Gives it back now, unless a job has it.
    fn release(&mut self) {
        self.slot = None;
    }
}

pub(crate) fn take(slot: Option<&Bound<'_, Slot>>) -> Option<core::Slot> {
    slot.and_then(|slot| slot.borrow_mut().slot.take())
}
