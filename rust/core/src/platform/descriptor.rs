//! Descriptors of ours: never 0, 1 or 2, and known by more than their numbers.
//!
//! A number is no identity once code of others has run. That code may close what it has not
//! opened (`os.closerange(3, 256)`, as daemons do), and then a file of its own has the number. And
//! a program that was started without a standard stream hands number 0, 1 or 2 to whoever opens
//! something next, where a library's warning goes into it. So a [`Descriptor`] is moved above 2 at
//! its birth, and remembers which file it is: what is written to it, read from it or sent on it asks
//! first ([`Descriptor::intact`]), and its drop closes the number only if it is that file still.
//!
//! The file is named by its device and inode. All epoll sets share an inode; so each has a mark of
//! its own. Not covered: a pidfd before Linux 6.9, which shares that inode; and another thread that
//! closes a descriptor between the question and the use.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{fstat, Mode, OFlags};
use rustix::io::{fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd, Errno, FdFlags, Result};
use std::cell::Cell;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// An open descriptor above 2, close-on-exec, which knows its file.
#[derive(Debug)]
pub struct Descriptor {
    fd: ManuallyDrop<OwnedFd>,
    identity: FileIdentity,
    /// By which it was opened, and how; for who must have it again.
    name: Option<(PathBuf, OFlags)>,
    /// In which [`Undisturbed`] time it was last found intact.
    found: AtomicU64,
}

/// For as long as this lives, nothing runs in this thread that is not ours: so what has been found
/// intact is not asked again, which is a system call.
#[derive(Debug)]
pub(crate) struct Undisturbed(PhantomData<*const ()>);

thread_local! {
    /// Its number; 0 if there is none.
    static UNDISTURBED: Cell<u64> = const { Cell::new(0) };
}

impl Undisturbed {
    pub(crate) fn begin() -> Undisturbed {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        UNDISTURBED.set(1 + COUNT.fetch_add(1, Ordering::Relaxed));
        Undisturbed(PhantomData)
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        UNDISTURBED.set(0);
    }
}

/// What tells a file from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileIdentity {
    File {
        device: u64,
        inode: u64,
    },
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    Mark(libc::c_int),
}

impl FileIdentity {
    // Some systems have other types for these.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
    fn of(fd: impl AsFd) -> Result<FileIdentity> {
        let stat = fstat(fd)?;
        Ok(FileIdentity::File { device: stat.st_dev as u64, inode: stat.st_ino as u64 })
    }
}

/// What a process has been given as its standard streams.
pub(super) const STANDARD: std::ops::RangeInclusive<RawFd> = 0..=2;

/// The same file by a number above those.
pub(super) fn raised(fd: OwnedFd) -> Result<OwnedFd> {
    match STANDARD.contains(&fd.as_raw_fd()) {
        true => fcntl_dupfd_cloexec(&fd, STANDARD.end() + 1),
        false => Ok(fd),
    }
}

impl Descriptor {
    /// What was just opened. It must be close-on-exec.
    pub fn new(fd: OwnedFd) -> Result<Descriptor> {
        let fd = raised(fd)?;
        let identity = FileIdentity::of(&fd)?;
        Ok(Descriptor::known(fd, identity))
    }

    /// The same for what has an inode in common with others, and an open description that nobody
    /// else uses.
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    pub(crate) fn anonymous(fd: OwnedFd) -> Result<Descriptor> {
        let fd = raised(fd)?;
        let identity = FileIdentity::Mark(super::mark::put(&fd)?);
        Ok(Descriptor::known(fd, identity))
    }

    fn known(fd: OwnedFd, identity: FileIdentity) -> Descriptor {
        let (fd, found) = (ManuallyDrop::new(fd), AtomicU64::new(0));
        Descriptor { fd, identity, name: None, found }
    }

    /// The inode of its file, if that is what it is known by.
    pub fn inode(&self) -> Option<u64> {
        match self.identity {
            FileIdentity::File { inode, .. } => Some(inode),
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            FileIdentity::Mark(_) => None,
        }
    }

    /// Opens a file by a name that it keeps for as long as it is of use.
    pub(crate) fn open(path: &Path, flags: OFlags, mode: Mode) -> Result<Descriptor> {
        let flags = flags | OFlags::CLOEXEC;
        let mut opened = Descriptor::new(rustix::fs::open(path, flags, mode)?)?;
        opened.name = Some((path.to_owned(), flags - OFlags::CREATE - OFlags::EXCL));
        Ok(opened)
    }

    /// Whether its number still is that of its file.
    pub fn is_intact(&self) -> bool {
        let time = UNDISTURBED.get();
        if time != 0 && self.found.load(Ordering::Relaxed) == time {
            return true;
        }
        let intact = self.is_its_files();
        if intact && time != 0 {
            self.found.store(time, Ordering::Relaxed);
        }
        intact
    }

    fn is_its_files(&self) -> bool {
        match self.identity {
            FileIdentity::File { .. } => FileIdentity::of(self.fd.as_fd()) == Ok(self.identity),
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            FileIdentity::Mark(mark) => super::mark::is_on(self.fd.as_fd(), mark),
        }
    }

    /// The descriptor, for a use that must not meet another file.
    ///
    /// # Errors
    ///
    /// BADF: somebody has closed it, and may have opened another file in its place.
    pub fn intact(&self) -> Result<BorrowedFd<'_>> {
        match self.is_intact() {
            true => Ok(self.fd.as_fd()),
            false => Err(Errno::BADF),
        }
    }

    /// The same; or, where somebody has closed it, its file opened anew by its name, if that is
    /// this file still.
    pub(crate) fn intact_or_anew(&self) -> Result<AtHand<'_>> {
        if let Ok(intact) = self.intact() {
            return Ok(AtHand::Intact(intact));
        }
        let (path, flags) = self.name.as_ref().ok_or(Errno::BADF)?;
        let anew = Descriptor::open(path, *flags, Mode::empty())?;
        match anew.identity == self.identity {
            true => Ok(AtHand::Anew(anew)),
            false => Err(Errno::BADF),
        }
    }

    /// Whether there is something to read, or an end of what there was; or nobody has it any more.
    /// Not asked first whether it is intact: that is for whoever gets yes for an answer.
    pub(crate) fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Another descriptor of the same.
    pub fn duplicate(&self) -> Result<Descriptor> {
        Descriptor::new(fcntl_dupfd_cloexec(self.intact()?, 3)?)
    }

    fn into_owned(self) -> OwnedFd {
        let mut whole = ManuallyDrop::new(self);
        drop(whole.name.take());
        // SAFETY: `whole` is not used any more, nor dropped.
        unsafe { ManuallyDrop::take(&mut whole.fd) }
    }
}

/// A descriptor that may be used now.
#[derive(Debug)]
pub(crate) enum AtHand<'a> {
    Intact(BorrowedFd<'a>),
    Anew(Descriptor),
}

impl AsFd for AtHand<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            AtHand::Intact(fd) => *fd,
            AtHand::Anew(fd) => fd.as_fd(),
        }
    }
}

/// Without a look whether it is intact: for who has looked, or has just made it.
impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// To be somebody else's, who sees to its end.
impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> OwnedFd {
        descriptor.into_owned()
    }
}

impl From<Descriptor> for File {
    fn from(descriptor: Descriptor) -> File {
        descriptor.into_owned().into()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.is_intact() {
            // SAFETY: nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        } // else the number is another file's, or nobody's
    }
}

/// A new duplicate of the descriptor numbered `raw`.
///
/// This is how a bare number from outside becomes an owned type: the kernel says whether
/// the number means anything (EBADF otherwise).
pub fn duplicate(raw: RawFd) -> io::Result<Descriptor> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) reads and writes no memory of ours, whatever `raw` is.
    let new = match unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        new => unsafe { OwnedFd::from_raw_fd(new) },
    };
    Ok(Descriptor::new(new)?)
}

/// Opens a file for the programs below this one, which are told its number.
pub(crate) fn open_for_others(path: &Path, flags: OFlags) -> Result<RawFd> {
    let opened = raised(rustix::fs::open(path, flags, Mode::empty())?)?;
    fcntl_setfd(&opened, FdFlags::empty())?;
    Ok(opened.into_raw_fd())
}

/// Whether a number is nobody's, or the same file's.
pub(crate) fn is_free_or(number: RawFd, file: &Descriptor) -> bool {
    // SAFETY: it is only looked at, by a call that says whether it is open at all.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    match FileIdentity::of(there) {
        Ok(there) => there == file.identity,
        Err(e) => e == Errno::BADF,
    }
}

/// Opens a file at a number for the programs below this one, in a process without threads. False if
/// another file has the number.
pub(crate) fn open_in_place(number: RawFd, path: &CStr, flags: OFlags) -> Result<bool> {
    let opened = raised(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)?;
    if opened.as_raw_fd() == number {
        fcntl_setfd(&opened, FdFlags::empty())?;
        let _ = opened.into_raw_fd();
        return Ok(true);
    }
    // SAFETY: it is only looked at, by a call that says whether it is open at all.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    let free = fcntl_getfd(there) == Err(Errno::BADF);
    if !free && FileIdentity::of(there)? != FileIdentity::of(&opened)? {
        return Ok(false);
    }
    // SAFETY: the number is nobody's, or that of this very file, which goes on to be open there.
    match unsafe { libc::dup2(opened.as_raw_fd(), number) } {
        -1 => Err(super::shared::last_error()),
        _ => Ok(true),
    }
}

/// What a program does to us: puts another file in place of a descriptor. What is there now.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn put_in_place_of(ours: &Descriptor, other: impl AsFd) -> Descriptor {
    // SAFETY: it is what is to be tested that others do this.
    let number = unsafe { libc::dup2(other.as_fd().as_raw_fd(), ours.as_raw_fd()) };
    assert_eq!(number, ours.as_raw_fd());
    // SAFETY: the number is open, and `ours` will not close it.
    let now = unsafe { OwnedFd::from_raw_fd(number) };
    let identity = FileIdentity::of(&now).unwrap();
    Descriptor::known(now, identity)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_is_intact_and_closed_by_its_drop() {
        let (read, write) = crate::platform::pipe().unwrap();
        assert!(read.as_raw_fd() > 2 && read.is_intact());
        assert_eq!(rustix::io::write(&write, b"x"), Ok(1));
        drop(read);
        assert_eq!(rustix::io::write(&write, b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_number_that_is_another_files_by_now_is_neither_used_nor_closed() {
        let (ours, _) = crate::platform::pipe().unwrap();
        let now = put_in_place_of(&ours, crate::wire::memory_file().unwrap());
        assert_eq!(ours.intact().unwrap_err(), Errno::BADF);
        drop(ours);
        assert!(now.is_intact());
    }

    #[test]
    fn a_named_file_can_be_had_again_and_no_other_of_its_name() {
        let path = std::env::temp_dir().join(format!("descriptor-{}", std::process::id()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let ours = Descriptor::open(&path, flags, Mode::RUSR | Mode::WUSR).unwrap();
        let _other = put_in_place_of(&ours, crate::platform::null_device().unwrap());
        let again = ours.intact_or_anew().unwrap();
        assert!(matches!(&again, AtHand::Anew(file) if file.identity == ours.identity));
        std::fs::rename(&path, path.with_extension("away")).unwrap();
        std::fs::write(&path, b"").unwrap();
        assert!(ours.intact_or_anew().is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(path.with_extension("away")).unwrap();
    }

    #[test]
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    fn one_epoll_set_is_not_another() {
        use rustix::event::epoll::{create, CreateFlags};
        let set = || Descriptor::anonymous(create(CreateFlags::CLOEXEC).unwrap()).unwrap();
        let (one, other) = (set(), set());
        assert!(one.is_intact() && other.is_intact());
        let _now = put_in_place_of(&one, &other);
        assert!(!one.is_intact());
    }
}
