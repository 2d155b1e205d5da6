//! Channels: a frame arrives whole or not at all, whichever process is killed, and a send never
//! waits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{child, ended, pattern, pipe, portable, Alone, LAUNCH, RESULT};
use jobserver_core::platform::Descriptor;
use jobserver_core::wire::{memory_file, Frame, Head, MemoryMap, INLINE, MAX_DESCRIPTORS};
use jobserver_core::{Body, Channel, ErrorKind, ExitStatus};
use proptest::prelude::*;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{fcntl_getfl, fcntl_setfl, fstat, OFlags};
use rustix::net::{send, SendFlags};
use rustix::process::{kill_process, Signal};
use std::fs::File;
use std::os::unix::fs::FileExt;

fn received(channel: &Channel) -> Frame {
    channel.receive().unwrap().expect("a frame, not the end of file")
}

/// Makes a send fail if it would have to wait.
fn never_wait(channel: &Channel) {
    let fd = channel.as_descriptor();
    fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
}

fn memory(contents: &[u8]) -> OwnedFd {
    let file = File::from(memory_file().unwrap());
    file.write_all_at(contents, 0).unwrap();
    file.into()
}

#[test]
fn a_frame_of_every_size_arrives_whole() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let bytes = pattern(INLINE);
    for size in 0..=INLINE {
        let body = &bytes[INLINE - size..];
        job.send(RESULT, body, &[]).unwrap();
        let frame = received(&owner);
        assert_eq!(frame.head, RESULT);
        assert!(matches!(frame.body, Body::Inline(got) if got == body), "size {size}");
    }
}

#[test]
fn frames_keep_their_order_and_their_borders() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    for body in [&b"one"[..], b"", b"three"] {
        job.send(RESULT, body, &[]).unwrap();
    }
    for body in [&b"one"[..], b"", b"three"] {
        assert_eq!(received(&owner).body.into_bytes().unwrap(), body);
    }
}

#[test]
fn a_body_too_large_for_the_socket_is_refused_and_nothing_sent() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let error = job.send(RESULT, &vec![0; INLINE + 1], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    drop(job);
    assert!(owner.receive().unwrap().is_none());
}

#[test]
fn a_memory_file_carries_a_body_of_any_size() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    for size in [0, 1, 4095, 4096, INLINE + 1, 5_000_000] {
        let body = pattern(size);
        let file = memory(&body);
        job.send_memory(RESULT, file.as_fd(), size as u64, &[]).unwrap();
        drop(file);
        assert_eq!(received(&owner).body.into_bytes().unwrap(), body);
    }
}

#[test]
fn only_the_front_of_a_memory_file_counts() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let file = memory(b"body and slack");
    job.send_memory(RESULT, file.as_fd(), 4, &[]).unwrap();
    assert_eq!(received(&owner).body.into_bytes().unwrap(), b"body");
}

/// Sends a frame's memory file. Returns the file as it was received, and its mapping.
fn sent(file: &OwnedFd) -> (Descriptor, Option<MemoryMap>) {
    let (owner, job) = Channel::pair().unwrap();
    job.send_memory(RESULT, file.as_fd(), 0, &[]).unwrap();
    let Body::Memory(received, _) = received(&owner).body else { panic!("not in memory") };
    let map = MemoryMap::of_sealed(&received);
    (received, map)
}

/// Returns whether files are mapped at all.
fn maps() -> bool {
    cfg!(target_os = "linux") && !portable()
}

#[test]
fn a_memory_file_that_was_sent_is_mapped_whole() {
    let _alone = Alone::new();
    for size in [1, 4095, 4096, 4097, 5_000_000] {
        let (_, map) = sent(&memory(&pattern(size)));
        assert_eq!(map.is_some(), maps(), "size {size}");
        if let Some(map) = map {
            assert_eq!((map.size(), map.address() % 4096), (size, 0));
            assert!(map.as_slice() == pattern(size), "size {size}");
        }
    }
}

#[test]
fn what_is_written_to_a_map_is_seen_there_alone() {
    let _alone = Alone::new();
    let (file, Some(mut map)) = sent(&memory(b"body")) else { return assert!(!maps()) };
    let other = MemoryMap::of_sealed(&file).unwrap();
    map.as_mut_slice().copy_from_slice(b"ours");
    assert_eq!((map.as_slice(), other.as_slice()), (&b"ours"[..], &b"body"[..]));
    assert_eq!(Body::Memory(file, 4).into_bytes().unwrap(), b"body");
}

#[test]
fn a_memory_file_that_was_sent_cannot_change_under_its_map() {
    let _alone = Alone::new();
    let file = memory(b"body");
    let (_, Some(map)) = sent(&file) else { return assert!(!maps()) };
    let file = File::from(file);
    file.write_all_at(b"evil", 0).unwrap_err();
    file.set_len(0).unwrap_err();
    file.set_len(1 << 20).unwrap_err();
    assert_eq!(map.as_slice(), b"body");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_could_do_harm_is_not_mapped() {
    use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
    let _alone = Alone::new();
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let made = |size: usize, seals: SealFlags| {
        let file = File::from(memfd_create("made", MemfdFlags::ALLOW_SEALING).unwrap());
        file.write_all_at(&pattern(size), 0).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    };
    assert_eq!(
        MemoryMap::of_sealed(made(4, all)).is_some(),
        maps(),
        "the test makes the wrong thing"
    );
    for missing in [SealFlags::SHRINK, SealFlags::WRITE, all] {
        assert!(MemoryMap::of_sealed(made(4, all - missing)).is_none(), "without {missing:?}");
    }
    assert!(MemoryMap::of_sealed(made(0, all)).is_none(), "an empty one");
    let holes = memfd_create("holes", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&holes, 1 << 40).unwrap();
    fcntl_add_seals(&holes, all).unwrap();
    assert!(MemoryMap::of_sealed(&holes).is_none(), "one that is not there");
    let (reader, _writer) = pipe();
    assert!(MemoryMap::of_sealed(&reader).is_none(), "no file at all");
    assert!(
        MemoryMap::of_sealed(File::open("/proc/self/exe").unwrap()).is_none(),
        "a file on a disk"
    );
}

#[test]
fn a_memory_file_has_no_name() {
    let _alone = Alone::new();
    assert_eq!(fstat(memory_file().unwrap()).unwrap().st_nlink, 0);
}

#[test]
fn a_memory_file_shorter_than_its_frame_says_is_an_error() {
    let _alone = Alone::new();
    for size in [5, 1 << 40, u64::MAX] {
        // In a process of its own: the system may kill a process that asks for so much memory.
        let reader = child(|| {
            let (owner, job) = Channel::pair().unwrap();
            job.send_memory(RESULT, memory(b"four").as_fd(), size, &[]).unwrap();
            received(&owner).body.into_bytes().unwrap_err();
            0
        });
        assert_eq!(ended(reader), ExitStatus::Code(0), "size {size}");
    }
}

fn pipes(count: usize) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
    (0..count).map(|_| pipe()).unzip()
}

fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

/// Writes through each of the descriptors that came, and reads at the other end.
fn assert_connected(read_ends: &[OwnedFd], came: &[Descriptor]) {
    assert_eq!(read_ends.len(), came.len());
    for (i, (read, write)) in read_ends.iter().zip(came).enumerate() {
        let mut byte = [0];
        rustix::io::write(write, &[i as u8]).unwrap();
        rustix::io::read(read, &mut byte).unwrap();
        assert_eq!(byte, [i as u8]);
    }
}

#[test]
fn descriptors_arrive_in_order_and_work() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    for count in [1, 2, MAX_DESCRIPTORS] {
        let (read_ends, write_ends) = pipes(count);
        owner.send(LAUNCH, b"x", &borrowed(&write_ends)).unwrap();
        drop(write_ends);
        assert_connected(&read_ends, &received(&job).descriptors);
    }
}

#[test]
fn descriptors_come_beside_a_memory_file() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let (read_ends, write_ends) = pipes(MAX_DESCRIPTORS - 1);
    let file = memory(b"body");
    owner.send_memory(LAUNCH, file.as_fd(), 4, &borrowed(&write_ends)).unwrap();
    let frame = received(&job);
    assert_connected(&read_ends, &frame.descriptors);
    assert_eq!(frame.body.into_bytes().unwrap(), b"body");
}

#[test]
fn too_many_descriptors_are_refused_and_nothing_sent() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let (_read_ends, write_ends) = pipes(MAX_DESCRIPTORS + 1);
    let (all, file) = (borrowed(&write_ends), memory(b""));
    let inline = owner.send(LAUNCH, b"", &all).unwrap_err();
    let beside = owner.send_memory(LAUNCH, file.as_fd(), 0, &all[1..]).unwrap_err();
    assert_eq!((inline.kind(), beside.kind()), (ErrorKind::InvalidInput, ErrorKind::InvalidInput));
    drop(owner);
    assert!(job.receive().unwrap().is_none());
}

#[test]
fn a_descriptor_that_came_is_closed_by_exec() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let (_read_ends, write_ends) = pipes(1);
    owner.send(LAUNCH, b"", &borrowed(&write_ends)).unwrap();
    let flags = rustix::io::fcntl_getfd(&received(&job).descriptors[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn the_end_of_the_peer_is_the_end_of_file() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    job.send(RESULT, b"last", &[]).unwrap();
    drop(job);
    assert_eq!(received(&owner).body.into_bytes().unwrap(), b"last");
    assert!(owner.receive().unwrap().is_none());
    assert!(owner.receive().unwrap().is_none(), "also when asked again");
}

#[test]
fn what_a_peer_sent_arrives_though_it_died_with_our_frames_unread() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    owner.send(LAUNCH, b"never read", &[]).unwrap();
    job.send(RESULT, b"sent", &[]).unwrap();
    drop(job);
    assert_eq!(received(&owner).body.into_bytes().unwrap(), b"sent");
    assert!(owner.receive().unwrap().is_none());
}

#[test]
fn sending_to_a_peer_that_is_gone_is_a_hang_up() {
    let _alone = Alone::new();
    for unread in [false, true] {
        let (owner, job) = Channel::pair().unwrap();
        if unread {
            owner.send(LAUNCH, b"never read", &[]).unwrap();
        }
        drop(job);
        let error = owner.send(LAUNCH, b"late", &[]).unwrap_err();
        assert!(error.is_hang_up(), "{error}");
    }
}

#[test]
fn a_job_killed_while_sending_leaves_only_whole_frames() {
    let _alone = Alone::new();
    let bytes = pattern(INLINE);
    for patience in 0..100 {
        let (owner, job) = Channel::pair().unwrap();
        let sender = child(|| loop {
            for size in [0, 1, 100, 5000, INLINE] {
                job.send(RESULT, &bytes[..size], &[]).unwrap();
            }
        });
        drop(job);
        let mut whole = 0;
        while let Some(frame) = owner.receive().unwrap() {
            let body = frame.body.into_bytes().unwrap();
            assert_eq!(body, bytes[..body.len()]);
            assert_eq!(body.len(), [0, 1, 100, 5000, INLINE][whole % 5]);
            whole += 1;
            if whole == 1 + patience {
                kill_process(sender, Signal::KILL).unwrap();
            }
        }
        assert!(whole > patience);
        assert_eq!(ended(sender), ExitStatus::Signal(libc::SIGKILL));
    }
}

#[test]
fn the_largest_result_and_the_helpers_frames_never_wait_for_the_owner() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let (_read_ends, pidfd) = pipes(1);
    never_wait(&job);
    let started = Head::Started { pid: rustix::process::getpid() };
    let exited = Head::Exited { status: ExitStatus::Code(0) };
    job.send(started, &[], &borrowed(&pidfd)).unwrap();
    job.send(RESULT, &pattern(INLINE), &[]).unwrap();
    job.send(exited, &[], &[]).unwrap();
    for head in [started, RESULT, exited] {
        assert_eq!(received(&owner).head, head);
    }
}

#[test]
fn the_largest_launch_never_waits_for_the_job() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let (_read_ends, write_ends) = pipes(MAX_DESCRIPTORS);
    never_wait(&owner);
    owner.send(LAUNCH, &pattern(INLINE), &borrowed(&write_ends)).unwrap();
    assert_eq!(received(&job).body.into_bytes().unwrap(), pattern(INLINE));
}

#[test]
fn frames_of_many_senders_stay_whole() {
    let _alone = Alone::new();
    let (owner, job) = Channel::pair().unwrap();
    let senders: Vec<_> = (0..4u8)
        .map(|sender| {
            let job = &job;
            child(move || {
                for n in 0..100u8 {
                    let size = 1 + usize::from(n) * 97;
                    job.send(RESULT, &vec![sender; size], &[]).unwrap();
                }
                0
            })
        })
        .collect();
    drop(job);
    let mut seen = [0usize; 4];
    while let Some(frame) = owner.receive().unwrap() {
        let body = frame.body.into_bytes().unwrap();
        let sender = usize::from(body[0]);
        assert_eq!(body.len(), 1 + seen[sender] * 97);
        assert!(body.iter().all(|byte| *byte == body[0]));
        seen[sender] += 1;
    }
    assert_eq!(seen, [100; 4]);
    for pid in senders {
        assert_eq!(ended(pid), ExitStatus::Code(0));
    }
}

/// Sends a packet of these bytes, as a foreign program may, and receives it.
fn packet(bytes: &[u8]) -> jobserver_core::Result<Option<Frame>> {
    let (owner, job) = Channel::pair().unwrap();
    send(job.as_descriptor(), bytes, SendFlags::empty()).unwrap();
    drop(job);
    owner.receive()
}

fn header(kind: u8, memory: u8, descriptors: u16, size: u64) -> Vec<u8> {
    let [d0, d1] = descriptors.to_ne_bytes();
    [&[kind, memory, d0, d1, 0, 0, 0, 0], &[0; 8], &size.to_ne_bytes()[..]].concat()
}

#[test]
fn strange_bytes_are_an_error_that_says_so() {
    let _alone = Alone::new();
    let strange = [
        b"short".to_vec(),
        header(0, 0, 0, 0),
        header(9, 0, 0, 0),
        header(2, 0, 0, 1),
        header(2, 0, 0, u64::MAX),
        header(2, 1, 0, 0),
        [header(2, 0, 0, 1), b"12".to_vec()].concat(),
    ];
    for bytes in strange {
        assert_eq!(packet(&bytes).unwrap_err().kind(), ErrorKind::Protocol, "{bytes:?}");
    }
}

#[test]
fn descriptors_that_did_not_come_are_an_error_that_names_the_limit() {
    let _alone = Alone::new();
    let error = packet(&header(2, 0, 1, 0)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    assert!(error.to_string().contains("ulimit -n"), "{error}");
}

proptest! {
    #[test]
    fn no_packet_whatever_is_in_it_makes_its_reader_panic(
        front in prop::collection::vec(0..8u8, 1..32),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _alone = Alone::new();
        let bytes = [front, rest].concat();
        if let Ok(Some(frame)) = packet(&bytes) {
            prop_assert_eq!(frame.body.into_bytes().unwrap(), &bytes[24..]);
        }
    }
}
