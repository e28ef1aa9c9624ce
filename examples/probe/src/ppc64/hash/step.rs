//! A step: what the guest does next. Plain numbers and words; which table they meet is known from
//! the steps before.

use std::fmt;
use std::hint::black_box;

use pgtable::{Access, Gva};
use pgtable_ppc64::hash::{Authority, Slb, SlbEsid, SlbVsid};

/// What the guest does.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is about.
    pub kind: &'static str,
    /// What is done.
    pub action: Action,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Action {
    /// A hypercall.
    Call(Call),
    /// An access.
    Touch(Box<Touch>),
    /// Instructions on an SLB that is as this says, in order.
    Slb(Box<Slb>, Vec<SlbInstruction>),
}

/// A hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// R3.
    pub number: u64,
    /// R4 to R12.
    pub arguments: [u64; 9],
}

impl Call {
    /// One with few arguments.
    ///
    /// Its number is no constant that a loop may keep in a vector register: on the emulated host
    /// these do not always survive `KVM_RUN` (the number was found to be 0, and later right again,
    /// in a loop that had it in V31).
    pub fn new<const N: usize>(number: u64, given: [u64; N]) -> Self {
        let mut arguments = [0; 9];
        for (to, argument) in arguments.iter_mut().zip(given) {
            *to = argument;
        }
        Self { number: black_box(number), arguments }
    }
}

/// An access, and the registers that decide about it.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// The segments.
    pub slb: Slb,
    /// AMR and IAMR.
    pub authority: Authority,
    /// The effective address.
    pub address: Gva,
    /// What is done there.
    pub access: Access,
}

/// An instruction that changes the SLB.
#[derive(Clone, Copy, Debug)]
pub enum SlbInstruction {
    /// `slbmte`
    Slbmte(SlbEsid, SlbVsid),
    /// `slbie`
    Slbie(Gva),
    /// `slbia`
    Slbia,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Call(call) => call.fmt(f),
            Action::Touch(touch) => {
                let Touch { slb, authority: Authority { amr, iamr }, address, access } = &**touch;
                write!(
                    f,
                    "  access    {access} at {address}, AMR {amr:#018x}, IAMR {iamr:#018x}, segment "
                )?;
                match slb.lookup(*address) {
                    Ok(segment) => write!(f, "{segment:x?}"),
                    Err(none) => none.fmt(f),
                }
            }
            Action::Slb(_, instructions) => {
                f.write_str("  SLB     ")?;
                instructions.iter().try_for_each(|instruction| match instruction {
                    SlbInstruction::Slbmte(rb, rs) => {
                        write!(f, " slbmte({:#x}, {:#x})", rb.into_bits(), rs.into_bits())
                    }
                    SlbInstruction::Slbie(address) => write!(f, " slbie({address})"),
                    SlbInstruction::Slbia => f.write_str(" slbia"),
                })
            }
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  call      {:#x} with {:#x?}", self.number, Line(&self.arguments[..8]))
    }
}

/// Numbers in a line, whatever `#` says.
pub struct Line<'a>(pub &'a [u64]);

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|number| write!(f, " {number:#x}"))
    }
}
