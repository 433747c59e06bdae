//! The HSM is killed again and again under load; what it acknowledged must be there, what it destroyed must not.
//!
//! The load is one process with one login the whole time: its calls meet every kill and must all be answered.

use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Tally;
use super::disposable::Disposable;
use crate::conversation::Conversation;
use crate::installation::Wishes;
use crate::narrate;
use crate::workspace::Workspace;

/// The longest time between the first acknowledgement after a restart and the kill.
const LOAD_MILLISECONDS: u64 = 40;

/// How long the load may be without any acknowledgement after a restart.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills so often, or until the time is over.
pub(super) fn run(workspace: &Workspace, kills: u32, time: Duration) -> Result<Tally> {
    let mut hsm = Disposable::start_as(workspace, Wishes { log: Some("warn"), ..Wishes::default() })?;
    let mut command = hsm.application(workspace, &["store-load"])?;
    // The library warns of every lost connection, and here they are the point.
    command.stderr(std::fs::File::create(hsm.folder().join("load.log")).context("no log for the load")?);
    let mut load = Conversation::start(command)?;
    let (lines, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let step = narrate::begin(format!("{kills} kills under load"));
    let (done, said) = std::thread::scope(|scope| {
        let output = load.output();
        let reader = scope.spawn(|| {
            let mut said = String::new();
            while output.read_line(&mut said).is_ok_and(|length| length > 0) {
                lines.fetch_add(1, Ordering::Relaxed);
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
            said
        });
        let mut done = 0;
        let outcome = loop {
            if done == kills || began.elapsed() > time {
                break Ok(());
            }
            if let Err(error) = kill_once(&mut hsm, &lines, u64::from(done)) {
                break Err(error);
            }
            done += 1;
        };
        over.store(true, Ordering::Relaxed);
        let said = reader.join().map_err(|_| anyhow::anyhow!("the reader of the load panicked"))?;
        outcome.map(|()| (done, said)).with_context(|| format!("after {done} kills"))
    })?;
    let rest = finish(load)?;
    step.done(format!("{done} done, {} lines acknowledged", lines.load(Ordering::Relaxed)));
    let mut tally = Tally::default();
    tally.check("every call of the load was answered", answered(&rest));
    tally.check("every acknowledged change is in the store", look_up(workspace, &hsm, &format!("{said}{rest}")));
    if done < kills {
        narrate::line(format!("note: {done} of {kills} kills fitted into {} s", time.as_secs()));
    }
    tally.passed += u64::from(done);
    Ok(tally)
}

/// Waits until the load goes on, lets it go on for a moment that differs each time, kills and restarts.
fn kill_once(hsm: &mut Disposable, lines: &AtomicU64, number: u64) -> Result<()> {
    let before = lines.load(Ordering::Relaxed);
    let began = Instant::now();
    while lines.load(Ordering::Relaxed) == before {
        if began.elapsed() > PATIENCE {
            bail!("the load went on for {PATIENCE:?} without an acknowledgement after the HSM was restarted");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Multiplying by an odd number visits every residue: the moments are spread evenly and the same in each run.
    std::thread::sleep(Duration::from_millis(number * 17 % LOAD_MILLISECONDS));
    hsm.kill()?;
    hsm.restart()
}

/// Tells the load to end and reads what it says until then.
fn finish(mut load: Conversation) -> Result<String> {
    load.close_input();
    let mut rest = String::new();
    loop {
        if load.output().read_line(&mut rest).context("the load's output cannot be read")? == 0 {
            break;
        }
    }
    load.end().with_context(|| rest.lines().last().unwrap_or_default().to_owned())?;
    Ok(rest)
}

fn answered(rest: &str) -> Result<()> {
    match rest.lines().find(|line| line.starts_with("failed")) {
        Some(line) => bail!("{line}"),
        None => Ok(()),
    }
}

fn look_up(workspace: &Workspace, hsm: &Disposable, said: &str) -> Result<()> {
    let mut command = hsm.application(workspace, &["store-check"])?;
    let mut file = tempfile::tempfile().context("no temporary file")?;
    file.write_all(said.as_bytes()).context("the temporary file cannot be written")?;
    std::io::Seek::rewind(&mut file).context("the temporary file cannot be rewound")?;
    let output = command.stdin(file).output().context("store-check cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    narrate::line(text.lines().last().unwrap_or_default());
    if !output.status.success() {
        bail!("{text}");
    }
    Ok(())
}
