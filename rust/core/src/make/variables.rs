//! All variables by which a program finds a pool, and their values for programs below.

use super::flags::export;
use crate::slots::{Auth, Ends, Pool, Style};
use std::ffi::{OsStr, OsString};

/// The variables that may name a pool. The first that names one counts: cargo has its own for build
/// scripts.
pub const NAMING: [&str; 3] = ["CARGO_MAKEFLAGS", MAKEFLAGS, "MFLAGS"];

/// The variables that are changed for a program below. cargo's own counts before make's, so it is
/// changed if it is set.
pub const CHANGED: [&str; 2] = [MAKEFLAGS, "CARGO_MAKEFLAGS"];

const MAKEFLAGS: &str = "MAKEFLAGS";

/// The variable in which make counts how many makes are above a program.
pub use crate::slots::MAKELEVEL;

impl Pool {
    /// Returns MAKEFLAGS for programs below that inherit these ends, if any. `existing` is its
    /// value so far.
    pub fn makeflags(&self, existing: Option<&OsStr>, ends: Option<Ends>) -> OsString {
        let by_ends = ends.map(|(read, write)| Auth::Pipe { read, write });
        let (auth, for_make) = match (self.style(), &by_ends) {
            (Style::Pipe, Some(by_ends)) => (by_ends, None),
            _ if by_ends.as_ref() == Some(self.auth()) => (self.auth(), None),
            _ => (self.auth(), ends),
        };
        export(existing, auth, for_make, self.slots())
    }

    /// Returns the value of each of [`CHANGED`] for programs below that inherit these ends, if any.
    /// `existing` are the values so far. None: the variable stays unset.
    pub fn variables(
        &self,
        existing: [Option<&OsStr>; CHANGED.len()],
        ends: Option<Ends>,
    ) -> [Option<OsString>; CHANGED.len()] {
        let mut variables = [const { None }; CHANGED.len()];
        for ((name, value), variable) in CHANGED.iter().zip(existing).zip(&mut variables) {
            if *name == MAKEFLAGS || value.is_some() {
                *variable = Some(self.makeflags(value, ends));
            }
        }
        variables
    }
}
