//! Sets the environment of a command that must find a pool.

use super::variables::CHANGED;
use crate::slots::{Ends, Pool};
use std::process::Command;

impl Pool {
    /// Makes a command's environment name this pool. `ends` are the ends that the command inherits,
    /// if any: see [`Pool::open_ends`].
    pub fn name_to(&self, command: &mut Command, ends: Option<Ends>) {
        let existing = CHANGED.map(std::env::var_os);
        let variables = self.variables(existing.each_ref().map(|value| value.as_deref()), ends);
        for (name, value) in CHANGED.iter().zip(variables) {
            command.envs(value.map(|value| (name, value)));
        }
    }
}
