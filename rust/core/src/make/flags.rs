//! MAKEFLAGS: how a pool is named to programs that this process starts, and by those that started
//! it.
//!
//! This is the only module that reads and writes this variable. It follows the GNU Make manual's
//! chapter "Integrating GNU make"
//! (<https://www.gnu.org/software/make/manual/html_node/Job-Slots.html>) and the values that make
//! 4.3 and 4.4 were seen to write and accept. Not here: whether a pool so named exists and may be
//! used. This module reads neither the environment nor a file.
//!
//! ```text
//! kn -j4 -Oline --jobserver-auth=fifo:/tmp/a\ b --no-print-directory -- CFLAGS=-O2\ -g
//! |  |          |                                                    |  definitions
//! |  |          the pool; of several the last one counts             the end of the options
//! |  how many jobs
//! single-letter options without their dash, in the first word only: `n` is a dry run
//! ```
//!
//! Blanks and tabs separate words, unless a backslash stands before them. A backslash makes any
//! character stand for itself. A dollar sign is written twice, because make expands the value, like
//! that of any other variable, before it separates words.
//!
//! # Which style to export
//!
//! Make 4.4 and later take both styles. Make 4.3 dies of a fifo ("invalid --jobserver-auth string")
//! if that is the last name. It takes a pipe if it inherits the descriptors, and otherwise goes on
//! with one job. Makes before 4.2 know a pipe by its older name, which this module writes too. But
//! they take any `-jN` as an order to start a pool of their own, and say so in a warning. This
//! module writes `-jN` nevertheless: newer makes write it, and it is the only place where the size
//! of a joined pool is found.
//!
//! One value can suit both an old make and all other programs: a fifo, and then a pipe by an
//! abbreviation of the older name, `--jobserver-f=3,4`. Makes read their options by getopt_long,
//! which accepts the abbreviation, and for them the last name counts. ninja, cargo, gcc and this
//! crate compare whole words, and find the fifo. (Seen with make 4.3 and 4.4.1, ninja 1.13 and
//! cargo 1.95. A new make then takes the pipe too.)

use crate::slots::{Auth, AuthValue};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The pool that MAKEFLAGS names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PoolName {
    /// There is no pool.
    #[default]
    Nothing,
    /// There is one, but not for this program: its last name has negative descriptors.
    Disabled,
    /// There is one, but its last name has an unknown form: the program must not use it.
    Unknown(OsString),
    /// It names this pool.
    Pool(Auth),
}

/// The parts of MAKEFLAGS that this crate uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MakeFlags {
    /// The pool that it names.
    pub named: PoolName,
    /// How many jobs may run at once: the number of the last `-jN` or `--jobs=N`. `None` where
    /// there is neither, or where the last one has no number that make would accept.
    pub jobs: Option<usize>,
    /// Whether make was only asked to print its commands (`-n`).
    pub dry_run: bool,
}

impl MakeFlags {
    /// Reads a value of MAKEFLAGS. Every value has a meaning; none is refused.
    pub fn parse(value: &OsStr) -> MakeFlags {
        Parts::parse(value.as_bytes()).says
    }
}

/// Returns MAKEFLAGS for a job that shares our pool of `slots` slots (at least 1): `existing`, with
/// our pool in the place of any that it names. Its other options and its definitions stay.
/// `for_make` is a pipe's (read, write), if there is one that only make must use.
pub fn export(
    existing: Option<&OsStr>,
    auth: &Auth,
    for_make: Option<(RawFd, RawFd)>,
    slots: usize,
) -> OsString {
    let parts = Parts::parse(existing.unwrap_or_default().as_bytes());
    // As in make's own values, there is a blank even where there are no letters. Makefiles that
    // look for a letter in the first word of `-$(MAKEFLAGS)` would otherwise see the letters of our
    // options. Our options come first, where no option or backslash at the end of `existing` can
    // swallow them.
    let mut flags = quoted(&parts.letters);
    flags.extend_from_slice(format!(" -j{slots}").as_bytes());
    match auth {
        Auth::Fifo(path) => {
            flags.extend_from_slice(b" --jobserver-auth=fifo:");
            flags.extend(quoted(path.as_os_str().as_bytes()));
        }
        Auth::Pipe { read, write } => {
            // The newer name is the last, for programs that know both.
            let both = format!(" --jobserver-fds={read},{write} --jobserver-auth={read},{write}");
            flags.extend_from_slice(both.as_bytes());
        }
    }
    if let Some((read, write)) = for_make {
        flags.extend_from_slice(format!(" {FOR_MAKE}={read},{write}").as_bytes());
    }
    for word in parts.others {
        flags.push(b' ');
        flags.extend_from_slice(&word);
    }
    if !parts.definitions.is_empty() {
        flags.push(b' ');
        flags.extend_from_slice(parts.definitions);
    }
    OsString::from_vec(flags)
}

/// The option that only make reads as a pool's name: see the module.
const FOR_MAKE: &str = "--jobserver-f";

/// A value, split into what it means to this crate and what `export` keeps of it.
#[derive(Default)]
struct Parts<'a> {
    says: MakeFlags,
    /// The first word's single letters without those about jobs, decoded.
    letters: Vec<u8>,
    /// The other words, without those about jobs or a pool, as written.
    others: Vec<Cow<'a, [u8]>>,
    /// From the word `--` to the end, as written.
    definitions: &'a [u8],
}

impl<'a> Parts<'a> {
    fn parse(value: &'a [u8]) -> Parts<'a> {
        let mut parts = Parts::default();
        let mut words = Words { rest: value }.peekable();
        let mut first = true;
        while let Some(word) = words.next() {
            if word.text == b"--" {
                parts.definitions = word.onward;
                break;
            }
            let letters = letters(&word.text, first);
            let asked = MakeOption::for_word(&word.text, letters);
            // Make never writes a value as a word of its own, but accepts it so.
            let mut value = |attached: &[u8], fits: fn(&[u8]) -> bool| match attached {
                [] => words.next_if(|next| fits(&next.text)).map_or(vec![], |next| next.text),
                _ => attached.to_vec(),
            };
            match asked {
                Some(MakeOption::Jobs(n)) => parts.says.jobs = number(&value(n, is_number)),
                Some(MakeOption::Pool(name)) => {
                    parts.says.named = PoolName::from_value(value(name, is_no_option))
                }
                Some(MakeOption::ForMake) | None => {}
            }
            parts.says.dry_run |= letters.is_some_and(|letters| letters.contains(&b'n'));
            parts.keep(&word, letters, asked.is_some());
            first = false;
        }
        parts
    }

    /// Keeps a word. If the word asked for jobs or a pool, keeps only the letters before that.
    fn keep(&mut self, word: &Word<'a>, letters: Option<&[u8]>, asked: bool) {
        match letters {
            Some(letters) if !letters.starts_with(b"-") => {
                self.letters = if asked { letters.to_vec() } else { word.text.clone() };
            }
            Some(letters) if asked && letters != b"-" => self.others.push(quoted(letters).into()),
            _ if asked => {}
            _ => self.others.push(word.raw.into()),
        }
    }
}

/// The request of an option, with the value that is attached to it (or nothing).
#[derive(Clone, Copy)]
enum MakeOption<'t> {
    Jobs(&'t [u8]),
    Pool(&'t [u8]),
    ForMake,
}

impl<'t> MakeOption<'t> {
    fn for_word(word: &'t [u8], letters: Option<&[u8]>) -> Option<MakeOption<'t>> {
        if let Some(letters) = letters {
            return word[letters.len()..].strip_prefix(b"j").map(MakeOption::Jobs);
        }
        let (name, value) = match word.iter().position(|&c| c == b'=') {
            Some(equals) => (&word[..equals], &word[equals + 1..]),
            None => (word, &[][..]),
        };
        match name {
            b"--jobs" => Some(MakeOption::Jobs(value)),
            b"--jobserver-auth" | b"--jobserver-fds" => Some(MakeOption::Pool(value)),
            _ if name == FOR_MAKE.as_bytes() => Some(MakeOption::ForMake),
            _ => None,
        }
    }
}

impl PoolName {
    /// Reads the value of a jobserver option.
    fn from_value(value: Vec<u8>) -> PoolName {
        match AuthValue::read(&value) {
            AuthValue::Pool(auth) => PoolName::Pool(auth),
            AuthValue::Disabled => PoolName::Disabled,
            AuthValue::Unknown => PoolName::Unknown(OsString::from_vec(value)),
        }
    }
}

/// Parses a number of jobs that make would accept.
fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&jobs| jobs > 0)
}

fn is_number(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_digit)
}

fn is_no_option(word: &[u8]) -> bool {
    !word.starts_with(b"-")
}

/// Returns the single-letter options at the start of a word (and their dash, if they have one), up
/// to the first that takes a value: the rest of the word is this value. `None` for a word of
/// another kind. Only the first word may have no dash; older makes write other words with single
/// letters too.
fn letters(word: &[u8], first: bool) -> Option<&[u8]> {
    let plain = first && !word.starts_with(b"-") && !word.contains(&b'=');
    let dashed = word.starts_with(b"-") && !word.starts_with(b"--");
    let valued = word.iter().position(|letter| b"CEIWfjloO".contains(letter));
    (plain || dashed).then(|| &word[..valued.unwrap_or(word.len())])
}

/// A word of the value.
struct Word<'a> {
    /// Decoded.
    text: Vec<u8>,
    /// As written.
    raw: &'a [u8],
    /// The value from this word on.
    onward: &'a [u8],
}

struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let onward = &self.rest[self.rest.iter().position(|&c| !is_blank(c))?..];
        let mut text = Vec::new();
        let mut end = 0;
        while end < onward.len() && !is_blank(onward[end]) {
            // A backslash at the very end stands for itself.
            end += usize::from(onward[end] == b'\\' && end + 1 < onward.len());
            end += usize::from(onward[end..].starts_with(b"$$"));
            text.push(onward[end]);
            end += 1;
        }
        let (raw, rest) = onward.split_at(end);
        self.rest = rest;
        Some(Word { text, raw, onward })
    }
}

/// Returns a word as it must be written to be read as `text`.
fn quoted(text: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(text.len());
    for &c in text {
        match c {
            b'$' => raw.push(b'$'),
            b'\\' => raw.push(b'\\'),
            _ if is_blank(c) => raw.push(b'\\'),
            _ => {}
        }
        raw.push(c);
    }
    raw
}

/// Make separates words at these only; an end of line is part of a word.
fn is_blank(c: u8) -> bool {
    matches!(c, b' ' | b'\t')
}
