//! What hypercalls answer, by PAPR's numbers.

/// The return code of a hypercall (r3). An operation of this crate that returns `Ok` has succeeded:
/// `H_SUCCESS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[repr(i64)]
#[non_exhaustive]
pub enum ReturnCode {
    /// `H_SUCCESS`.
    #[error("H_SUCCESS")]
    Success = 0,
    /// `H_BUSY`: try again.
    #[error("H_BUSY")]
    Busy = 1,
    /// `H_CLOSED`: nothing was prepared.
    #[error("H_CLOSED")]
    Closed = 2,
    /// `H_NOT_AVAILABLE`: the partition has no hashed page table.
    #[error("H_NOT_AVAILABLE")]
    NotAvailable = 3,
    /// `H_LONG_BUSY_ORDER_1_MSEC`.
    #[error("H_LONG_BUSY_ORDER_1_MSEC")]
    LongBusy1Ms = 9900,
    /// `H_LONG_BUSY_ORDER_10_MSEC`.
    #[error("H_LONG_BUSY_ORDER_10_MSEC")]
    LongBusy10Ms = 9901,
    /// `H_LONG_BUSY_ORDER_100_MSEC`.
    #[error("H_LONG_BUSY_ORDER_100_MSEC")]
    LongBusy100Ms = 9902,
    /// `H_LONG_BUSY_ORDER_1_SEC`.
    #[error("H_LONG_BUSY_ORDER_1_SEC")]
    LongBusy1S = 9903,
    /// `H_LONG_BUSY_ORDER_10_SEC`.
    #[error("H_LONG_BUSY_ORDER_10_SEC")]
    LongBusy10S = 9904,
    /// `H_LONG_BUSY_ORDER_100_SEC`.
    #[error("H_LONG_BUSY_ORDER_100_SEC")]
    LongBusy100S = 9905,
    /// `H_HARDWARE`: the table's own memory could not be reached.
    #[error("H_HARDWARE")]
    Hardware = -1,
    /// `H_FUNCTION`: no such call, or not for this partition.
    #[error("H_FUNCTION")]
    Function = -2,
    /// `H_PRIVILEGE`.
    #[error("H_PRIVILEGE")]
    Privilege = -3,
    /// `H_PARAMETER`: an argument is invalid.
    #[error("H_PARAMETER")]
    Parameter = -4,
    /// `H_PTEG_FULL`: the entry, or the whole group, is in use.
    #[error("H_PTEG_FULL")]
    PtegFull = -6,
    /// `H_NOT_FOUND`: no such entry.
    #[error("H_NOT_FOUND")]
    NotFound = -7,
    /// `H_NO_MEM`.
    #[error("H_NO_MEM")]
    NoMem = -9,
    /// `H_AUTHORITY`: not allowed to this partition.
    #[error("H_AUTHORITY")]
    Authority = -10,
    /// `H_PERMISSION`.
    #[error("H_PERMISSION")]
    Permission = -11,
    /// `H_RESOURCE`: more than the partition may have.
    #[error("H_RESOURCE")]
    Resource = -16,
}

impl ReturnCode {
    /// The number, as r3 holds it.
    #[must_use]
    pub const fn code(self) -> i64 {
        self as i64
    }
}
