//! CPU time of processes, from /proc.

use anyhow::{Context as _, Result};

/// Ticks a second in which Linux shows CPU time to programs (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

/// CPU seconds, user and system, that a process has used so far; `None` is this process.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_seconds(process: Option<u32>) -> Result<f64> {
    let name = process.map_or("self".to_owned(), |process| process.to_string());
    let text =
        std::fs::read_to_string(format!("/proc/{name}/stat")).with_context(|| format!("process {name} is gone"))?;
    // Fields 14 and 15 of proc(5); the name, field 2, stands in parentheses and may hold spaces.
    let (_, rest) = text.rsplit_once(") ").context("/proc/…/stat has another form")?;
    let field = |number: usize| rest.split(' ').nth(number - 3).and_then(|text| text.parse::<f64>().ok());
    let (user, system) = (field(14).context("no user time")?, field(15).context("no system time")?);
    Ok((user + system) / TICKS)
}
