//! Admission: a submission that gets a slot, and the results of the calls for it.

use crate::channel::{Descriptors, Payload};
use crate::errors::to_python;
use crate::owner_host::OwnersInterpreter;
use crate::promise::Promise;
use jobserver_core as core;
use jobserver_core::owner::{Admitted, OwnerHost, Until};
use jobserver_core::slots::{PausedTurn, ThreadSlot, Turn};
use pyo3::prelude::*;

/// The job has started; for other calls, the event has happened. False in Python.
pub(crate) const STARTED: u8 = 0;
/// Some callbacks are due: run them, and call again.
pub(crate) const DUE: u8 = 1;
/// The time is over.
pub(crate) const TIMED_OUT: u8 = 2;
/// The job is admitted, and no worker is idle: hire one.
pub(crate) const NO_WORKER: u8 = 3;

/// The job that a worker is hired for: its Future, its admission, its launch, and the descriptors
/// of the launch.
pub(crate) type FirstJob<'py> =
    (Bound<'py, Promise>, Bound<'py, Admission>, Payload<'py>, Bound<'py, Descriptors>);

/// The admission of one submission. `Owner.conclude` gives its slots back, unless a job has them.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Admission {
    /// How many slots the job takes.
    #[pyo3(get)]
    pub(crate) consume: usize,
    #[pyo3(set)]
    pub(crate) callbacks: bool,
    /// The seconds that are left.
    #[pyo3(set)]
    pub(crate) timeout: Option<f64>,
    /// Whether it has its slots.
    #[pyo3(get)]
    pub(crate) is_over: bool,
    pub(crate) admitted: Admitted,
    /// Its place among the waiters of the pool.
    pub(crate) turn: PausedTurn,
    /// The pool to which this process has given its own slots, if an error ended a wait meanwhile.
    pub(crate) given_away: Option<core::Pool>,
    /// Its turn, while its slots are set aside.
    pub(crate) aside: Option<Turn>,
    /// The slot, if it is for a thread of this process and not for a job.
    pub(crate) thread: Option<ThreadSlot>,
}

#[pymethods]
impl Admission {
    /// For a job that takes `consume` slots. `callbacks` says whether the wait ends when callbacks
    /// are due.
    #[new]
    #[pyo3(signature = (consume, callbacks, timeout))]
    fn new(consume: usize, callbacks: bool, timeout: Option<f64>) -> Admission {
        let admitted = Admitted::default();
        Admission {
            consume,
            callbacks,
            timeout,
            is_over: false,
            admitted,
            turn: PausedTurn::default(),
            given_away: None,
            aside: None,
            thread: None,
        }
    }

    /// Whether the thread that it is for has its slot: no submission has got it.
    #[getter]
    fn has_thread_slot(&self) -> bool {
        self.thread.as_ref().is_some_and(ThreadSlot::is_there)
    }

    /// In a forked child: the slots are the parent's. The child's submission begins anew.
    fn leave_to_parent(&mut self) {
        std::mem::forget((std::mem::take(&mut self.admitted), self.aside.take()));
        self.given_away = None;
        self.is_over = false;
    }
}

impl Admission {
    /// See `Owner.conclude`.
    pub(crate) fn conclude(
        &mut self,
        owner: &core::Owner<Py<Promise>>,
        host: &OwnersInterpreter<'_, '_>,
        interrupted: bool,
    ) -> PyResult<()> {
        (self.is_over, self.aside, self.thread) = (false, None, None);
        let given_away = self.given_away.take().filter(|_| !interrupted);
        self.admitted.own = self.admitted.own.take().or(given_away);
        Ok(owner.conclude(host, &mut self.admitted)?)
    }

    /// See `Owner.could_admit`.
    pub(crate) fn could_obtain(
        &mut self,
        owner: &core::Owner<Py<Promise>>,
        may_lend: bool,
    ) -> PyResult<bool> {
        owner.could_admit(&mut self.turn, self.consume, may_lend).map_err(to_python)
    }

    /// See `Owner.set_aside`.
    pub(crate) fn set_aside(&mut self, owner: &core::Owner<Py<Promise>>) -> PyResult<()> {
        let aside = owner.set_aside(&mut self.admitted, &mut self.turn, self.consume);
        (self.aside, self.is_over) = (Some(aside.map_err(to_python)?), false);
        Ok(())
    }

    /// See `Owner.admit_at_once`.
    pub(crate) fn obtain_at_once(
        &mut self,
        owner: &core::Owner<Py<Promise>>,
        may_lend: bool,
    ) -> PyResult<bool> {
        if let Some(mut turn) = self.aside.take() {
            let admitted = owner.admit_by_turn(&mut turn, &mut self.admitted);
            self.turn = turn.pause();
            if !admitted.map_err(to_python)? {
                return Ok(false);
            }
        } else if !self.is_over && self.consume > 0 {
            let admitted = owner.admit_at_once(&mut self.turn, self.consume, may_lend);
            let Some(admitted) = admitted.map_err(to_python)? else { return Ok(false) };
            self.admitted = admitted;
        }
        self.is_over = true;
        Ok(true)
    }

    /// See `Owner.admit_beside`.
    pub(crate) fn obtain_beside(&mut self, owner: &core::Owner<Py<Promise>>) -> PyResult<bool> {
        if !self.is_over && self.consume > 0 {
            let admitted = owner.admit_beside(&mut self.turn, self.consume).map_err(to_python)?;
            let Some(admitted) = admitted else { return Ok(false) };
            self.admitted = admitted;
        }
        self.is_over = true;
        Ok(true)
    }

    /// See `Owner.admit_thread`.
    pub(crate) fn obtain_thread(
        &mut self,
        owner: &core::Owner<Py<Promise>>,
        lends: bool,
    ) -> PyResult<bool> {
        self.thread = owner.admit_thread(&mut self.turn, lends).map_err(to_python)?;
        Ok(self.thread.is_some())
    }

    /// Admits a job, unless it is admitted: `STARTED`, `DUE` or `TIMED_OUT`.
    pub(crate) fn obtain(
        &mut self,
        owner: &core::Owner<Py<Promise>>,
        host: &OwnersInterpreter<'_, '_>,
    ) -> PyResult<u8> {
        if self.is_over {
            return Ok(STARTED);
        }
        if self.consume > 0 {
            let how = (self.timeout, self.callbacks);
            match owner.admit(host, &mut self.turn, self.consume, how, &mut self.given_away)? {
                Until::Found(Admitted { slot, own }) => {
                    // This process may have given its own slots away at an earlier try.
                    self.admitted = Admitted { slot, own: own.or(self.admitted.own.take()) };
                }
                Until::Due => return Ok(DUE),
                Until::TimedOut => return Ok(TIMED_OUT),
            }
        } else {
            owner.check_open().map_err(to_python)?;
            owner.scan(host)?;
            if self.callbacks && host.is_due()? {
                return Ok(DUE);
            }
        }
        self.is_over = true;
        Ok(STARTED)
    }
}
