//! The file `place`: where an HSM belongs and who the others are, as it was told when it was admitted.
//!
//! It is read when an HSM starts whose state was not on its disk yet: its log is there, but only the others can say how
//! much of it counts, and they must be reached for that. Nothing in it is secret, and nothing in it is believed once there
//! is state. One line for the place, one for each member.

use hsm_core::HsmId;

use crate::data_folder::DataFolder;
use crate::exit::Fault;
use crate::member::hexadecimal;
use crate::peers::{Known, Place, Roster};

/// What an HSM was told at its admission.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// Where it belongs.
    pub(crate) place: Place,
    /// A command by which the roster had it.
    pub(crate) admitted_by: u64,
    /// Who the members were, itself included.
    pub(crate) roster: Roster,
}

/// Writes it.
///
/// # Errors
/// [`Fault::Disk`].
pub(crate) fn write(folder: &DataFolder, told: &Told) -> Result<(), Fault> {
    folder.write(&folder.place(), told.to_text().as_bytes())
}

/// Reads it; `None` when there is none.
///
/// # Errors
/// [`Fault::Broken`], [`Fault::Disk`].
pub(crate) fn read(folder: &DataFolder) -> Result<Option<Told>, Fault> {
    let file = folder.place();
    let Some(content) = folder.read(&file)? else { return Ok(None) };
    let read = String::from_utf8(content).ok().and_then(|text| Told::from_text(&text));
    read.map(Some).ok_or(Fault::Broken {
        file,
        cause: "it does not say where this HSM belongs".to_owned(),
        remedy: "Remove store.redb, store.mark, master.seal and this file, and join again: the HSM returns under its name",
    })
}

impl Told {
    fn to_text(&self) -> String {
        let Self { place: Place { cluster, incarnation, node }, admitted_by, roster } = self;
        let (cluster, incarnation) = (hexadecimal(cluster), hexadecimal(incarnation));
        let member = |(node, known): (&u64, &Known)| {
            let (hsm, certificate) = (hexadecimal(&known.hsm.0), hexadecimal(&known.certificate));
            format!("{node:x} {hsm} {certificate} {}\n", known.address)
        };
        let place = format!("{cluster} {incarnation} {node:x} {admitted_by:x}\n");
        std::iter::once(place).chain(roster.iter().map(member)).collect()
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut words = lines.next()?.split(' ');
        let place = Place {
            cluster: octets(words.next()?)?.try_into().ok()?,
            incarnation: octets(words.next()?)?.try_into().ok()?,
            node: u64::from_str_radix(words.next()?, 16).ok()?,
        };
        let admitted_by = u64::from_str_radix(words.next()?, 16).ok()?;
        let member = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let node = u64::from_str_radix(words.next()?, 16).ok()?;
            let hsm = HsmId(octets(words.next()?)?.try_into().ok()?);
            let certificate = octets(words.next()?)?;
            Some((node, Known { hsm, certificate, address: words.next()?.to_owned() }))
        };
        Some(Self { place, admitted_by, roster: lines.map(member).collect::<Option<_>>()? })
    }
}

fn octets(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written_and_garbage_is_not() {
        let place = Place { cluster: [1; 16], incarnation: [2; 16], node: u64::MAX };
        let known = |address: &str| Known { hsm: HsmId([3; 16]), address: address.to_owned(), certificate: vec![4, 5] };
        let roster = Roster::from([(7, known("127.0.0.1:1")), (u64::MAX, known(""))]);
        let told = Told { place, admitted_by: 9, roster };
        let text = told.to_text();
        assert!(Told::from_text(&text) == Some(told));
        for garbage in ["", "1 2", &text.replace(' ', ""), &text[..text.len() - 30]] {
            assert!(Told::from_text(garbage).is_none(), "{garbage}");
        }
    }
}
