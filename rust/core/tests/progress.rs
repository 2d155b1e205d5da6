//! Progress: the owner sees which call a job is in, and other places stay unaffected.

use jobserver_core::wire::Progress;
use jobserver_core::ErrorKind;
use std::sync::Arc;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

#[test]
fn a_place_tells_the_call_that_has_begun_and_not_ended() -> Result {
    let owners = Progress::new(3)?;
    let jobs = Progress::open(Arc::clone(owners.file()))?;
    assert_eq!(owners.running(1)?, None);
    jobs.begin(1, 0)?;
    assert_eq!(owners.running(1)?, Some(0));
    jobs.begin(1, 41)?;
    assert_eq!(owners.running(1)?, Some(41));
    assert_eq!(owners.running(0)?, None);
    assert_eq!(owners.running(2)?, None);
    jobs.end(1)?;
    assert_eq!(owners.running(1)?, None);
    jobs.begin(1, 5)?;
    owners.clear(1)?;
    assert_eq!(jobs.running(1)?, None);
    Ok(())
}

#[test]
fn a_place_that_is_not_there_is_an_error() -> Result {
    let progress = Progress::new(3)?;
    for refused in [progress.begin(3, 0).err(), progress.running(3).err()] {
        assert_eq!(refused.map(|e| e.kind()), Some(ErrorKind::InvalidInput));
    }
    Ok(())
}
