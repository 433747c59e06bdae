//! Which release this program is: its measurement of itself, and who signed it.
//!
//! `PROGRAM.release` beside the executable holds the signature (`cargo xtask release` makes it). Without one the program
//! is a development build and signs itself with the development key, whose private half is in the source for everybody:
//! it says that the build is one, and nothing else. Members judge what an HSM states of itself by the rule of the cluster,
//! at its admission and at each connection. What that proves, and what not, stands in `SECURITY.md`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hsm_core::{Release, ReleaseRule};
use hsm_crypto::release_proof::{MEASUREMENT_BYTES, RELEASE_SIGNATURE_BYTES, measure, sign_release, verify_release};
use hsm_protocol::peer;

use crate::exit::Fault;
use crate::limits::RELEASE_FILE_BYTES;
#[cfg(test)]
use crate::member::hexadecimal;
use crate::member::stopped;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// First line of a release file.
const HEADING: &str = "kagimori release 1";

/// The private development key. Not a secret: whoever builds the program has it.
const DEVELOPMENT_SEED: [u8; 32] = *b"kagimori: development, no secret";

/// What an HSM states of its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseStatement {
    /// Its version.
    pub version: String,
    /// SHA-384 of the executable.
    pub measurement: [u8; MEASUREMENT_BYTES],
    /// Who signed it.
    pub key: [u8; 32],
    /// Over version and measurement.
    pub signature: [u8; RELEASE_SIGNATURE_BYTES],
}

/// Why a cluster does not take a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Nothing was stated, or not in the form of a statement.
    Unsigned,
    /// The signature is not over this version and measurement.
    Altered,
    /// Signed, by somebody whom the cluster does not trust.
    Untrusted,
    /// Older than the cluster takes.
    Downgrade,
}

impl ReleaseStatement {
    /// Measures the running executable and reads its release file. Before the sandbox, which forbids both.
    ///
    /// # Errors
    /// [`Fault::Broken`] when the file is there and does not fit the program; [`Fault::File`] when something cannot be read.
    pub fn of_this_program() -> Result<Self, Fault> {
        let unreadable =
            |file: &Path, error: &std::io::Error| Fault::File { file: file.into(), cause: error.to_string() };
        // The kernel's name for what runs, also when the file under the program's own name was replaced meanwhile.
        let program = Path::new("/proc/self/exe");
        let measured = File::open(program).and_then(measure).map_err(|error| unreadable(program, &error))?;
        let file = release_file().map_err(|error| unreadable(program, &error))?;
        match std::fs::metadata(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::of_development(measured),
            Err(error) => return Err(unreadable(&file, &error)),
            Ok(facts) if facts.len() > RELEASE_FILE_BYTES => return Err(misfit(file, "it is no release file")),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        let stated = Self::parse(&text).ok_or_else(|| misfit(file.clone(), "it is no release file"))?;
        if stated.measurement != measured {
            return Err(misfit(file, "the program was altered after it was signed, or the file is another release's"));
        }
        if stated.version != VERSION {
            return Err(misfit(file, "it is for another version than the program says"));
        }
        if !stated.is_signed() {
            return Err(misfit(file, "its signature is not over this program and version"));
        }
        Ok(stated)
    }

    fn of_development(measurement: [u8; MEASUREMENT_BYTES]) -> Result<Self, Fault> {
        let (key, signature) =
            sign_release(&DEVELOPMENT_SEED, VERSION, &measurement).map_err(|fault| stopped(&fault))?;
        Ok(Self { version: VERSION.to_owned(), measurement, key, signature })
    }

    /// Whether it is signed with the key that everybody has.
    pub fn is_development(&self) -> bool {
        is_development_key(&self.key)
    }

    fn is_signed(&self) -> bool {
        verify_release(&self.key, &self.version, &self.measurement, &self.signature)
    }

    /// Reads a release file: five lines, each a word and its value.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEADING {
            return None;
        }
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        let statement = Self {
            version: value("version")?,
            measurement: octets(&value("sha384")?)?,
            key: octets(&value("key")?)?,
            signature: octets(&value("signature")?)?,
        };
        lines.next().is_none().then_some(statement)
    }

    /// The rule that a cluster begins with whose first HSM runs this program: its builder is trusted, and no older release.
    pub fn first_rule(&self) -> ReleaseRule {
        ReleaseRule { keys: vec![self.key], minimum: Release::parse(&self.version).unwrap_or_default() }
    }

    /// As it is sent.
    pub fn to_wire(&self) -> peer::Release {
        peer::Release {
            version: self.version.clone(),
            measurement: self.measurement.to_vec(),
            key: self.key.to_vec(),
            signature: self.signature.to_vec(),
        }
    }

    fn from_wire(stated: &peer::Release) -> Option<Self> {
        Some(Self {
            version: stated.version.clone(),
            measurement: stated.measurement.as_slice().try_into().ok()?,
            key: stated.key.as_slice().try_into().ok()?,
            signature: stated.signature.as_slice().try_into().ok()?,
        })
    }
}

/// Whether a cluster of this rule takes an HSM that states this. The version counts as stated: it is signed.
///
/// # Errors
/// [`Misfit`].
pub fn judge(rule: &ReleaseRule, stated: Option<&peer::Release>) -> Result<(), Misfit> {
    if rule.keys.is_empty() {
        return Ok(());
    }
    let stated = stated.and_then(ReleaseStatement::from_wire).ok_or(Misfit::Unsigned)?;
    if !stated.is_signed() {
        return Err(Misfit::Altered);
    }
    if !rule.keys.contains(&stated.key) {
        return Err(Misfit::Untrusted);
    }
    let release = Release::parse(&stated.version).ok_or(Misfit::Unsigned)?;
    if release < rule.minimum { Err(Misfit::Downgrade) } else { Ok(()) }
}

/// Whether a rule trusts the key that everybody has.
pub fn trusts_everybody(rule: &ReleaseRule) -> bool {
    rule.keys.is_empty() || rule.keys.iter().any(is_development_key)
}

fn is_development_key(key: &[u8; 32]) -> bool {
    // Clients ask with every look at the cluster, and the key is made of its seed by a multiplication.
    static KEY: OnceLock<Option<[u8; 32]>> = OnceLock::new();
    let made = || sign_release(&DEVELOPMENT_SEED, "", &[0; MEASUREMENT_BYTES]).ok().map(|(key, _)| key);
    KEY.get_or_init(made).as_ref() == Some(key)
}

/// Where the release file of this program lies.
fn release_file() -> std::io::Result<PathBuf> {
    let mut name = std::env::current_exe()?.into_os_string();
    name.push(".release");
    Ok(name.into())
}

fn misfit(file: PathBuf, cause: &str) -> Fault {
    const REMEDY: &str =
        "Install program and release file of one release together; a development build has no such file";
    Fault::Broken { file, cause: cause.to_owned(), remedy: REMEDY }
}

fn octets<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut octets = [0; N];
    if digits.len() != 2 * N || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of a release file.
    fn file(version: &str, seed: &[u8; 32]) -> String {
        let measurement = [6; MEASUREMENT_BYTES];
        let (key, signature) = sign_release(seed, version, &measurement).unwrap();
        let (sha384, key, signature) = (hexadecimal(&measurement), hexadecimal(&key), hexadecimal(&signature));
        format!("{HEADING}\nversion {version}\nsha384 {sha384}\nkey {key}\nsignature {signature}\n")
    }

    fn stated(version: &str, seed: u8) -> (ReleaseStatement, peer::Release) {
        let measurement = [3; MEASUREMENT_BYTES];
        let (key, signature) = sign_release(&[seed; 32], version, &measurement).unwrap();
        let statement = ReleaseStatement { version: version.to_owned(), measurement, key, signature };
        let wire = statement.to_wire();
        (statement, wire)
    }

    #[test]
    fn only_a_trusted_signature_over_this_program_and_no_older_release_passes() {
        let (good, wire) = stated("1.2.0", 1);
        let rule = good.first_rule();
        assert_eq!(judge(&rule, Some(&wire)), Ok(()));
        assert_eq!(judge(&rule, None), Err(Misfit::Unsigned));
        assert_eq!(judge(&rule, Some(&stated("1.2.1", 1).1)), Ok(()), "newer");
        assert_eq!(judge(&rule, Some(&stated("1.1.9", 1).1)), Err(Misfit::Downgrade));
        assert_eq!(judge(&rule, Some(&stated("1.2.0", 2).1)), Err(Misfit::Untrusted));
        let altered = peer::Release { measurement: vec![4; MEASUREMENT_BYTES], ..wire.clone() };
        assert_eq!(judge(&rule, Some(&altered)), Err(Misfit::Altered));
        let posing = peer::Release { version: "9.9.9".to_owned(), ..stated("1.1.0", 1).1 };
        assert_eq!(judge(&rule, Some(&posing)), Err(Misfit::Altered), "the version is signed too");
        let short = peer::Release { signature: vec![0; 63], ..wire };
        assert_eq!(judge(&rule, Some(&short)), Err(Misfit::Unsigned));
        assert_eq!(judge(&ReleaseRule::default(), None), Ok(()), "no rule asks for nothing");
    }

    #[test]
    fn a_release_file_is_read_as_it_was_written_and_nothing_else_is_one() {
        let text = file("1.2.3", &[5; 32]);
        let read = ReleaseStatement::parse(&text).unwrap();
        assert!(read.is_signed() && read.version == "1.2.3" && !read.is_development());
        for bad in [
            text.replace("release 1", "release 2"),
            text.clone() + "more\n",
            text.replace("key ", "key"),
            String::new(),
        ] {
            assert_eq!(ReleaseStatement::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_build_without_a_release_file_is_one_of_development_and_its_cluster_says_so() {
        let statement = ReleaseStatement::of_this_program().unwrap();
        assert!(statement.is_development() && statement.is_signed());
        assert!(trusts_everybody(&statement.first_rule()) && trusts_everybody(&ReleaseRule::default()));
        assert!(!trusts_everybody(&stated("1.0.0", 9).0.first_rule()));
    }
}
