//! A file of known answers: lines `name = hexadecimal`, and comments that begin with `#`.

use crate::wide::Failed;

/// One file.
pub(super) struct Case(&'static str);

impl Case {
    /// The text of a file of `testdata/`.
    pub(super) const fn new(text: &'static str) -> Self {
        Self(text)
    }

    /// The bytes of a name. A missing name or a wrong digit fails the test.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, Failed> {
        let line = self.0.lines().find_map(|line| line.split_once(" = ").filter(|(found, _)| *found == name));
        let (_, digits) = line.ok_or(Failed)?;
        if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
            return Err(Failed);
        }
        let byte = |start| u8::from_str_radix(&digits[start..start + 2], 16).map_err(|_| Failed);
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    /// The bytes of a name, of a certain length.
    pub(super) fn array<const N: usize>(&self, name: &str) -> Result<[u8; N], Failed> {
        self.bytes(name)?.try_into().map_err(|_| Failed)
    }
}
