//! GNU Make's protocol: how a pool is named to programs, in which variables, and how it is joined.
//!
//! A program below finds its pool in MAKEFLAGS ([`flags`]) or a similar variable ([`variables`]).
//! [`Joined`] joins the pool that this program finds; [`Pool::name_to`](crate::Pool::name_to) names
//! a pool to a command. Not here: the tokens (`slots::pipe`), and which process has which slot.

mod command;
pub mod flags;
mod join;
mod program;
pub mod variables;

pub use join::{InForce, Joined, NotJoined};
