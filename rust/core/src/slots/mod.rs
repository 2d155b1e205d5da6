//! Slots: how many jobs may run at once, and which process may run one now.
//!
//! A slot is the right to run one job. The free slots of a [`Pool`] are bytes in a pipe, as in GNU
//! Make's protocol ("Integrating GNU make" in its manual): reading a byte takes a slot, and writing
//! the same byte gives it back. Beside the pipe, a ledger says which live process holds which slot,
//! so no slot is lost when a process is killed. Not here: which process runs which job (`owner`),
//! how programs find a pool (`make`), and whether the machine has room for one more job (the
//! caller's admission).

mod adoption;
mod assignment;
mod auth;
mod bank;
mod bell;
mod cpus;
mod current;
mod ends;
mod entry;
mod gathering;
mod home;
#[cfg(all(test, target_os = "linux"))]
mod kills;
mod ledger;
mod lineage;
mod own_slot;
mod parts;
mod pipe;
mod pool;
mod slot;
mod style;
mod thread_slot;
mod thread_slots;
mod turn;
mod wait;
mod warden;
mod watch;

pub use adoption::Adopted;
pub use assignment::{Assignment, BorrowedFrom};
pub(crate) use auth::AuthValue;
pub use auth::{Auth, Ends};
pub use cpus::usable_cpus;
pub(crate) use current::current_pool_named;
pub use current::{current_pool, pool_of_this_job, release_own_slot};
pub use ends::Place;
pub use entry::Tenure;
pub use home::{homes, remove_homes, sweep_homes};
pub use ledger::Held;
pub(crate) use ledger::Want;
pub use lineage::MAKELEVEL;
pub use own_slot::{OnYield, OwnSlot};
pub use pipe::MAX_SLOTS;
pub use pool::Pool;
pub(crate) use pool::WeakPool;
pub(crate) use slot::Launched;
pub use slot::Slot;
pub use style::Style;
pub use thread_slot::ThreadSlot;
pub use turn::{PausedTurn, Turn};
pub(crate) use wait::PoolWait;
