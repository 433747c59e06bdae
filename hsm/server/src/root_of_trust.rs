//! Where the cluster master key's seal and its root of trust lie, and how they are opened. Cryptography is `hsm-crypto`'s.

use std::path::PathBuf;

use hsm_crypto::{MasterKey, Module, RootFault, RootOfTrust};

use crate::data_folder::DataFolder;
use crate::exit::Fault;
use crate::settings::RootOfTrustSetting;

/// The root of trust of these settings. A root key is made if there is none and `make` says so.
///
/// # Errors
/// [`Fault::RootOfTrust`], [`Fault::Disk`].
pub fn open(
    module: &Module,
    folder: &DataFolder,
    setting: &RootOfTrustSetting,
    make: bool,
) -> Result<RootOfTrust, Fault> {
    match setting {
        RootOfTrustSetting::PassphraseFile(file) => {
            RootOfTrust::read_passphrase(file).map_err(|fault| root_fault(file.clone(), &fault))
        }
        RootOfTrustSetting::File => {
            let file = folder.root_key();
            let root = if make && !file.exists() {
                RootOfTrust::create_file(module, &file)
            } else {
                RootOfTrust::read_file(&file)
            };
            root.map_err(|fault| root_fault(file, &fault))
        }
    }
}

/// Opens the cluster master key from this seal.
///
/// # Errors
/// [`Fault::RootOfTrust`], [`Fault::Disk`].
pub fn unseal(folder: &DataFolder, root: &RootOfTrust, seal: PathBuf) -> Result<MasterKey, Fault> {
    let Some(sealed) = folder.read(&seal)? else {
        return Err(Fault::RootOfTrust {
            file: seal,
            cause: "the file is missing".to_owned(),
            remedy: "Restore it from the copy that was made of the data folder: the store cannot be opened without it",
        });
    };
    MasterKey::unseal(root, &sealed).map_err(|fault| root_fault(seal, &fault))
}

fn root_fault(file: PathBuf, fault: &RootFault) -> Fault {
    let remedy = match fault {
        RootFault::Mode(_) => "chmod 600 it, and find out who may have read it",
        RootFault::Io(_) => "Look at the file and its folder",
        RootFault::NotARootKey => "Restore root.key from the copy that was made of it",
        RootFault::Passphrase => "Put the passphrase, and nothing else, into the file",
        RootFault::Seal(_) => "Give the root of trust that it was sealed with, or restore the seal from a copy",
        RootFault::Crypto(_) => "Look at the log above",
    };
    Fault::RootOfTrust { file, cause: fault.to_string(), remedy }
}
