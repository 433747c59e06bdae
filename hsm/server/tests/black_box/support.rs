//! A running `kagimori-hsm` for black-box tests: its own folder, free ports, and the words to drive it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kagimori-hsm");

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running HSM; killed when dropped.
pub(crate) struct Running {
    pub(crate) folder: TempDir,
    pub(crate) child: Child,
    extra: Vec<String>,
    program: PathBuf,
}

/// A folder for one HSM. Short, because the path of a socket is.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("kh").tempdir().expect("a folder")
}

/// `serve` on the folder `data` in this one, with these further arguments, at any free address when
/// they name none; standard error goes to the file `log`.
pub(crate) fn serve_command(folder: &Path, extra: &[&str]) -> Command {
    serve_program(Path::new(PROGRAM), folder, extra)
}

/// [`serve_command`] of another copy of the program.
pub(crate) fn serve_program(program: &Path, folder: &Path, extra: &[&str]) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new(program);
    // A client's address that changes with every start, unless the test wants one that stays.
    let listen: &[&str] = if extra.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
    command
        .arg("serve")
        .args(listen)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

impl Running {
    pub(crate) fn start(extra: &[&str]) -> Self {
        Self::start_in(folder(), extra)
    }

    pub(crate) fn start_in(folder: TempDir, extra: &[&str]) -> Self {
        Self::start_program(Path::new(PROGRAM), folder, extra)
    }

    /// Another copy of the program.
    pub(crate) fn start_program(program: &Path, folder: TempDir, extra: &[&str]) -> Self {
        let child = serve_program(program, folder.path(), extra).spawn().expect("the program starts");
        let extra = extra.iter().map(ToString::to_string).collect();
        let mut running = Self { folder, child, extra, program: program.to_owned() };
        running.wait_until_it_answers();
        running
    }

    pub(crate) fn wait_until_it_answers(&mut self) {
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
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Ends it and starts it again on the same folder.
    pub(crate) fn restart(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
        self.spawn();
        self.wait_until_it_answers();
    }

    /// Starts it again on the same folder, and does not wait.
    pub(crate) fn spawn(&mut self) {
        let extra: Vec<&str> = self.extra.iter().map(String::as_str).collect();
        self.child = serve_program(&self.program, self.folder.path(), &extra).spawn().expect("the program starts");
    }

    /// Its further arguments with another value for this one.
    pub(crate) fn words_with(&self, name: &str, value: &str) -> Vec<String> {
        let mut words = self.extra.clone();
        replace(&mut words, name, value);
        words
    }

    /// Gives it another value for this argument from the next start on.
    pub(crate) fn replace_argument(&mut self, name: &str, value: &str) {
        replace(&mut self.extra, name, value);
    }

    /// From the next start on it runs this copy of the program.
    pub(crate) fn run_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Its further arguments.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.extra
    }

    /// From the next start on it goes without the last so many of them.
    pub(crate) fn drop_arguments(&mut self, count: usize) {
        self.extra.truncate(self.extra.len() - count);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("data/management.sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn manage(&self, words: &[&str]) -> Output {
        Command::new(PROGRAM).args(["manage", "--socket"]).arg(self.socket()).args(words).output().expect("it runs")
    }

    /// The answer of a management command that must succeed.
    pub(crate) fn managed(&self, words: &[&str]) -> serde_json::Value {
        let output = self.manage(&[&["--output", "json"], words].concat());
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {shown}\n{}", self.log());
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What a management command says that must be refused.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let output = self.manage(words);
        assert_eq!(output.status.code(), Some(13), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        self.managed(&["status"])
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Stops it where it is, as a host does that hangs: its connections stay, and nobody answers on them.
    pub(crate) fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on after [`Self::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).expect("a signal");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Forms, makes a customer CA with OpenSSL (a v1 certificate, as AWS's documents say), signs and initialises.
    pub(crate) fn initialise(&self) {
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

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A self-signed CA `NAME.key`, `NAME.crt` of this kind of key (`-newkey`'s words).
    pub(crate) fn make_ca(&self, name: &str, kind: &[&str]) {
        let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let mut words = vec!["req", "-x509", "-new", "-nodes", "-days", "3652", "-subj", &subject, "-newkey"];
        words.extend(kind);
        words.extend(["-keyout", &key, "-out", &certificate]);
        self.openssl(&words);
    }

    /// AWS's documented command over the cluster's request.
    pub(crate) fn sign(&self, out: &str, ca: &str, extra: &[&str]) {
        let (certificate, key) = (format!("{ca}.crt"), format!("{ca}.key"));
        let mut words = vec!["x509", "-req", "-days", "3652", "-in", "ceremony/ClusterCsr.csr", "-CA", &certificate];
        words.extend(["-CAkey", &key, "-set_serial", "1", "-out", out]);
        words.extend(extra);
        self.openssl(&words);
    }

    /// Runs the system's OpenSSL in the folder; it must succeed. Answers its output.
    pub(crate) fn openssl(&self, words: &[&str]) -> String {
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

/// Gives another value to an argument.
pub(crate) fn replace(words: &mut [String], name: &str, value: &str) {
    let at = words.iter().position(|word| word == name).expect("an argument");
    value.clone_into(&mut words[at + 1]);
}

/// Waits for the end of a process, not for ever.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
