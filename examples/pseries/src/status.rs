//! What a hypercall answers in R3 (PAPR, "Hypervisor Call Return Codes"; Linux `asm/hvcall.h`).

use std::fmt;

/// A return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(i64);

impl Status {
    /// `H_SUCCESS`.
    pub const SUCCESS: Self = Self(0);
    /// `H_HARDWARE`: the host failed.
    pub const HARDWARE: Self = Self(-1);
    /// `H_FUNCTION`: there is no such call.
    pub const FUNCTION: Self = Self(-2);
    /// `H_PARAMETER`: the first argument, or one that has no code of its own.
    pub const PARAMETER: Self = Self(-4);
    /// `H_P2`: the second argument.
    pub const P2: Self = Self(-55);
    /// `H_P3`: the third.
    pub const P3: Self = Self(-56);
    /// `H_P4`: the fourth.
    pub const P4: Self = Self(-57);
    /// `H_UNSUPPORTED_FLAG_START`: a flag or resource that this hypervisor does not have.
    pub const UNSUPPORTED_FLAG: Self = Self(-256);

    /// As R3 holds it.
    #[must_use]
    pub const fn r3(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
