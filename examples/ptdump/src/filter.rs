//! Which ranges of a list are meant, by words; and what an audit finds.

use clap::ValueEnum;
use pgtable::Prot;
use table_dump::{Range, Rights, State};

/// A word that says something of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Filter {
    /// Writable and executable in the same mode
    #[value(name = "w+x")]
    WriteExecute,
    /// Writable in some mode
    #[value(name = "w")]
    Write,
    /// Executable in some mode
    #[value(name = "x")]
    Execute,
    /// Writable in user mode
    #[value(name = "user-w")]
    UserWrite,
    /// Executable in user mode
    #[value(name = "user-x")]
    UserExecute,
    /// Open to user mode
    User,
    /// Closed to user mode
    Supervisor,
    /// In the kernel's half of the address space, and open to user mode
    UserKernel,
    /// In pages larger than the smallest
    Huge,
    /// Mapped
    Mapped,
    /// Malformed or unknown
    Fault,
}

impl Filter {
    /// Whether `range` is meant; kernels have their memory from `kernel` on.
    pub fn admits(self, range: &Range, kernel: u64) -> bool {
        let rights = range.rights.unwrap_or_default();
        let both = |of: fn(Prot) -> bool| of(rights.supervisor) || of(rights.user);
        match self {
            Self::WriteExecute => both(|prot| prot.write() && prot.execute()),
            Self::Write => both(|prot| prot.write()),
            Self::Execute => both(|prot| prot.execute()),
            Self::UserWrite => rights.user.write(),
            Self::UserExecute => rights.user.execute(),
            Self::User => is_open(rights),
            Self::Supervisor => range.state == State::Mapped && !is_open(rights),
            Self::UserKernel => is_open(rights) && is_kernel(range, kernel),
            Self::Huge => range.size.is_some_and(|size| size > 0x1_0000),
            Self::Mapped => range.state == State::Mapped,
            Self::Fault => matches!(range.state, State::Malformed | State::Unknown),
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn is_open(rights: Rights) -> bool {
    rights.user.read() || rights.user.write() || rights.user.execute()
}

/// Whether a range lies where kernels keep their own memory.
fn is_kernel(range: &Range, kernel: u64) -> bool {
    range.va.is_some_and(|va| va >= kernel) && range.context.is_none_or(|context| context == 0)
}

/// What an audit looks for, and what is wrong with it.
pub const AUDIT: [(Filter, &str); 3] = [
    (Filter::WriteExecute, "writable and executable"),
    (Filter::UserKernel, "kernel memory that is open to user mode"),
    (Filter::Fault, "tables that are malformed or unknown"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_they_say() {
        let kernel = Some(0xffff_8000_0000_0000);
        let rights = |supervisor, user| Rights { supervisor, user };
        let none = Prot::new();
        for (va, rights, size, words) in [
            (Some(0x1000), rights(Prot::RWX, none), 4096, "w+x w x supervisor mapped"),
            (Some(0x1000), rights(Prot::RW, Prot::RX), 4096, "w x user-x user mapped"),
            (kernel, rights(Prot::R, Prot::R), 1 << 21, "user user-kernel huge mapped"),
            (kernel, rights(Prot::RX, none), 1 << 16, "x supervisor mapped"),
            (Some(0), rights(none, Prot::RW), 4096, "w user-w user mapped"),
        ] {
            let range = Range::mapped(va, 0, size, rights, String::new());
            let seen: Vec<_> = Filter::value_variants()
                .iter()
                .filter(|filter| filter.admits(&range, 1 << 63))
                .map(|filter| filter.name())
                .collect();
            assert_eq!(seen.join(" "), words, "{range:?}");
        }
        let fault = Range::faulting(0, None, State::Unknown, String::new());
        assert!(Filter::Fault.admits(&fault, 0) && !Filter::Supervisor.admits(&fault, 0));
        let user = rights(Prot::RW, Prot::RW);
        let narrow = Range::mapped(Some(0xc000_1000), 0, 4096, user, String::new());
        let is = |kernel| Filter::UserKernel.admits(&narrow, kernel);
        assert!(is(0xc000_0000) && !is(1 << 63));
    }
}
