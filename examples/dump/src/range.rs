//! One range of an address space, as the tables say it: where it goes, in pages of which size, and
//! who may do what with it.

use std::fmt;

use pgtable::Prot;
use serde::{Serialize, Serializer};

/// What a page allows, after everything on the way to it: what the tables above it restrict is
/// taken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Rights {
    /// Privileged accesses. ([`Prot::user`] is not used.)
    #[serde(serialize_with = "as_letters")]
    pub supervisor: Prot,
    /// Accesses in user mode.
    #[serde(serialize_with = "as_letters")]
    pub user: Prot,
}

/// `rwx`, with `-` for what is not allowed.
fn letters(prot: Prot) -> &'static str {
    match (prot.read(), prot.write(), prot.execute()) {
        (false, false, false) => "---",
        (false, false, true) => "--x",
        (false, true, false) => "-w-",
        (false, true, true) => "-wx",
        (true, false, false) => "r--",
        (true, false, true) => "r-x",
        (true, true, false) => "rw-",
        (true, true, true) => "rwx",
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(letters(self.supervisor))?;
        f.write_str("/")?;
        f.write_str(letters(self.user))
    }
}

/// What became of an address, or of a range of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is translated.
    Mapped,
    /// The tables say that nothing is mapped.
    #[default]
    NotMapped,
    /// Something is mapped, and does not allow the access that was asked for.
    Denied,
    /// An entry on the way is no valid one.
    Malformed,
    /// The image does not hold what would say it.
    Unknown,
}

/// An entry that a walk read, from the root down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// The level of its table, counted from 0, the last.
    pub level: u8,
    /// The name of that level in the architecture's manual.
    pub name: &'static str,
    /// Its physical address.
    #[serde(serialize_with = "hex")]
    pub address: u64,
    /// What it holds, in the manual's bit order.
    #[serde(serialize_with = "hex")]
    pub word: u64,
    /// What that is: `table`, `leaf`, `absent`, `malformed`.
    pub entry: &'static str,
}

/// A range of addresses that are translated alike, or that fault alike. One address, if it was
/// asked for one.
///
/// As JSON it is an object with these fields; numbers that are addresses are strings like
/// `"0xffff888000000000"`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Range {
    /// The first virtual address; null for a hashed entry of no segment that is known.
    #[serde(serialize_with = "hex_or_null")]
    pub va: Option<u64>,
    /// Where it translates to, null on a fault. The range is contiguous on both sides.
    #[serde(serialize_with = "hex_or_null")]
    pub pa: Option<u64>,
    /// The length in bytes, of a listed range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The size in bytes of the pages; of a fault, what the entry covers at which it was met.
    pub size: Option<u64>,
    /// What it allows: as JSON two fields, `supervisor` and `user`, each like `rw-`. There are none
    /// on a fault.
    #[serde(flatten)]
    pub rights: Option<Rights>,
    /// What else the page says, in words.
    pub attributes: String,
    /// What became of it.
    pub state: State,
    /// Why it does not translate; null if it does.
    pub fault: Option<String>,
    /// Of a fault: the physical address of the entry that decided it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_or_null")]
    pub entry: Option<u64>,
    /// How often the range comes again, at regular distances, with the same physical pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
    /// Of a hashed entry: its virtual segment.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_or_null")]
    pub vsid: Option<u64>,
    /// Of a hashed entry: Linux's number of the address space, if the segment is one of Linux's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// The entries that the walk read, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub walk: Vec<Step>,
}

impl Range {
    /// A range that is translated.
    pub fn mapped(va: Option<u64>, pa: u64, size: u64, rights: Rights, attributes: String) -> Self {
        Self {
            va,
            pa: Some(pa),
            size: Some(size),
            rights: Some(rights),
            attributes,
            state: State::Mapped,
            ..Self::default()
        }
    }

    /// A range that is not, and why.
    pub fn faulting(va: u64, size: Option<u64>, state: State, fault: String) -> Self {
        Self { va: Some(va), size, state, fault: Some(fault), ..Self::default() }
    }

    /// The same, decided by the entry at this address.
    #[must_use]
    pub fn by_entry(self, entry: Option<u64>) -> Self {
        Self { entry, ..self }
    }

    /// The last address of a listed range.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        let bytes = self.bytes.or(self.size)?;
        Some(self.va?.wrapping_add(bytes.saturating_sub(1)))
    }

    /// The same, with this length.
    #[must_use]
    pub fn of_bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }
}

/// A range that comes again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Repeats {
    /// How often, the first time counted.
    pub count: u64,
    /// From one to the next, in bytes.
    pub stride: u64,
}

pub(super) fn hex<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

pub(super) fn hex_or_null<S: Serializer>(
    number: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => hex(number, serializer),
        None => serializer.serialize_none(),
    }
}

fn as_letters<S: Serializer>(prot: &Prot, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(letters(*prot))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn as_json() {
        let rights = Rights { supervisor: Prot::RW, user: Prot::R };
        let range =
            Range::mapped(Some(0x1000), 0x20_0000, 4096, rights, "dirty".to_owned()).of_bytes(8192);
        assert_eq!(
            serde_json::to_string(&range).unwrap(),
            r#"{"va":"0x1000","pa":"0x200000","bytes":8192,"size":4096,"supervisor":"rw-","user":"r--","attributes":"dirty","state":"mapped","fault":null}"#
        );
        let fault = Range::faulting(0x3000, None, State::NotMapped, "not mapped".to_owned());
        assert_eq!(
            serde_json::to_string(&fault).unwrap(),
            r#"{"va":"0x3000","pa":null,"size":null,"attributes":"","state":"not-mapped","fault":"not mapped"}"#
        );
    }
}
