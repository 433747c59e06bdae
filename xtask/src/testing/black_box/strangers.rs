//! Whoever has no business here: wrong passwords, unknown users, no certificate or another's, old TLS, idle sockets.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lifecycle::signs;
use crate::conversation::Conversation;
use crate::installation::{ADMIN, Installation};
use crate::testing::Tally;
use crate::testing::disposable::Disposable;
use crate::workspace::{Workspace, capture, last_lines, output};

/// Wrong passwords after which a user is locked: more than five (AWS CloudHSM).
const WRONG: u32 = 6;

/// Connections that send nothing.
const HALF_OPEN: usize = 1000;

/// How long the admin under attack may have to wait.
const SLOWED_DOWN: Duration = Duration::from_secs(60);

/// Runs the checks.
pub(super) fn run(tally: &mut Tally, workspace: &Workspace, hsm: &Disposable) -> Result<()> {
    let installation = hsm.installation();
    let wrong = hsm.folder().join("wrong.password");
    std::fs::write(&wrong, "Wrong0Wrong0Wrong0").context("no file can be written")?;
    tally.check("six wrong passwords lock new logins and end no session", lockout(workspace, hsm, &wrong));
    tally.check("an unknown user and a wrong password get the same answer", unknown(installation, &wrong));
    tally.check("the only admin under attack is slowed down and not locked out", attacked_admin(installation, &wrong));
    tally.check("TLS 1.2 is refused", old_tls(installation));
    tally.check("a client without a certificate is refused", without_certificate(hsm));
    tally.check("a client with a stranger's certificate is refused", strange_certificate(hsm));
    tally.check("a thousand half-open connections do not keep others out", half_open(installation));
    Ok(())
}

fn lockout(workspace: &Workspace, hsm: &Disposable, wrong: &Path) -> Result<()> {
    const USER: &str = "lockedout";
    let installation = hsm.installation();
    installation.create_user(USER)?;
    let right = installation.admin().join(format!("{USER}.password"));
    let mut command = hsm.application(workspace, &["hold"])?;
    command.env("P11_PIN", installation.pin(USER)?);
    let mut session = Conversation::start(command)?;
    for _ in 0..WRONG {
        refused(&mut log_in(installation, USER, "crypto-user", wrong))?;
    }
    refused(&mut log_in(installation, USER, "crypto-user", &right))
        .context("the right password was taken after all")?;
    signs(&mut session).context("the running session was ended")?;
    let mut command = installation.kagimori_as_admin()?;
    command.args(["user", "change-password", "--username", USER, "--role", "crypto-user", "--password-file"]);
    capture(command.arg(&right)).context("an admin cannot unlock the user")?;
    capture(&mut log_in(installation, USER, "crypto-user", &right)).context("the unlocked user cannot log in")?;
    session.end()
}

fn log_in(installation: &Installation, user: &str, role: &str, password: &Path) -> Command {
    let mut command = installation.kagimori();
    command.args(["login", "--username", user, "--role", role, "--password-file"]).arg(password);
    command
}

/// Runs a command that must fail; gives what it said.
fn refused(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if output.status.success() {
        bail!("it was not refused");
    }
    Ok(last_lines(&output))
}

fn unknown(installation: &Installation, wrong: &Path) -> Result<()> {
    installation.create_user("known")?;
    let mut said = Vec::new();
    let mut times = [Duration::ZERO; 2];
    for (user, time) in ["known", "nobodyhasthisname"].iter().zip(&mut times) {
        for _ in 0..3 {
            let began = Instant::now();
            said.push(refused(&mut log_in(installation, user, "crypto-user", wrong))?);
            *time += began.elapsed();
        }
    }
    if said.iter().any(|words| *words != said[0]) {
        bail!("the answers differ:\n{}", said.join("\n"));
    }
    let [known, other] = times.map(|time| time.as_secs_f64());
    // Each includes a password stretched over tens of milliseconds: without it one would be many times faster.
    if known > other * 2.0 || other > known * 2.0 {
        bail!("a known user takes {known:.3} s and an unknown one {other:.3} s");
    }
    Ok(())
}

fn attacked_admin(installation: &Installation, wrong: &Path) -> Result<()> {
    for _ in 0..WRONG + 2 {
        refused(&mut log_in(installation, ADMIN, "admin", wrong))?;
    }
    let right = installation.admin().join(format!("{ADMIN}.password"));
    let began = Instant::now();
    loop {
        let attempt = output(&mut log_in(installation, ADMIN, "admin", &right))?;
        if attempt.status.success() {
            return Ok(());
        }
        if began.elapsed() > SLOWED_DOWN {
            bail!("still refused after {SLOWED_DOWN:?}:\n{}", last_lines(&attempt));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn old_tls(installation: &Installation) -> Result<()> {
    let address = installation.addresses()?.clients.to_string();
    let mut command = Command::new("openssl");
    let said = refused(command.args(["s_client", "-tls1_2", "-connect", &address]))?;
    if said.contains("Cipher is ECDHE") { bail!("a TLS 1.2 handshake succeeded:\n{said}") } else { Ok(()) }
}

/// A copy of the clients' files with another `client.toml`.
fn other_client(hsm: &Disposable, name: &str, change: impl Fn(&str) -> String) -> Result<PathBuf> {
    let folder = hsm.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    for file in ["customerCA.crt", "client.crt", "client.key"] {
        std::fs::copy(hsm.installation().client().join(file), folder.join(file))?;
    }
    let text = std::fs::read_to_string(hsm.installation().client_configuration())?;
    let path = folder.join("client.toml");
    std::fs::write(&path, change(&text))?;
    Ok(path)
}

fn must_name_certificate(hsm: &Disposable, configuration: &Path) -> Result<()> {
    let mut command = hsm.installation().kagimori();
    let said = refused(command.env("KAGIMORI_CONFIG", configuration).args(["cluster", "info"]))?;
    if said.contains("certificate") { Ok(()) } else { bail!("the message does not name the certificate:\n{said}") }
}

fn without_certificate(hsm: &Disposable) -> Result<()> {
    let without = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("client-"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    must_name_certificate(hsm, &other_client(hsm, "without", without)?)
}

fn strange_certificate(hsm: &Disposable) -> Result<()> {
    let configuration = other_client(hsm, "strange", str::to_owned)?;
    let folder = configuration.parent().context("no folder")?;
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=stranger"]);
    capture(command.arg("-keyout").arg(folder.join("client.key")).arg("-out").arg(folder.join("client.crt")))?;
    must_name_certificate(hsm, &configuration)
}

fn half_open(installation: &Installation) -> Result<()> {
    let address = installation.addresses()?.clients;
    let mut held = Vec::with_capacity(HALF_OPEN);
    for number in 0..HALF_OPEN {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(stream) => held.push(stream),
            Err(error) => bail!("connection {number} was not even accepted by the system: {error}"),
        }
    }
    let mut command = installation.kagimori();
    capture(command.args(["cluster", "info"])).context("an honest client got nowhere")?;
    Ok(())
}
