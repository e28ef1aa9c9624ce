//! What a row of a table says: look there, and this is what is found. The independent statement.
//!
//! A row is written by a person, in addresses and letters (`rwx`), beside the row that makes the
//! mapping. It knows nothing of encodings, so a wrong bit in an encoder shows even where the
//! software walker decodes it just as wrongly.

use pgtable::{Access, Gpa, Gva, Prot};

use crate::allows::Allows;
use crate::check::{Answer, Check};
use crate::vm::Vm;

/// What is found at an address.
#[derive(Clone, Copy, Debug)]
pub enum Finds {
    /// Memory at this guest-physical address.
    Page(u64, Allows),
    /// Nothing is mapped.
    Unmapped,
    /// The process has no tree.
    NoTree,
    /// This is no address.
    NoAddress,
}

/// One place to look at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// What the row is about.
    pub name: &'static str,
    /// The process that runs.
    pub pid: u32,
    /// The effective address.
    pub at: u64,
    /// What is there.
    pub finds: Finds,
}

/// A place for a table of them.
pub const fn look(name: &'static str, pid: u32, at: u64, finds: Finds) -> Look {
    Look { name, pid, at, finds }
}

impl Look {
    /// A check for each way to access the place.
    pub fn checks<'a, V: Vm<'a>>(self) -> impl Iterator<Item = Check<V::Fault>> {
        ACCESSES.into_iter().map(move |access| self.check::<V>(access))
    }

    /// A check of one way to access the place.
    pub fn check<'a, V: Vm<'a>>(self, access: Access) -> Check<V::Fault> {
        let Self { name, pid, at, finds } = self;
        let expected = match finds {
            Finds::Page(gpa, allows) if allows.allows(access) => Answer::Reaches(Gpa::new(gpa)),
            refused => Answer::Takes(V::refusal(refused, access)),
        };
        let leads = match finds {
            Finds::Page(gpa, _) => Some(Some(Gpa::new(gpa))),
            Finds::Unmapped | Finds::NoTree => Some(None),
            Finds::NoAddress => None,
        };
        Check { name, pid, address: Gva::new(at), access, expected, leads }
    }
}

/// Every way to access a place.
const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];

/// A mapping, and beside it what it must allow.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    pub name: &'static str,
    /// Whose tree.
    pub pid: u32,
    /// The first virtual address.
    pub input: u64,
    /// The first guest-physical address.
    pub output: u64,
    pub bytes: u64,
    /// Its leaves are all of `2^leaf` bytes.
    pub leaf: u8,
    pub prot: Prot,
    /// Its memory type, by the architecture's number.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")),
        expect(dead_code)
    )]
    pub memory: u8,
    pub allows: Allows,
}

/// A mapping of the usual memory type for a table of them.
pub const fn row(
    (name, pid): (&'static str, u32),
    input: u64,
    output: u64,
    (bytes, leaf): (u64, u8),
    prot: Prot,
    allows: Allows,
) -> Mapping {
    Mapping { name, pid, input, output, bytes, leaf, prot, memory: 0, allows }
}

impl Mapping {
    /// The same with another memory type.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")),
        expect(dead_code)
    )]
    pub const fn with_memory(self, memory: u8) -> Self {
        Self { memory, ..self }
    }

    /// Accesses of each kind, spread over the first word, the last, and one between.
    pub fn checks<'a, V: Vm<'a>>(self) -> impl Iterator<Item = Check<V::Fault>> {
        let offsets = [0, (self.bytes / 3) & !7, self.bytes - 8];
        // The user looks at other places than the supervisor did.
        let order = [0, 1, 2, 1, 2, 0];
        let pid = V::looker(self.pid);
        ACCESSES.into_iter().zip(order).map(move |(access, index)| {
            let offset = offsets[index];
            let finds = Finds::Page(self.output + offset, self.allows);
            look(self.name, pid, self.input + offset, finds).check::<V>(access)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::Machine;

    /// The first word, the last, and one between, by the supervisor and by the user.
    #[test]
    fn a_mapping_is_looked_at_in_six_ways() {
        let mapping =
            row(("a page", 1), 0x1000, 0x5000, (0x1000, 12), Prot::R, Allows::both("r--"));
        let checks: Vec<_> = mapping.checks::<Machine<'_>>().collect();
        let seen: Vec<_> = checks.iter().map(|it| (it.address.get(), it.access)).collect();
        let places = [0x1000, 0x1550, 0x1ff8, 0x1550, 0x1ff8, 0x1000];
        assert_eq!(seen, places.into_iter().zip(ACCESSES).collect::<Vec<_>>());
        assert_eq!(checks[3].expected, Answer::Reaches(Gpa::new(0x5550)));
        assert!(matches!(checks[1].expected, Answer::Takes(_)));
    }
}
