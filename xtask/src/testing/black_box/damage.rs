//! What the disk may do: flip a bit, be full.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::lifecycle::{ends, signs};
use crate::conversation::Conversation;
use crate::installation::Wishes;
use crate::narrate;
use crate::testing::Tally;
use crate::testing::disposable::Disposable;
use crate::workspace::{Workspace, capture, output};

/// Places at which a bit of the store is flipped, spread evenly.
const FLIPS: u64 = 32;

/// Runs the checks. Stops the HSM.
pub(super) fn run(tally: &mut Tally, workspace: &Workspace, hsm: &mut Disposable) -> Result<()> {
    let mut application = Conversation::start(hsm.application(workspace, &["hold"])?)?;
    signs(&mut application)?;
    application.end()?;
    let keys = keys(hsm)?;
    hsm.stop()?;
    tally.check("a store with a flipped bit is refused, or nothing of it was hit", flipped(hsm, &keys));
    hsm.restart()?;
    tally.check("the store is as it was", if self::keys(hsm)? == keys { Ok(()) } else { bail!("keys differ") });
    match full_disk(workspace) {
        Err(error) if error.is::<CannotMount>() => narrate::line(format!("note: the full disk was not tried: {error}")),
        outcome => tally.check("a full disk refuses changes and loses none", outcome),
    }
    Ok(())
}

/// Everything that the cluster says of its keys.
fn keys(hsm: &Disposable) -> Result<String> {
    let mut command = hsm.installation().kagimori();
    command.env("KAGIMORI_ROLE", "crypto-user").env("KAGIMORI_PIN", hsm.installation().pin("app")?);
    capture(command.args(["key", "list", "-v", "--max-items", "1000", "--output", "json"]))
}

fn flipped(hsm: &mut Disposable, before: &str) -> Result<()> {
    let data = hsm.installation().data();
    let good = hsm.folder().join("good");
    copy_files(&data, &good)?;
    let store = std::fs::read(good.join("store.redb")).context("the store cannot be read")?;
    let mut refused = 0;
    for flip in 0..FLIPS {
        let mut bad = store.clone();
        let at = usize::try_from(store.len() as u64 * (2 * flip + 1) / (2 * FLIPS))?;
        bad[at] ^= 0x10;
        std::fs::write(data.join("store.redb"), &bad)?;
        match serves(hsm)? {
            None => refused += 1,
            // The bit lay in free space: what is served must be what was there.
            Some(keys) if keys == before => {}
            Some(_) => bail!("with a bit flipped at {at} of {} the HSM served something else", store.len()),
        }
        copy_files(&good, &data)?;
    }
    narrate::line(format!("{refused} of {FLIPS} flipped bits were met and refused; the others lay in free space"));
    if refused == 0 { bail!("no flipped bit was noticed") } else { Ok(()) }
}

/// Starts the HSM; the keys that it serves, or nothing when it refuses to start or to tell.
fn serves(hsm: &mut Disposable) -> Result<Option<String>> {
    let mut child =
        hsm.installation().serve(hsm.installation().addresses()?)?.spawn().context("no HSM can be started")?;
    while hsm.installation().status().is_err() {
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let keys = keys(hsm).ok();
    child.kill().context("the HSM cannot be killed")?;
    ends(&mut child)?;
    Ok(keys)
}

/// Copies the files of a folder, without what is no file.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// This machine does not let the test mount a small disk.
#[derive(Debug)]
struct CannotMount(String);

impl std::fmt::Display for CannotMount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for CannotMount {}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = capture(Command::new("umount").arg("--lazy").arg(self.0)) {
            eprintln!("  {} is still mounted: {error:#}", self.0.display());
        }
    }
}

fn full_disk(workspace: &Workspace) -> Result<()> {
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let small = output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "none"]).arg(folder.path()))?;
    if !small.status.success() {
        return Err(CannotMount(String::from_utf8_lossy(&small.stderr).trim().to_owned()).into());
    }
    let _mounted = Mounted(folder.path());
    let mut hsm = Disposable::start_below(workspace, folder.path(), Wishes::default())?;
    let mut application = Conversation::start(hsm.application(workspace, &["hold"])?)?;
    let before = keys(&hsm)?;
    let filler = folder.path().join("filler");
    // The write fails when the disk is full, which is what it is for.
    if std::fs::write(&filler, vec![0; 64 << 20]).is_ok() {
        bail!("the small disk was not small");
    }
    let mut command = hsm.installation().kagimori();
    command.env("KAGIMORI_ROLE", "crypto-user").env("KAGIMORI_PIN", hsm.installation().pin("app")?);
    command.args(["key", "generate-symmetric", "aes", "--label", "full", "--key-length-bytes", "32"]);
    let mut refusals = 0;
    for _ in 0..200 {
        refusals += u32::from(!output(&mut command)?.status.success());
        if refusals == 3 {
            break;
        }
    }
    if refusals < 3 {
        bail!("200 keys were made on a full disk");
    }
    std::fs::remove_file(&filler)?;
    if hsm.installation().status().is_err() {
        hsm.wait_for_end()?;
        hsm.restart().context("the HSM does not start again with room on its disk")?;
    }
    signs(&mut application).context("the session did not go on after the disk had room again")?;
    if !same_or_more(&before, &keys(&hsm)?) { bail!("a key is lost") } else { Ok(()) }
}

/// Whether every key reference of before is there after.
fn same_or_more(before: &str, after: &str) -> bool {
    let references = |text: &str| -> Vec<String> {
        text.split("\"key-reference\":\"").skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect()
    };
    let after = references(after);
    references(before).iter().all(|reference| after.contains(reference))
}
