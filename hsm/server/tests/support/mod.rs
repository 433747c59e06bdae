//! A running `kagimori-hsm` for black-box tests: its own folder, free ports, and the words to drive it.

#![expect(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_kagimori-hsm");

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running HSM; killed when dropped.
pub struct Running {
    pub folder: TempDir,
    pub child: Child,
    extra: Vec<String>,
}

/// A folder for one HSM. Short, because the path of a socket is.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("kh").tempdir().expect("a folder")
}

/// `serve` on the folder `data` in this one, with these further arguments; standard error goes to the file `log`.
pub fn serve_command(folder: &Path, extra: &[&str]) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new(PROGRAM);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("data"))
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

impl Running {
    pub fn start(extra: &[&str]) -> Self {
        Self::start_in(folder(), extra)
    }

    pub fn start_in(folder: TempDir, extra: &[&str]) -> Self {
        let child = serve_command(folder.path(), extra).spawn().expect("the program starts");
        let mut running = Self { folder, child, extra: extra.iter().map(ToString::to_string).collect() };
        running.wait_until_it_answers();
        running
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("it ended with {status}: {}", self.log());
            }
            if self.manage(&["status"]).status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "no answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As after a crash: no chance to write anything.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Ends it and starts it again on the same folder.
    pub fn restart(&mut self) {
        self.kill();
        let extra: Vec<&str> = self.extra.iter().map(String::as_str).collect();
        self.child = serve_command(self.folder.path(), &extra).spawn().expect("the program starts");
        self.wait_until_it_answers();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("data/management.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn manage(&self, words: &[&str]) -> Output {
        Command::new(PROGRAM).args(["manage", "--socket"]).arg(self.socket()).args(words).output().expect("it runs")
    }

    /// The answer of a management command that must succeed.
    pub fn managed(&self, words: &[&str]) -> serde_json::Value {
        let output = self.manage(&[&["--output", "json"], words].concat());
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {shown}\n{}", self.log());
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What a management command says that must be refused.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.manage(words);
        assert_eq!(output.status.code(), Some(13), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    pub fn status(&self) -> serde_json::Value {
        self.managed(&["status"])
    }

    pub fn terminate(&mut self) -> ExitStatus {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("a signal");
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Forms, makes a customer CA with OpenSSL (a v1 certificate, as AWS's documents say), signs and initialises.
    pub fn initialise(&self) {
        self.managed(&["form", "--label", "test"]);
        self.managed(&["certificates", "--out-dir", &self.text("ceremony")]);
        self.make_ca("customerCA", &["rsa:2048"]);
        self.sign("ClusterCertificate.crt", "customerCA", &[]);
        self.managed(&[
            "initialize",
            "--certificate",
            &self.text("ClusterCertificate.crt"),
            "--trust-anchor",
            &self.text("customerCA.crt"),
        ]);
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A self-signed CA `NAME.key`, `NAME.crt` of this kind of key (`-newkey`'s words).
    pub fn make_ca(&self, name: &str, kind: &[&str]) {
        let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let mut words = vec!["req", "-x509", "-new", "-nodes", "-days", "3652", "-subj", &subject, "-newkey"];
        words.extend(kind);
        words.extend(["-keyout", &key, "-out", &certificate]);
        self.openssl(&words);
    }

    /// AWS's documented command over the cluster's request.
    pub fn sign(&self, out: &str, ca: &str, extra: &[&str]) {
        let (certificate, key) = (format!("{ca}.crt"), format!("{ca}.key"));
        let mut words = vec!["x509", "-req", "-days", "3652", "-in", "ceremony/ClusterCsr.csr", "-CA", &certificate];
        words.extend(["-CAkey", &key, "-set_serial", "1", "-out", out]);
        words.extend(extra);
        self.openssl(&words);
    }

    /// Runs the system's OpenSSL in the folder; it must succeed. Answers its output.
    pub fn openssl(&self, words: &[&str]) -> String {
        let output = Command::new("openssl").args(words).current_dir(self.folder.path()).output().expect("openssl");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}

/// Waits for the end of a process, not for ever.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
