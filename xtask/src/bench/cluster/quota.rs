//! A share of a core for one process, by a control group of its own: version 1 or 2, whichever the machine has.
//!
//! Needs the right to write there, as root has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::tidy::Tidy;

/// Within which a process gets its share: short, so that no call waits long for the next one, and long enough for the
/// shortest quota that Linux takes (1 ms, kernel documentation, sched-bwc).
const PERIOD: Duration = Duration::from_millis(10);

/// How long the kernel may take to let go of a group.
const PATIENCE: Duration = Duration::from_secs(2);

/// A group with a bound, removed when it is dropped.
pub(super) struct Quota<'a> {
    group: PathBuf,
    tidy: &'a Tidy,
}

impl<'a> Quota<'a> {
    /// Gives a process this share of a core, in hundredths.
    pub(super) fn of(tidy: &'a Tidy, process: u32, percent: u64) -> Result<Self> {
        let (parent, second) = parent()?;
        let group = parent.join(format!("kagimori-bench-{process}"));
        std::fs::create_dir(&group).with_context(|| format!("{} cannot be made", group.display()))?;
        tidy.has_group(group.clone());
        let quota = Self { group, tidy };
        let period = PERIOD.as_micros();
        let share = period * u128::from(percent) / 100;
        if second {
            quota.write("cpu.max", &format!("{share} {period}"))?;
        } else {
            quota.write("cpu.cfs_period_us", &period.to_string())?;
            quota.write("cpu.cfs_quota_us", &share.to_string())?;
        }
        quota.write("cgroup.procs", &process.to_string())?;
        Ok(quota)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.group.join(file);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

impl Drop for Quota<'_> {
    fn drop(&mut self) {
        match remove(&self.group) {
            Ok(()) => self.tidy.lost_group(&self.group),
            Err(error) => eprintln!("  {error:#}"),
        }
    }
}

/// Gives the processes of a group back to the one above, and removes it.
pub(super) fn remove(group: &Path) -> Result<()> {
    let began = std::time::Instant::now();
    let above = group.parent().context("a control group without one above")?.join("cgroup.procs");
    while group.exists() {
        let inside = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for process in inside.lines() {
            // A process that ended meanwhile is out of it too.
            std::fs::write(&above, process).ok();
        }
        if let Err(error) = std::fs::remove_dir(group)
            && began.elapsed() > PATIENCE
        {
            bail!("the control group {} cannot be removed: {error}", group.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The top of the hierarchy that has the controller `cpu`, and whether it is version 2.
fn parent() -> Result<(PathBuf, bool)> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("/proc/mounts cannot be read")?;
    if let Some(first) = first_version(&mounts) {
        return Ok((first, false));
    }
    let Some(second) = second_version(&mounts) else { bail!("no control groups are mounted here") };
    let switch = second.join("cgroup.subtree_control");
    std::fs::write(&switch, "+cpu").with_context(|| format!("{} cannot be written", switch.display()))?;
    Ok((second, true))
}

fn first_version(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, place, "cgroup", options, ..] => options.split(',').any(|option| option == "cpu").then(|| place.into()),
        _ => None,
    })
}

fn second_version(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, place, "cgroup2", ..] => Some(place.into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_the_controller_for_cpu_is_found() {
        let mounts = "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup \
            rw,relatime,cpu,cpuacct 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(first_version(mounts), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(second_version(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(first_version("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"), None);
    }
}
