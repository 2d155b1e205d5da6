//! Kills at chosen steps: a slot is never lost and never there twice, whichever process is killed
//! and at whichever access to the ledger.
//!
//! Each test puts processes on a [`stage`], which do real operations on a real pool. One of them is
//! killed at its first step, in the next run at its second, and so on until the operation is through
//! before its kill; mostly a second process is killed likewise, at each of its own steps for each of
//! the first one's. Or the first is stopped at each step and goes on when the second is through,
//! which is what makes a value that it has read out of date. In the end, [`stage::Stage::check`] finds
//! all slots, and the ledger as new.
//!
//! `model/` searches more orders of the same steps, in a copy of the protocol; here the steps are
//! those of the code. That waiters hear of it all is in `bells`, `queue` and `wakes`.
#![allow(unsafe_code, clippy::unwrap_used)]

mod bells;
mod cast;
mod gathers;
mod late;
mod launches;
mod loans;
mod queue;
mod reclaims;
mod stage;
mod wakes;
mod yields;
