//! Slots: how many jobs may run at once, and who may run one now.
//!
//! A slot is the right to run one job. The free ones of a [`Pool`] are bytes in a pipe,
//! GNU Make's protocol ("Integrating GNU make" in its manual): reading a byte takes a
//! slot, writing the same byte gives it back. Beside the pipe, a ledger says which live
//! process holds which slot, so that none is lost, whoever is killed. Not here: who runs
//! what (`Jobs`), and whether the machine is fit for one more job (that is the caller's
//! admission).

mod bell;
mod cpus;
mod entry;
mod home;
mod join;
mod ledger;
mod lineage;
pub mod makeflags;
mod own;
mod pipe;
mod pool;
mod style;
pub(crate) mod warden;
mod watch;

pub use cpus::usable_cpus;
pub use home::{homes, remove_homes};
pub use join::{InForce, NotJoined};
pub use ledger::Held;
pub use own::OwnSlot;
pub use pool::{Adopted, Ends, Place, Pool, Slot, MAX_SLOTS};
pub(crate) use pool::{Launched, PoolWait};
pub use style::Style;
