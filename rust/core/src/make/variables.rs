//! The variables by which a program finds a pool, all of them; and what they are set to for one below.

use super::flags::export;
use crate::slots::{Auth, Ends, Pool, Style};
use std::ffi::{OsStr, OsString};

/// The variables that may name a pool. The first that does counts: cargo has one of its own for build
/// scripts.
pub const NAMING: [&str; 3] = ["CARGO_MAKEFLAGS", MAKEFLAGS, "MFLAGS"];

/// Those that are changed for a program below. cargo's own comes before make's, so it is changed where
/// there is one.
pub const CHANGED: [&str; 2] = [MAKEFLAGS, "CARGO_MAKEFLAGS"];

const MAKEFLAGS: &str = "MAKEFLAGS";

/// Make counts in it how many makes are above a program.
pub use crate::slots::MAKELEVEL;

impl Pool {
    /// MAKEFLAGS for programs below that inherit these ends, if any; `existing` is what it is so far.
    pub fn makeflags(&self, existing: Option<&OsStr>, ends: Option<Ends>) -> OsString {
        let by_ends = ends.map(|(read, write)| Auth::Pipe { read, write });
        let (auth, for_make) = match (self.style(), &by_ends) {
            (Style::Pipe, Some(by_ends)) => (by_ends, None),
            _ if by_ends.as_ref() == Some(self.auth()) => (self.auth(), None),
            _ => (self.auth(), ends),
        };
        export(existing, auth, for_make, self.slots())
    }

    /// What each of [`CHANGED`] is to be for programs below that inherit these ends, if any, where it
    /// is `existing` so far. None: it stays unset.
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
