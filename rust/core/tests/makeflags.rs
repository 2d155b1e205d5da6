//! MAKEFLAGS: it is read as make reads it, and written so that make and this crate read the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use jobserver_core::make::flags::{export, MakeFlags, PoolName};
use jobserver_core::slots::Auth;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Command, Output};

fn parse(value: &str) -> MakeFlags {
    MakeFlags::parse(OsStr::new(value))
}

fn fifo(path: &str) -> Auth {
    Auth::Fifo(path.into())
}

fn pipe(read: RawFd, write: RawFd) -> Auth {
    Auth::Pipe { read, write }
}

fn named(value: &str) -> PoolName {
    parse(value).named
}

fn unknown(form: &str) -> PoolName {
    PoolName::Unknown(form.into())
}

fn exported(existing: &str, auth: &Auth) -> String {
    export(Some(OsStr::new(existing)), auth, None, 4).into_string().unwrap()
}

#[test]
fn what_make_writes_is_read() {
    for (value, named, jobs, dry_run) in [
        ("", PoolName::Nothing, None, false),
        ("kn", PoolName::Nothing, None, true),
        (" -j", PoolName::Nothing, None, false),
        // 4.4
        (" -j4 --jobserver-auth=fifo:/tmp/a", PoolName::Pool(fifo("/tmp/a")), Some(4), false),
        ("n -j4 --jobserver-auth=3,4 -- X=a\\ b", PoolName::Pool(pipe(3, 4)), Some(4), true),
        (" -j2 --jobserver-auth=3,4 --jobserver-auth=-2,-2", PoolName::Disabled, Some(2), false),
        // 4.3
        ("k -j3 -Oline --jobserver-auth=3,4 -- Y=1", PoolName::Pool(pipe(3, 4)), Some(3), false),
        // before 4.2
        (" --jobserver-fds=3,4 -j", PoolName::Pool(pipe(3, 4)), None, false),
        // cargo, in CARGO_MAKEFLAGS
        ("-j --jobserver-fds=8,9 --jobserver-auth=8,9", PoolName::Pool(pipe(8, 9)), None, false),
    ] {
        assert_eq!(parse(value), MakeFlags { named, jobs, dry_run }, "{value}");
    }
}

#[test]
fn the_last_name_counts() {
    let known = PoolName::Pool(pipe(5, 6));
    assert_eq!(named("--jobserver-auth=fifo:/a --jobserver-auth=5,6"), known);
    assert_eq!(named("--jobserver-auth=fifo:/a --jobserver-fds=5,6"), known);
    assert_eq!(named("--jobserver-fds=-1,-1 --jobserver-auth=5,6"), known);
    assert_eq!(named("--jobserver-auth=sem:a --jobserver-auth=5,6"), known);
    assert_eq!(named("--jobserver-auth=5,6 --jobserver-auth=sem:a"), unknown("sem:a"));
}

#[test]
fn one_negative_descriptor_is_enough_to_disable() {
    for name in ["-1,-1", "-2,-2", "3,-1", "-1,4"] {
        assert_eq!(named(&format!("-j4 --jobserver-auth={name}")), PoolName::Disabled, "{name}");
    }
}

#[test]
fn a_form_that_we_do_not_know_is_no_pool() {
    for form in
        ["", "3", "3,", ",4", "3,4,5", "3;4", "a,b", "3,4x", "99999999999,4", "Fifo:/a", "fifo"]
    {
        assert_eq!(named(&format!(" --jobserver-auth={form}")), unknown(form), "{form}");
    }
}

#[test]
fn only_whole_names_of_options_count() {
    for word in ["--jobserver-auths=3,4", "--jobserver=3,4", "-jobserver-auth=3,4", "a--jobs=3"] {
        assert_eq!(parse(word), MakeFlags::default(), "{word}");
    }
}

#[test]
fn nothing_after_two_dashes_is_an_option() {
    for value in ["-- X=1 --jobserver-auth=3,4 -j4", " -- n", "\\-- -j4"] {
        assert_eq!(parse(value), MakeFlags::default(), "{value}");
    }
    assert_eq!(named("-k -- --jobserver-auth=5,6"), PoolName::Nothing);
    // These are not two dashes.
    assert_eq!(parse("--- -j4").jobs, Some(4));
    assert_eq!(parse("--\\  -j4").jobs, Some(4));
}

#[test]
fn single_letters_are_those_of_the_first_word_and_those_with_a_dash() {
    for value in ["n", "kn", "  nk", "\tn -j4", "nj4", "-n", "-j4 -kn", "--no-print-directory -n"] {
        assert!(parse(value).dry_run, "{value}");
    }
    // The value of an option, a definition, a second word, a long option.
    for value in ["Wn", "-In", "-j4 n", "X=n", "-Oline", "k n", "--no-silent", "-k -- -n", "-Ek=n"]
    {
        assert!(!parse(value).dry_run, "{value}");
    }
}

#[test]
fn the_number_of_jobs_is_read_in_every_spelling() {
    for value in ["-j4", "j4", "kj4", "-kj4", "-j 4", "j 4", "--jobs=4", "--jobs 4", "-j -j4"] {
        assert_eq!(parse(value).jobs, Some(4), "{value}");
    }
    for value in [
        "-j",
        "-j0",
        "-jx",
        "-j4x",
        "-j-4",
        "-j -4",
        "-j4 -j",
        "X=j4",
        "k j4",
        "--jobs",
        "-j99999999999999999999999",
        "-j4\n",
        "--jobs=",
        "-j x",
        "-j -- 4",
    ] {
        assert_eq!(parse(value).jobs, None, "{value}");
    }
}

#[test]
fn a_value_may_be_a_word_of_its_own() {
    assert_eq!(named("--jobserver-auth 3,4"), PoolName::Pool(pipe(3, 4)));
    assert_eq!(
        parse("--jobserver-auth -j4"),
        MakeFlags { named: unknown(""), jobs: Some(4), dry_run: false }
    );
    assert_eq!(named("--jobserver-auth -- 3,4"), unknown(""));
}

#[test]
fn a_backslash_and_a_second_dollar_sign_quote() {
    let path = |value: &str| match named(&format!("--jobserver-auth=fifo:{value}")) {
        PoolName::Pool(Auth::Fifo(path)) => path.into_os_string().into_string().unwrap(),
        other => panic!("{other:?}"),
    };
    for (written, meant) in [
        (r"/a\ b", "/a b"),
        ("/a\\\tb", "/a\tb"),
        (r"/a\\b", r"/a\b"),
        (r"/a\b", "/ab"),
        (r"/a\", r"/a\"),
        (r"/a\\ b", r"/a\"),
        ("/a$$b", "/a$b"),
        (r"/a\$$b", "/a$b"),
        // Make itself writes this when it passes on a value that had two of them.
        ("/a$b", "/a$b"),
        ("/a\nb", "/a\nb"),
        ("", ""),
    ] {
        assert_eq!(path(written), meant, "{written}");
    }
    assert_eq!(named(r"-Ia\ --jobserver-auth=3,4"), PoolName::Nothing);
    assert_eq!(named(r"-Ia\\ --jobserver-auth=3,4"), PoolName::Pool(pipe(3, 4)));
}

#[test]
fn a_path_may_be_of_any_bytes() {
    let value = OsStr::from_bytes(b"-j4 --jobserver-auth=fifo:/\xff\x80");
    let path = OsStr::from_bytes(b"/\xff\x80").into();
    assert_eq!(MakeFlags::parse(value).named, PoolName::Pool(Auth::Fifo(path)));
}

#[test]
fn what_is_exported_is_what_make_writes() {
    let alone = |auth| export(None, &auth, None, 4).into_string().unwrap();
    assert_eq!(alone(fifo("/a b\\c$d")), r" -j4 --jobserver-auth=fifo:/a\ b\\c$$d");
    assert_eq!(alone(pipe(3, 4)), " -j4 --jobserver-fds=3,4 --jobserver-auth=3,4");
}

#[test]
fn descriptors_that_are_for_make_are_named_last_and_by_no_whole_word() {
    let flags = export(Some(OsStr::new("k")), &fifo("/p"), Some((3, 4)), 4);
    assert_eq!(flags, "k -j4 --jobserver-auth=fifo:/p --jobserver-f=3,4");
    assert_eq!(MakeFlags::parse(&flags).named, PoolName::Pool(fifo("/p")));
    assert_eq!(export(Some(&flags), &fifo("/q"), None, 4), "k -j4 --jobserver-auth=fifo:/q");
}

#[test]
fn the_exported_pool_replaces_another_and_the_rest_survives() {
    let ours = "-j4 --jobserver-auth=fifo:/p";
    for (existing, before, after) in [
        ("", "", ""),
        ("k", "k", ""),
        (" k", "k", ""),
        ("-k", "", " -k"),
        ("kj9", "k", ""),
        ("j9", "", ""),
        ("j 9", "", ""),
        ("-kj9 -s", "", " -k -s"),
        ("X=1 k", "", " X=1 k"),
        ("k -j9 -Oline --jobserver-auth=3,4 --trace -- X=-j2", "k", " -Oline --trace -- X=-j2"),
        ("--jobserver-fds=3,4 -j -l2 --jobs=7 --jobs 8", "", " -l2"),
        ("--jobserver-auth 3,4 -I/a\\ b$(c)", "", " -I/a\\ b$(c)"),
        (" --jobserver-auth=3,4 --jobserver-auth=-2,-2 -- Z=1", "", " -- Z=1"),
        ("-- -j9 --jobserver-auth=3,4  X=\\", "", " -- -j9 --jobserver-auth=3,4  X=\\"),
        ("k\\", "k\\\\", ""),
        ("k -I\\", "k", " -I\\"),
        ("k -I", "k", " -I"),
    ] {
        assert_eq!(
            exported(existing, &fifo("/p")),
            format!("{before} {ours}{after}"),
            "{existing}"
        );
    }
}

/// Returns the version of this machine's make, if it is GNU's.
fn version_of_make() -> Option<(u32, u32)> {
    let Output { stdout, .. } = Command::new("make").arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    let (major, minor) = said.strip_prefix("GNU Make ")?.split_once('.')?;
    let minor = minor.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn the_real_make_takes_what_is_exported() {
    // The pipe has two tokens; make inherits it as 3 and 4, and it also has a name.
    const POOL: &str =
        r#"mkfifo "$1" && exec 3<>"$1" 4>&3 && printf ++ >&3 && MAKEFLAGS=$2 make -f -"#;
    const MAKEFILE: &str = r#"all:; +@printf %s "$$MAKEFLAGS""#;
    let Some(version) = version_of_make().filter(|&version| version >= (4, 2)) else { return };
    let directory = std::env::temp_dir().join(format!("makeflags $a\\b {}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("pool");
    for auth in [pipe(3, 4), Auth::Fifo(path.clone())] {
        if version < (4, 4) && auth != pipe(3, 4) {
            continue;
        }
        let flags = export(Some(OsStr::new("k -j9 -Oline -l 5 -- X=a\\ b")), &auth, None, 3);
        let made = Command::new("sh")
            .args(["-c", &format!("echo '{MAKEFILE}' | {{ {POOL}; }}"), "sh"])
            .args([path.as_os_str(), &flags])
            .env_remove("MAKELEVEL")
            .output()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        // A make that cannot use the pool prints a warning.
        assert_eq!(String::from_utf8_lossy(&made.stderr), "");
        let passed_on = OsString::from_vec(made.stdout);
        let expected = MakeFlags { named: PoolName::Pool(auth), jobs: Some(3), dry_run: false };
        assert_eq!(MakeFlags::parse(&passed_on), expected, "{passed_on:?}");
        let passed_on = passed_on.into_string().unwrap();
        assert!(passed_on.starts_with("k -j3 "), "{passed_on}");
        assert!(passed_on.contains(" -l5 ") && passed_on.contains(" -Oline "), "{passed_on}");
        assert!(passed_on.ends_with(" -- X=a\\ b"), "{passed_on}");
    }
    std::fs::remove_dir(&directory).unwrap();
}

/// Values made of pieces, some with a meaning and some without.
fn values() -> impl Strategy<Value = OsString> {
    let pieces = select(vec![
        "n",
        "k",
        "j",
        "I",
        "4",
        " ",
        "\t",
        "\n",
        "\\",
        "$",
        "=",
        "-",
        "--",
        " -- ",
        " -j",
        " -kj",
        "--jobs",
        "--jobserver-auth",
        "--jobserver-fds=",
        "3,4",
        "-1,-1",
        "fifo:/a",
        ",",
        "X=1",
    ]);
    let noise = vec(any::<u8>(), 0..4);
    vec(prop_oneof![4 => pieces.prop_map(|p| p.as_bytes().to_vec()), 1 => noise], 0..12)
        .prop_map(|parts| OsString::from_vec(parts.concat()))
}

fn auths() -> impl Strategy<Value = Auth> {
    prop_oneof![
        values().prop_map(|path| Auth::Fifo(path.into())),
        (0..RawFd::MAX, 0..RawFd::MAX).prop_map(|(read, write)| pipe(read, write)),
    ]
}

/// Options as make writes them.
fn options() -> impl Strategy<Value = Vec<String>> {
    let option = select(vec![
        "-j3",
        "-k",
        "-Oline",
        "-I/a\\ b",
        "--trace",
        "--jobserver-auth=3,4",
        "--jobserver-fds=5,6",
        "--jobserver-auth=-2,-2",
        "--jobserver-auth=fifo:/a",
        "--jobserver-auth=sem:a",
        "-j",
    ]);
    vec(option.prop_map(str::to_owned), 0..8)
}

proptest! {
    #[test]
    fn what_was_exported_is_read(existing in values(), auth in auths(), slots in 1..usize::MAX) {
        let flags = export(Some(&existing), &auth, None, slots);
        let dry_run = MakeFlags::parse(&existing).dry_run;
        let expected = MakeFlags { named: PoolName::Pool(auth.clone()), jobs: Some(slots), dry_run };
        prop_assert_eq!(MakeFlags::parse(&flags), expected);
        // A second export replaces nothing.
        prop_assert_eq!(&export(Some(&flags), &auth, None, slots), &flags);
    }

    #[test]
    fn no_bytes_are_refused(value in vec(any::<u8>(), 0..64), auth in auths()) {
        let value = OsString::from_vec(value);
        MakeFlags::parse(&value);
        let flags = export(Some(&value), &auth, None, 1);
        prop_assert_eq!(MakeFlags::parse(&flags).named, PoolName::Pool(auth));
    }

    #[test]
    fn the_last_name_always_counts(before in options(), name in "[a-z0-9,:/-]{0,8}") {
        let last = format!("--jobserver-auth={name}");
        prop_assert_eq!(named(&format!(" {} {last}", before.join(" "))), named(&last));
    }

    #[test]
    fn what_follows_two_dashes_never_counts(options in options(), definitions in values()) {
        let mut value = OsString::from(format!(" {}", options.join(" ")));
        let without = MakeFlags::parse(&value);
        value.push(" -- ");
        value.push(&definitions);
        prop_assert_eq!(MakeFlags::parse(&value), without);
        // No byte of the definitions is lost either.
        let flags = export(Some(&value), &fifo("/p"), None, 2);
        prop_assert!(flags.as_bytes().ends_with(&[b"-- ", definitions.as_bytes()].concat()));
    }

    #[test]
    fn the_other_options_survive_in_order(options in options(), auth in auths()) {
        let replaced = |option: &&String| option.starts_with("-j") || option.starts_with("--jo");
        let others: Vec<_> = options.iter().filter(|option| !replaced(option)).cloned().collect();
        let existing = format!("s {}", options.join(" "));
        let flags = export(Some(OsStr::new(&existing)), &auth, None, 2);
        let rest = format!(" {}", others.join(" "));
        prop_assert!(flags.as_bytes().starts_with(b"s -j2 --jobserver-"));
        prop_assert!(flags.as_bytes().ends_with(rest.trim_end().as_bytes()));
    }
}
