//! Which style the make that this process would run understands.
//!
//! Make before 4.4 dies of a fifo. So if the make on PATH is so old, a pool is named to it by
//! descriptors (see `flags`). A make that knows fifos has the word `fifo:` in its program file, so
//! this module searches the file: to run make would take a hundred times as long. Measured: 4.3 has
//! no such word, 4.4.1 has it. A file that is no program (a script around make, for example) counts
//! as an old make, because a new one takes descriptors too.

use crate::slots::Style;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

impl Style {
    /// Returns a style that the make that this process would run accepts.
    pub fn for_make() -> Style {
        match make_on_path().is_none_or(|(make, status)| knows_fifos(&make, &status)) {
            true => Style::Fifo,
            false => Style::Both,
        }
    }
}

fn make_on_path() -> Option<(PathBuf, Metadata)> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|folder| {
        let make = folder.join("make");
        let status = make.metadata().ok()?;
        let executable = status.is_file() && status.permissions().mode() & 0o111 != 0;
        executable.then_some((make, status))
    })
}

/// The last result, for the file with this device, inode and time of change.
static FOUND: Mutex<Option<([i64; 3], bool)>> = Mutex::new(None);

/// The largest file that is searched, in bytes. Every make is smaller.
const LARGEST: u64 = 64 << 20;

fn knows_fifos(make: &Path, status: &Metadata) -> bool {
    let file = [status.dev() as i64, status.ino() as i64, status.mtime()];
    // `try_lock`, because a fork by another thread may leave it locked in the child for good.
    let found = FOUND.try_lock().ok().and_then(|found| *found);
    if let Some((_, knows)) = found.filter(|(known, _)| *known == file) {
        return knows;
    }
    let small = status.len() <= LARGEST;
    let program = if small { std::fs::read(make).unwrap_or_default() } else { Vec::new() };
    let knows = is_program(&program) && contains(&program, b"fifo:");
    if let Ok(mut found) = FOUND.try_lock() {
        *found = Some((file, knows));
    }
    knows
}

/// Returns whether a file is a program of Linux and the BSDs, or of Apple.
fn is_program(file: &[u8]) -> bool {
    let apples =
        [0xfeed_facf_u32, 0xcafe_babe].map(|magic| [magic.to_ne_bytes(), magic.to_be_bytes()]);
    file.starts_with(b"\x7fELF") || apples.iter().flatten().any(|magic| file.starts_with(magic))
}

fn contains(file: &[u8], word: &[u8]) -> bool {
    file.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn knows(content: &[u8]) -> bool {
        let folder = std::env::temp_dir().join(format!("make-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let make = folder.join("make");
        std::fs::write(&make, content).unwrap();
        let status = make.metadata().unwrap();
        let knows = knows_fifos(&make, &status);
        std::fs::remove_dir_all(&folder).unwrap();
        FOUND.lock().unwrap().take();
        knows
    }

    #[test]
    fn a_program_that_has_the_word_knows_fifos_and_nothing_else_does() {
        assert!(knows(b"\x7fELF ... fifo:%s"));
        assert!(!knows(b"\x7fELF ... --jobserver-auth"));
        assert!(!knows(b"#!/bin/sh\n# knows fifo: perhaps\nexec gmake \"$@\"\n"));
    }
}
