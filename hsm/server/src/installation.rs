//! The installation's files: roots, card certificates and the card's key, made by the first HSM that starts here.
//!
//! The card's key is the provisioning CA: it says which HSMs are of this installation. It lies in `card.key`, mode 0600,
//! and is no key of a customer. Several HSMs may share the folder; a lock in it sees to it that they make one
//! installation. Neighbours: `ceremony` makes it, `identity` and `formation` use it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ceremony::{CeremonyKey, Installation, InstallationCertificates};
use crate::data_folder::DataFolder;
use crate::exit::Fault;

const CARD_KEY: &str = "card.key";
const AWS_ROOT: &str = "aws-root.crt";
const MANUFACTURER_ROOT: &str = "manufacturer-root.crt";
const AWS_HARDWARE: &str = "aws-hardware.crt";
const MANUFACTURER_HARDWARE: &str = "manufacturer-hardware.crt";

/// Makes the folder if it is not there, and checks whose it is. Before the sandbox, which can then name it.
///
/// # Errors
/// [`Fault::Settings`] for a folder that others may enter, [`Fault::Disk`].
pub fn prepare(place: &Path) -> Result<(), Fault> {
    DirBuilder::new().recursive(true).mode(0o700).create(place).map_err(|error| Fault::disk(place, &error))?;
    let facts = std::fs::metadata(place).map_err(|error| Fault::disk(place, &error))?;
    if facts.mode() & 0o077 != 0 {
        return Err(Fault::Settings(format!(
            "the folder of the installation {} has mode {:o}: others may look into it; chmod 700 it, or use another",
            place.display(),
            facts.mode() & 0o777
        )));
    }
    Ok(())
}

/// Reads the installation in this folder, or makes it when there is none. `name` tells a new one from others.
///
/// # Errors
/// [`Fault::Disk`], [`Fault::Broken`] when some of its files are missing or unreadable.
pub fn read_or_make(folder: &DataFolder, place: &Path, name: &str, now: Duration) -> Result<Installation, Fault> {
    let _alone = lock(place)?;
    // The key is written last: without it nothing was certified yet, and what lies there is from a start that failed.
    match folder.read(&place.join(CARD_KEY))? {
        Some(key) => read(folder, place, &zeroize::Zeroizing::new(key)),
        None => make(folder, place, name, now),
    }
}

/// The public side, if there is an installation.
///
/// # Errors
/// As [`read_or_make`].
pub fn certificates(folder: &DataFolder, place: &Path) -> Result<Option<InstallationCertificates>, Fault> {
    if place.join(CARD_KEY).exists() { read_certificates(folder, place).map(Some) } else { Ok(None) }
}

/// Waits for other HSMs that are about to make the same installation. Held until the file is dropped.
fn lock(place: &Path) -> Result<File, Fault> {
    let name = place.join("lock");
    let locked = || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&name)?;
        file.lock()?;
        Ok(file)
    };
    locked().map_err(|error| Fault::disk(&name, &error))
}

fn make(folder: &DataFolder, place: &Path, name: &str, now: Duration) -> Result<Installation, Fault> {
    let installation = Installation::make(name, now).map_err(|fault| Fault::Stopped(fault.to_string()))?;
    let certificates = &installation.certificates;
    for (name, pem) in [
        (AWS_ROOT, &certificates.aws_root),
        (MANUFACTURER_ROOT, &certificates.manufacturer_root),
        (AWS_HARDWARE, &certificates.aws_hardware),
        (MANUFACTURER_HARDWARE, &certificates.manufacturer_hardware),
    ] {
        folder.write(&place.join(name), pem.as_bytes())?;
    }
    folder.write(&place.join(CARD_KEY), &installation.card_key.pkcs8())?;
    tracing::info!(
        folder = %place.display(),
        "a NEW installation was made here: HSMs of another one cannot join this HSM's cluster, nor this HSM theirs"
    );
    Ok(installation)
}

fn read(folder: &DataFolder, place: &Path, key: &[u8]) -> Result<Installation, Fault> {
    let card_key = CeremonyKey::from_pkcs8(key).map_err(|fault| broken(place.join(CARD_KEY), fault.to_string()))?;
    Ok(Installation { card_key, certificates: read_certificates(folder, place)? })
}

fn read_certificates(folder: &DataFolder, place: &Path) -> Result<InstallationCertificates, Fault> {
    let pem = |name: &str| {
        let file = place.join(name);
        let content = folder.read(&file)?.ok_or_else(|| broken(file.clone(), "the file is missing".to_owned()))?;
        String::from_utf8(content).map_err(|_| broken(file, "the file is no PEM".to_owned()))
    };
    Ok(InstallationCertificates {
        aws_root: pem(AWS_ROOT)?,
        manufacturer_root: pem(MANUFACTURER_ROOT)?,
        aws_hardware: pem(AWS_HARDWARE)?,
        manufacturer_hardware: pem(MANUFACTURER_HARDWARE)?,
    })
}

fn broken(file: PathBuf, cause: String) -> Fault {
    Fault::Broken { file, cause, remedy: "Restore the folder of the installation from a copy" }
}
