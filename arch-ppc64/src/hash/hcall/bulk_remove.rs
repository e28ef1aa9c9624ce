//! `H_BULK_REMOVE`: up to four entries less.

use bitfield_struct::bitfield;
use pgtable::Address;
use pgtable::memory::TableMemory;

use super::{HcallFlags, Hcalls, Partition};
use crate::hash::return_code::ReturnCode;

/// What a translation specifier is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BulkKind {
    /// None of the others; refused.
    Reserved = 0,
    /// A request.
    Request = 1,
    /// A request that was answered; refused.
    Response = 2,
    /// No more requests follow.
    End = 3,
}

impl BulkKind {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Reserved,
            1 => Self::Request,
            2 => Self::Response,
            _ => Self::End,
        }
    }
}

/// How a request was answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BulkAnswer {
    /// Removed.
    Success = 0,
    /// There is no such entry.
    NotFound = 1,
    /// The request is invalid.
    Parameter = 2,
    /// The table could not be reached.
    Hardware = 3,
}

impl BulkAnswer {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Success,
            1 => Self::NotFound,
            2 => Self::Parameter,
            _ => Self::Hardware,
        }
    }
}

/// The first doubleword of a translation specifier.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct BulkRequest {
    /// 0:1: what it is.
    #[bits(2)]
    pub kind: BulkKind,
    /// 2:3: the answer.
    #[bits(2)]
    pub answer: BulkAnswer,
    /// 4: the entry's R.
    pub r: bool,
    /// 5: the entry's C.
    pub c: bool,
    /// 6: as the flag `AVPN`.
    pub avpn: bool,
    /// 7: as the flag `ANDCOND`. With both: invalid.
    pub andcond: bool,
    /// 8:63: which entry.
    #[bits(56)]
    pub ptex: u64,
}

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_BULK_REMOVE`: removes as [`remove`](Self::remove) the entries that `requests` name, with
    /// their AVPN or AND condition, until one says that it is the end. Answers stand in the
    /// requests.
    ///
    /// # Errors
    /// `H_PARAMETER`: a request is invalid; those before it were dealt with.
    pub fn bulk_remove(&self, requests: &mut [(BulkRequest, u64); 4]) -> Result<(), ReturnCode> {
        for (request, avpn) in requests {
            match request.kind() {
                BulkKind::End => break,
                BulkKind::Request => {}
                BulkKind::Reserved | BulkKind::Response => return Self::refuse(request),
            }
            if request.avpn() && request.andcond() {
                return Self::refuse(request);
            }
            let flags = HcallFlags::new().with_avpn(request.avpn()).with_andcond(request.andcond());
            let response = Self::response(*request);
            *request = match self.remove(flags, request.ptex(), *avpn) {
                Ok(hpte) => {
                    response.with_answer(BulkAnswer::Success).with_r(hpte.r.r()).with_c(hpte.r.c())
                }
                Err(ReturnCode::NotFound) => response.with_answer(BulkAnswer::NotFound),
                Err(ReturnCode::Parameter) => return Self::refuse(request),
                Err(error) => {
                    *request = response.with_answer(BulkAnswer::Hardware);
                    return Err(error);
                }
            };
        }
        Ok(())
    }

    fn response(request: BulkRequest) -> BulkRequest {
        let flags = BulkRequest::new().with_avpn(request.avpn()).with_andcond(request.andcond());
        flags.with_kind(BulkKind::Response).with_ptex(request.ptex())
    }

    fn refuse(request: &mut BulkRequest) -> Result<(), ReturnCode> {
        *request = Self::response(*request).with_answer(BulkAnswer::Parameter);
        Err(ReturnCode::Parameter)
    }
}
