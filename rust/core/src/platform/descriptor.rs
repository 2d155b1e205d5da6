//! The descriptors of this crate: they are never 0, 1 or 2, and know their file and not only their
//! number.
//!
//! A number does not identify a file once other code has run. That code may close descriptors that
//! it has not opened (`os.closerange(3, 256)`, as daemons do), and then another file may get the
//! number. And in a program that was started without a standard stream, the next file to be opened
//! gets number 0, 1 or 2, and a library's warning is written into it. So a [`Descriptor`] is moved
//! above 2 when it is made, and remembers which file it refers to. Each read, write or send asks
//! first whether the number still refers to that file ([`Descriptor::intact`]), and the drop closes
//! the number only if it does.
//!
//! The file is identified by its device and inode. All epoll sets share an inode, so each has a
//! mark of its own. Not covered: a pidfd before Linux 6.9, which shares that inode; and another
//! thread that closes a descriptor between the check and the use.

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
    /// The path and the flags by which it was opened, for a caller that must open it again.
    name: Option<(PathBuf, OFlags)>,
    /// The number of the [`Undisturbed`] in which it was last found intact; 0 for none.
    found: AtomicU64,
}

/// While this lives, no code runs in this thread that is not this crate's. So a descriptor that has
/// been found intact is not checked again: a check is a system call.
#[derive(Debug)]
pub(crate) struct Undisturbed(PhantomData<*const ()>);

thread_local! {
    /// The number of the current [`Undisturbed`]; 0 if there is none.
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

/// The identity of an open file.
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
    fn read(fd: impl AsFd) -> Result<FileIdentity> {
        let stat = fstat(fd)?;
        Ok(FileIdentity::File { device: stat.st_dev as u64, inode: stat.st_ino as u64 })
    }
}

/// The numbers of the standard streams.
pub(super) const STANDARD: std::ops::RangeInclusive<RawFd> = 0..=2;

/// Returns the same file under a number above the standard streams.
pub(super) fn above_standard(fd: OwnedFd) -> Result<OwnedFd> {
    match STANDARD.contains(&fd.as_raw_fd()) {
        true => fcntl_dupfd_cloexec(&fd, STANDARD.end() + 1),
        false => Ok(fd),
    }
}

impl Descriptor {
    /// Wraps a descriptor that was just opened. It must be close-on-exec.
    pub fn new(fd: OwnedFd) -> Result<Descriptor> {
        let fd = above_standard(fd)?;
        let identity = FileIdentity::read(&fd)?;
        Ok(Descriptor::with_identity(fd, identity))
    }

    /// Does the same for a descriptor whose inode other files share (an epoll set). No other
    /// process may use its open description.
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    pub(crate) fn anonymous(fd: OwnedFd) -> Result<Descriptor> {
        let fd = above_standard(fd)?;
        let identity = FileIdentity::Mark(super::mark::put(&fd)?);
        Ok(Descriptor::with_identity(fd, identity))
    }

    fn with_identity(fd: OwnedFd, identity: FileIdentity) -> Descriptor {
        let (fd, found) = (ManuallyDrop::new(fd), AtomicU64::new(0));
        Descriptor { fd, identity, name: None, found }
    }

    /// Returns the inode of its file, if the inode identifies it.
    pub fn inode(&self) -> Option<u64> {
        match self.identity {
            FileIdentity::File { inode, .. } => Some(inode),
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            FileIdentity::Mark(_) => None,
        }
    }

    /// Opens a file, and keeps its path: see `intact_or_anew`.
    pub(crate) fn open(path: &Path, flags: OFlags, mode: Mode) -> Result<Descriptor> {
        let flags = flags | OFlags::CLOEXEC;
        let mut opened = Descriptor::new(rustix::fs::open(path, flags, mode)?)?;
        opened.name = Some((path.to_owned(), flags - OFlags::CREATE - OFlags::EXCL));
        Ok(opened)
    }

    /// Returns whether its number still refers to its file.
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
            FileIdentity::File { .. } => FileIdentity::read(self.fd.as_fd()) == Ok(self.identity),
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            FileIdentity::Mark(mark) => super::mark::is_on(self.fd.as_fd(), mark),
        }
    }

    /// Returns the descriptor, for a use that must not affect another file.
    ///
    /// # Errors
    ///
    /// BADF: other code has closed it, and may have opened another file in its place.
    pub fn intact(&self) -> Result<BorrowedFd<'_>> {
        match self.is_intact() {
            true => Ok(self.fd.as_fd()),
            false => Err(Errno::BADF),
        }
    }

    /// Does the same. If other code has closed the descriptor, opens its path again and returns
    /// that, if it is the same file.
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

    /// Returns whether there is input or an end of file; true also if the number is closed. It does
    /// not check whether the descriptor is intact: a caller that gets true does that.
    pub(crate) fn is_readable(&self) -> bool {
        Descriptor::any_is_readable([self])
    }

    /// The same for several, by one system call.
    pub(crate) fn any_is_readable<'a>(all: impl IntoIterator<Item = &'a Descriptor>) -> bool {
        let mut fds: Vec<_> = all.into_iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Duplicates the descriptor.
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

/// A descriptor that is known to be intact.
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

/// No check whether it is intact: the caller has checked, or has just made it.
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

/// The new owner of the descriptor closes it.
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
            // SAFETY: it is not used after this.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        } // else the number is closed, or another file has it
    }
}

/// Duplicates the descriptor numbered `raw`.
///
/// This is how a bare number from outside becomes an owned type. The kernel says whether the number
/// is open (EBADF otherwise).
pub fn duplicate(raw: RawFd) -> io::Result<Descriptor> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) reads and writes no memory of ours, whatever `raw` is.
    let new = match unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for this call; it has no other owner.
        new => unsafe { OwnedFd::from_raw_fd(new) },
    };
    Ok(Descriptor::new(new)?)
}

/// Opens a file for the programs below this one, and returns its number, which is named to them.
pub(crate) fn open_for_others(path: &Path, flags: OFlags) -> Result<RawFd> {
    let opened = above_standard(rustix::fs::open(path, flags, Mode::empty())?)?;
    fcntl_setfd(&opened, FdFlags::empty())?;
    Ok(opened.into_raw_fd())
}

/// Returns whether a number is closed, or refers to `file`.
pub(crate) fn is_free_or(number: RawFd, file: &Descriptor) -> bool {
    // SAFETY: it is only looked at, by a call that says whether it is open at all.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    match FileIdentity::read(there) {
        Ok(there) => there == file.identity,
        Err(e) => e == Errno::BADF,
    }
}

/// Opens a file at a number for the programs below this one, in a process without threads. Returns
/// false if another file has the number.
pub(crate) fn open_in_place(number: RawFd, path: &CStr, flags: OFlags) -> Result<bool> {
    let opened = above_standard(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)?;
    if opened.as_raw_fd() == number {
        fcntl_setfd(&opened, FdFlags::empty())?;
        let _ = opened.into_raw_fd();
        return Ok(true);
    }
    // SAFETY: it is only looked at, by a call that says whether it is open at all.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    let free = fcntl_getfd(there) == Err(Errno::BADF);
    if !free && FileIdentity::read(there)? != FileIdentity::read(&opened)? {
        return Ok(false);
    }
    // SAFETY: the number is closed, or refers to this very file, which stays open there.
    match unsafe { libc::dup2(opened.as_raw_fd(), number) } {
        -1 => Err(super::shared::last_error()),
        _ => Ok(true),
    }
}

/// Puts another file in the place of a descriptor, as other code in the program may do. Returns the
/// descriptor that has the number now.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn put_in_place_of(ours: &Descriptor, other: impl AsFd) -> Descriptor {
    // SAFETY: the test needs exactly this change by other code.
    let number = unsafe { libc::dup2(other.as_fd().as_raw_fd(), ours.as_raw_fd()) };
    assert_eq!(number, ours.as_raw_fd());
    // SAFETY: the number is open, and `ours` will not close it.
    let now = unsafe { OwnedFd::from_raw_fd(number) };
    let identity = FileIdentity::read(&now).unwrap();
    Descriptor::with_identity(now, identity)
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
